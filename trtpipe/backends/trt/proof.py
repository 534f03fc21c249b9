"""What an engine is made of: the engine inspector's layers, reduced to a table and to what can be compared.

Pure Python: the inspector's JSON goes in, parts of documents come out.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from trtpipe import formatting
from trtpipe.documents.layers import Layer, LayerOutput, Layers
from trtpipe.documents.manifest import Proof

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

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

# An address in a name that the builder made up: it differs from process to process. Hashes are longer.
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{8,12}(?![0-9a-fA-F])|(?<!\d)\d{14,15}(?!\d)")
DETAILED = "verbosity: detailed"
_LONGEST_NAME, _LONGEST_TACTIC = 72, 200


def _type(text: str) -> tuple[str, float]:
    return next(((name, size) for pattern, name, size in _TYPES if pattern.search(text)), ("unknown", 0.0))


LOW = ("float16", "bfloat16", "float8", "float4", "int8", "int4", "uint8")


def low_share(proof: Proof) -> float | None:
    """Give the share of an engine that computes in less than float32; None if the table does not tell.

    By bytes of weights, each counted as if it were float32, or by layers where there are no weights.
    """
    if proof.status != "proven" or proof.layers is None:
        return None
    wide = {"float16": 2, "bfloat16": 2, "float8": 4, "float4": 8, "int8": 4, "int4": 8, "uint8": 4, "float32": 1}
    for counted in (
        {name: size * wide[name] for name, size in (proof.weight_bytes or {}).items() if name in wide},
        {name: count for name, count in proof.layers.items() if name in wide},
    ):
        total = sum(counted.values())
        if total:
            return float(sum(count for name, count in counted.items() if name in LOW) / total)
    return None


def text(proof: Proof) -> str:
    """Give the table as lines: data type, layers, bytes of weights."""
    made, held = proof.layers or {}, proof.weight_bytes or {}
    rows = [("type", "layers", "bytes of weights")]
    rows += [(name, str(made.get(name, 0)), str(held.get(name, 0))) for name in sorted({*made, *held})]
    return "\n".join(f"  {line}" for line in formatting.table(rows, right=(1, 2)))


def table(information: str) -> Proof:
    """Reduce the inspector's JSON to `layers` and `weight_bytes` by data type, with `status` "proven".

    A layer counts under the type of its first output. Where the plan holds layer names only, the status is
    "unproven" and `why` says what would help.
    """
    layers = _layers(information)
    if not layers or not all(isinstance(layer, dict) for layer in layers):
        why = f"the plan holds layer names only; configure with {DETAILED} to see their types"
        return Proof(status="unproven", why=why)
    count: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    for layer in layers:
        outputs = layer.get("Outputs") or []
        count[_type(_format(outputs[0]))[0] if outputs else "none"] += 1
        for key in ("Weights", "Bias"):
            held = layer.get(key)
            if isinstance(held, dict) and held.get("Count"):
                name, size = _type(str(held.get("Type", "")))
                weights[name] += int(size * int(held["Count"]))
    return Proof(
        status="proven",
        source="the engine inspector",
        layers=dict(sorted(count.items())),
        weight_bytes=dict(sorted(weights.items())),
    )


def _layers(information: str) -> list[Any]:
    layers: list[Any] = json.loads(information, strict=False).get("Layers") or []  # names hold raw line ends
    return layers


def _format(output: Mapping[str, Any]) -> str:
    """Give an output's format and type in the inspector's words, which stand in one field or in two."""
    parts = [output.get("Format/Datatype"), output.get("Format"), output.get("Datatype")]
    return ", ".join(str(part) for part in parts if part)


def layers(information: str) -> Layers:
    """Reduce the inspector's JSON to what is compared between two engines, as far as the plan tells it.

    Addresses in names are left out. Raises ValueError if this is no JSON.
    """
    found = []
    for layer in _layers(information):
        if not isinstance(layer, dict):
            found.append(Layer(name=_steady(layer)))
            continue
        outputs = [LayerOutput(type=_type(text)[0], format=text) for text in map(_format, layer.get("Outputs") or ())]
        found.append(
            Layer(
                name=_steady(layer.get("Name", "")),
                type=_told(layer, "LayerType", _steady),
                tactic=_told(layer, "TacticName", _steady),
                tactic_value=_told(layer, "TacticValue", str),
                outputs=tuple(outputs),
            )
        )
    detailed = any(one.outputs is not None for one in found)
    return Layers(detail="detailed" if detailed else "names_only" if found else "none", layers=tuple(found))


def _told(layer: Mapping[str, Any], field: str, text: Callable[[Any], str]) -> str | None:
    value = layer.get(field)
    return None if value in (None, "") else text(value)


def _steady(text: Any) -> str:
    return _ADDRESS.sub("…", str(text))


def compared(old: Layers, new: Layers, at_most: int) -> tuple[str, ...]:
    """Say in lines how the layers of two engines differ: how many, then `at_most` by name.

    Layers are matched by name; those of one name in their order.
    """
    details = {old.detail, new.detail}
    if "none" in details:
        return (f"layers: not compared: the plan tells none; configure with {DETAILED}",)
    before, after = _by_name(old.layers), _by_name(new.layers)
    common = [name for name in before if name in after]
    names_only = "names_only" in details
    changed = {} if names_only else {n: found for n in common if (found := _changes(before[n], after[n]))}
    lines = [f"layer {_short(name[0], _LONGEST_NAME)}: {'; '.join(found)}" for name, found in changed.items()]
    tactics = sum(_tactic(before[n]) != _tactic(after[n]) for n in changed)
    counts = [(tactics, "with another tactic"), (len(changed) - tactics, "with other types or formats")]
    for which, these, those in (("stored", before, after), ("rebuilt", after, before)):
        only = [n for n in these if n not in those]
        counts.append((len(only), f"in the {which} plan only"))
        lines += [f"layer {_short(n[0], _LONGEST_NAME)}: in the {which} plan only{_by(these[n])}" for n in only]
    said = ", ".join(f"{count} {what}" for count, what in counts if count)
    if names_only:
        said = (
            f"{'by name, ' + said if said else 'the same names'}; the plan tells no tactics: configure with {DETAILED}"
        )
    summary = f"layers: {len(before)}, {said or 'all with the same tactics, types and formats'}"
    more = [f"and {len(lines) - at_most} more"] if len(lines) > at_most else []
    return (summary, *lines[:at_most], *more)


def _by_name(layers: Iterable[Layer]) -> dict[tuple[str, int], Layer]:
    seen: Counter[str] = Counter()
    found = {}
    for layer in layers:
        found[layer.name, seen[layer.name]] = layer
        seen[layer.name] += 1
    return found


def _tactic(layer: Layer) -> tuple[str, str]:
    return layer.tactic or "", layer.tactic_value or ""


def _changes(old: Layer, new: Layer) -> list[str]:
    """Say what is another in a layer that both engines have."""
    found = []
    if old.type != new.type:
        found.append(f"{old.type or 'no type'} → {new.type or 'no type'}")
    (name, value), (new_name, new_value) = _tactic(old), _tactic(new)
    if name != new_name:
        found.append(f"tactic {_said(name, value)} → {_said(new_name, new_value)}")
    elif value != new_value:
        found.append(f"tactic {name + ' ' if name else ''}{value or 'none'} → {new_value or 'none'}")
    if old.outputs != new.outputs:
        found.append(f"makes {_made(old)} → {_made(new)}")
    return found


def _said(name: str, value: str) -> str:
    return _short(" ".join(part for part in (name, value and f"({value})") if part) or "none", _LONGEST_TACTIC)


def _made(layer: Layer) -> str:
    return " and ".join(f"{o.type} ({o.format})" for o in layer.outputs or ()) or "nothing"


def _by(layer: Layer) -> str:
    return f", by tactic {_said(*_tactic(layer))}" if any(_tactic(layer)) else ""


def _short(text: str, length: int) -> str:
    """Leave out the middle of what is too long: fused layers' names start and end with what tells them apart."""
    half = length // 2
    return text if len(text) <= length else f"{text[: half - 1]}…{text[-half:]}"
