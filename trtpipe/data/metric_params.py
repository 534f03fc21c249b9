"""What a document says of each metric of evaluate: one class for each metric, with its params.

`metric_runs` measures them. This file imports no NumPy, because a document is checked without it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Name = Annotated[str | None, Meta(description="The figure's name; by default the metric's.")]
BoxField = Annotated[str, Meta(description="The field of nms in the results.")]


class _Metric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="metric"):
    name: Name = None

    def figures(self) -> tuple[str, ...]:
        """Name the figures that this metric makes."""
        return (self.name or str(self.__struct_config__.tag),)


class TopKAccuracy(_Metric, frozen=True, tag="top_k"):
    """The part of the samples whose right class is among the best k; its name is top1, top5 and so on."""

    k: Annotated[int, Meta(ge=1, description="How many may be tried.")] = 1
    field: Annotated[
        str | None, Meta(description="The field of top_k, argmax or labels in the results; by default top_k.")
    ] = None
    tensor: Annotated[str | None, Meta(description="Instead: scores [samples, classes] of the input `tensors`.")] = None
    by: Annotated[
        Literal["auto", "class", "label"],
        Meta(
            description="Compare class numbers, or the labels that a labels step gave; auto: by label where the labels "
            "file holds texts and the results have labels."
        ),
    ] = "auto"

    def figures(self) -> tuple[str, ...]:
        """Name the figure."""
        return (self.name or f"top{self.k}",)


class ExactMatch(_Metric, frozen=True, tag="exact_match"):
    """The part of the samples whose field is the right text or number, whole."""

    field: Annotated[str, Meta(description="The field of the results.")] = "text"
    ignore_case: Annotated[bool, Meta(description="Upper and lower case are one.")] = False
    ignore_space: Annotated[bool, Meta(description="Spaces do not count.")] = False


class MeanIou(_Metric, frozen=True, tag="mean_iou"):
    """The mean intersection over union of each true box with the one found for it; 0 where none was."""

    field: BoxField = "nms"


class AveragePrecision(_Metric, frozen=True, tag="average_precision"):
    """The area under precision over recall, mean over classes; its name is ap50, ap75 and so on."""

    field: BoxField = "nms"
    iou_threshold: Annotated[float, Meta(gt=0, le=1, description="Overlap from which a box counts as found.")] = 0.5

    def figures(self) -> tuple[str, ...]:
        """Name the figure."""
        return (self.name or f"ap{round(100 * self.iou_threshold)}",)


class Cosine(_Metric, frozen=True, tag="cosine"):
    """The cosine between each sample's tensor and the reference's: the mean, and as cosine_min the least."""

    tensor: Annotated[
        str | None, Meta(description="Of the input `tensors`, or the results' arrays; by default the only one.")
    ] = None

    def figures(self) -> tuple[str, ...]:
        """Name the two figures."""
        name = self.name or "cosine"
        return (name, f"{name}_min")


Metric = TopKAccuracy | ExactMatch | MeanIou | AveragePrecision | Cosine
