"""buffers.json: every buffer of an engine for chosen shapes, as `allocate` worked them out."""

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from trtpipe.documents.base import Count, Document, Part, Shape


class Buffer(Part, frozen=True, kw_only=True):
    """The buffer of one binding, for one batch."""

    name: Annotated[str, Meta(description="The binding's name.")]
    mode: Annotated[Literal["input", "output"], Meta(description="Whether the engine reads it or writes it.")]
    dtype: Annotated[str, Meta(description="The type of its elements, as the manifest has it.")]
    shape: Annotated[
        tuple[Count | None, ...], Meta(description="The size of each axis in elements; null where the data decides it.")
    ]
    bytes: Annotated[Count | None, Meta(description="The buffer's size in bytes; null where the data decides it.")]
    size: Annotated[Literal["known", "data-dependent"], Meta(description="Whether `bytes` is known.")]
    batch_axis: Annotated[
        Count | None,
        Meta(description="The axis along which the samples of a batch lie; null if the whole tensor belongs to each."),
    ]
    host: Annotated[Literal["pageable", "pinned"], Meta(description="The host memory that is copied from and to.")]
    device: Annotated[Literal["cuda:0", "cpu"], Meta(description="Where the engine computes.")]


class Split(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An output whose rows belong to samples: a column has the number of the sample within the batch."""

    # People write this part in params, too, where a misspelt name must be an error.

    tensor: Annotated[str, Meta(description="The output: rows of numbers, or one number a row.")]
    column: Annotated[int, Meta(ge=0, description="The column with the sample's number. It is 0 in what is written.")]
    also: Annotated[
        tuple[str, ...], Meta(description="More outputs with the same rows, such as boxes and scores.")
    ] = ()


SplitBy = Annotated[
    Split | list[Split],
    Meta(
        description="Outputs whose rows belong to samples, such as the boxes that are selected in a whole batch: the "
        "output, and the column that has the sample's number within the batch."
    ),
]


class Totals(Part, frozen=True, kw_only=True):
    """Bytes of all buffers whose size is known, times the slots."""

    host: Annotated[Count, Meta(description="Bytes of host memory.")]
    device: Annotated[Count, Meta(description="Bytes of device memory; 0 where the engine runs on a CPU.")]


class Buffers(Document, frozen=True, kw_only=True):
    """The buffers of an engine."""

    file: ClassVar[str] = "buffers.json"

    bindings: Annotated[tuple[Buffer, ...], Meta(description="A buffer for each binding, in the manifest's order.")]
    slots: Annotated[int, Meta(ge=1, description="How many batches are in flight; each has its own buffers.")]
    totals: Annotated[Totals, Meta(description="What all of them take.")]
    unknown: Annotated[tuple[str, ...], Meta(description="Bindings whose size the data decides.")]
    profile: Annotated[int, Meta(ge=0, description="The optimisation profile that is used, from 0.")]
    values: Annotated[
        dict[str, tuple[int, ...]],
        Meta(description="Values of shape inputs, flat, which are fed where the data has no tensor for them."),
    ] = msgspec.field(default_factory=dict)
    batch: Annotated[int, Meta(ge=0, description="Samples in a batch; 1 where there is no batch axis.")]
    buckets: Annotated[
        tuple[dict[str, Shape], ...],
        Meta(description="The shapes of the inputs to which samples are padded, if there are several."),
    ] = ()
    splits: Annotated[tuple[Split, ...], Meta(description="Outputs that are cut into samples by a column.")] = ()

    def side(self, mode: Literal["input", "output"]) -> list[Buffer]:
        """Give the buffers of the inputs or of the outputs."""
        return [b for b in self.bindings if b.mode == mode]
