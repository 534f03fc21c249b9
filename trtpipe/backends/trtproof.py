"""What precision an engine really has: the engine inspector's layers reduced to a table. Pure Python."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# The inspector writes types in prose ("Channel major FP16 format where channel % 8 == 0") and in words ("Half").
_TYPES = (
    (re.compile(r"\b(BF16|BFloat16)\b", re.IGNORECASE), "bfloat16", 2.0),
    (re.compile(r"\b(FP16|Half|Float16)\b", re.IGNORECASE), "float16", 2.0),
    (re.compile(r"\b(FP8|E4M3)\b", re.IGNORECASE), "float8", 1.0),
    (re.compile(r"\b(FP4|E2M1)\b", re.IGNORECASE), "float4", 0.5),
    (re.compile(r"\b(FP32|Float|Float32|TF32)\b", re.IGNORECASE), "float32", 4.0),
    (re.compile(r"\bInt8\b", re.IGNORECASE), "int8", 1.0),
    (re.compile(r"\bUInt8\b", re.IGNORECASE), "uint8", 1.0),
    (re.compile(r"\bInt4\b", re.IGNORECASE), "int4", 0.5),
    (re.compile(r"\bInt32\b", re.IGNORECASE), "int32", 4.0),
    (re.compile(r"\bInt64\b", re.IGNORECASE), "int64", 8.0),
    (re.compile(r"\bBool\b", re.IGNORECASE), "bool", 1.0),
)


def _type(text: str) -> tuple[str, float]:
    return next(((name, size) for pattern, name, size in _TYPES if pattern.search(text)), ("unknown", 0.0))


LOW = ("float16", "bfloat16", "float8", "float4", "int8", "int4", "uint8")


def low_share(proof: Mapping[str, Any]) -> float | None:
    """Give the share of an engine that computes in less than float32; None if the table does not tell.

    By bytes of weights, each counted as if it were float32, or by layers where there are no weights.
    """
    if proof.get("status") != "proven" or "layers" not in proof:
        return None
    wide = {"float16": 2, "bfloat16": 2, "float8": 4, "float4": 8, "int8": 4, "int4": 8, "uint8": 4, "float32": 1}
    for counted in (
        {name: size * wide[name] for name, size in proof["weight_bytes"].items() if name in wide},
        {name: count for name, count in proof["layers"].items() if name in wide},
    ):
        total = sum(counted.values())
        if total:
            return float(sum(count for name, count in counted.items() if name in LOW) / total)
    return None


def text(proof: Mapping[str, Any]) -> str:
    """Give the table as lines: data type, layers, bytes of weights."""
    rows = [("type", "layers", "bytes of weights")]
    rows += [
        (name, str(proof["layers"].get(name, 0)), str(proof["weight_bytes"].get(name, 0)))
        for name in sorted({*proof["layers"], *proof["weight_bytes"]})
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(f"  {a.ljust(widths[0])}  {b.rjust(widths[1])}  {c.rjust(widths[2])}" for a, b, c in rows)


def table(information: str) -> dict[str, Any]:
    """Reduce the inspector's JSON to `layers` and `weight_bytes` by data type, with `status` "proven".

    A layer counts under the type of its first output. Where the plan holds layer names only, the status is
    "unproven" and `why` says what would help.
    """
    layers = json.loads(information, strict=False).get("Layers", [])  # names hold raw line ends
    if not layers or not all(isinstance(layer, dict) for layer in layers):
        return {
            "status": "unproven",
            "why": "the plan holds layer names only; configure with verbosity: detailed to see their types",
        }
    count: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    for layer in layers:
        outputs = layer.get("Outputs") or []
        count[_type(str(outputs[0].get("Format/Datatype", "")))[0] if outputs else "none"] += 1
        for key in ("Weights", "Bias"):
            held = layer.get(key)
            if isinstance(held, dict) and held.get("Count"):
                name, size = _type(str(held.get("Type", "")))
                weights[name] += int(size * int(held["Count"]))
    return {
        "status": "proven",
        "source": "the engine inspector",
        "layers": dict(sorted(count.items())),
        "weight_bytes": dict(sorted(weights.items())),
    }
