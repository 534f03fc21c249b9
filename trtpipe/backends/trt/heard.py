"""What TensorRT only warns of, although it changes what was asked for: heard, and told or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trtpipe.documents.config import Config, Shapes, Values

CHANGED = (
    "was clamped", "will cast to INT32", "cast down to INT32", 'ignores the "seed"', "Ignoring shape input",
)  # fmt: skip
"""Parts of the parser's warnings after which the network is not the model."""
LOST = "outside the range of FLOAT"
CORNERS = {"kMIN": "min", "kMAX": "max", "kOPT": "opt"}
CORNER = "values are not self-consistent"


def of_parser(title: str, warnings: Iterable[str]) -> list[str]:
    """Give what the parser changed, as remarks. Raises StageFailed where values of weights are lost."""
    found = []
    for text in _single(warnings):
        if LOST in text:
            raise StageFailed(
                f"{title} computes float64 in float32, and a weight does not fit that ({text}); scale it in the model, "
                "or use --backend onnxruntime"
            )
        if any(part in text for part in CHANGED):
            found.append(f"{title} changes the model: {text}")
    return found


def of_builder(warnings: Iterable[str], config: Config) -> list[str]:
    """Give what the builder says of the ends of profiles, as remarks.

    With one dynamic size a shape that the network does not take is a mistake in the profile: raises StageFailed. With
    several the ends of all together may be out of reach while each is not.
    """
    found = []
    for text in _single(warnings):
        end = next((ours for theirs, ours in CORNERS.items() if f"{theirs} {CORNER}" in text), None)
        if end is None:
            continue
        words = text.split(CORNER, 1)[1].lstrip(". ").split(" Instruction:")[0].split(" In operator()")[0]
        if _ranges(config) <= 1:
            better = {"min": "raise min", "max": "lower max"}.get(end, "change opt")
            raise StageFailed(
                f"params.profiles: the network does not take the {end} shapes, so that the engine would not: {words}; "
                f"{better} in configure until the model takes it"
            )
        found.append(f"the engine does not take the {end} shapes of all inputs together: {words}")
    return found


def _ranges(config: Config) -> int:
    """Count the sizes and values that have a range of their own, at most in one profile."""
    counts = [0]
    for number, profile in enumerate(config.profiles):
        known = config.profile_values[number] if config.profile_values else {}
        axes: set[Sequence[int]] = set()
        both: list[Shapes | Values] = [*profile.values(), *known.values()]
        for given in both:
            axes |= {one for one in zip(given.min, given.opt, given.max, strict=True) if one[0] != one[2]}
        counts.append(len(axes))
    return max(counts)


def _single(warnings: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(" ".join(text.split()) for text in warnings))
