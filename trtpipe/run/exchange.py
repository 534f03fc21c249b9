"""What a run asks of a remote store. `trtpipe.remote.sharing` implements it; a run without a remote store has none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from trtpipe.store.artifact import Artifact


class Exchange(Protocol):
    """A remote store. It connects at the first request, so a run in which every stage hits does not need it."""

    @property
    def there(self) -> bool:
        """Whether a remote store is named."""
        ...

    def unasked(self, wanted: Mapping[str, str]) -> list[str]:
        """Give the stages (name → key) that were not requested yet; none if there is no reachable remote store."""
        ...

    def bring(self, names: Iterable[str], artifacts: Mapping[str, Artifact], forced: Collection[str]) -> object:
        """Fetch what these stages would make, as far as their keys are known, into the local store."""
        ...

    def bring_content(self, wanted: Mapping[str, int]) -> None:
        """Fetch content (SHA-256 → bytes) that is not in the local store."""
        ...

    def finish(self, made: Mapping[str, str]) -> None:
        """Push what a run made (stage → key), if the remote store may be written to."""
        ...
