"""Ed25519 keys and signed envelopes (DSSE): they show who signed a text and that it was not changed.

Public keys are short texts: `ed25519:` and 44 characters of base64. The private key is in the user's config folder, and
only its owner can read it. Public keys of others are beside it in `trust/`.

Sources: DSSE 1.0 (secure-systems-lab/dsse: protocol.md, envelope.md); RFC 8032.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import os
import re
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe.errors import EnvironmentMissing, GateFailed, PipelineInvalid, StoreError
from trtpipe.pipeline.remote_section import NAME_PATTERN, PUBLIC_PATTERN

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "ed25519:"
VARIABLE = "TRTPIPE_SIGNING_KEY"
OWN = "you"
"""The name of the user's own key among the trusted keys."""

_SECRET_PREFIX = "ed25519-private:"  # noqa: S105 — the beginning of a private key's text
_MAX_ENVELOPE = 32 * 2**20


class Verified(NamedTuple):
    """The content of a checked signature, and its signer."""

    payload: bytes
    signer: str
    keyid: str
    signature: str


class Signer:
    """A private key. `public` is the public key as text."""

    def __init__(self, secret: str) -> None:
        """Read a private key's text. Raises StoreError if it is not valid, and never shows it."""
        ed25519 = _library()
        text = secret.strip()
        raw = _bytes(text[len(_SECRET_PREFIX) :]) if text.startswith(_SECRET_PREFIX) else None
        if raw is None or len(raw) != 32:
            raise StoreError(f"the signing key is not valid: expected {_SECRET_PREFIX}… as `trtpipe keys new` makes it")
        self._key = ed25519.Ed25519PrivateKey.from_private_bytes(raw)
        self.public = PREFIX + base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    def sign(self, payload_type: str, payload: bytes) -> dict[str, Any]:
        """Give a DSSE envelope around the payload, signed."""
        signature = self._key.sign(pae(payload_type, payload))
        return envelope(payload_type, payload, keyid(self.public), base64.b64encode(signature).decode())


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise EnvironmentMissing(
            "signatures need cryptography, which is not installed: pip install 'trtpipe[remote]'"
        ) from None
    return ed25519


def pae(payload_type: str, payload: bytes) -> bytes:
    """Give the bytes that DSSE signs: type and payload, each after its length."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def envelope(payload_type: str, payload: bytes, key: str, signature: str) -> dict[str, Any]:
    """Give a DSSE envelope as a JSON object."""
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": key, "sig": signature}],
    }


def keyid(public: str) -> str:
    """Give a public key's short name: 16 hex digits of its SHA-256. It is only a hint; no check depends on it."""
    return hashlib.sha256(public.encode()).hexdigest()[:16]


def open_envelope(text: bytes, payload_type: str, trust: Mapping[str, str], what: str) -> Verified:
    """Give the payload that a trusted key signed.

    `trust` maps names to public keys. Raises GateFailed, with the name `what`, if the text is no envelope of this type,
    or has no signature by a trusted key. The payload is not parsed before that.
    """
    if not trust:
        raise GateFailed(f"{what}: no signer is trusted here; trust one: trtpipe keys trust NAME KEY")
    ed25519 = _library()
    from cryptography.exceptions import InvalidSignature

    payload, signatures = _parts(text, payload_type, what)
    if not signatures:
        raise GateFailed(f"{what}: it is not signed")
    signed = pae(payload_type, payload)
    for _, signature in signatures[:16]:
        raw = _bytes(signature)
        for name, public in trust.items():
            # A signature counts under any trusted key, whatever id it names.
            with contextlib.suppress(InvalidSignature, ValueError):
                if raw is not None:
                    ed25519.Ed25519PublicKey.from_public_bytes(_raw(public, name)).verify(raw, signed)
                    return Verified(payload, name, keyid(public), base64.b64encode(raw).decode())
    known = {keyid(public): name for name, public in trust.items()}
    named = next((known[key] for key, _ in signatures if key in known), None)
    if named is not None:
        raise GateFailed(f"{what}: found a signature in the name of {named} that does not fit: it was changed")
    who = ", ".join(f"{key[:16] or 'a key without a name'}" for key, _ in signatures[:3])
    raise GateFailed(f"{what}: signed by {who}, which is not trusted here (trusted: {', '.join(trust)})")


def _parts(text: bytes, payload_type: str, what: str) -> tuple[bytes, list[tuple[str, str]]]:
    """Give an envelope's payload and its (key id, signature) pairs. Raises GateFailed if it is not valid."""
    try:
        if len(text) > _MAX_ENVELOPE:
            raise ValueError
        value = json.loads(text)
        if not isinstance(value, dict) or "payload" not in value:
            raise ValueError
        payload = _bytes(value["payload"])
        signatures = [(str(s.get("keyid") or ""), str(s.get("sig") or "")) for s in value.get("signatures") or []]
        if payload is None:
            raise ValueError
    except (ValueError, RecursionError, AttributeError, TypeError):
        raise GateFailed(f"{what}: it is not signed: found no envelope with a signature") from None
    if value.get("payloadType") != payload_type:
        raise GateFailed(f"{what}: found a signed {str(value.get('payloadType'))[:80]}, expected {payload_type}")
    return payload, signatures


def _bytes(text: Any) -> bytes | None:
    """Read base64 in either alphabet, as DSSE requires; None if it is not valid."""
    if not isinstance(text, str):
        return None
    text = text.replace("-", "+").replace("_", "/")
    with contextlib.suppress(ValueError, binascii.Error):
        return base64.b64decode(text + "=" * (-len(text) % 4) if "=" not in text else text, validate=True)
    return None


def _raw(public: str, name: str) -> bytes:
    raw = _bytes(public[len(PREFIX) :]) if re.match(PUBLIC_PATTERN, public) else None
    if raw is None or len(raw) != 32:
        raise GateFailed(f"the trusted key {name} is not a public key: expected {PREFIX} and 44 characters")
    return raw


# --- the user's folder


def config_folder() -> str:
    """Give the user's config folder: $XDG_CONFIG_HOME/trtpipe, by default ~/.config/trtpipe."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(base, "trtpipe")


def key_path() -> str:
    """Give the path of the user's private key."""
    return os.path.join(config_folder(), "signing.key")


def new_key() -> str:
    """Make a private key that only its owner can read; give the public key. Raises StoreError if one exists."""
    ed25519 = _library()
    secret = _SECRET_PREFIX + base64.b64encode(ed25519.Ed25519PrivateKey.generate().private_bytes_raw()).decode()
    path = key_path()
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as stream:
            stream.write(secret + "\n")
    except FileExistsError:
        raise StoreError(
            f"found a signing key in {path}; it is not replaced, because others may trust it; to make a new one, move "
            f"that file away"
        ) from None
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from None
    return Signer(secret).public


def signer() -> Signer | None:
    """Give the user's signing key from TRTPIPE_SIGNING_KEY, else from the config folder; None if there is none.

    Raises StoreError if others may read the file.
    """
    if secret := os.environ.get(VARIABLE):
        return Signer(secret)
    path = key_path()
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            if stat.S_IMODE(mode) & 0o077:
                raise StoreError(f"{path} can be read by others (mode {stat.S_IMODE(mode):04o}): chmod 600 {path}")
            return Signer(stream.read(4096))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None


def own_signer() -> Signer:
    """Give the user's signing key. Raises EnvironmentMissing if there is none."""
    found = signer()
    if found is None:
        raise EnvironmentMissing(f"found no signing key; make one: trtpipe keys new (or set {VARIABLE} in CI)")
    return found


def trust(name: str, public: str) -> str:
    """Trust a public key under a name from now on; give the file. Raises PipelineInvalid or StoreError."""
    if not re.match(NAME_PATTERN, name) or name == OWN:
        raise PipelineInvalid(f"NAME: found {name}, expected letters, digits, . _ @ and -, and not {OWN}")
    check_public(public, "KEY")
    path = os.path.join(config_folder(), "trust", f"{name}.pub")
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as stream:
            if (old := stream.read().strip()) != public:
                raise StoreError(f"found another trusted key for {name} ({old}); to replace it, remove {path} first")
            return path
        with open(path, "x", encoding="utf-8") as stream:
            stream.write(public + "\n")
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from None
    return path


def check_public(public: str, where: str) -> None:
    """Raise PipelineInvalid if a text is not a public key; the message never shows a private key."""
    if public.startswith(_SECRET_PREFIX):
        raise PipelineInvalid(
            f"{where}: found a private key, expected a public one; never give a private key to others"
        )
    if not re.match(PUBLIC_PATTERN, public):
        raise PipelineInvalid(f"{where}: found {public[:60]}, expected a public key: {PREFIX} and 44 characters")


def trusted() -> dict[str, str]:
    """Give the public keys that the user trusts, by name, with the user's own. Raises StoreError."""
    folder = os.path.join(config_folder(), "trust")
    found: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in sorted(os.listdir(folder)):
            if entry.endswith(".pub"):
                path = os.path.join(folder, entry)
                try:
                    with open(path, encoding="utf-8", errors="replace") as stream:
                        public = stream.read(4096).strip()
                except OSError as error:
                    raise StoreError(f"{path} cannot be read: {error.strerror}") from None
                if not re.match(PUBLIC_PATTERN, public):
                    raise StoreError(f"{path} holds no public key: expected {PREFIX} and 44 characters")
                found[entry[: -len(".pub")]] = public
    own = signer()
    return {**found, OWN: own.public} if own else found
