"""Keeps what a failed stage had made, for people: it is no artifact and never a hit, and only a few are kept."""

from __future__ import annotations

import contextlib
import os
import shutil

FOLDER = os.path.join("quarantine", "stages")
MOST = 8
"""The number of folders that are kept; the oldest are removed."""
WHY = "why.txt"


def keep(store: str, stage: str, key: str, out: str, why: str) -> str | None:
    """Move a failed stage's output to `<store>/quarantine/stages/<stage>-<key's first 12 digits>`; give that folder.

    Gives None if there is nothing to keep, or no space: a second error must not hide the first one. Files that share
    their bytes with the store are copied, so that a change of them does not reach the store.
    """
    if not any(files for _, _, files in os.walk(out)):
        return None
    top = os.path.join(store, FOLDER)
    target = os.path.join(top, f"{stage}-{key[:12]}")
    fresh = os.path.join(top, f".{os.getpid()}-{stage}-{key[:12]}")
    try:
        os.makedirs(top, exist_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)
        _take(out, fresh)
        with open(os.path.join(fresh, WHY), "w", encoding="utf-8") as stream:
            stream.write(why + "\n")
        shutil.rmtree(target, ignore_errors=True)
        os.rename(fresh, target)
        _bound(top)
    except OSError:
        shutil.rmtree(fresh, ignore_errors=True)
        return None
    return target


def _take(source: str, target: str) -> None:
    os.makedirs(target)
    for entry in os.scandir(source):
        there = os.path.join(target, entry.name)
        if entry.is_symlink():
            continue
        if entry.is_dir():
            _take(entry.path, there)
        elif entry.stat().st_nlink > 1:
            shutil.copyfile(entry.path, there)
        else:
            os.rename(entry.path, there)


def _bound(top: str) -> None:
    """Remove the oldest folders beyond MOST."""
    found = []
    for entry in os.scandir(top):
        with contextlib.suppress(OSError):
            found.append((entry.stat().st_mtime_ns, entry.path))
    for _, path in sorted(found)[:-MOST]:
        shutil.rmtree(path, ignore_errors=True)
