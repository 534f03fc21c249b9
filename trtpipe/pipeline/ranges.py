"""The range of shapes of each dynamic input: as people write them on a command line, or guessed and told.

`images=1..8..16x3x640x640` gives the smallest, best and largest size of the first axis; `1..16` gives the smallest and
the largest, of which the largest is the best; a number alone is all three.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from trtpipe.errors import PipelineInvalid
from trtpipe.words import suggest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from trtpipe.models.outline import Side

    Runs = Callable[[Mapping[str, Sequence[int]]], bool | None]
    """Tells whether the model runs with a shape for each input; None if that cannot be tried here."""

EXAMPLE = "images=1..8..16x3x640x640"
_SPEC = re.compile(r"(?P<name>[^=].*?)=(?P<dims>[0-9.x×]*)(?:,|$)")
_AXIS = re.compile(r"(\d{1,9})(?:\.\.(\d{1,9}))?(?:\.\.(\d{1,9}))?")
_NO_NAME = re.compile(r"\W*")
_SUM = re.compile(r"\w+(\s*\+\s*\w+)+")
_BATCH = ("batch", "batch_size", "batchsize", "n", "b", "bs", "samples")


class Range(NamedTuple):
    """The smallest, the best and the largest size of an axis."""

    min: int
    opt: int
    max: int

    @property
    def text(self) -> str:
        """The range as people write it."""
        if self.min == self.max:
            return str(self.min)
        return f"{self.min}..{self.max}" if self.opt == self.max else f"{self.min}..{self.opt}..{self.max}"


class Guess(NamedTuple):
    """What an axis seems to be, and the ranges to try, best first; a range that is tried must run."""

    what: str
    ranges: tuple[Range, ...]


BATCH = Guess("a batch", (Range(1, 8, 16),))
LENGTH = Guess("a length", (Range(1, 128, 512), Range(1, 16, 64), Range(16, 64, 256)))
SIDE = Guess("a picture's side", (Range(32, 224, 640), Range(32, 64, 128), Range(48, 48, 48), Range(32, 32, 32),
                                  Range(224, 224, 224), Range(640, 640, 640)))  # fmt: skip
UNKNOWN = Guess("an axis", (Range(1, 16, 64), Range(16, 64, 256), Range(64, 224, 512), Range(1, 1, 1)))


class Ranges(NamedTuple):
    """What the inputs of a model may be.

    `profile` has the range of each axis of each dynamic input, `dims` the names of axes that the model names badly, and
    `told` a sentence for each thing that nobody asked for.
    """

    profile: dict[str, tuple[Range, ...]]
    dims: dict[str, list[int | str]]
    told: tuple[str, ...]

    def shapes(self, which: str) -> dict[str, list[int]]:
        """Give the shape of each dynamic input: `min`, `opt` or `max`."""
        return {name: [getattr(one, which) for one in axes] for name, axes in self.profile.items()}

    def param(self) -> dict[str, dict[str, list[int]]]:
        """Give the profile as `configure` has it: min, opt and max of each dynamic input."""
        sizes = {which: self.shapes(which) for which in ("min", "opt", "max")}
        return {name: {which: sizes[which][name] for which in sizes} for name in self.profile}


def read(texts: Iterable[str]) -> dict[str, tuple[Range, ...]]:
    """Read the values of `--shapes`: `name=dims`, several with commas between them. Raises PipelineInvalid."""
    found: dict[str, tuple[Range, ...]] = {}
    for text in texts:
        rest = text
        while rest:
            match = _SPEC.match(rest)
            if match is None:
                raise PipelineInvalid(f"--shapes: found {rest}, expected an input and its shape, such as {EXAMPLE}")
            name = match["name"]
            if name in found:
                raise PipelineInvalid(f"--shapes: found {name} twice, expected each input once")
            found[name] = axes(match["dims"], f"--shapes: {name}")
            rest = rest[match.end() :]
    return found


def axes(text: str, where: str) -> tuple[Range, ...]:
    """Read the dims of one input, `1..8..16x3x640x640`. Raises PipelineInvalid that begins with `where`."""
    return tuple(_axis(part, text, where) for part in re.split("[x×]", text)) if text else ()


def _axis(part: str, text: str, where: str) -> Range:
    match = _AXIS.fullmatch(part)
    if match is None:
        raise PipelineInvalid(
            f"{where}: found {part or 'nothing'} in {text}, expected a size such as 3, 1..16 or 1..8..16"
        )
    numbers = [int(n) for n in match.groups() if n is not None]
    low, best, high = numbers[0], numbers[1] if len(numbers) > 1 else numbers[0], numbers[-1]
    if not low <= best <= high:
        raise PipelineInvalid(f"{where}: found {part}, expected the smallest size first: min ≤ opt ≤ max")
    return Range(low, best, high)


def settle(inputs: Sequence[Side], given: Mapping[str, tuple[Range, ...]], *, runs: Runs = lambda _: None) -> Ranges:
    """Give the ranges of all dynamic inputs: those that are given, and sensible ones for the rest, which are told.

    `runs` is asked whether the model runs with guessed sizes. Raises PipelineInvalid with all that does not fit.
    """
    given = {name: tuple(shape) for name, shape in given.items()}
    if problems := list(_misfits(inputs, given)):
        raise PipelineInvalid(problems)
    dims, told = _renamed(inputs, given)
    sides = [one._replace(dims=tuple(dims[one.name])) if one.name in dims else one for one in inputs]
    known: dict[str, Range] = {}
    for one in sides:
        for axis, dim in enumerate(one.dims or ()):
            if isinstance(dim, str) and one.name in given:
                mine = given[one.name][axis]
                if known.setdefault(dim, mine) != mine:
                    raise PipelineInvalid(
                        f"--shapes: {one.name}: axis {axis} is {dim} with {mine.text}, and {dim} is {known[dim].text} "
                        "elsewhere; axes of one name are of one size"
                    )
    guessed = _guessed(sides, known)
    known |= _tried(sides, known, guessed, runs)
    known |= _sums(sides, known)
    for name, guess in guessed.items():
        where = next(f"{one.name} axis {axis}" for one in sides for axis, d in enumerate(one.dims or ()) if d == name)
        told.append(f"{where} ({name}) is taken for {guess.what} of {known[name].text}; --shapes says otherwise")
    profile = {
        one.name: tuple(known[d] if isinstance(d, str) else Range(d, d, d) for d in one.dims or ())
        for one in sides
        if one.dynamic
    }
    return Ranges(profile, dims, tuple(told))


def _misfits(inputs: Sequence[Side], given: Mapping[str, tuple[Range, ...]]) -> Iterable[str]:
    names = {one.name: one for one in inputs}
    for name, shape in given.items():
        one = names.get(name)
        text = "x".join(r.text for r in shape)
        if one is None:
            yield f"--shapes: the model has no input {name}{suggest(name, names)}"
        elif one.dims is None:
            yield f"--shapes: the model does not say how many axes {name} has; fix its shape in the model"
        elif len(shape) != len(one.dims):
            yield f"--shapes: {name}: found {text} with {len(shape)} axes, expected {len(one.dims)}: it is {one.text}"
        else:
            for axis, (dim, size) in enumerate(zip(one.dims, shape, strict=True)):
                if isinstance(dim, int) and size != (dim, dim, dim):
                    yield f"--shapes: {name}: axis {axis}: found {size.text}; the model fixes it at {dim}: {one.text}"
    for one in inputs:
        if one.dims is None:
            yield f"the model does not say how many axes {one.name} has; fix its shape in the model"


def _renamed(
    inputs: Sequence[Side], given: Mapping[str, tuple[Range, ...]]
) -> tuple[dict[str, list[int | str]], list[str]]:
    """Give own names to axes whose name says nothing (`?`), or that share a name and are given different sizes."""
    dims: dict[str, list[int | str]] = {}
    told = []
    for one in inputs:
        mine = list(one.dims or ())
        names = [d for d in mine if isinstance(d, str)]
        for name in dict.fromkeys(names):
            places = [a for a, d in enumerate(mine) if d == name]
            sizes = {given[one.name][a] for a in places} if one.name in given else {None}
            if _NO_NAME.fullmatch(name) or len(sizes) > 1:
                for axis in places:
                    mine[axis] = (
                        f"{re.sub(r'[^A-Za-z0-9_]', '_', one.name)}_{axis}".lstrip("0123456789_") or f"axis_{axis}"
                    )
                which = f"axis {places[0]} is" if len(places) == 1 else f"axes {', '.join(map(str, places))} are all"
                told.append(f"{one.name}: {which} called {name!r} in the model, which is replaced by a name of its own")
        if mine != list(one.dims or ()):
            dims[one.name] = mine
    return dims, told


def _guessed(inputs: Sequence[Side], known: Mapping[str, Range]) -> dict[str, Guess]:
    """Give a guess for each named axis whose range is not known and is no sum of others."""
    found: dict[str, Guess] = {}
    for one in inputs:
        for axis, dim in enumerate(one.dims or ()):
            if isinstance(dim, str) and dim not in known and not _SUM.fullmatch(dim):
                found.setdefault(dim, _kind(one, axis, dim))
    return found


def _kind(one: Side, axis: int, name: str) -> Guess:
    dims = one.dims or ()
    word = name.lower()
    if axis == 0 or word in _BATCH:
        return BATCH
    if any(part in word for part in ("seq", "len", "token", "time", "frame", "past")):
        return LENGTH
    if len(dims) == 4 and (axis in (2, 3) if dims[1] in (1, 3, 4) else axis in (1, 2) and dims[3] in (1, 3, 4)):
        return SIDE
    if len(dims) == 2 and one.dtype in ("int32", "int64", "bool"):
        return LENGTH
    return UNKNOWN


def _tried(
    inputs: Sequence[Side], known: Mapping[str, Range], guessed: Mapping[str, Guess], runs: Runs
) -> dict[str, Range]:
    """Choose ranges with which the model runs, as far as that can be tried. Batches are not tried: they are small."""
    chosen = {name: guess.ranges[0] for name, guess in guessed.items()}
    doubtful = [name for name, guess in guessed.items() if guess is not BATCH]
    batches = {one.dims[0] for one in inputs if one.dims}

    def works(sizes: Mapping[str, Range]) -> bool | None:
        now = {**known, **chosen, **sizes}
        now |= _sums(inputs, now)
        shapes = {
            one.name: [d if isinstance(d, int) else now[d].min if d in batches else now[d].opt for d in one.dims or ()]
            for one in inputs
        }
        return runs(shapes)

    if not doubtful or works({}) is None:
        return chosen
    # First one turn of guesses for all axes, then each axis alone, because one may be fixed where another is not.
    for turn in range(max(len(guessed[name].ranges) for name in doubtful)):
        sizes = {name: guessed[name].ranges[min(turn, len(guessed[name].ranges) - 1)] for name in doubtful}
        if works(sizes):
            chosen |= {name: Range(one.opt, one.opt, one.opt) for name, one in sizes.items()}
            break
    else:
        shapes = ",".join(f"{one.name}={'x'.join(map(str, one.dims or ()))}" for one in inputs if one.dynamic)
        raise PipelineInvalid(
            f"found no sizes with which the model runs in onnxruntime; give them, such as 1..8..16 for each name in: "
            f"--shapes {shapes}"
        )
    for name in doubtful:
        for one in guessed[name].ranges:
            if works({name: one}) and works({name: Range(one.min, one.min, one.min)}):
                chosen[name] = one
                break
    return chosen


def _sums(inputs: Sequence[Side], known: Mapping[str, Range]) -> dict[str, Range]:
    """Give the ranges of axes whose name is a sum, such as `past_length + 1`; language models have them."""
    found = {}
    for dim in {d for one in inputs for d in one.dims or () if isinstance(d, str)} - known.keys():
        parts = [p.strip() for p in dim.split("+")]
        ranges = [Range(int(p), int(p), int(p)) if p.isdigit() else known.get(p) for p in parts]
        total = UNKNOWN.ranges[0]
        if all(r is not None for r in ranges):
            total = Range(*(sum(values) for values in zip(*(r for r in ranges if r is not None), strict=True)))
        found[dim] = total
    return found
