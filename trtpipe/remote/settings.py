"""The remote store to use and the trusted keys, from the document, the user's config or the command line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe import defaults
from trtpipe.errors import PipelineInvalid
from trtpipe.pipeline import checking, document
from trtpipe.pipeline.remote_section import SCHEMES, TIMEOUT, schema
from trtpipe.remote import signing
from trtpipe.remote.transport import Access, redact
from trtpipe.violations import violations

if TYPE_CHECKING:
    from trtpipe.pipeline.graph import Pipeline

VARIABLE = "TRTPIPE_REMOTE"
OFF = "off"


class Settings(NamedTuple):
    """A remote store, as named in the document, the user's config or on the command line."""

    access: Access
    writes: bool
    trust: dict[str, str]
    origin: str

    @property
    def name(self) -> str:
        """Its address, without secrets."""
        return redact(self.access.url)


def _config_path() -> str:
    return os.path.join(signing.config_folder(), "config.yaml")


def user_config() -> dict[str, Any] | None:
    """Give `remote` of the user's config file, checked. Raises PipelineInvalid with the file's lines."""
    path = _config_path()
    if not os.path.exists(path):
        return None
    parsed = document.parse(document.read(path), path)
    checking.check(
        parsed,
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {"remote": schema(private=True)},
        },
    )
    found: dict[str, Any] | None = parsed.value.get("remote")
    return found


def settings(pipeline: Pipeline, url: str | None = None, *, write: bool = False) -> Settings | None:
    """Give the remote store to use: --remote, TRTPIPE_REMOTE, the document's, trtpipe.toml's or the user's config's.

    `write` allows writing to one that the document does not name: what a document says of its own store counts.

    Endpoint, options and credentials of the user's config are used only for the address beside them. The document's
    keys, the config's keys and those of `trtpipe keys trust` are trusted; if a name is in both, the user's key counts.
    Raises PipelineInvalid.
    """
    named = url if url is not None else os.environ.get(VARIABLE) or None
    if named == OFF:
        return None
    given = pipeline.remote or {}
    own = user_config() or {}
    project = defaults.read(defaults.top_of(pipeline.file)).remote if named is None and not given else None
    if project == OFF:
        return None
    for where, one in (("--remote", named), (f"{defaults.FILE}: remote", project)):
        if one is not None and violations(one, schema(private=True)["properties"]["url"]):
            raise PipelineInvalid(
                f"{where} {redact(one)}: expected an address that begins with {'://, '.join(SCHEMES)}://, or {OFF}"
            )
    if named is not None:
        address, origin = named, "the command line" if url is not None else VARIABLE
    elif given:
        address, origin = str(given["url"]), pipeline.file
    elif project is not None:
        address, origin = project, defaults.FILE
    elif own:
        address, origin = str(own["url"]), _config_path()
    else:
        return None
    address = address.rstrip("/")
    details: dict[str, Any] = {}
    for other in (given, own):
        if other and other["url"].rstrip("/") == address:
            details.update(other)
    if "::" in address:
        raise PipelineInvalid(f"remote.url: found {redact(address)}, expected one address, not a chain")
    access = Access(
        address,
        details.get("endpoint"),
        details.get("region"),
        bool(details.get("anonymous", False)),
        float(details.get("timeout", TIMEOUT)),
        details.get("options", {}),
    )
    may_write = details.get("mode") == "write" or (write and origin != pipeline.file)
    return Settings(access, may_write, trusted(pipeline, own), origin)


def trusted(pipeline: Pipeline, own: dict[str, Any] | None = None) -> dict[str, str]:
    """Give the trusted public keys of a pipeline, by name: the document's and the user's, which take precedence."""
    given = pipeline.remote or {}
    own = (user_config() or {}) if own is None else own
    return {**given.get("trust", {}), **own.get("trust", {}), **signing.trusted()}
