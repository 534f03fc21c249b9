"""Which ONNX operators TensorRT's parser does not take, for machines where it cannot be asked.

Source: the support matrices of onnx-tensorrt (docs/operators.md) for TensorRT 8.5 and for TensorRT 10.15. A matrix says
nothing of types and attributes, so a model whose operators are all in it may still be refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Matrix(NamedTuple):
    """A support matrix: its version, the opsets that it is for, and the operators that it does not support."""

    version: str
    opsets: tuple[int, int]
    missing: frozenset[str]

    @property
    def source(self) -> str:
        """Where it comes from, for people."""
        return f"onnx-tensorrt's docs/operators.md for TensorRT {self.version}"


_ALWAYS = """
Bernoulli BitShift Compress ConcatFromSequence ConvInteger DFT Det DynamicQuantizeLinear MatMulInteger MaxRoiPool
MaxUnpool MelWeightMatrix Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement OptionalHasElement
QLinearConv QLinearMatMul SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength
SequenceMap SoftmaxCrossEntropyLoss SplitToSequence StringNormalizer TfIdfVectorizer Unique
"""
MATRICES = (
    Matrix(
        "10.15",
        (9, 24),
        frozenset(
            (
                _ALWAYS + " AffineGrid BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im ImageDecoder "
                "RegexFullMatch StringConcat StringSplit"
            ).split()
        ),
    ),
    Matrix(
        "8.5",
        (7, 17),
        frozenset((_ALWAYS + " BlackmanWindow HammingWindow HannWindow Hardmax IsInf LayerNormalization STFT").split()),
    ),
)
"""Newest first."""


def rejected(matrix: Matrix, nodes: Mapping[str, int], opset: Mapping[str, int]) -> list[str]:
    """Say which of a model's operators (with their number) and opsets a matrix does not support."""
    lines = [f"{count} × {op}: not supported" for op, count in nodes.items() if op in matrix.missing]
    lines += [
        f"{count} × {op}: of another domain than ONNX's; it needs a plugin or a function in the model"
        for op, count in nodes.items()
        if ":" in op
    ]
    low, high = matrix.opsets
    used = opset.get("ai.onnx", high)
    if not low <= used <= high:
        lines.append(f"opset {used}, expected {low} to {high}")
    return lines
