"""The matrix: a stage that uses `${matrix.axis}` becomes one variant for each combination of its axes."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe.errors import PipelineInvalid, UnknownReference
from trtpipe.pipeline.variables import Cell, Pending, written
from trtpipe.variant import Reference, join, split
from trtpipe.words import suggest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from trtpipe.pipeline.document import Document
    from trtpipe.violations import Path

MAX_COMBINATIONS = 256
MAX_STAGES = 1024
MAX_NAME = 200
EXCLUDE = "exclude"


class Variant(NamedTuple):
    """One stage as it runs. `given` is its mapping in the document with the matrix's values in it."""

    name: str
    stage: str
    values: dict[str, str]
    given: Any


class _Axes:
    """The matrix section, checked beyond its schema."""

    def __init__(self, document: Document) -> None:
        self.document = document
        section = {name: axis for name, axis in document.value["matrix"].items() if name != EXCLUDE}
        problems = []
        self.values: dict[str, dict[str, Any]] = {}
        for name, axis in section.items():
            if isinstance(axis, dict):
                self.values[name] = axis
                continue
            self.values[name] = {}
            for index, value in enumerate(axis):
                if written(value) in self.values[name]:
                    message = f"found {written(value)} twice, expected each value once"
                    problems.append(document.problem(("matrix", name, index), message))
                self.values[name][written(value)] = value
        self.fields = {name for name, axis in section.items() if isinstance(axis, dict)}
        if not section:
            problems.append(
                document.problem(("matrix",), "found no axis, expected at least one, such as batch: [1, 8]")
            )
        self.excluded = []
        for index, entry in enumerate(document.value["matrix"].get(EXCLUDE, ())):
            for name, value in entry.items():
                path = ("matrix", EXCLUDE, index, name)
                if name not in section:
                    problems.append(document.problem(path, f"unknown axis {name}{suggest(name, section)}"))
                elif written(value) not in self.values[name]:
                    hint = suggest(written(value), self.values[name])
                    problems.append(document.problem(path, f"{name} has no value {written(value)}{hint}"))
            self.excluded.append({name: written(value) for name, value in entry.items()})
        if problems:
            raise PipelineInvalid(problems)
        sizes = {name: len(values) for name, values in self.values.items()}
        if (count := math.prod(sizes.values())) > MAX_COMBINATIONS:
            product = " × ".join(f"{name} {size}" for name, size in sizes.items())
            message = f"found {count:,} combinations ({product}), expected at most {MAX_COMBINATIONS}"
            raise PipelineInvalid(document.problem(("matrix",), message))
        every = (
            dict(zip(self.values, combination, strict=True)) for combination in itertools.product(*self.values.values())
        )
        self.combinations = [c for c in every if not any(e.items() <= c.items() for e in self.excluded)]
        if not self.combinations:
            message = f"found no combination, because exclude removes all {count}; expected at least one"
            raise PipelineInvalid(document.problem(("matrix", EXCLUDE), message))

    def of(self, names: Iterable[str]) -> list[dict[str, str]]:
        """Give each combination of some axes once, in the matrix's order, if any whole combination has it."""
        wanted = set(names)
        found = [{n: v for n, v in combination.items() if n in wanted} for combination in self.combinations]
        return [dict(pairs) for pairs in dict.fromkeys(tuple(c.items()) for c in found)]

    def check(self, cell: Cell, path: Path) -> str | None:
        """Give the error of a reference to the matrix, or None."""
        if cell.axis not in self.values:
            hint = suggest(cell.axis, self.values)
            return self.document.problem(path, f"unknown axis {cell.axis} of the matrix{hint}")
        if cell.field is None:
            return None
        if cell.axis not in self.fields:
            message = f"found {cell}, and {cell.axis} is a list of values; expected ${{matrix.{cell.axis}}}"
            return self.document.problem(path, message)
        without = [value for value, fields in self.values[cell.axis].items() if cell.field not in fields]
        if without:
            known = dict.fromkeys(f for fields in self.values[cell.axis].values() for f in fields)
            hint = suggest(cell.field, known) if len(without) == len(self.values[cell.axis]) else ""
            message = f"{cell.axis} {', '.join(without)} {'has' if len(without) == 1 else 'have'} no field {cell.field}"
            return self.document.problem(path, message + hint)
        return None

    def value(self, cell: Cell, values: Mapping[str, str]) -> Any:
        """Give what a reference stands for in a combination."""
        value = self.values[cell.axis][values[cell.axis]]
        if cell.axis in self.fields:
            return values[cell.axis] if cell.field is None else value[cell.field]
        return value

    def fill(self, value: Any, values: Mapping[str, str]) -> Any:
        """Put a combination's values into a part of the document."""
        if isinstance(value, Pending):
            found = [p if isinstance(p, str) else self.value(p, values) for p in value.pieces]
            return found[0] if len(found) == 1 else "".join(map(written, found))
        if isinstance(value, dict):
            return {k: self.fill(v, values) for k, v in value.items()}
        return [self.fill(v, values) for v in value] if isinstance(value, list) else value


def _cells(value: Any, path: Path) -> Iterator[tuple[Cell, Path]]:
    if isinstance(value, Pending):
        yield from ((piece, path) for piece in value.pieces if isinstance(piece, Cell))
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _cells(item, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _cells(item, (*path, index))


def expand(document: Document) -> dict[str, list[Variant]]:
    """Give the variants of each stage of a document. The matrix fits its schema; the stages are not checked yet.

    References between stages stay as written. Raises UnknownReference for an axis, value or field that the matrix does
    not have, and PipelineInvalid if there are too many stages or none.
    """
    axes = _Axes(document)
    given: dict[str, Any] = document.value.get("stages")
    given = given if isinstance(given, dict) else {}
    problems, direct = [], {}
    for name, stage in given.items():
        cells = list(_cells(stage, ("stages", name)))
        wrong = [problem for cell, path in cells if (problem := axes.check(cell, path))]
        kind = stage.get("type") if isinstance(stage, dict) else None
        if isinstance(kind, Pending):
            wrong.append(
                document.problem(("stages", name, "type"), "found a type from the matrix, expected a plain one")
            )
        problems += wrong
        direct[name] = {cell.axis for cell, _ in cells}
    if problems:
        raise UnknownReference(list(dict.fromkeys(problems)))
    unused = [axis for axis in axes.values if not any(axis in used for used in direct.values())]
    if unused:
        raise PipelineInvalid(
            [document.problem(("matrix", axis), f"no stage uses ${{matrix.{axis}}}") for axis in unused]
        )
    names = _spread(axes, given, direct)
    combinations = {name: axes.of(used) for name, used in names.items()}
    count = sum(map(len, combinations.values()))
    if count > MAX_STAGES:
        message = f"expands {len(given)} stages to {count:,}, expected at most {MAX_STAGES:,}"
        raise PipelineInvalid(document.problem(("matrix",), message))
    expanded = {
        name: [
            Variant(join(name, values), name, values, axes.fill(given[name], values)) for values in combinations[name]
        ]
        for name in given
    }
    for variants in expanded.values():
        if (longest := max(variants, key=lambda v: len(v.name))) and len(longest.name) > MAX_NAME:
            message = f"gives the name {longest.name}, expected at most {MAX_NAME} characters: use shorter values"
            raise PipelineInvalid(document.problem(("matrix",), message))
    return expanded


def _spread(axes: _Axes, given: dict[str, Any], direct: dict[str, set[str]]) -> dict[str, set[str]]:
    """Give the axes on which each stage depends: its own, and those of the stages of which it reads one variant."""
    reads: dict[str, list[Reference]] = {}
    for name, stage in given.items():
        inputs = stage.get("inputs") if isinstance(stage, dict) else None
        reads[name] = []
        for port, value in inputs.items() if isinstance(inputs, dict) else ():
            if not _takes_many(stage, port):
                filled = [axes.fill(value, values) for values in axes.of(direct[name])]
                reads[name] += [split(text) for text in dict.fromkeys(f for f in filled if isinstance(f, str))]
    found = {name: set(used) for name, used in direct.items()}
    changed = True
    while changed:
        changed = False
        for name, references in reads.items():
            for stage, pins in references:
                more = found.get(stage, set()) - pins.keys() - found[name]
                found[name] |= more
                changed = changed or bool(more)
    return found


def _takes_many(stage: dict[str, Any], port: str) -> bool:
    from trtpipe import stages

    if stage.get("type") not in stages.NAMES:
        return False
    taken = stages.get(stage["type"]).inputs.get(port)
    return taken is not None and taken.many
