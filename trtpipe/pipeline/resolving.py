"""Turns a parsed document into a graph: variants, references, kinds, cycles, order."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from trtpipe import typed
from trtpipe.errors import Cycle, KindMismatch, PipelineInvalid, UnknownReference
from trtpipe.pipeline import matrix, run_section
from trtpipe.pipeline.checking import check, refuse
from trtpipe.pipeline.document import Document
from trtpipe.pipeline.graph import Pipeline, Source, Stage
from trtpipe.pipeline.schema import matrix_schema
from trtpipe.texts import is_file, plain_path, split_entrypoint
from trtpipe.violations import violations
from trtpipe.words import suggest

if TYPE_CHECKING:
    from trtpipe.pipeline.matrix import Variant
    from trtpipe.stage import Params


def expand(document: Document, schema: dict[str, Any]) -> dict[str, list[Variant]]:
    """Check a document against the schema, and give the variants of each stage; without a matrix, one for each.

    Raises SchemaViolation with everything that does not fit, and what `matrix.expand` raises.
    """
    if not isinstance(document.value, dict) or "matrix" not in document.value:
        check(document, schema)
        return {name: [matrix.Variant(name, name, {}, given)] for name, given in document.value["stages"].items()}
    section = {"matrix": document.value["matrix"]}
    check(Document(document.file, section, document.places), {"properties": {"matrix": matrix_schema()}})
    expanded = matrix.expand(document)
    problems = _Problems(document, expanded)
    # Each turn checks one variant of each stage under the stage's own name, so that paths are right.
    for turn in range(max(map(len, expanded.values()), default=1)):
        here = {name: variants[turn] for name, variants in expanded.items() if turn < len(variants)}
        stages = {"stages": {name: variant.given for name, variant in here.items()}} if here else {}
        for path, message in violations({**document.value, **stages}, schema):
            problems.add(path, message, here.get(str(path[1])) if path[:1] == ("stages",) and path[1:] else None)
    refuse(document, problems.found())
    return expanded


class _Problems:
    """Problems of variants, reported once for each stage; a problem of some variants only names them."""

    def __init__(self, document: Document, expanded: dict[str, list[Variant]]) -> None:
        self._document, self._expanded = document, expanded
        self._found: dict[tuple[tuple[str | int, ...], str], dict[str, Variant]] = {}

    def add(self, path: tuple[str | int, ...], message: str, variant: Variant | None) -> None:
        """Add a problem at a path of the document, in one variant of a stage."""
        variants = self._found.setdefault((path, message), {})
        if variant is not None:
            variants[variant.name] = variant

    def found(self) -> list[tuple[tuple[str | int, ...], str]]:
        """Give (path, line) of each problem."""
        lines = []
        for (path, message), variants in self._found.items():
            hint = ""
            first = next(iter(variants.values()), None)
            if first is not None and len(variants) < len(self._expanded[first.stage]):
                more = f" and {len(variants) - 3} more" if len(variants) > 3 else ""
                hint = f" (in {', '.join([*variants][:3])}{more})"
            lines.append((path, self._document.problem(path, message + hint)))
        return lines

    def lines(self) -> list[str]:
        """Give a line for each problem."""
        return [line for _, line in self.found()]


def resolve(document: Document, expanded: dict[str, list[Variant]]) -> Pipeline:
    """Resolve a document that fits the schema, with the variants of its stages.

    Raises UnknownReference, KindMismatch, PipelineInvalid or Cycle, each with every problem of its kind.
    """
    inputs = _references(document, expanded)
    variants = {v.name: v for each in expanded.values() for v in each}
    order = _order(document, {name: {"inputs": inputs[name]} for name in variants})
    stages = {}
    params: dict[str, Params] = {}
    problems = _Problems(document, expanded)
    for name in order:
        stages[name], params[name] = _stage(document, variants[name], inputs[name], problems)
    for name in order:
        _check_upstream(stages[name], params, variants[name], problems)
    if lines := problems.lines():
        raise PipelineInvalid(lines)
    given = document.value
    return Pipeline(given["name"], given.get("backend", "auto"), document.file, stages, given.get("remote"))


def _check_upstream(stage: Stage, params: dict[str, Params], variant: Variant, problems: _Problems) -> None:
    from trtpipe.stage import Upstream

    reads: dict[str, list[Upstream]] = {}
    for port, source in stage.inputs.items():
        if isinstance(source, str):
            reads.setdefault(port.partition("[")[0], []).append(Upstream(source, params[source]))
    own = params[stage.name]
    ports = {port.partition("[")[0] for port in stage.inputs}
    for inner, message in (*own.missing(ports), *own.mismatches(reads)):
        problems.add(("stages", variant.stage, *_path(inner)), message, variant)


def _references(document: Document, expanded: dict[str, list[Variant]]) -> dict[str, dict[str, Any]]:
    """Give each variant's inputs, with names of variants in place of the document's names of stages.

    A port with `many` becomes one input for each stage or variant that it reads.
    """
    from trtpipe import stages
    from trtpipe.stage import many_port

    makes = {name: stages.get(variants[0].given["type"]).output for name, variants in expanded.items()}
    unknown, mismatched = _Problems(document, expanded), _Problems(document, expanded)
    resolved: dict[str, dict[str, Any]] = {}
    for variant in (v for each in expanded.values() for v in each):
        mine = resolved[variant.name] = {}
        ports = stages.get(variant.given["type"]).inputs
        for port, value in (variant.given.get("inputs") or {}).items():
            kinds = ports[port].kinds
            path = ("stages", variant.stage, "inputs", port)
            if isinstance(value, dict):
                mine[port] = value
                continue
            for index, text in enumerate(value if isinstance(value, list) else [value]):
                where = (*path, index) if isinstance(value, list) else path
                named = _named(text, variant, expanded, many=ports[port].many)
                if isinstance(named, ValueError):
                    unknown.add(where, str(named), variant)
                    continue
                kind = makes[named[0].stage]
                if kind not in kinds:
                    message = f"found {text}, which makes {_a(kind)}, expected {' or '.join(map(_a, kinds))}"
                    makers = [name for name, made in makes.items() if made in kinds and name != variant.stage]
                    hint = f"; {', '.join(makers)} would fit" if makers else ""
                    mismatched.add(where, message + hint, variant)
                for one in named:
                    mine[many_port(port, one.name) if ports[port].many else port] = one.name
    if lines := unknown.lines():
        raise UnknownReference(lines)
    if lines := mismatched.lines():
        raise KindMismatch(lines)
    return resolved


def _named(text: str, reader: Variant, expanded: dict[str, list[Variant]], *, many: bool) -> list[Variant] | ValueError:
    """Give the variants that an input names (one, unless its port has `many`), or the error if there is none."""
    from trtpipe.variant import split

    reference = split(text)
    variants = expanded.get(reference.stage)
    if variants is None:
        return ValueError(f"unknown stage {reference.stage}{suggest(reference.stage, expanded)}")
    for axis, value in reference.pins.items():
        if axis not in variants[0].values:
            hint = suggest(axis, variants[0].values) or ": it does not depend on the matrix"
            return ValueError(f"{reference.stage} has no axis {axis}{hint}")
        known = dict.fromkeys(v.values[axis] for v in variants)
        if value not in known:
            return ValueError(f"{reference.stage} has no variant with {axis}={value}{suggest(value, known)}")
    found = [
        v
        for v in variants
        if all(reference.pins.get(a, value if many else reader.values.get(a)) == value for a, value in v.values.items())
    ]
    return found or ValueError(f"found {text}, which the matrix excludes")


def _a(kind: str) -> str:
    """Give a kind with its article; kinds in the plural have none."""
    if kind.endswith("s"):
        return kind
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _order(document: Document, given: dict[str, Any]) -> list[str]:
    """Order the stages so that each comes after what it reads, otherwise as written. Raises Cycle with one cycle."""
    needs = {name: [] for name in given}  # type: dict[str, list[str]]
    for name, stage in given.items():
        needs[name] = list(dict.fromkeys(value for value in stage["inputs"].values() if isinstance(value, str)))
    waiting = {name: len(n) for name, n in needs.items()}
    users: dict[str, list[str]] = {name: [] for name in given}
    for name, upstream in needs.items():
        for one in upstream:
            users[one].append(name)
    ready = [name for name in given if not waiting[name]]
    order: list[str] = []
    for name in ready:  # grows while it is read
        order.append(name)
        for user in users[name]:
            waiting[user] -= 1
            if not waiting[user]:
                ready.append(user)
    if len(order) < len(given):
        stuck = set(given) - set(order)
        walk = [next(name for name in given if name in stuck)]
        while walk[-1] not in walk[:-1]:
            walk.append(next(n for n in needs[walk[-1]] if n in stuck))
        cycle = walk[walk.index(walk[-1]) :][::-1]
        raise Cycle(document.problem(("stages", cycle[0].partition("@")[0]), f"found a cycle: {' → '.join(cycle)}"))
    return order


def _stage(document: Document, variant: Variant, reads: dict[str, Any], problems: _Problems) -> tuple[Stage, Params]:
    import msgspec

    from trtpipe import stages

    stage_type = stages.get(variant.given["type"])
    path = ("stages", variant.stage, "params")
    try:
        given = typed.plain(stage_type.Params, variant.given.get("params") or {})
        params = msgspec.convert(given, stage_type.Params)
    except (msgspec.ValidationError, ValueError) as error:
        # The schema is stricter than msgspec, so this is rare.
        raise PipelineInvalid(document.problem(path, str(error))) from None
    for inner, message in params.problems():
        problems.add((*path, *_path(inner)), message, variant)
    files = [*params.files()]
    modules: list[str] = []
    for one in params.entrypoints():
        where = split_entrypoint(one)[0]
        (files if is_file(one) else modules).append(where)
    inputs: dict[str, str | Source] = {}
    for port, value in reads.items():
        if isinstance(value, str):
            inputs[port] = value
            continue
        place = document.problem(("stages", variant.stage, "inputs", port), "")[:-2]
        takes_models = "model" in stage_type.inputs[port].kinds
        source = {name: value.get(name) for name in ("file", "package", "url", "sha256")}
        if source["file"] is not None:
            source["file"] = plain_path(source["file"])
        inputs[port] = Source(**source, place=place, model=takes_models)
    run = variant.given.get("run") or {}
    for name, message in run_section.problems(run):
        problems.add(("stages", variant.stage, "run", name), message, variant)
    stage = Stage(
        name=variant.name,
        type=stage_type.name,
        version=stage_type.version,
        params=json.loads(msgspec.json.encode(params)),
        inputs=inputs,
        output=stage_type.output,
        sources=tuple(sorted(set(files))),
        modules=tuple(sorted(set(modules))),
        packages=tuple(sorted({*stage_type.packages, *params.packages()})),
        backend=stage_type.backend,
        gpu_on=stage_type.gpu_on,
        cacheable=params.cacheable(),
        alone=stage_type.alone,
        tolerant=params.tolerant(),
        watched=any(True for _ in params.entrypoints()),
        place=document.problem(("stages", variant.stage), "")[:-2],
        limits=run_section.limits(run),
    )
    return stage, params


def _path(inner: str) -> tuple[str | int, ...]:
    """Split a path inside the params, as in `steps[0].tensor`."""
    parts = filter(None, inner.replace("[", ".[").split("."))
    return tuple(int(part[1:-1]) if part.startswith("[") else part for part in parts)
