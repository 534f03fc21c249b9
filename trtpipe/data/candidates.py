"""The variants among which select chooses: their engines, joined with the figures that were measured of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe import variant
from trtpipe.documents.benchmark import Benchmark
from trtpipe.documents.comparison import Comparison
from trtpipe.documents.manifest import Manifest
from trtpipe.documents.metrics import Metrics
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.stage import Input

PLAN_BYTES = "plan_bytes"
MEASURED: dict[str, type[Benchmark | Comparison | Metrics]] = {
    "benchmark": Benchmark, "comparison": Comparison, "metrics": Metrics,
}  # fmt: skip
"""What holds the figures of an artifact, by its kind."""
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?$")


class Candidate(NamedTuple):
    """One combination: its values in the matrix, its engine's stage and folder, its figures by (stage, figure).

    `failed` says what failed of it, and is empty if nothing did; without an engine there is one of these reasons.
    """

    values: dict[str, str]
    stage: str
    engine: Input | None
    figures: dict[tuple[str, str], float]
    failed: str = ""

    @property
    def label(self) -> str:
        """What people call it: `precision=fp16`, or the stage's name where there is no matrix."""
        return variant.label(self.values) or self.stage

    def get(self, figure: str) -> float | None:
        """Give a figure by its name or as `stage.figure`."""
        return self.figures.get(self.key(figure) or ("", ""))

    def key(self, figure: str) -> tuple[str, str] | None:
        """Give the (stage, figure) that a name means here, None if there is none."""
        found = [key for key in self.figures if key[1] == figure]
        if len(found) == 1:
            return found[0]
        stage, _, rest = figure.partition(".")
        return (stage, rest) if (stage, rest) in self.figures else None

    def order(self) -> tuple[Any, ...]:
        """Give what sorts candidates by their values, numbers as numbers."""
        return tuple((a, 0, float(v), "") if _NUMBER.match(v) else (a, 1, 0.0, v) for a, v in self.values.items())


def join(engines: Mapping[str, Input | str], metrics: Mapping[str, Input | str]) -> list[Candidate]:
    """Join engines with what was measured of them: two variants belong together if no axis tells them apart.

    A stage that measures by more axes than the engine has (a batch size, say) makes more candidates of one engine. A
    text in the place of an input says why there is none.
    """
    found = []
    for name, engine in engines.items():
        stage, values = variant.split(name)
        if isinstance(engine, str):
            found.append(Candidate(values, name, None, {}, engine))
        else:
            plan_bytes = engine.read(Manifest).plan_bytes
            found.append(Candidate(values, name, engine, {(stage, PLAN_BYTES): plan_bytes}))
    by_stage: dict[str, list[tuple[dict[str, str], Input | str]]] = {}
    for name, given in metrics.items():
        stage, values = variant.split(name)
        by_stage.setdefault(stage, []).append((values, given))
    for stage, measured in by_stage.items():
        joined = []
        for one in found:
            fitting = [(v, i) for v, i in measured if all(one.values.get(a, value) == value for a, value in v.items())]
            for values, given in fitting:
                named = one._replace(values={**one.values, **values})
                if isinstance(given, str):
                    joined.append(named._replace(failed=one.failed or given))
                    continue
                figures = given.read(MEASURED[given.kind]).metrics
                more = {(stage, name): value for name, value in figures.items()}
                joined.append(named._replace(figures={**one.figures, **more}))
            joined += [] if fitting else [one]
        found = joined
    return sorted(found, key=Candidate.order)


def one_machine(metrics: Mapping[str, Input]) -> str | None:
    """Give the machine on which all that is measured in time was measured; None if nothing was.

    Raises StageFailed for more than one: kept figures of two machines say nothing about each other.
    """
    found: dict[str, str] = {}
    for name, given in metrics.items():
        if given.kind == "benchmark":
            where = given.read(Benchmark).environment
            parts = [where.device, where.host.cpu, where.host.cpus and f"{where.host.cpus} CPUs"]
            found.setdefault(", ".join(part for part in parts if part), name)
    if len(found) > 1:
        where_each = "; ".join(f"{name} on {machine}" for machine, name in found.items())
        raise StageFailed(f"measured on different machines, so that times cannot be compared: {where_each}")
    return next(iter(found), None)


def unstable(metrics: Mapping[str, Input]) -> list[str]:
    """Name the benchmarks that say of themselves that their times scatter."""
    timed = {name: given for name, given in metrics.items() if given.kind == "benchmark"}
    told = {name: given.read(Benchmark).warnings for name, given in timed.items()}
    return [name for name, warnings in told.items() if any(w.startswith("unstable") for w in warnings)]


def timed(figure: str, found: Sequence[Candidate], metrics: Mapping[str, Input]) -> bool:
    """Tell whether a benchmark measured a figure: then it is another one each time."""
    benchmarks = {variant.split(name).stage for name, given in metrics.items() if given.kind == "benchmark"}
    keys = [one.key(figure) for one in found]
    return any(key is not None and key[0] in benchmarks for key in keys)
