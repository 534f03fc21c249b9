"""A bundle where it is used: found, and each of its files compared with the digest that bundle.json names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe import key as keys
from trtpipe.documents import files
from trtpipe.documents.bundle import Bundle
from trtpipe.documents.manifest import Manifest
from trtpipe.errors import GateFailed, StageFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

CURRENT = "current"
SIGNATURE = "bundle.json.sig"
PAYLOAD_TYPE = "application/vnd.trtpipe.bundle+json"
"""What is signed: the bytes of bundle.json, which names the digest of every other file."""


def find(given: str | os.PathLike[str]) -> Path:
    """Give the folder of a bundle: the given one, or its `current` version. Raises StageFailed if there is none."""
    folder = Path(given)
    for one in (folder, folder / CURRENT):
        if (one / Bundle.file).is_file():
            return one
    what = "a folder" if folder.is_dir() else "a file" if folder.exists() else "nothing"
    raise StageFailed(
        f"{given}: found {what} without a {Bundle.file}, expected a bundle: trtpipe deploy PIPELINE STAGE --to FOLDER"
    )


def verify(folder: Path, trust: Mapping[str, str] | None = None) -> Bundle | None:
    """Check that each file of a bundle is there and has its digest; None if the folder is no bundle.

    With `trust`, names and public keys, the bundle must be signed by one of them. Raises GateFailed with every file
    that differs, and for a signature that is missing or does not fit; StageFailed if bundle.json cannot be read.
    """
    if not (folder / Bundle.file).is_file():
        if trust is not None:
            raise GateFailed(f"{folder}: found no {Bundle.file}, expected a bundle that a trusted key signed")
        return None
    if trust is not None:
        signer(folder, trust)
    bundle = files.read(folder / Bundle.file, Bundle, str(folder / Bundle.file))
    problems = []
    for name, wanted in bundle.files.items():
        path = folder / name
        # A name that leads out of the folder is no file of the bundle, whatever lies there.
        if os.path.isabs(name) or ".." in name.split("/"):
            problems.append(f"{name}: found a path that leads out of the bundle")
        elif not path.is_file():
            problems.append(f"{name}: it is not there")
        elif (size := path.stat().st_size) != wanted.bytes:
            problems.append(f"{name}: found {size} bytes, expected {wanted.bytes}")
        elif (found := keys.digest_file(str(path))) != wanted.sha256:
            problems.append(f"{name}: found SHA-256 {found[:12]}…, expected {wanted.sha256[:12]}…")
    if not problems:  # what the manifest lets a process load must be among what was compared
        manifest = files.read(folder / Manifest.file, Manifest, str(folder / Manifest.file))
        loaded = (Manifest.file, manifest.plan, *manifest.custom_ops, *manifest.plugins)
        problems = [f"{name}: {Bundle.file} does not name it" for name in loaded if name not in bundle.files]
    if problems:
        raise GateFailed("\n  ".join([f"{folder} is not the bundle that was deployed:", *problems]))
    return bundle


def signer(folder: Path, trust: Mapping[str, str]) -> str:
    """Check the signature of bundle.json itself; give the name of its signer. Raises GateFailed."""
    from trtpipe.remote import signing

    path = folder / SIGNATURE
    if not path.is_file():
        raise GateFailed(f"{folder}: it is not signed: there is no {SIGNATURE}")
    found = signing.open_envelope(path.read_bytes(), PAYLOAD_TYPE, trust, str(folder))
    if found.payload != (folder / Bundle.file).read_bytes():
        raise GateFailed(f"{folder}: found a {Bundle.file} that is not the one that {found.signer} signed")
    return found.signer
