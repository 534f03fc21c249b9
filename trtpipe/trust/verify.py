"""Rebuilds stages without the cache and says whether the bytes are equal; if not, how far the values drift."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe import errors
from trtpipe import key as keys
from trtpipe.documents import files
from trtpipe.documents.layers import Layers
from trtpipe.documents.manifest import Manifest
from trtpipe.run.given import outside, request, stored
from trtpipe.run.lookup import Walk
from trtpipe.run.pool import run_one
from trtpipe.run.request import Given

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from trtpipe.pipeline.graph import Stage
    from trtpipe.run.lookup import Lookup

_LISTED = 5
_FOR_PEOPLE = (".txt", ".png", ".md", ".html", ".svg")


class Rebuilt(NamedTuple):
    """One rebuild: the files with equal bytes, the files with different bytes, and how far their values drift.

    `drift` is the largest difference of two values divided by the largest stored value, 0.0 if all bytes are equal,
    and None if no data shows it. `measured` says which values were compared.
    """

    stage: str
    type: str
    number: int
    equal: tuple[str, ...]
    different: tuple[str, ...]
    drift: float | None
    measured: str
    details: tuple[str, ...]

    def fails(self, bound: float) -> bool:
        """Tell whether the drift is above a bound, or not known."""
        return self.drift is None or not self.drift <= bound


def verify(
    lookup: Lookup, targets: Sequence[str], times: int, tell: Callable[[str], None] = lambda _: None
) -> Iterator[Rebuilt]:
    """Rebuild the targets (none: every stage) `times` times in scratch; the store stays as it is.

    Each stage reads its stored inputs, and no timing cache. A variant that failed, and that a `select` went on without,
    is left out unless it is a target. Raises StageFailed if a stage is not built yet, or fails.
    """
    order = lookup.pipeline.closure(targets)
    lookup.check(order)
    lookup.refuse_without_gpu(order)
    wanted = lookup.pipeline.match(targets)
    walk = Walk(lookup)
    for name in order:
        _take(walk, name, needed=name in wanted or name in lookup.pipeline.ends(targets))
    for name in wanted or order:
        stage = lookup.pipeline.stages[name]
        if name not in walk.artifacts:
            tell(f"{name}: failed when it last ran, so there is nothing to compare with")
            continue
        if not stage.cacheable:
            tell(f"{name}: runs each time, so a rebuild is not expected to be the same")
            continue
        for number in range(1, times + 1):
            yield _rebuilt(walk, stage, number, tell)


def _take(walk: Walk, name: str, *, needed: bool) -> None:
    """Look a stage up. Raises StageFailed if it is not built, unless it failed and others went on without it."""
    assessed = walk.take(name)
    if assessed is not None and assessed.hit is not None:
        return
    if name in walk.failed and not needed:
        return
    upstream = walk.lookup.pipeline.stages[name].upstream
    waits = f"it needs {', '.join(u for u in upstream if u not in walk.artifacts)}"
    why = waits if assessed is None else "; ".join(assessed.reasons)
    raise errors.StageFailed(f"{name} is not built ({why}), so there is nothing to compare with; run it first")


def _given(walk: Walk, name: str, changed: dict[str, Given]) -> dict[str, Given]:
    """Give what a stage reads: rebuilt artifacts if there are any, otherwise the stored ones."""
    given = {}
    lookup = walk.lookup
    now = walk.found[name].now
    for port, source in now.stage.inputs.items():
        if not isinstance(source, str):
            given[port] = outside(lookup.store, source, now.found[port])
        elif source in changed:
            given[port] = changed[source]
        else:
            given[port] = stored(lookup.store, walk.artifacts[source], source)
    return given


def _rebuilt(walk: Walk, stage: Stage, number: int, tell: Callable[[str], None]) -> Rebuilt:
    with contextlib.ExitStack() as stack:
        made = _make(walk, stage.name, {}, stack, tell)
        artifact = walk.artifacts[stage.name]
        equal = tuple(n for n in made.files if n in artifact.files and _digest(made, n) == artifact.files[n][0])
        different = tuple(sorted({*made.files, *artifact.files} - set(equal)))
        if not different:
            return Rebuilt(stage.name, stage.type, number, equal, (), 0.0, "", ())
        old = stored(walk.lookup.store, artifact, stage.name)
        details = (*_details(old, made, different), *_layers(old, made))
        drift = _drift(old, made, different)
        measured = "its own values"
        if drift is None:
            drift, measured = _downstream(walk, stage, made, stack, tell)
        return Rebuilt(stage.name, stage.type, number, equal, different, drift, measured, details)


def _digest(made: Given, name: str) -> str:
    return keys.digest_file(os.path.join(made.folder, *name.split("/")))


def _make(
    walk: Walk, name: str, changed: dict[str, Given], stack: contextlib.ExitStack, tell: Callable[[str], None]
) -> Given:
    """Run a stage in scratch, which stays until `stack` is closed."""
    lookup = walk.lookup
    folder = stack.enter_context(lookup.store.workspace())
    for part in ("out", "scratch", "shared"):
        os.makedirs(os.path.join(folder, part))
    given = _given(walk, name, changed)
    assessed = walk.found[name]
    shared = os.path.join(folder, "shared")
    wanted = request(lookup, assessed.now.stage, assessed.digest, given, folder=folder, shared=shared)
    # Other runs must be able to write what they learn while this one waits.
    lookup.store.state.commit()
    run_one(wanted, folder, tell)
    out = os.path.join(folder, "out")
    files = sorted(os.path.relpath(os.path.join(top, n), out).replace(os.sep, "/")
                   for top, _, names in os.walk(out) for n in names)  # fmt: skip
    return Given(assessed.now.stage.output, out, tuple(files), name)


def _downstream(
    walk: Walk, stage: Stage, made: Given, stack: contextlib.ExitStack, tell: Callable[[str], None]
) -> tuple[float | None, str]:
    """Run the stages from a rebuilt one to the nearest `infer`, and compare the outputs."""
    lookup = walk.lookup
    stages = lookup.pipeline.stages
    after = [stage.name]
    for name, one in stages.items():
        if any(u in after for u in one.upstream):
            after.append(name)
    target = next((n for n in after if stages[n].type == "infer"), None)
    if target is None:
        return None, "no infer stage reads it, so no data shows the drift"
    needed = lookup.pipeline.closure([target])
    again = [n for n in after[1:] if n in needed]
    for name in again:
        if missing := lookup.needs_gpu(stages[name]):
            return None, missing
    try:
        for name in needed:
            if name not in walk.artifacts:
                _take(walk, name, needed=True)
    except errors.StageFailed as error:
        return None, str(error)
    changed = {stage.name: made}
    for name in again:
        changed[name] = _make(walk, name, changed, stack, tell)
    old = stored(lookup.store, walk.artifacts[target], target)
    return _drift(old, changed[target], changed[target].files), f"the outputs of {target}"


# --- values


def _drift(old: Given, new: Given, names: Sequence[str]) -> float | None:
    """Give the largest drift over files, or None if one cannot be compared by value.

    Texts and pictures for people do not count, because they show the values of other files.
    """
    worst = 0.0
    counted = [name for name in names if not name.endswith(_FOR_PEOPLE)]
    for name in counted:
        if name not in old.files or name not in new.files:
            return None
        one = _file_drift(*(os.path.join(g.folder, *name.split("/")) for g in (old, new)))
        if one is None:
            return None
        worst = max(worst, one)
    return worst if counted else None


def _file_drift(old: str, new: str) -> float | None:
    if old.endswith(".npy"):
        return _array_drift(old, new)
    if old.endswith((".json", ".jsonl")) and os.path.basename(old) not in (Manifest.file, Layers.file):
        return _json_drift(_rows(old), _rows(new))
    with open(old, "rb") as a, open(new, "rb") as b:
        return 0.0 if a.read() == b.read() else None


def _rows(path: str) -> Any:
    with open(path, encoding="utf-8") as stream:
        text = stream.read()
    return [json.loads(line) for line in text.splitlines()] if path.endswith(".jsonl") else json.loads(text)


def _array_drift(old: str, new: str) -> float:
    import numpy as np

    a, b = np.load(old, mmap_mode="r"), np.load(new, mmap_mode="r")
    if a.shape != b.shape or a.dtype != b.dtype:
        return math.inf
    if not a.size:
        return 0.0
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    apart = np.abs(np.where(same, 0.0, b - a))
    scale = float(np.abs(a[np.isfinite(a)]).max(initial=0.0))
    largest = float(apart.max())
    return math.inf if math.isnan(largest) else largest / scale if scale else math.inf


def _json_drift(old: Any, new: Any) -> float:
    """Compare numbers against the largest stored one of the same field; anything else must be equal."""
    found = keys.difference(old, new)
    if not found:
        return 0.0
    scales: dict[str, float] = {}
    for path, value in _leaves(old, ""):
        if _is_number(value) and math.isfinite(value):
            scales[_field(path)] = max(scales.get(_field(path), 0.0), abs(value))
    worst = 0.0
    for path, a, b in found:
        scale = scales.get(_field(path), 0.0)
        worst = max(worst, abs(a - b) / scale if _is_number(a) and _is_number(b) and scale else math.inf)
    return worst


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _field(path: str) -> str:
    return re.sub(r"\[\d+\]", "[]", path)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Give each value that holds no others, with its path as `key.difference` writes it."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def _details(old: Given, new: Given, different: Sequence[str]) -> tuple[str, ...]:
    """Say what differs in manifests and other JSON files, by name."""
    lines = []
    for name in different:
        if name.endswith(".json") and name != Layers.file and name in old.files and name in new.files:
            a, b = (_rows(os.path.join(g.folder, *name.split("/"))) for g in (old, new))
            found = keys.difference(a, b)
            lines += [f"{name}: {path}: {_short(x)} → {_short(y)}" for path, x, y in found[:_LISTED]]
            if len(found) > _LISTED:
                lines.append(f"{name}: and {len(found) - _LISTED} more")
    return tuple(lines)


def _layers(old: Given, new: Given) -> tuple[str, ...]:
    """Say how the layers of two engines differ (tactics, types, fusions), or why that is not known."""
    if old.kind != "engine":
        return ()
    from trtpipe.backends.trt.proof import compared

    for side in (old, new):
        if Layers.file not in side.files:
            manifest = files.read(Path(side.folder, Manifest.file), Manifest)
            why = manifest.precision_proof.why or f"{manifest.runtime} tells no tactics"
            return (f"layers: not compared: {why}",)
    a, b = (files.read(Path(side.folder, Layers.file), Layers) for side in (old, new))
    return compared(a, b, _LISTED)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
