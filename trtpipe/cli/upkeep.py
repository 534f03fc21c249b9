"""The commands that look after what was made: lock, explain, verify, cache."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any

from trtpipe import errors
from trtpipe.pipeline.graph import lock_path
from trtpipe.run import reasons
from trtpipe.store.state import State
from trtpipe.store.store import Store

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from trtpipe.run.runner import Runner
    from trtpipe.store.artifact import Artifact

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_AGES = {"s": 1.0, "m": _MINUTE, "h": _HOUR, "d": _DAY, "w": 7 * _DAY}


def _say(value: Any, *, as_json: bool, lines: Sequence[str]) -> None:
    if as_json:
        print(json.dumps(value))
    elif lines:
        print("\n".join(lines))


# --- lock


def make_lock(args: argparse.Namespace, runner: Runner) -> int:
    """Write the document's lock, or compare it with how things are."""
    from trtpipe.trust import lockfile

    path = lock_path(args.pipeline)
    if args.check:
        found = lockfile.compare(runner, lockfile.read(path), args.target)
        if args.json:
            drifts = [{"stage": d.stage, "reasons": d.reasons} for d in found.drifts]
            print(json.dumps({"lock": path, "fits": not drifts, "drifts": drifts, "absent": found.absent}))
            return errors.GateFailed.exit_code if drifts else 0
        if found.drifts:
            lines = [f"  {d.stage}: {why}" for d in found.drifts for why in d.reasons]
            help_text = f"if that is meant: trtpipe run {args.pipeline} && trtpipe lock {args.pipeline}"
            raise errors.GateFailed("\n".join([f"{path} does not fit:", *lines, help_text]))
        unseen = f"; not here, taken as locked: {', '.join(found.absent)}" if found.absent else ""
        print(f"{path} fits: {len(found.entries)} stages{unseen}")
        return 0
    old = lockfile.read(path) if os.path.exists(path) and not args.prune else None
    new = lockfile.locked(runner, old, args.target, prune=args.prune)
    written = lockfile.write(path, new, args.pipeline)
    lockfile.keep_root(runner, args.pipeline)
    before = old.stages if old else {}
    changed = [n for n in {**before, **new.stages} if before.get(n) != new.stages.get(n)]
    _say(
        {"lock": path, "written": written, "stages": list(new.stages), "changed": changed},
        as_json=args.json,
        lines=[f"{path}: {len(new.stages)} stages, " + (f"changed: {', '.join(changed)}" if written and changed else
               "written" if written else "nothing changed")],
    )  # fmt: skip
    return 0


# --- explain


def explain(args: argparse.Namespace, runner: Runner) -> int:
    """Say how stages differ from a lock, another run or another machine."""
    for stage in runner.pipeline.match([args.stage]):
        if args.history:
            _history(stage, runner, as_json=args.json)
        else:
            _compare(args, stage, runner)
    return 0


def _compare(args: argparse.Namespace, stage: str, runner: Runner) -> None:
    from trtpipe.key import Key
    from trtpipe.trust import lockfile

    if args.lock:
        path = lock_path(args.pipeline)
        found = lockfile.compare(runner, lockfile.read(path), [stage])
        lines = [(d.stage, why) for d in found.drifts for why in d.reasons]
        what = path
    else:
        side, what = _record(args.against, runner, stage)
        like = {f: v for f, v in side.key.items() if f != "format"}
        upstream = _upstream(runner, stage)
        try:
            key = Key(**{**dict.fromkeys(Key._fields), **like})
            now, labels, _ = lockfile.now(runner, runner.pipeline.stages[stage], key, upstream)
            lines = [(stage, why) for why in reasons.between(side, _named(runner, stage, now, labels, upstream))]
        except (TypeError, KeyError, AttributeError):
            raise errors.PipelineInvalid(f"{what}: expected the record of a key") from None
    _say(
        {"stage": stage, "against": what, "reasons": [why for _, why in lines]},
        as_json=args.json,
        lines=[f"{stage}: {what} → now", *([f"  {'' if s == stage else s + ': '}{why}" for s, why in lines]
               or ["  nothing that its key holds differs"])],
    )  # fmt: skip


def _upstream(runner: Runner, stage: str) -> dict[str, Artifact]:
    """Give the artifacts that a stage would read now, as far as they are cached."""
    from trtpipe.run.runner import Taken

    taken = Taken(runner)
    for name in runner.pipeline.closure([stage]):
        if name != stage:
            with contextlib.suppress(errors.TrtpipeError):
                taken.take(name)
    return taken.artifacts


def _named(runner: Runner, stage: str, key: Any, labels: dict[str, str], upstream: dict[str, Artifact]) -> reasons.Side:
    files: dict[str, dict[str, str] | None] = {}
    for port, source in runner.pipeline.stages[stage].inputs.items():
        if isinstance(source, str) and source in upstream:
            files[port] = {n: sha for n, (sha, _) in upstream[source].files.items()}
        elif not isinstance(source, str):
            from trtpipe.pipeline import inputs

            try:
                artifact = inputs.find(source, runner.pipeline.root, runner.store).artifact
            except errors.TrtpipeError:
                continue
            files[port] = {n: sha for n, (sha, _) in artifact.files.items()}
    return reasons.Side(key.record, labels, files)


def _record(given: str, runner: Runner, stage: str) -> tuple[reasons.Side, str]:
    """Find the record that `--against` names: a file, `@N` of the history, or how a key in the store starts."""
    if match := re.fullmatch(r"@(\d+)", given):
        history = runner.store.state.history(runner.pipeline.name, stage)
        if not 1 <= int(match[1]) <= len(history):
            raise errors.UnknownReference(f"--against {given}: the history of {stage} has {len(history)} runs")
        digest, at = history[int(match[1]) - 1]
        record = runner.store.action(digest)
        if record is None:
            raise errors.UnknownReference(f"--against {given}: its record is gone from the store")
        return reasons.of_record(record), f"run {given} of {_when(at)}"
    if os.path.isfile(given):
        try:
            with open(given, "rb") as stream:
                record = json.loads(stream.read())
            if isinstance(record["key"]["params"], dict):
                return reasons.of_record(record), given
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        raise errors.PipelineInvalid(f"{given}: expected an action record; see trtpipe show PIPELINE STAGE --record")
    if re.fullmatch("[0-9a-f]{6,64}", given):
        from trtpipe.store import actions

        action = actions.find(runner.store.layout, [given])[0]
        return reasons.of_record(action.record), f"{action.label} {action.key[:12]}"
    raise errors.PipelineInvalid(f"--against {given}: expected a record, @N of --history, or a key's first digits")


def _history(stage: str, runner: Runner, *, as_json: bool) -> None:
    """Tell each run in which the stage's key changed, and how."""
    rows: list[dict[str, Any]] = []
    before: reasons.Side | None = None
    for number, (digest, at) in enumerate(runner.store.state.history(runner.pipeline.name, stage), 1):
        record = runner.store.action(digest)
        side = reasons.of_record(record) if record else None
        if side is None:
            why: tuple[str, ...] = ("its record is gone from the store",)
        elif before is None:
            why = ("the first that is known",)
        else:
            why = reasons.between(before, side) or ("the same as before",)
        rows.append({"run": number, "at": _when(at), "key": digest, "reasons": why})
        before = side or before
    lines = [f"@{r['run']} {r['at']} {r['key'][:12]}: {'; '.join(r['reasons'])}" for r in rows]
    _say({"stage": stage, "runs": rows}, as_json=as_json, lines=lines or [f"{stage} has not run yet"])


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


# --- verify


def rebuild(args: argparse.Namespace, runner: Runner) -> int:
    """Rebuild without the cache and compare."""
    from trtpipe.trust import verify

    rows, failed = [], []
    tell = (lambda _: None) if args.json else (lambda text: print(f"    {text}", flush=True))
    for one in verify.verify(runner, args.stage, args.times, tell):
        past = one.fails(args.bound)
        rows.append({**one._asdict(), "passed": not past})
        if past:
            failed.append(one.stage)
        if args.json:
            continue
        if not one.different:
            print(f"{one.stage} ({one.type}), rebuild {one.number}: all {len(one.equal)} files are byte-equal")
            continue
        drift = "by nobody knows how much" if one.drift is None else f"by {one.drift:.3g} of the largest value"
        print(f"{one.stage} ({one.type}), rebuild {one.number}: {', '.join(one.different)} differ; drifts {drift} "
              f"({one.measured}; bound {args.bound:g})")  # fmt: skip
        for line in one.details:
            print(f"    {line}")
        sys.stdout.flush()
    if args.json:
        print(json.dumps({"bound": args.bound, "rebuilds": _finite(rows)}))
    if failed:
        names = ", ".join(dict.fromkeys(failed))
        if not args.json:
            sys.stderr.write(f"error: {names}: a rebuild drifts past the bound of {args.bound:g}\n")
        return errors.GateFailed.exit_code
    return 0


def _finite(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**r, "drift": "inf" if r["drift"] == float("inf") else r["drift"]} for r in rows]


# --- cache


def size(text: str) -> int:
    """Read a size such as 20GiB; only 0 needs no unit. Raises ValueError."""
    from trtpipe.stage import UNITS

    match = re.fullmatch(rf"(\d+(?:\.\d+)?)\s*({'|'.join(UNITS)})?", text.strip())
    if not match or (match[2] is None and float(match[1])):
        raise ValueError(f"found {text}, expected a size such as 20GiB")
    return int(float(match[1]) * UNITS[match[2] or "B"])


def age(text: str) -> float:
    """Read an age such as 30d; gives seconds. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if not match:
        raise ValueError(f"found {text}, expected an age such as 12h, 30d or 8w")
    return float(match[1]) * _AGES[match[2]]


def _age_text(seconds: float) -> str:
    for unit, length in (("d", _DAY), ("h", _HOUR), ("min", _MINUTE)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def cache(args: argparse.Namespace) -> int:
    """Look after the store."""
    if not os.path.isdir(args.artifacts):
        raise errors.StoreError(f"{args.artifacts}: there is no store here; say where: --artifacts DIR")
    handler = {"ls": _ls, "du": _du, "verify": _verify, "gc": _gc}[args.what]
    with State(args.artifacts) as state:
        try:
            return handler(args, Store(args.artifacts, state))
        except OSError as error:
            raise errors.StoreError(f"{error.filename or args.artifacts}: {error.strerror}") from None


def _ls(args: argparse.Namespace, store: Store) -> int:
    from trtpipe.columns import size_text, table
    from trtpipe.store import actions

    good, bad = actions.read_all(store.layout)
    rows = [{"stage": a.label, "type": a.record["key"].get("type"), "kind": a.artifact.kind, "size": a.artifact.size,
             "used": a.used, "key": a.key, "artifact": a.artifact.digest} for a in reversed(good)]  # fmt: skip
    cells = [["stage", "kind", "size", "last used", "key", "artifact"]]
    cells += [[str(r["stage"]), str(r["kind"]), size_text(r["size"]), _age_text(time.time() - r["used"]),
               str(r["key"])[:12], str(r["artifact"])[:12]] for r in rows]  # fmt: skip
    lines = table(cells, right=(2, 3)) + [f"and {len(bad)} damaged records: trtpipe cache verify" for _ in bad[:1]]
    _say({"actions": rows, "damaged": len(bad)}, as_json=args.json, lines=lines)
    return 0


def _du(args: argparse.Namespace, store: Store) -> int:
    from trtpipe.columns import size_text, table
    from trtpipe.store import disk_usage

    found = disk_usage.usage(store.layout)
    total = sum(one for _, one in found.values())
    cells = [["part", "files", "size"], *([p, str(n), size_text(b)] for p, (n, b) in found.items())]
    cells.append(["all", str(sum(n for n, _ in found.values())), size_text(total)])
    parts = {p: {"files": n, "bytes": b} for p, (n, b) in found.items()}
    _say({"parts": parts, "bytes": total}, as_json=args.json, lines=table(cells, right=(1, 2)))
    return 0


def _verify(args: argparse.Namespace, store: Store) -> int:
    from trtpipe.columns import size_text
    from trtpipe.store import integrity

    begun = time.monotonic()
    count, total, found = integrity.verify(store)
    seconds = time.monotonic() - begun
    rows = [f._asdict() for f in found]
    lines = [f"{f.what}: {f.trouble}; {f.fixed}" for f in found]
    lines.append(f"{count} files, {size_text(total)} read in {seconds:.2f} s: "
                 + (f"{len(found)} not as they should be" if found else "all whole"))  # fmt: skip
    _say({"files": count, "bytes": total, "findings": rows}, as_json=args.json, lines=lines)
    return errors.StoreError.exit_code if any(f.damage for f in found) else 0


def _gc(args: argparse.Namespace, store: Store) -> int:
    from trtpipe.columns import size_text
    from trtpipe.store import gc
    from trtpipe.trust import lockfile

    budget = gc.Budget(args.max_size, args.min_free, args.max_age)
    found = gc.gc(store, budget, lambda: lockfile.needed(store), dry_run=args.dry_run)
    would = "would remove" if args.dry_run else "removed"
    lines = [f"{would} {a.label} ({size_text(a.artifact.size)}, {a.key[:12]})" for a in found.removed]
    lines.append(f"{would} {len(found.removed)} results and {found.orphans} files that nothing refers to: "
                 f"{size_text(found.freed)}; {size_text(found.size)} stay")  # fmt: skip
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
    _say(value, as_json=args.json, lines=lines)
    return 0 if found.met else errors.GateFailed.exit_code


def pin(args: argparse.Namespace, runner: Runner) -> int:
    """Keep what stages made from `cache gc`, or let it go again."""
    from trtpipe.run.runner import Taken
    from trtpipe.store import pins

    order = runner.pipeline.closure(args.stage)
    wanted = runner.pipeline.match(args.stage) if args.stage else order
    taken = Taken(runner)
    found = []
    for name in order:
        assessed = taken.take(name)
        if assessed is not None and assessed.hit and name in wanted:
            found.append((f"{runner.pipeline.name}/{name}", assessed.digest, assessed.hit.artifact))
    missing = [n for n in wanted if n not in taken.artifacts and (args.stage or n not in taken.failed)]
    if missing:
        raise errors.StageFailed(f"{', '.join(missing)}: not built, so there is nothing to pin; run it first")
    try:
        if args.what == "pin":
            pins.pin(runner.store.layout, found)
            labels = [label for label, _, _ in found]
        else:
            labels = pins.unpin(runner.store.layout, [key for _, key, _ in found])
    except OSError as error:
        raise errors.StoreError(f"{error.filename}: {error.strerror}") from None
    _say({args.what: labels}, as_json=args.json, lines=[f"{args.what}: {', '.join(labels) or 'nothing'}"])
    return 0
