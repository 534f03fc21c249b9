"""tensors.json: the arrays of a `tensors` artifact."""

from typing import Annotated, ClassVar

from msgspec import Meta

from trtpipe.documents.base import Count, Document, Part, Shape


class Array(Part, frozen=True, kw_only=True):
    """One array."""

    name: Annotated[str, Meta(description="The tensor's name.")]
    file: Annotated[str, Meta(description="The .npy file beside this one that holds it.")]
    dtype: Annotated[str, Meta(description="The type of its elements, in NumPy's words.")]
    shape: Annotated[Shape, Meta(description="Its whole shape; axis 0 has the samples.")]


class Tensors(Document, frozen=True, kw_only=True):
    """Arrays with the samples along axis 0."""

    file: ClassVar[str] = "tensors.json"

    tensors: Annotated[tuple[Array, ...], Meta(description="The arrays.")]
    batch: Annotated[Count, Meta(description="How many samples there are.")]
