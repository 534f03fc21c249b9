"""Commands that inspect and clean the store: `cache ls`, `du`, `verify`, `gc`, `pin` and `unpin`."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from trtpipe import errors
from trtpipe.cli.opening import open_pipeline
from trtpipe.cli.printing import answer, columns
from trtpipe.store.state import State
from trtpipe.store.store import Store

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from trtpipe.store.artifact import Artifact

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0


@contextlib.contextmanager
def _opened(args: argparse.Namespace) -> Iterator[Store]:
    """Open the store that the options name. Raises StoreError if there is none, or if a file of it cannot be used."""
    if not os.path.isdir(args.artifacts):
        raise errors.StoreError(f"{args.artifacts}: there is no store in this folder; name another: --artifacts DIR")
    with State(args.artifacts) as state:
        try:
            yield Store(args.artifacts, state)
        except OSError as error:
            raise errors.StoreError(f"{error.filename or args.artifacts}: {error.strerror}") from None


def _age_text(seconds: float) -> str:
    for unit, length in (("d", _DAY), ("h", _HOUR), ("min", _MINUTE)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def ls(args: argparse.Namespace) -> int:
    """List the results in the store, last used first."""
    from trtpipe.formatting import size_text, table
    from trtpipe.store import actions

    mine = None if args.pipeline is None else {key for key, _ in _current(args, args.pipeline).values()}
    with _opened(args) as store:
        good, bad = actions.read_all(store.layout)
    kinds = {one.artifact.kind for one in good}
    if args.kind is not None and args.kind not in kinds:
        from trtpipe.words import suggest

        hint = suggest(args.kind, kinds)
        raise errors.UnknownReference(f"--kind {args.kind}: nothing in the store is of this kind{hint}")
    good = [a for a in good if (mine is None or a.key in mine) and args.kind in (None, a.artifact.kind)]
    rows = [{"stage": a.label, "type": a.record.key.get("type"), "kind": a.artifact.kind, "size": a.artifact.size,
             "used": a.used, "key": a.key, "artifact": a.artifact.digest} for a in reversed(good)]  # fmt: skip
    cells = [["stage", "kind", "size", "last used", "key", "artifact"]]
    cells += [[str(r["stage"]), str(r["kind"]), size_text(r["size"]), _age_text(time.time() - r["used"]),
               str(r["key"])[:12], str(r["artifact"])[:12]] for r in rows]  # fmt: skip
    lines = table(cells, right=(2, 3), room=columns(), spare=(5, 1, 4, 3)) + [
        f"and {len(bad)} damaged records, which `trtpipe cache verify` lists" for _ in bad[:1]
    ]
    answer({"actions": rows, "damaged": len(bad)}, as_json=args.json, lines=lines)
    return 0


def du(args: argparse.Namespace) -> int:
    """Say how much space each part of the store takes."""
    from trtpipe.formatting import size_text, table
    from trtpipe.store import disk_usage

    with _opened(args) as store:
        found = disk_usage.usage(store.layout)
    total = sum(one for _, one in found.values())
    cells = [["part", "files", "size"], *([p, str(n), size_text(b)] for p, (n, b) in found.items())]
    cells.append(["all", str(sum(n for n, _ in found.values())), size_text(total)])
    parts = {p: {"files": n, "bytes": b} for p, (n, b) in found.items()}
    answer({"parts": parts, "bytes": total}, as_json=args.json, lines=table(cells, right=(1, 2)))
    return 0


def verify(args: argparse.Namespace) -> int:
    """Read every file of the store again; give 4 if any is damaged."""
    from trtpipe.formatting import size_text
    from trtpipe.store import integrity

    begun = time.monotonic()
    with _opened(args) as store:
        count, total, found = integrity.verify(store)
    seconds = time.monotonic() - begun
    rows = [f._asdict() for f in found]
    lines = [*(f"{f.what}: {f.trouble}; {f.fixed}" for f in found), *store.told]
    lines.append(f"{count} files, {size_text(total)} read in {seconds:.2f} s: "
                 + (f"{len(found)} not as they should be" if found else "all whole"))  # fmt: skip
    answer({"files": count, "bytes": total, "findings": rows}, as_json=args.json, lines=lines)
    return errors.StoreError.exit_code if any(f.damage for f in found) else 0


def collect(args: argparse.Namespace) -> int:
    """Collect garbage; give 5 if the budget is not met."""
    from trtpipe.formatting import size_text
    from trtpipe.store import gc
    from trtpipe.trust import lockfile

    only = None
    if args.unused_by is not None:
        used = [_current(args, document) for document in _documents(args.unused_by)]
        only = frozenset(key for one in used for key, _ in one.values())
    budget = gc.Budget(args.max_size, args.min_free, args.max_age, only)
    with _opened(args) as store:
        found = gc.gc(store, budget, lambda: lockfile.needed(store), dry_run=args.dry_run)
    would = "would remove" if args.dry_run else "removed"
    lines = [f"{would} {a.label} ({size_text(a.artifact.size)}, {a.key[:12]})" for a in found.removed]
    lines.append(f"{would} {len(found.removed)} results and {found.orphans} files that nothing refers to: "
                 f"{size_text(found.freed)}; {size_text(found.size)} remain")  # fmt: skip
    lines += store.told
    if not found.met:
        why = "; ".join(dict.fromkeys(found.kept.values()))
        lines.append(
            f"the budget is not met: {len(found.kept)} results must stay ({why})"
            if why
            else "the budget is not met, and there is no result left to remove"
        )
    rows = [{"stage": a.label, "key": a.key, "size": a.artifact.size} for a in found.removed]
    value = {"removed": rows, "orphans": found.orphans, "freed": found.freed, "size": found.size, "met": found.met,
             "kept": found.kept, "dry_run": args.dry_run}  # fmt: skip
    answer(value, as_json=args.json, lines=lines)
    return 0 if found.met else errors.GateFailed.exit_code


def pin(args: argparse.Namespace) -> int:
    """Protect the results of stages from `cache gc`."""
    return _mark(args, "pin")


def unpin(args: argparse.Namespace) -> int:
    """Let `cache gc` remove results that were pinned."""
    return _mark(args, "unpin")


def _documents(patterns: Sequence[str]) -> list[str]:
    """Give the documents that patterns name. Raises PipelineInvalid for a pattern that names none."""
    import glob

    found: dict[str, None] = {}
    for pattern in patterns:
        names = sorted(glob.glob(pattern, recursive=True))
        if not names:
            raise errors.PipelineInvalid(f"--unused-by {pattern}: found no file, expected documents")
        found.update(dict.fromkeys(names))
    return list(found)


def _current(args: argparse.Namespace, document: str) -> dict[str, tuple[str, Artifact]]:
    """Give the key and artifact of each stage of a document that is in the store as it would be made now.

    Raises PipelineInvalid for a document that is not valid: what it needs is not known.
    """
    import argparse as parsing

    from trtpipe.run.lookup import Walk

    usual = {"set": [], "allow_outside": True, "backend": None}
    with contextlib.ExitStack() as cleanup:
        settings = {**usual, **vars(args), "pipeline": document, "cleanup": cleanup}
        settings.pop("remote", None)
        lookup = open_pipeline(parsing.Namespace(**settings)).lookup
        walk = Walk(lookup)
        found = {}
        for name in lookup.pipeline.closure(()):
            assessed = walk.take(name)
            if assessed is not None and assessed.hit is not None:
                found[name] = (assessed.digest, assessed.hit.artifact)
        return found


def _mark(args: argparse.Namespace, how: str) -> int:
    from trtpipe.run.lookup import Walk
    from trtpipe.store import pins

    lookup = open_pipeline(args).lookup
    order = lookup.pipeline.closure(args.stage)
    wanted = lookup.pipeline.match(args.stage) if args.stage else order
    walk = Walk(lookup)
    found = []
    for name in order:
        assessed = walk.take(name)
        if assessed is not None and assessed.hit and name in wanted:
            found.append((f"{lookup.pipeline.name}/{name}", assessed.digest, assessed.hit.artifact))
    missing = [n for n in wanted if n not in walk.artifacts and (args.stage or n not in walk.failed)]
    if missing:
        raise errors.StageFailed(f"{', '.join(missing)}: not built, so there is nothing to pin; run it first")
    try:
        if how == "pin":
            pins.pin(lookup.store.layout, found)
            labels = [label for label, _, _ in found]
        else:
            labels = pins.unpin(lookup.store.layout, [key for _, key, _ in found])
    except OSError as error:
        raise errors.StoreError(f"{error.filename}: {error.strerror}") from None
    answer({how: labels}, as_json=args.json, lines=[f"{how}: {', '.join(labels) or 'nothing'}"])
    return 0
