"""What a run asks of a store elsewhere. `trtpipe.remote.sharing` answers; a run without a remote store has none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from trtpipe.store.artifact import Artifact


class Exchange(Protocol):
    """A store elsewhere. It is connected to when it is first asked, so that an all-cached run needs none."""

    @property
    def there(self) -> bool:
        """Whether a store elsewhere is named at all."""
        ...

    def unasked(self, wanted: Mapping[str, str]) -> list[str]:
        """Give those of the stages (name → key) for which nobody asked yet; none where there is nobody to ask."""
        ...

    def bring(self, names: Iterable[str], artifacts: Mapping[str, Artifact], forced: Collection[str]) -> object:
        """Fetch what these stages would make, as far as their keys are known, into the local store."""
        ...

    def bring_content(self, wanted: Mapping[str, int]) -> None:
        """Fetch content (SHA-256 → bytes) that is not in the local store."""
        ...

    def finish(self, made: Mapping[str, str]) -> None:
        """Take what a run made (stage → key), if it is wanted there."""
        ...
