"""The command `inspect`: what a file is, what takes it, and where it comes from."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtpipe import defaults, errors, project
from trtpipe.cli import portraits
from trtpipe.cli.printing import answer
from trtpipe.formatting import seconds_text, size_text
from trtpipe.store.state import State
from trtpipe.store.store import Store
from trtpipe.trust import origin

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from trtpipe.remote.settings import Settings
    from trtpipe.trust.origin import Found

_UNKNOWN = "unknown"


def inspect(args: argparse.Namespace) -> int:
    """Tell what a file is and where it comes from."""
    path = portraits.resolve(args.file)
    kind = portraits.kind_of(path)
    with contextlib.ExitStack() as opened:
        stores = [Store(folder, opened.enter_context(State(folder))) for folder in _stores(args, path)]
        state = stores[0].state if stores else opened.enter_context(State(args.artifacts))
        sha256 = state.file_digest(os.path.abspath(path))
        others, store = _first_that_knows(stores, sha256)
        seen = portraits.Seen(path, kind, sha256, store, state)
        portrait = portraits.LOOKS[kind](seen)
        found = _origins(args, seen, portrait.key)
        found.asked[:0] = [f"the store in {one.folder} does not have it" for one in others]
        figures = portraits.figures(store, found.origins[0]) if store is not None and found.origins else []
        figures = [*figures, *_of_bundle(path, sha256, found)]
        figures = [one for number, one in enumerate(figures) if one not in figures[:number]]  # of two keys, the same
    value = {
        "file": path, "kind": kind, "bytes": os.path.getsize(path), "sha256": seen.sha256, **portrait.value,
        "origins": [one._asdict() for one in found.origins], "asked": found.asked, "figures": figures,
    }  # fmt: skip
    lines = [
        f"{path}: {portrait.title}, {size_text(os.path.getsize(path))}",
        *portrait.lines,
        "",
        *_origin_lines(found),
        *_figure_lines(figures),
    ]
    answer(value, as_json=args.json, lines=lines)
    return 0


def _stores(args: argparse.Namespace, path: str) -> list[str]:
    """Give the folders of the stores to look in, best first.

    It is the one that is named, or else that in which the file lies, that of its project, and the current folder's.
    """
    if args.named_store is not None or os.environ.get(defaults.VARIABLE):
        found = [args.artifacts]
    else:
        above = Path(os.path.realpath(path)).parents
        around = [str(one) for one in above if (one / "blobs/sha256").is_dir() and (one / "actions").is_dir()]
        found = [*around, defaults.store(path), args.artifacts]
    real = {os.path.realpath(one): one for one in reversed(found) if os.path.isdir(one)}
    return list(reversed(real.values()))


def _of_bundle(path: str, sha256: str, found: Found) -> list[dict[str, Any]]:
    """Add what the bundle says in which a file lies, if it names this content; give the figures that it holds."""
    from trtpipe.deploy import reading
    from trtpipe.documents import files
    from trtpipe.documents.bundle import Bundle
    from trtpipe.remote import signing

    beside = Path(path).with_name(Bundle.file)
    if not beside.is_file():
        return []
    name = os.path.basename(path)
    try:
        bundle = files.read(beside, Bundle, str(beside))
    except errors.StageFailed as error:
        found.asked.append(str(error))
        return []
    if name not in bundle.files or bundle.files[name].sha256 != sha256:
        found.asked.append(f"{beside} does not have it: the file is not the one that was deployed")
        return []
    signed = None
    try:
        signed = reading.signer(beside.parent, signing.trusted())
    except errors.GateFailed as error:
        found.asked.append(str(error))
    one = origin.Origin(
        str(beside), bundle.pipeline, bundle.stage, "build", bundle.key, bundle.artifact, "engine", name,
        commit=bundle.commit, signed_by=signed,
    )  # fmt: skip
    # A record of the run says more, and a lock file less.
    found.origins.insert(sum(1 for other in found.origins if other.made), one)
    required: dict[str, dict[str, float]] = {}
    for rule in bundle.requirements:
        if isinstance(rule.value, float):
            required.setdefault(rule.stage, {})[rule.figure] = rule.value
    return [
        {"stage": f"{bundle.pipeline}/{stage}", "kind": "required, as the bundle says", "figures": values}
        for stage, values in required.items()
    ]


def _first_that_knows(stores: Sequence[Store], sha256: str) -> tuple[list[Store], Store | None]:
    """Give the stores that do not have a content, and the first that has it; if none has it, the first of all."""
    for number, one in enumerate(stores):
        if origin.has(one, sha256):
            return list(stores[:number]), one
    return list(stores[1:]), stores[0] if stores else None


def _origins(args: argparse.Namespace, seen: portraits.Seen, key: str | None) -> Found:
    top = project.root(os.path.dirname(os.path.abspath(seen.path)))
    return origin.find(seen.sha256, seen.store, top, key=key, remote=_remote(args))


def _remote(args: argparse.Namespace) -> Settings | None:
    from trtpipe.pipeline.graph import Pipeline
    from trtpipe.remote.settings import settings

    # No document is at hand: what the command line, the environment and the user's config name counts.
    return settings(Pipeline("inspect", "auto", os.path.join(os.getcwd(), "-"), {}), args.remote)


def _origin_lines(found: Found) -> list[str]:
    if not found.origins:
        return ["where it comes from: unknown", *(f"  {one}" for one in found.asked)]
    first, *others = found.origins
    signed = f"{first.signed_by}, from {first.fetched_from}" if first.signed_by else "nobody: it was made here"
    if first.where.endswith("bundle.json"):
        signed = first.signed_by or "nobody whom you trust"
    rows = {
        "read by"
        if first.reads
        else "made by": f"stage {first.stage} ({first.type}) of pipeline {first.pipeline}, as {first.file}",
        "at": first.made and f"{first.made}, in {seconds_text(first.seconds or 0)}",
        "with": first.runtime,
        "on": first.host and f"{first.host}{f', {first.gpu}' if first.gpu else ', without a GPU'}",
        "commit": first.commit and f"{first.commit} (what was not committed is not known)",
        "signed by": signed if first.made or first.where.endswith("bundle.json") else None,
        "key": first.key,
        "artifact": f"{first.artifact} ({first.kind})",
    }
    lines = [f"where it comes from, as the {first.where} says:" if "." not in first.where
             else f"where it comes from, as {first.where} says:"]  # fmt: skip
    lines += [f"  {name:<10} {text or _UNKNOWN}" for name, text in rows.items()]
    for one in others:
        who = f", signed by {one.signed_by}" if one.signed_by else ""
        lines.append(f"  also in    {one.where}: {one.pipeline}/{one.stage}, key {one.key[:12]}{who}")
    return lines + [f"  not in     {one}" for one in found.asked]


def _figure_lines(figures: list[dict[str, Any]]) -> list[str]:
    if not figures:
        return []
    lines = ["figures:"]
    for one in figures:
        values = ", ".join(f"{name} {value:.6g}" for name, value in one["figures"].items())
        lines.append(f"  {one['stage']} ({one['kind']}): {values}")
    return lines
