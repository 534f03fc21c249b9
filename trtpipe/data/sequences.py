"""Sequences: an engine runs once a step, and what it remembers is fed back from one step to the next."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from trtpipe import batch as rule
from trtpipe.data import conversion, elements, laying, tensors
from trtpipe.data.ragged import Ragged
from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from trtpipe.data.ragged import RaggedReader
    from trtpipe.data.tensors import Reader, Source
    from trtpipe.documents.buffers import Buffer, Buffers
    from trtpipe.documents.manifest import Manifest
    from trtpipe.runtime import Session


class Asked(Protocol):
    """What the params of `infer` say of tensors."""

    @property
    def names(self) -> Mapping[str, str]:
        """The data's name for an input, by input."""
        ...

    @property
    def state(self) -> Mapping[str, str]:
        """The output that is fed back, by input."""
        ...


class Fed(NamedTuple):
    """How one input is fed: `steps` (a new value a step), `sample` (one value a sequence), `constant`.

    A state that the data does not have begins as zeros: it has no source.
    """

    buffer: Buffer
    how: Literal["steps", "sample", "constant"]
    source: Source | Ragged | None


def match(
    buffers: Buffers, manifest: Manifest, sources: Mapping[str, Source | Ragged], asked: Asked, label: str
) -> list[Fed]:
    """Match sequences with the engine's inputs. Raises StageFailed that lists every mismatch: found, expected."""
    names, state = asked.names, asked.state
    inputs = {b.name: b for b in buffers.side("input")}
    dims = {b.name: b for b in manifest.bindings}
    problems = _state_problems(buffers, manifest, state)
    problems += [f"params.names.{n}: the engine's inputs are {', '.join(inputs)}" for n in names if n not in inputs]
    found: list[Fed] = []
    for name, b in inputs.items():
        own = names.get(name, name)
        if own not in sources:
            if name in state:
                found.append(Fed(b, "sample", None))
            else:
                problems.append(f"{label}: found tensors {', '.join(sources) or 'none'}, expected {own}")
            continue
        source = sources[own]
        if source.element != b.dtype and not conversion.possible(source.element, b.dtype, dims[name].model_dtype):
            problems.append(f"{source.label}: found dtype {source.element}, expected {b.dtype}")
            continue
        how = _how(source, b, is_state=name in state)
        if how is None:
            rest = ", ".join(laying.expected(b.shape, b.batch_axis)[1:-1].split(", ")[1:])
            wants = f"[samples, {rest}]" if name in state else f"[samples, steps, {rest}]"
            shape = f"samples with {source.rank} axes" if isinstance(source, Ragged) else f"shape {list(source.shape)}"
            problems.append(f"{source.label}: found {shape}, expected {wants}: {name} is {rule.text(dims[name])}")
        else:
            found.append(Fed(b, how, source))
    if problems:
        raise StageFailed("\n".join(problems))
    counts = {f.source.label: tensors.count(f.source) for f in found if f.source is not None and f.how != "constant"}
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise StageFailed(f"the tensors differ in their number of samples: {text}")
    if not any(f.how == "steps" for f in found):
        raise StageFailed(
            f"{label}: found no tensor [samples, steps, …], expected one: with state, the data is sequences"
        )
    if 0 in counts.values():
        raise StageFailed(f"{label} holds no samples; expected at least one")
    return found


def _how(source: Source | Ragged, b: Buffer, *, is_state: bool) -> Literal["steps", "sample", "constant"] | None:
    rest = [n for axis, n in enumerate(b.shape) if axis != b.batch_axis]
    if isinstance(source, Ragged):
        fits = source.rank == len(rest) + 1 and all(
            laying.fits([int(n) for n in one], rest)
            for shapes in source.all_shapes()
            for one in np.unique(shapes[:, 1:], axis=0)
        )
        return "steps" if fits and not is_state else None
    if not is_state and len(source.shape) == len(rest) + 2 and laying.fits(source.shape[2:], rest):
        return "steps"
    if len(source.shape) == len(rest) + 1 and laying.fits(source.shape[1:], rest):
        return "sample"
    return "constant" if b.batch_axis is None and laying.fits(source.shape, b.shape) else None


def _state_problems(buffers: Buffers, manifest: Manifest, state: Mapping[str, str]) -> list[str]:
    """Give what is wrong with `state`: names that are not there, outputs that are no value for their input."""
    inputs, outputs = {b.name: b for b in buffers.side("input")}, {b.name: b for b in buffers.side("output")}
    text = {b.name: rule.text(b) for b in manifest.bindings}
    problems = []
    for name, output in state.items():
        at = f"params.state.{name}"
        if name not in inputs:
            problems.append(f"{at}: found no such input, expected one of {', '.join(inputs)}")
        elif output not in outputs:
            problems.append(f"{at}: found no output {output}, expected one of {', '.join(outputs)}")
        else:
            one, other = inputs[name], outputs[output]
            same = len(one.shape) == len(other.shape) and all(
                a == b or None in (a, b) for a, b in zip(one.shape, other.shape, strict=True)
            )
            if not same or one.dtype != other.dtype:
                found, wants = f"{output} {other.dtype} {text[output]}", f"{one.dtype} {text[name]} as {name} is"
                problems.append(f"{at}: found {found}, expected {wants}")
            elif one.batch_axis != other.batch_axis:
                where = [f"axis {b.batch_axis}" if b.batch_axis is not None else "no axis" for b in (one, other)]
                line = f"batch_axis: {{{output}: {'none' if one.batch_axis is None else one.batch_axis}}}"
                problems.append(
                    f"{at}: the batch is {where[0]} of {name} and {where[1]} of {output}, expected the same; write "
                    f"{line} in params of allocate"
                )
    if doubled := [output for output in state.values() if list(state.values()).count(output) > 1]:
        problems.append(f"params.state: found the output {doubled[0]} for two inputs, expected one each")
    return problems


class Sequences:
    """Feeds sequences step by step, as many samples at a time as a batch has."""

    def __init__(
        self, fed: Sequence[Fed], manifest: Manifest, buffers: Buffers, state: Mapping[str, str], *, allow_nan: bool
    ) -> None:
        self._fed = fed
        self._state = state
        self._allow_nan = allow_nan
        self._outputs = {b.name: b.batch_axis for b in buffers.side("output")}
        self.total = next(tensors.count(f.source) for f in fed if f.source is not None and f.how == "steps")
        carried = [f.buffer for f in fed if f.buffer.batch_axis is not None]
        self._size = buffers.batch if carried else 1
        dims = {b.name: b.dims for b in manifest.bindings}
        profile = manifest.profiles[buffers.profile] if manifest.profiles else {}
        places = [(b.name, b.batch_axis or 0) for b in carried]
        self._dynamic = all(isinstance(dims[name][axis], str) for name, axis in places)
        self._smallest = max((profile[name].min[axis] for name, axis in places if name in profile), default=1)
        self.ragged = any(isinstance(f.source, Ragged) for f in fed)

    def first(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Give the feed of the first step."""
        with ExitStack() as stack:
            readers = self._readers(stack)
            rows = self._rows(readers, 0, min(self._size, self.total))
            self._lengths(rows)  # which refuses a sample without steps
            yield self._feed(rows, self._begin(rows), 0, self._fed_rows(min(self._size, self.total)))

    def run(self, session: Session, writer: tensors.Writer, progress: Callable[[int, int, str], None]) -> None:
        """Run all sequences and write each output: [samples, steps, …], and a state as it is after the last step."""
        fixed: dict[str, tensors.ArrayWriter] = {}
        ragged: dict[str, tensors.RaggedWriter] = {}
        with ExitStack() as stack:
            readers = self._readers(stack)
            for start in range(0, self.total, self._size):
                count = min(self._size, self.total - start)
                made = self._batch(session, self._rows(readers, start, count), count)
                for name, rows in made.items():
                    if self.ragged and name not in self._state.values():
                        if name not in ragged:
                            ragged[name] = writer.add_ragged(name, rows[0].dtype, self.total, rows[0].ndim)
                        ragged[name].write(rows)
                    else:
                        if name not in fixed:
                            fixed[name] = writer.add(name, rows[0].dtype, (self.total, *rows[0].shape))
                        if any(row.shape != tuple(fixed[name].shape[1:]) for row in rows):
                            raise StageFailed(f"output {name} is of another shape from sample {start} on")
                        fixed[name].write(np.stack(rows))
                progress(start + count, self.total, "sequences")

    def _batch(
        self, session: Session, rows: Mapping[str, list[NDArray[Any]]], count: int
    ) -> dict[str, list[NDArray[Any]]]:
        """Run the sequences of one batch; give each output's rows, one a sample."""
        lengths = self._lengths(rows)
        state, fed = self._begin(rows), self._fed_rows(count)
        steps: dict[str, list[list[NDArray[Any]]]] = {n: [[] for _ in range(count)] for n in self._outputs}
        last: dict[str, list[NDArray[Any]]] = {name: [np.empty(0)] * count for name in self._state.values()}
        for step in range(max(lengths)):
            feed = self._feed(rows, state, step, fed)
            result = session.run(feed)
            for name, axis in self._outputs.items():
                each = self._samples(name, result[name], axis, fed, count)
                for sample in range(count):
                    if step >= lengths[sample]:
                        continue
                    if name in last:
                        last[name][sample] = np.array(each[sample])
                    else:
                        steps[name][sample].append(np.array(each[sample]))
            for name, output in self._state.items():
                if result[output].shape != feed[name].shape:
                    raise StageFailed(
                        f"params.state.{name}: found {output} of shape {list(result[output].shape)}, expected "
                        f"{list(feed[name].shape)} as {name} is"
                    )
                state[name] = result[output].copy()
        for name, samples in steps.items():
            if len(shapes := {row.shape for sample in samples for row in sample}) > 1:
                found = " and ".join(str(list(shape)) for shape in sorted(shapes))
                raise StageFailed(f"output {name}: found steps of the shapes {found}, expected one shape for all steps")
        return {name: last[name] if name in last else [np.stack(s) for s in steps[name]] for name in self._outputs}

    def _samples(self, name: str, array: NDArray[Any], axis: int | None, fed: int, count: int) -> NDArray[Any]:
        if axis is None:
            return np.broadcast_to(array, (count, *array.shape))
        if array.ndim <= axis or array.shape[axis] != fed:
            raise StageFailed(f"output {name} has shape {list(array.shape)}, expected {fed} on its batch axis {axis}")
        return laying.rows(array, axis)

    def _fed_rows(self, count: int) -> int:
        return count if self._dynamic and count >= self._smallest else self._size

    def _readers(self, stack: ExitStack) -> dict[str, Reader | RaggedReader]:
        found: dict[str, Reader | RaggedReader] = {}
        for f in self._fed:
            if isinstance(f.source, Ragged):  # noqa: SIM114  mypy tells the readers apart only so
                found[f.buffer.name] = stack.enter_context(f.source.reader())
            elif f.source is not None and f.how != "constant":
                found[f.buffer.name] = stack.enter_context(f.source.reader())
        return found

    def _rows(
        self, readers: Mapping[str, Reader | RaggedReader], start: int, count: int
    ) -> dict[str, list[NDArray[Any]]]:
        """Read so many samples of each input that has some. Raises StageFailed for NaN."""
        found: dict[str, list[NDArray[Any]]] = {}
        for f in self._fed:
            if f.source is None:
                continue
            if f.how == "constant":
                rows = [tensors.fixed(f.source).read()]
            elif isinstance(f.source, Ragged):
                rows = [readers[f.buffer.name].row(start + n) for n in range(count)]  # type: ignore[union-attr]
            else:
                whole = np.empty((count, *f.source.shape[1:]), f.source.dtype)
                readers[f.buffer.name].fill_from(start, whole)  # type: ignore[union-attr]
                rows = list(whole)
            for number, row in enumerate(rows):
                if not self._allow_nan and elements.is_float(row.dtype) and np.isnan(row).any():
                    raise StageFailed(
                        f"{f.source.label}: found NaN in sample {start + number}, expected numbers; params.allow_nan "
                        "lets them pass"
                    )
            found[f.buffer.name] = [
                row if f.source.element == f.buffer.dtype else conversion.converted(row, f.buffer.dtype, f.source.label)
                for row in rows
            ]
        return found

    def _lengths(self, rows: Mapping[str, list[NDArray[Any]]]) -> list[int]:
        """Give the steps of each sample. Raises StageFailed if inputs differ in them, and for a sample without any."""
        moving = [f.buffer.name for f in self._fed if f.how == "steps"]
        lengths = [len(row) for row in rows[moving[0]]]
        for name in moving[1:]:
            if [len(row) for row in rows[name]] != lengths:
                raise StageFailed(f"{name} and {moving[0]} differ in the number of steps of a sample")
        if not all(lengths):
            raise StageFailed(f"{moving[0]}: found a sample without steps, expected at least one step")
        return lengths

    def _begin(self, rows: Mapping[str, list[NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """Give each state before the first step: what the data has, else zeros."""
        count = max(len(one) for one in rows.values())
        fed = self._fed_rows(min(count, self._size))
        begin = {}
        for f in self._fed:
            b = f.buffer
            if b.name not in self._state:
                continue
            rest = tuple(n or 0 for axis, n in enumerate(b.shape) if axis != b.batch_axis)
            given = rows.get(b.name) or [np.zeros(rest, elements.in_memory(b.dtype))] * (
                1 if b.batch_axis is None else count
            )
            begin[b.name] = _joined(given, b.batch_axis, fed)
        return begin

    def _feed(
        self, rows: Mapping[str, list[NDArray[Any]]], state: Mapping[str, NDArray[Any]], step: int, fed: int
    ) -> dict[str, NDArray[Any]]:
        feed = {}
        for f in self._fed:
            name, axis = f.buffer.name, f.buffer.batch_axis
            if name in state:
                feed[name] = state[name]
            elif f.how == "steps":
                # Beyond its end a sample repeats its last step; what comes of it is dropped.
                feed[name] = _joined([row[min(step, len(row) - 1)] for row in rows[name]], axis, fed)
            else:
                feed[name] = rows[name][0] if f.how == "constant" else _joined(rows[name], axis, fed)
        return feed


def _joined(rows: Sequence[NDArray[Any]], axis: int | None, fed: int) -> NDArray[Any]:
    """Put samples together along the batch's axis; the last one is repeated up to `fed`."""
    if axis is None:
        return np.ascontiguousarray(rows[0])
    filled = [*rows, *[rows[-1]] * (fed - len(rows))]
    return np.ascontiguousarray(np.stack(filled, axis=axis))
