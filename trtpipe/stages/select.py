"""select: of all variants of an engine the best one that keeps every rule, with the reasons why the others lost."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from trtpipe import gates, variant
from trtpipe.data import candidates, ranking
from trtpipe.data.candidates import PLAN_BYTES
from trtpipe.documents.selection import Goal, Selection, Variant
from trtpipe.errors import GateFailed, PipelineInvalid
from trtpipe.stage import Context, Input, Params, Port, StageType, put

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trtpipe.data.ranking import Row
    from trtpipe.documents.selection import Better
    from trtpipe.stage import Upstream

MARGIN = 0.03
"""How near the best time another one is no worse: what medians of one engine differ by from run to run on a machine at
rest, and a little more than trtexec's bound for a time that is stable (a deviation of 2.5 %)."""
OWN = (Selection.file, "table.txt", "tradeoff.svg")
Aim = Annotated[str, Meta(pattern=ranking.AIM, description="What is better, min or max, and of which figure.")]


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

    def aim(self) -> tuple[Better, str]:
        """Give the objective as (min or max, figure)."""
        return ranking.aim(self.objective)

    def others(self) -> list[tuple[Better, str]]:
        """Give the other figures that may count as (min or max, figure): `against`, those of `where`, plan_bytes."""
        found = [ranking.aim(self.against)] if self.against else []
        for name, rule in sorted(self.where.items()):
            if name != self.aim()[1]:
                found.append(("min" if "<" in rule else "max", name))
        return [*found, ("min", PLAN_BYTES)]

    def problems(self) -> Iterable[tuple[str, str]]:
        """Find what the schema cannot say."""
        yield from ((path.replace("require", "where", 1), message) for path, message in gates.malformed(self.where))
        if self.against and ranking.aim(self.against)[1] == self.aim()[1]:
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
            yield "against", ranking.aim(self.against)[1]


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


def run(ctx: Context) -> None:
    """Choose; write selection.json, table.txt and tradeoff.svg beside the chosen engine's files.

    Raises GateFailed with the table if no variant keeps every rule, and PipelineInvalid for a figure that none has.
    """
    params: SelectParams = ctx.params
    measured = ctx.many("metrics")
    machine = candidates.one_machine(measured)
    found = candidates.join({**ctx.many("engines"), **ctx.missing("engines")}, {**measured, **ctx.missing("metrics")})
    whole = [one for one in found if not one.failed]
    goal, figure = params.aim()
    asked = list(dict.fromkeys([figure, *sorted(params.where)]))
    if params.against:
        asked = list(dict.fromkeys([*asked, ranking.aim(params.against)[1]]))
    known = dict.fromkeys(name for one in found for _, name in one.figures)
    for name in asked:
        if whole and all(one.get(name) is None for one in whole):
            raise PipelineInvalid(_unknown(name, known))
    margin = params.margin
    if margin is None:
        margin = MARGIN if candidates.timed(figure, found, measured) else 0.0
    # A second time, as a coin to toss once more, decides nothing.
    exact = (other for other in params.others() if not candidates.timed(other[1], found, measured))
    then = next(exact, ("min", PLAN_BYTES))
    rows = ranking.rank(found, params.objective, params.where, margin=margin, then=then)
    tied = [row.candidate for row in rows if row.tied]
    near = len(tied) > 1 and len({one.get(figure) for one in tied}) > 1
    won = f"best of the {len(tied)} within {ranking.percent(margin)}" if near else "best"
    lines = ranking.table(rows, list(dict.fromkeys([*asked, PLAN_BYTES])), won)
    best = rows[0].candidate if rows[0].passed else None
    (ctx.out / "table.txt").write_text("\n".join(lines) + "\n", "utf-8")
    picture = _picture(ctx.stage, rows, params, margin if near else 0.0)
    if picture:
        (ctx.out / "tradeoff.svg").write_text(picture, "utf-8")
    else:
        ctx.note("no picture: there is no second figure to draw the objective against")
    ctx.write(
        Selection(
            objective=Goal(goal=goal, figure=figure),
            where=params.where,
            margin=margin,
            then=Goal(goal=then[0], figure=then[1]),
            measured_on=machine,
            best=best.label if best else None,
            engine=best.stage if best else None,
            variants=tuple(map(_variant, rows)),
        )
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
    ctx.note(f"{best.label} is best{broke}: {figure} {ranking.text(best.get(figure))}")
    if near:
        others = ", ".join(f"{one.label} ({ranking.text(one.get(figure))})" for one in tied[1:])
        why = ranking.decider(tied, then[1])
        ctx.note(f"within {ranking.percent(margin)} of the best {figure}, which is a tie: {others}; {why}")
    if shaky := candidates.unstable(measured):
        ctx.note(f"unstable times of {', '.join(shaky)}: on a machine at rest the order may be another")


def _variant(row: Row) -> Variant:
    one = row.candidate
    return Variant(
        variant=one.label,
        engine=one.stage,
        values=one.values,
        passed=row.passed,
        failed=bool(one.failed),
        tied=row.tied,
        why=row.why,
        figures={f"{stage}.{name}": value for (stage, name), value in one.figures.items()},
    )


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
        x = x._replace(tie=(lead, far, ranking.percent(margin)))
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
    version=5,
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
