"""select: of all variants of an engine the best one that keeps every rule, with the reasons why the others lost."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from trtpipe import columns, gates, variant
from trtpipe.errors import GateFailed, PipelineInvalid, StageFailed
from trtpipe.stage import Context, Input, Params, Port, StageType, put

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trtpipe.stage import Upstream

AIM = r"^\s*(min|max)\s+(\S+)\s*$"
PLAN_BYTES = "plan_bytes"
MARGIN = 0.03
"""How near the best time another one is no worse: what medians of one engine differ by from run to run on a machine at
rest, and a little more than trtexec's bound for a time that is stable (a deviation of 2.5 %)."""
WIDE = 78
"""Columns of a table: those of a terminal, less what an error message is indented by."""
OWN = ("selection.json", "table.txt", "tradeoff.svg")
Aim = Annotated[str, Meta(pattern=AIM, description="What is better, min or max, and of which figure.")]
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?$")


class SelectParams(Params, frozen=True):
    """What the best variant is, and what each must keep. A figure of two stages is written `stage.figure`."""

    objective: Annotated[
        Aim,
        Meta(
            description="What the best variant has least or most of: `min latency_p50_ms`, `max throughput_samples`, "
            "`min plan_bytes` (of the engine itself).",
        ),
    ]
    where: Annotated[
        dict[str, gates.Rule], Meta(description='Rules that a variant must keep, such as {top1: ">= 0.97"}.')
    ] = msgspec.field(default_factory=dict)
    against: Annotated[
        Aim | None,
        Meta(
            description="The other figure, such as `max top1`: it decides a tie, and the picture is drawn against it. "
            "By default the first of `where` by name, else plan_bytes.",
        ),
    ] = None
    margin: Annotated[
        Annotated[float, Meta(ge=0, lt=1)] | None,
        Meta(
            description="Variants whose objective is within this share of the best one's tie with it. By default "
            f"{MARGIN:g} where a benchmark measured the objective, else 0.",
        ),
    ] = None

    failed: Annotated[
        Literal["stop", "lose"],
        Meta(
            description="A variant of which a stage failed, because it cannot be built, say, or breaks a gate: `stop` "
            "ends the run, `lose` goes on without that variant, as long as one is left.",
        ),
    ] = "stop"

    def tolerant(self) -> bool:
        """Tell whether variants may be missing."""
        return self.failed == "lose"

    def aim(self) -> tuple[str, str]:
        """Give the objective as (min or max, figure)."""
        return _aim(self.objective)

    def others(self) -> list[tuple[str, str]]:
        """Give the other figures that may count as (min or max, figure): `against`, those of `where`, plan_bytes."""
        asked = [_aim(self.against)] if self.against else []
        figure = self.aim()[1]
        ruled = [("min" if "<" in rule else "max", name) for name, rule in sorted(self.where.items()) if name != figure]
        return [*asked, *ruled, ("min", PLAN_BYTES)]

    def problems(self) -> Iterable[tuple[str, str]]:
        """Find what the schema cannot say."""
        yield from ((path.replace("require", "where", 1), message) for path, message in gates.malformed(self.where))
        if self.against and _aim(self.against)[1] == self.aim()[1]:
            yield "against", f"found {self.aim()[1]}, which is the objective, expected another figure"

    def mismatches(self, upstream: Mapping[str, Sequence[Upstream]]) -> Iterable[tuple[str, str]]:
        """Find engines of several stages, and figures that nothing makes."""
        engines = list(dict.fromkeys(variant.split(u.stage).stage for u in upstream["engines"]))
        if len(engines) > 1:
            yield "inputs.engines", f"found {' and '.join(engines)}, expected the variants of one stage: use a matrix"
        made: dict[str, set[str]] = {}
        opaque = False
        for stage, params in upstream.get("metrics", ()):
            figures = set(params.figures())
            opaque = opaque or not figures
            made.setdefault(variant.split(stage).stage, set()).update(figures)
        for where, figure in self._asked():
            owners = _owners(figure, made, engines[0])
            if len(owners) > 1:
                names = " or ".join(f"{owner}.{figure}" for owner in owners)
                yield f"params.{where}", f"found {figure}, which {' and '.join(owners)} make, expected {names}"
            elif not owners and not opaque:
                known = (name for each in made.values() for name in each if "*" not in name)
                yield f"params.{where}", _unknown(figure, [PLAN_BYTES, *known])

    def _asked(self) -> Iterable[tuple[str, str]]:
        yield "objective", self.aim()[1]
        yield from ((f"where.{name}", name) for name in self.where)
        if self.against:
            yield "against", _aim(self.against)[1]


def _aim(text: str) -> tuple[str, str]:
    found = re.match(AIM, text)
    assert found is not None  # the schema has seen to it
    return found[1], found[2]


def _owners(figure: str, made: Mapping[str, Iterable[str]], engine: str) -> list[str]:
    """Name the stages that make a figure; `stage.figure` names one by itself."""
    every = {engine: {PLAN_BYTES}, **made}
    owners = [stage for stage, names in every.items() if any(_is(figure, name) for name in names)]
    stage, _, rest = figure.partition(".")
    if not owners and rest and any(_is(rest, name) for name in every.get(stage, ())):
        return [stage]
    return owners


def _is(figure: str, name: str) -> bool:
    """Tell whether a figure is the one that a stage names; `*.` at the front stands for any output."""
    return figure == name or (name.startswith("*.") and figure.endswith(name[1:]) and figure != name[1:])


def _unknown(figure: str, known: Iterable[str]) -> str:
    names = sorted(dict.fromkeys(known))
    near = difflib.get_close_matches(figure, names, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"found {figure}, which no stage among the inputs measures, expected one of {', '.join(names)}{hint}"


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


def candidates(engines: Mapping[str, Input | str], metrics: Mapping[str, Input | str]) -> list[Candidate]:
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
            plan_bytes = engine.json("manifest.json")["plan_bytes"]
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
                figures = given.json(f"{given.kind}.json")["metrics"]
                more = {(stage, name): float(value) for name, value in figures.items()}
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
            where = given.json("benchmark.json")["environment"]
            host = where.get("host") or {}
            parts = [where.get("device"), host.get("cpu"), host.get("cpus") and f"{host['cpus']} CPUs"]
            found.setdefault(", ".join(str(part) for part in parts if part), name)
    if len(found) > 1:
        where_each = "; ".join(f"{name} on {machine}" for machine, name in found.items())
        raise StageFailed(f"measured on different machines, so that times cannot be compared: {where_each}")
    return next(iter(found), None)


def _unstable(metrics: Mapping[str, Input]) -> list[str]:
    """Name the benchmarks that say of themselves that their times scatter."""
    timed = {name: given for name, given in metrics.items() if given.kind == "benchmark"}
    told = {name: given.json("benchmark.json").get("warnings", ()) for name, given in timed.items()}
    return [name for name, warnings in told.items() if any(w.startswith("unstable") for w in warnings)]


class Row(NamedTuple):
    """A candidate in the order of merit; `why` says why it lost, and is empty for the best.

    `tied`: it keeps every rule, and its objective is within the margin of the best one's.
    """

    candidate: Candidate
    passed: bool
    why: str
    tied: bool = False


def timed(figure: str, found: Sequence[Candidate], metrics: Mapping[str, Input]) -> bool:
    """Tell whether a benchmark measured a figure: then it is another one each time."""
    benchmarks = {variant.split(name).stage for name, given in metrics.items() if given.kind == "benchmark"}
    keys = [one.key(figure) for one in found]
    return any(key is not None and key[0] in benchmarks for key in keys)


def rank(
    found: Sequence[Candidate],
    objective: str,
    where: Mapping[str, str],
    *,
    margin: float = 0.0,
    then: tuple[str, str] = ("min", PLAN_BYTES),
) -> list[Row]:
    """Order candidates: those that keep every rule first, best first.

    Those whose objective is within `margin` (a share) of the best one's tie: the best of `then` (min or max, and a
    figure) comes first, of equals the one with fewer plan bytes, then by their values. Nearness counts from the best
    objective, so that no chain of neighbours makes a tie of what is far apart.
    """
    goal, figure = _aim(objective)
    broken = {one.label: list(_broken(one, figure, where)) for one in found}

    def merit(one: Candidate, goal: str, name: str) -> tuple[bool, float]:
        value = one.get(name)
        return (value is None, (value or 0.0) if goal == "min" else -(value or 0.0))

    kept = {one.label: value for one in found if not broken[one.label] and (value := one.get(figure)) is not None}
    lead = (min if goal == "min" else max)(kept.values(), default=0.0)
    tied = {label for label, value in kept.items() if abs(value - lead) <= margin * abs(lead)}

    def place(one: Candidate) -> tuple[Any, ...]:
        behind = (False, 0.0) if one.label in tied else merit(one, goal, figure)
        last = (one.get(PLAN_BYTES) or 0, one.order())
        return (bool(broken[one.label]), bool(one.failed), one.label not in tied, behind, merit(one, *then), *last)

    ordered = sorted(found, key=place)
    best = ordered[0]
    rows = []
    for one in ordered:
        why = "; ".join(broken[one.label])
        if not why and one is not best:
            why = _behind(one, best, margin, figure, then[1]) if one.label in tied else _less(one, best, figure)
        rows.append(Row(one, not broken[one.label], why, one.label in tied))
    return rows


def _behind(one: Candidate, best: Candidate, margin: float, figure: str, then: str) -> str:
    """Say why one that ties with the best comes after it."""
    equal = one.get(figure) == best.get(figure)
    tie = "as good as the best" if equal else f"as good within {percent(margin)}"
    if one.get(then) != best.get(then) and then != PLAN_BYTES:
        return f"{tie}, but {_less(one, best, then)}"
    same = one.get(PLAN_BYTES) == best.get(PLAN_BYTES)
    return f"{tie}, and after it by name" if same else f"{tie}, with a larger plan"


def _less(one: Candidate, best: Candidate, figure: str) -> str:
    value, wanted = one.get(figure), best.get(figure)
    if text(value) != text(wanted) or value is None or wanted is None:
        return f"{figure} {text(value)}, the best has {text(wanted)}"
    return f"{figure} {value!r}, the best has {wanted!r}"


def percent(share: float) -> str:
    """Write a share: `3 %`."""
    return f"{share * 100:.4g} %"


def _broken(one: Candidate, objective: str, where: Mapping[str, str]) -> Iterable[str]:
    if one.failed:
        yield one.failed
        return
    for name, rule in sorted(where.items()):
        value = one.get(name)
        if value is None:
            yield f"{name} was not measured"
        elif not gates.holds(value, rule):
            # Rounded it may look as if it kept the rule.
            shown = text(value) if not gates.holds(float(text(value)), rule) else repr(value)
            yield f"{name} {shown}, expected {rule}"
    if one.get(objective) is None and objective not in where:
        yield f"{objective} was not measured"


def text(value: float | None) -> str:
    """Write a figure shortly; whole numbers whole."""
    if value is None:
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return str(int(value))
    short = f"{value:.4g}"
    return f"{value:.7g}" if float(short).is_integer() else short  # 0.999964 is not 1


def table(rows: Sequence[Row], figures: Sequence[str], best: str = "best") -> list[str]:
    """Lay all variants out, best first, with their figures and what became of them.

    What became of them stands at the lines' ends if that fits a terminal, else below each line.
    """
    cells = [["", "variant", *figures, ""]]
    for index, row in enumerate(rows):
        first = row.passed and index == 0
        values = [text(row.candidate.get(f)) for f in figures]
        cells.append(["*" if first else "", row.candidate.label, *values, best if first else row.why])
    numbers = range(2, 2 + len(figures))
    lines = columns.table(cells, right=numbers)
    if max(map(len, lines)) <= WIDE:
        return lines
    short = columns.table([row[:-1] for row in cells], right=numbers)
    return [
        said
        for line, row in zip(short, cells, strict=True)
        for said in (line, *([f"     {row[-1]}"] if row[-1] else []))
    ]


def run(ctx: Context) -> None:
    """Choose; write selection.json, table.txt and tradeoff.svg beside the chosen engine's files.

    Raises GateFailed with the table if no variant keeps every rule, and PipelineInvalid for a figure that none has.
    """
    params: SelectParams = ctx.params
    measured = ctx.many("metrics")
    machine = one_machine(measured)
    found = candidates({**ctx.many("engines"), **ctx.missing("engines")}, {**measured, **ctx.missing("metrics")})
    whole = [one for one in found if not one.failed]
    goal, figure = params.aim()
    asked = list(dict.fromkeys([figure, *sorted(params.where), *([_aim(params.against)[1]] if params.against else [])]))
    known = dict.fromkeys(name for one in found for _, name in one.figures)
    for name in asked:
        if whole and all(one.get(name) is None for one in whole):
            raise PipelineInvalid(_unknown(name, known))
    margin = params.margin
    if margin is None:
        margin = MARGIN if timed(figure, found, measured) else 0.0
    # A second time, as a coin to toss once more, decides nothing.
    then = next(((g, name) for g, name in params.others() if not timed(name, found, measured)), ("min", PLAN_BYTES))
    rows = rank(found, params.objective, params.where, margin=margin, then=then)
    tied = [row.candidate for row in rows if row.tied]
    near = len(tied) > 1 and len({one.get(figure) for one in tied}) > 1
    won = f"best of the {len(tied)} within {percent(margin)}" if near else "best"
    lines = table(rows, list(dict.fromkeys([*asked, PLAN_BYTES])), won)
    best = rows[0].candidate if rows[0].passed else None
    (ctx.out / "table.txt").write_text("\n".join(lines) + "\n", "utf-8")
    picture = _picture(ctx.stage, rows, params, margin if near else 0.0)
    if picture:
        (ctx.out / "tradeoff.svg").write_text(picture, "utf-8")
    else:
        ctx.note("no picture: there is no second figure to draw the objective against")
    ctx.write_json(
        "selection.json",
        {
            "objective": {"goal": goal, "figure": figure},
            "where": params.where,
            "margin": margin,
            "then": {"goal": then[0], "figure": then[1]},
            "measured_on": machine,
            "best": best and best.label,
            "engine": best and best.stage,
            "variants": [
                {
                    "variant": row.candidate.label,
                    "engine": row.candidate.stage,
                    "values": row.candidate.values,
                    "passed": row.passed,
                    "failed": bool(row.candidate.failed),
                    "tied": row.tied,
                    "why": row.why,
                    "figures": {f"{stage}.{name}": value for (stage, name), value in row.candidate.figures.items()},
                }
                for row in rows
            ],
        },
    )
    failed = len(rows) - len(whole)
    if best is None:
        among = f" ({failed} failed)" if failed else ""
        count = "the only variant does not keep" if len(rows) == 1 else f"none of {len(rows)} variants{among} keeps"
        raise GateFailed(f"{count} what `where` asks\n" + "\n".join(f"  {line}" for line in lines))
    assert best.engine is not None  # without one it has failed
    _copy(best.engine, ctx)
    lost = sum(1 for row in rows if not row.passed) - failed
    broke = f", {lost} of {len(rows)} variants break a rule" if lost else f" of {len(rows)}"
    broke += f", {failed} failed" if failed else ""
    ctx.note(f"{best.label} is best{broke}: {figure} {text(best.get(figure))}")
    if near:
        others = ", ".join(f"{one.label} ({text(one.get(figure))})" for one in tied[1:])
        ctx.note(f"within {percent(margin)} of the best {figure}, which is a tie: {others}; {_decider(tied, then[1])}")
    if shaky := _unstable(measured):
        ctx.note(f"unstable times of {', '.join(shaky)}: on a machine at rest the order may be another")


def _decider(tied: Sequence[Candidate], then: str) -> str:
    """Say what put the first of a tie before the second."""
    one, two = tied[:2]
    for name, says in ((then, f"{then} decides"), (PLAN_BYTES, "the smaller plan is chosen")):
        if one.get(name) != two.get(name):
            return says
    return "the first by name is chosen"


def _copy(engine: Input, ctx: Context) -> None:
    """Put the chosen engine's files into the artifact; where the disk can, as links to the store's."""
    for name in engine.files:
        if name in OWN:
            continue  # of a select that this one reads
        put(engine.path(name), ctx.out / name, link=True)


def _picture(stage: str, rows: Sequence[Row], params: SelectParams, margin: float) -> str | None:
    """Draw the objective against another figure, for the variants that have both; None if there is no other.

    With `margin`, what lies so near the best that it ties is tinted.
    """
    from trtpipe.data import tradeoff

    def axis(goal: str, name: str) -> tradeoff.Axis:
        rule = re.match(gates.RULE, params.where.get(name, ""))
        return tradeoff.Axis(name, goal, ((rule[1], float(rule[2])),) if rule else ())

    goal, figure = params.aim()
    x, y = axis(goal, figure), axis(*params.others()[0])
    points = []
    for index, row in enumerate(rows):
        one = row.candidate
        left, up = one.get(x.name), one.get(y.name)
        if left is not None and up is not None:
            state = "lost" if not row.passed else "passed" if index else "best"
            points.append(tradeoff.Point(one.label, left, up, state, row.why or "the best"))
    if not points or x.name == y.name:
        return None
    if margin:
        values = [value for row in rows if row.tied and (value := row.candidate.get(figure)) is not None]
        lead = (min if goal == "min" else max)(values)
        far = lead + abs(lead) * margin * (1 if goal == "min" else -1)
        x = x._replace(tie=(lead, far, percent(margin)))
    rules = " and ".join(f"{name} {rule.strip()}" for name, rule in sorted(params.where.items()))
    passed_count = sum(1 for row in rows if row.passed)
    verb = "keeps" if passed_count == 1 else "keep"
    kept = (
        f"{passed_count} of {len(rows)} variants {verb} {rules}"
        if rules
        else f"{len(rows)} variant{'s' if len(rows) > 1 else ''}"
    )
    title = rows[0].candidate.label if rows[0].passed else "no variant keeps every rule"
    return tradeoff.svg(f"{stage}: {title}", f"{goal} {figure} · {kept}", points, x, y)


STAGE = StageType(
    name="select",
    version=3,
    Params=SelectParams,
    inputs={
        "engines": Port(kinds=("engine",), doc="The engines to choose from.", many=True),
        "metrics": Port(
            kinds=("metrics", "comparison", "benchmark"),
            doc="What was measured of them.",
            required=False,
            many=True,
        ),
    },
    output="engine",
    doc="Chooses the best variant of an engine that keeps every rule, and says why the others lost.",
    run=run,
)
