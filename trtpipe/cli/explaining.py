"""The command `explain`: why a stage would run, and how it differs from a lock, another run or another machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from typing import TYPE_CHECKING, Any

from trtpipe import errors
from trtpipe.cli.console import answer
from trtpipe.cli.opening import open_runner
from trtpipe.pipeline.graph import lock_path
from trtpipe.run import reasons

if TYPE_CHECKING:
    import argparse

    from trtpipe.run.runner import Runner, Status
    from trtpipe.store.store import Artifact


def explain(args: argparse.Namespace) -> int:
    """Say why a stage would run, or how it differs from a lock, another run or another machine."""
    runner = open_runner(args)
    if args.lock or args.against or args.history:
        for stage in runner.pipeline.match([args.stage]):
            if args.history:
                _history(stage, runner, as_json=args.json)
            else:
                _compare(args, stage, runner)
        return 0
    found = {s.stage: s for s in runner.statuses([args.stage])}
    for name in runner.pipeline.match([args.stage]):
        _explain(runner, found[name], found, as_json=args.json)
    return 0


def _explain(runner: Runner, mine: Status, found: dict[str, Status], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"stage": mine.stage, "type": mine.type, "status": mine.state, "reasons": mine.reasons}))
        return
    print(f"{mine.stage} ({mine.type}): {mine.state}")
    if mine.state == "hit" and mine.artifact:
        last = runner.store.state.last(runner.pipeline.name).get(mine.stage)
        record = runner.store.action(last[0]) if last else None
        print("  nothing that its key holds has changed")
        if record:
            print(f"  made {record['finished']} in {record['seconds']} s on {record['environment']['host']}")
            for name, version in sorted(record["key"]["environment"].items()):
                print(f"  {name}: {version}")
    for reason in mine.reasons:
        print(f"  {reason}")
    if mine.state == "unknown":
        needs = runner.pipeline.closure([mine.stage])
        for other in found.values():
            if other.state == "run" and other.stage in needs:
                print(f"  {other.stage} ({other.type}) would run: {'; '.join(other.reasons)}")


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
    answer(
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
        from trtpipe.store import gc

        action = gc.find(runner.store, [given])[0]
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
    answer({"stage": stage, "runs": rows}, as_json=as_json, lines=lines or [f"{stage} has not run yet"])


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
