"""The command `explain`: why a stage would run, and how it differs from a lock, another run or another machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from typing import TYPE_CHECKING, Any

from trtpipe import errors
from trtpipe.cli.opening import open_pipeline
from trtpipe.cli.printing import answer, out
from trtpipe.pipeline.graph import lock_path
from trtpipe.run import reasons, record
from trtpipe.run.lookup import Walk

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from trtpipe.run.lookup import Lookup, Status
    from trtpipe.run.record import Record
    from trtpipe.store.artifact import Artifact

_SHOWN = 5
"""How many of the reasons of one run the history shows."""


def explain(args: argparse.Namespace) -> int:
    """Say why a stage would run, or how it differs from a lock, another run or another machine."""
    lookup = open_pipeline(args).lookup
    if args.lock or args.against or args.history:
        for stage in lookup.pipeline.match([args.stage]):
            if args.history:
                _history(stage, lookup, as_json=args.json)
            else:
                _compare(args, stage, lookup)
        return 0
    found = {s.stage: s for s in lookup.statuses([args.stage])}
    for name in lookup.pipeline.match([args.stage]):
        _explain(lookup, found[name], found, as_json=args.json)
    return 0


def _explain(lookup: Lookup, mine: Status, found: dict[str, Status], *, as_json: bool) -> None:
    if as_json:
        out(json.dumps({"stage": mine.stage, "type": mine.type, "status": mine.state, "reasons": mine.reasons}))
        return
    out(f"{mine.stage} ({mine.type}): {mine.state}")
    if mine.state == "hit" and mine.artifact:
        last = lookup.store.state.last(lookup.pipeline.name).get(mine.stage)
        action = lookup.store.action(last[0]) if last else None
        out("  nothing in its key has changed")
        if action:
            about = action.about
            out(f"  made {about.finished} in {about.seconds} s on {about.environment.get('host', 'another machine')}")
            for name, version in sorted(action.key["environment"].items()):
                out(f"  {name}: {version}")
    for reason in mine.reasons:
        out(f"  {reason}")
    if mine.state == "unknown":
        needs = lookup.pipeline.closure([mine.stage])
        for other in found.values():
            if other.state == "run" and other.stage in needs:
                out(f"  {other.stage} ({other.type}) would run: {'; '.join(other.reasons)}")


def _compare(args: argparse.Namespace, stage: str, lookup: Lookup) -> None:
    from trtpipe import key as keys
    from trtpipe.trust import lockfile

    if args.lock:
        path = lock_path(args.pipeline)
        found = lockfile.compare(lookup, lockfile.read(path), [stage])
        lines = [(d.stage, why) for d in found.drifts for why in d.reasons]
        what = path
    else:
        before, what = _record(args.against, lookup, stage)
        try:
            key = keys.of_record(before.key)
            now = lookup.now(lookup.pipeline.stages[stage], _upstream(lookup, stage), like=key)
            lines = [(stage, why) for why in reasons.between(before, now.record)]
        except (TypeError, KeyError, AttributeError):
            raise errors.PipelineInvalid(f"{what}: expected an action record with a key of this version") from None
    answer(
        {"stage": stage, "against": what, "reasons": [why for _, why in lines]},
        as_json=args.json,
        lines=[f"{stage}: {what} → now", *([f"  {'' if s == stage else s + ': '}{why}" for s, why in lines]
               or ["  nothing in its key differs"])],
    )  # fmt: skip


def _upstream(lookup: Lookup, stage: str) -> dict[str, Artifact]:
    """Give the artifacts that a stage would read now, as far as they are cached."""
    walk = Walk(lookup)
    for name in lookup.pipeline.closure([stage]):
        if name != stage:
            with contextlib.suppress(errors.TrtpipeError):
                walk.take(name)
    return walk.artifacts


def _record(given: str, lookup: Lookup, stage: str) -> tuple[Record, str]:
    """Find the record that `--against` names: a file, `@N` of the history, or how a key in the store starts."""
    if match := re.fullmatch(r"@(\d+)", given):
        history = lookup.store.state.history(lookup.pipeline.name, stage)
        if not 1 <= int(match[1]) <= len(history):
            raise errors.UnknownReference(
                f"--against {given}: expected a run of --history; that of {stage} has {len(history)}"
            )
        digest, at = history[int(match[1]) - 1]
        action = lookup.store.action(digest)
        if action is None:
            raise errors.UnknownReference(f"--against {given}: its action record is not in the store any more")
        return record.of_action(action), f"run {given} of {_when(at)}"
    if os.path.isfile(given):
        return record.of_file(given), given
    if re.fullmatch("[0-9a-f]{6,64}", given):
        from trtpipe.store import actions

        found = actions.find(lookup.store.layout, [given])[0]
        return record.of_action(found.record), f"{found.label} {found.key[:12]}"
    raise errors.PipelineInvalid(
        f"--against {given}: expected the path of an action record, @N of --history, or a key's first digits"
    )


def _history(stage: str, lookup: Lookup, *, as_json: bool) -> None:
    """List each run in which the stage's key changed, and how."""
    rows: list[dict[str, Any]] = []
    before: Record | None = None
    for number, (digest, at) in enumerate(lookup.store.state.history(lookup.pipeline.name, stage), 1):
        action = lookup.store.action(digest)
        now = record.of_action(action) if action else None
        if now is None:
            why: tuple[str, ...] = ("its action record is not in the store any more",)
        elif before is None:
            why = ("the first known run",)
        else:
            why = reasons.between(before, now) or ("the same as before",)
        rows.append({"run": number, "at": _when(at), "key": digest, "reasons": why})
        before = now or before
    # Another version of a package may be seen to read hundreds of other files.
    lines = [f"@{r['run']} {r['at']} {r['key'][:12]}: {_few(r['reasons'])}" for r in rows]
    answer({"stage": stage, "runs": rows}, as_json=as_json, lines=lines or [f"{stage} has not run yet"])


def _few(whys: Sequence[str]) -> str:
    more = f"; and {len(whys) - _SHOWN} more (--json has them all)" if len(whys) > _SHOWN else ""
    return "; ".join(whys[:_SHOWN]) + more


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
