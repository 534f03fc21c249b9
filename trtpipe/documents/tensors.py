"""tensors.json: the tensors of a `tensors` artifact, cut into parts of a fixed number of rows.

The rules by which tensors are cut and types are stored are in `trtpipe.data.parts` and `trtpipe.data.elements`.
"""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from trtpipe.documents.base import Count, Document, Part, Shape


class Array(Part, frozen=True, kw_only=True):
    """One tensor. Its parts are .npy files beside this one; all have `rows_per_part` rows but the last."""

    name: Annotated[str, Meta(max_length=1024, description="The tensor's name.")]
    form: Annotated[
        Literal["fixed", "ragged"],
        Meta(
            description="`fixed`: the parts are FILE-00000.npy, FILE-00001.npy and so on. `ragged`: they are "
            "FILE-values-00000.npy and so on (the elements of a part's samples one after the other), "
            "FILE-offsets-00000.npy (int64, samples + 1 rows: where each sample begins in all values, and the end) and "
            "FILE-shapes-00000.npy (int64, samples × axes)."
        ),
    ]
    dtype: Annotated[
        str,
        Meta(
            description="The type of its elements, in NumPy's words, or in ONNX's where NumPy has none. Of such a type "
            "the files hold the bits, as uint16 or uint8. Types of fewer than 8 bits are packed row by row, the first "
            "element lowest, all axes but the first made one; where there is one axis only, an element has a byte."
        ),
    ]
    shape: Annotated[
        tuple[Count | None, ...],
        Meta(description="Its whole shape; axis 0 has the samples. null where the size differs from sample to sample."),
    ]
    file: Annotated[str, Meta(description="What the names of its files begin with.")]
    rows_per_part: Annotated[
        int,
        Meta(ge=4096, multiple_of=4096, description="How many rows, which are samples, each part but the last has."),
    ]
    values: Annotated[
        Count | None, Meta(description="Of a ragged tensor, how many elements all samples have together.")
    ] = None


class Tensors(Document, frozen=True, kw_only=True, tag=2):
    """Tensors with the samples along axis 0."""

    file: ClassVar[str] = "tensors.json"

    tensors: Annotated[tuple[Array, ...], Meta(description="The tensors.")]
    batch: Annotated[Count, Meta(description="How many samples there are.")]


class WholeArray(Part, frozen=True, kw_only=True):
    """One array of format 1."""

    name: Annotated[str, Meta(description="The tensor's name.")]
    file: Annotated[str, Meta(description="The .npy file beside this one that holds it.")]
    dtype: Annotated[str, Meta(description="The type of its elements, in NumPy's words.")]
    shape: Annotated[Shape, Meta(description="Its whole shape; axis 0 has the samples.")]


class WholeTensors(Document, frozen=True, kw_only=True, tag=1):
    """Format 1, which is read but no longer written: each array is a file."""

    file: ClassVar[str] = "tensors.json"

    tensors: Annotated[tuple[WholeArray, ...], Meta(description="The arrays.")]
    batch: Annotated[Count, Meta(description="How many samples there are.")]
