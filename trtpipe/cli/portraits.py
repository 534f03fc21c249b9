"""What a file says of itself: ONNX models, plans, arrays and safetensors; each kind has one function."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from trtpipe import environment, errors
from trtpipe.formatting import size_text, table
from trtpipe.runtime import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtpipe.documents.manifest import Manifest
    from trtpipe.store.state import State
    from trtpipe.store.store import Store
    from trtpipe.trust.origin import Origin

_BUNDLES = (".bundle", ".trtbundle", ".tar", ".tar.gz", ".tgz", ".zip")
_MOST_HEADER = 100 * 2**20
_LISTED = 12
_SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8e4m3fn", "F8_E5M2": "float8e5m2",
}  # fmt: skip


class Seen(NamedTuple):
    """A file that is looked at, with its content's SHA-256, and the store that may know it."""

    path: str
    kind: str
    sha256: str
    store: Store | None
    state: State


class Portrait(NamedTuple):
    """What a file says of itself: for programs, for people, and the key of its build if it names one."""

    title: str
    value: dict[str, Any]
    lines: list[str]
    key: str | None = None


def resolve(given: str) -> str:
    """Give the path of the file that is meant: for an engine's folder, its plan. Raises PipelineInvalid."""
    if os.path.isdir(given):
        manifest = os.path.join(given, "manifest.json")
        if not os.path.isfile(manifest):
            current = os.path.join(given, "current")  # a folder of versions, as deploy writes it
            if os.path.isfile(os.path.join(current, "manifest.json")):
                return resolve(current)
            raise errors.PipelineInvalid(
                f"{given}: found a folder without a manifest.json, expected a file or an engine"
            )
        from pathlib import Path

        from trtpipe.documents import files
        from trtpipe.documents.manifest import Manifest

        return os.path.join(given, files.read(Path(manifest), Manifest).plan)
    if not os.path.isfile(given):
        from trtpipe.words import nearest

        folder = os.path.dirname(given) or "."
        close = nearest(os.path.basename(given), os.listdir(folder) if os.path.isdir(folder) else [])
        hint = f', did you mean "{os.path.join(os.path.dirname(given), close)}"?' if close else ""
        raise errors.PipelineInvalid(f"{given}: there is no such file{hint}")
    return given


def kind_of(path: str) -> str:
    """Give the kind of a file by its first bytes, and only then by its name. Raises PipelineInvalid for other kinds."""
    with open(path, "rb") as stream:
        head = stream.read(16)
    lower = path.lower()
    if not head:
        raise errors.PipelineInvalid(f"{path}: found an empty file, expected one of {', '.join(LOOKS)}")
    if head[:4] in (b"ftrt", b"vtrt"):
        return "plan"
    if head[:6] == b"\x93NUMPY":
        return "npy"
    if head[:4] == b"PK\x03\x04" and lower.endswith(".npz"):
        return "npz"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= os.path.getsize(path) - 8:
        return "safetensors"
    if lower.endswith(_BUNDLES):
        raise errors.PipelineInvalid(
            f"{path}: found an archive, expected a file or a folder: unpack it, and inspect the folder of the bundle"
        )
    if lower.endswith((".yaml", ".yml")):
        raise errors.PipelineInvalid(f"{path}: found a document, which has its own commands: trtpipe graph {path}")
    if lower.endswith((".plan", ".engine", ".trt")):
        raise errors.PipelineInvalid(
            f"{path}: is no plan: it starts with {head[:4]!r}, expected 'ftrt' (TensorRT) or 'vtrt' (TensorRT-RTX)"
        )
    return "onnx"


# --- ONNX models


def _onnx(seen: Seen) -> Portrait:
    from pathlib import Path

    from trtpipe.cli import drafted
    from trtpipe.models import external_data, onnxfile, outline, signature

    outline.check(seen.path)
    path = Path(seen.path)
    try:
        model = onnxfile.load(path, label=seen.path)
        beside = external_data.external_files(model, path.parent, label=seen.path)
    except errors.StageFailed as error:
        raise errors.PipelineInvalid(str(error)) from None
    network = signature.describe(model, layers={}, runtime="onnxruntime", runtime_version="")
    found = outline.read(seen.path, seen.state)
    try:
        settled = drafted.settle(seen.path, found, {}, seen.state)
        shapes = [f"{name}={'x'.join(r.text for r in axes)}" for name, axes in settled.profile.items()]
        told: list[str] = list(settled.told)
    except errors.PipelineInvalid as error:
        shapes, told = [], list(error.problems)
    manifest = _manifest(seen)
    takers = _takers(seen, network.nodes, network.opset) if manifest is None else []
    value = {
        "inputs": [{"name": one.name, "dtype": one.dtype, "dims": one.dims} for one in network.inputs],
        "outputs": [{"name": one.name, "dtype": one.dtype, "dims": one.dims} for one in network.outputs],
        "operators": network.nodes, "opset": network.opset, "ir_version": network.ir_version,
        "producer": network.producer, "parameters": network.parameters, "parameter_bytes": network.parameter_bytes,
        "dtypes": network.dtypes, "metadata": network.metadata, "external_data": list(beside),
        "runtimes": takers, "suggested_shapes": shapes, "told": told,
    }  # fmt: skip
    sides = [[way, one.name, one.dtype, "[…]" if one.dims is None else f"[{', '.join(map(str, one.dims))}]"]
             for way, side in (("input", network.inputs), ("output", network.outputs)) for one in side]  # fmt: skip
    ops = sorted(network.nodes.items(), key=lambda item: (-item[1], item[0]))
    more = f", and {len(ops) - _LISTED} more kinds" if len(ops) > _LISTED else ""
    opsets = ", ".join(f"{'opset' if d == 'ai.onnx' else d} {v}" for d, v in network.opset.items())
    weights = ", ".join(f"{size_text(size)} {dtype}" for dtype, size in network.dtypes.items())
    lines = [
        *(f"  {line}" for line in table(sides)),
        f"operators: {', '.join(f'{n} {op}' for op, n in ops[:_LISTED])}{more}",
        f"parameters: {network.parameters:,} ({weights or 'none'})",
        *([f"external data: {', '.join(beside)}"] if beside else []),
        f"format: {opsets}, IR {network.ir_version}, by {network.producer or 'unknown'}",
        *_taker_lines(takers),
        *(["suggested: --shapes " + ",".join(shapes)] if shapes else []),
        *(f"  {one}" for one in told),
    ]
    if manifest is not None:
        extra = _engine(manifest)
        return Portrait("an engine of ONNX Runtime", {**value, **extra.value}, [*lines, *extra.lines], manifest.key)
    return Portrait("an ONNX model", value, lines)


def _takers(seen: Seen, nodes: dict[str, int], opset: dict[str, int]) -> list[dict[str, Any]]:
    """Say of each runtime whether its parser takes a model: by asking it, or by a table if it is not here."""
    from trtpipe.backends import operators

    found: list[dict[str, Any]] = []
    for name in NAMES:
        version = environment.runtime_version(name)
        if version is not None and (name != "tensorrt" or environment.gpus()):
            takes, lines = _asked(seen, name, version)
            found.append({"runtime": name, "by": f"its own parser, {version}", "takes": takes, "rejects": lines})
        elif name == "onnxruntime":
            found.append({"runtime": name, "by": "nothing: it is not installed", "takes": None, "rejects": []})
        elif name == "tensorrt":
            for matrix in operators.MATRICES:
                lines = operators.rejected(matrix, nodes, opset)
                takes = False if lines else None
                found.append({"runtime": name, "by": matrix.source, "takes": takes, "rejects": lines})
        else:
            found.append({"runtime": name, "by": "nothing: it is not installed", "takes": None, "rejects": []})
    return found


def _asked(seen: Seen, name: str, version: str) -> tuple[bool | None, list[str]]:
    """Ask a runtime's parser, which is not asked again for the same content."""
    from trtpipe.backends import trial_parse

    what = f"parse {name} {version}"
    known = seen.state.derived(what, seen.sha256)
    if known is None:
        known = json.dumps(trial_parse.ask(name, seen.path))
        if json.loads(known)[0] is not None:
            seen.state.remember_derived(what, seen.sha256, known)
    takes, lines = json.loads(known)
    return takes, lines


def _taker_lines(takers: list[dict[str, Any]]) -> list[str]:
    lines = []
    for one in takers:
        verdict = {True: "takes it", False: "rejects it", None: "not known"}[one["takes"]]
        if one["takes"] is None and not one["rejects"] and one["by"].startswith("onnx-tensorrt"):
            verdict = "nothing in it is known to be rejected"
        lines.append(f"{one['runtime']}: {verdict}, by {one['by']}")
        lines += [f"  {line.strip()}" for line in one["rejects"]]
    return lines


# --- plans


def _plan(seen: Seen) -> Portrait:
    from pathlib import Path

    from trtpipe.backends import plan_header
    from trtpipe.backends.preflight import TITLES

    header = plan_header.read_header(Path(seen.path))
    size = os.path.getsize(seen.path)
    title = f"a plan of {TITLES[header.flavour]} {header.version}"
    value: dict[str, Any] = {"runtime": header.flavour, "runtime_version": header.version, "header_bytes": header.size}
    lines = []
    if header.flavour == "tensorrt_rtx" and header.size is not None and size < header.size:
        lines.append(f"it is torn: its header says {header.size} bytes, found {size}")
    manifest = _manifest(seen)
    if manifest is None:
        unknown = "unknown: there is no manifest beside it, and no store here knows it"
        return Portrait(
            title, {**value, "manifest": None}, [*lines, f"inputs, outputs, profiles, precision: {unknown}"]
        )
    extra = _engine(manifest)
    return Portrait(title, {**value, **extra.value}, [*lines, *extra.lines], manifest.key)


def _manifest(seen: Seen) -> Manifest | None:
    """Give the manifest of a plan: the one beside it, or the one with which the store has this content."""
    from pathlib import Path

    from trtpipe.documents import files
    from trtpipe.documents.manifest import Manifest

    beside = Path(seen.path).with_name(Manifest.file)
    if beside.is_file():
        try:
            manifest = files.read(beside, Manifest)
        except errors.StageFailed:
            manifest = None
        if manifest is not None and manifest.plan == os.path.basename(seen.path):
            return manifest
    if seen.store is None:
        return None
    from trtpipe.store import actions

    for one in reversed(actions.read_all(seen.store.layout)[0]):
        named = one.record.files
        if one.artifact.kind == "engine" and any(sha == seen.sha256 for sha, _ in named.values()):
            found: Manifest | None = _document(seen.store, named, Manifest)
            # An engine carries the model too, and that is no plan.
            if found is not None and named.get(found.plan, ("",))[0] == seen.sha256:
                return found
    return None


def _document(store: Store, named: dict[str, tuple[str, int]], kind: type[Any]) -> Any:
    """Read a document of an artifact from the store; None if it is not there or damaged."""
    from pathlib import Path

    from trtpipe.documents import files

    if kind.file not in named:
        return None
    try:
        return files.read(Path(store.blob_path(named[kind.file][0])), kind, kind.file)
    except errors.StageFailed:
        return None


def _engine(manifest: Manifest) -> Portrait:
    import msgspec

    from trtpipe.pipeline.ranges import Range

    sides = [[b.mode, b.name, b.dtype, f"[{', '.join(map(str, b.dims))}]"] for b in manifest.bindings]
    proof = manifest.precision_proof
    proven = f"proven by {proof.source}" if proof.status == "proven" else f"unproven: {proof.why}"
    target = {k: v for k, v in msgspec.to_builtins(manifest.target).items() if v is not None}
    lines = [f"  {line}" for line in table(sides)]
    for number, profile in enumerate(manifest.profiles):
        for name, shapes in profile.items():
            text = "x".join(Range(*sizes).text for sizes in zip(shapes.min, shapes.opt, shapes.max, strict=True))
            lines.append(f"profile {number}: {name}={text}")
    built_for = ", ".join(f"{name.replace('_', ' ')} {text}" for name, text in target.items())
    lines.append(f"precision: {manifest.precision} was asked for; {proven}")
    lines.append(f"built for: {built_for}{', version compatible' if manifest.version_compatible else ''}")
    return Portrait("", {"manifest": msgspec.to_builtins(manifest)}, lines, manifest.key)


# --- arrays


def _arrays(seen: Seen) -> Portrait:
    import zipfile

    import numpy as np

    rows = []
    try:
        if seen.kind == "npy":
            rows.append(_array(os.path.splitext(os.path.basename(seen.path))[0], np.load(seen.path, mmap_mode="r")))
        else:
            with open(seen.path, "rb") as stream, np.load(stream) as archive:
                rows = [_array(name, archive[name]) for name in archive.files]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise errors.PipelineInvalid(f"{seen.path} cannot be read as {seen.kind}: {error}") from None
    return _tensors(f"an array ({seen.kind})" if seen.kind == "npy" else f"{len(rows)} arrays ({seen.kind})", rows)


def _array(name: str, array: Any) -> dict[str, Any]:
    import numpy as np

    row: dict[str, Any] = {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
    if array.size and array.dtype.kind in "fiub":
        finite = np.isfinite(array) if array.dtype.kind == "f" else np.ones(array.shape, bool)
        good = array[finite]
        row |= {"min": good.min().item() if good.size else None, "max": good.max().item() if good.size else None,
                "not_finite": int(array.size - good.size)}  # fmt: skip
    return row


def _tensors(title: str, rows: list[dict[str, Any]], metadata: dict[str, Any] | None = None) -> Portrait:
    cells = [[one["name"], one["dtype"], f"[{', '.join(map(str, one['shape']))}]", _span(one)] for one in rows[:200]]
    more = [f"  and {len(rows) - 200} more"] if len(rows) > 200 else []
    notes = [f"  {name}: {text}" for name, text in (metadata or {}).items()]
    value = {"tensors": rows, **({"metadata": metadata} if metadata is not None else {})}
    return Portrait(title, value, [*(f"  {line}" for line in table(cells)), *more, *notes])


def _span(row: dict[str, Any]) -> str:
    if row.get("min") is None:
        return ""
    bad = f", {row['not_finite']} not finite" if row["not_finite"] else ""
    return f"{row['min']:.6g} to {row['max']:.6g}{bad}"


def _safetensors(seen: Seen) -> Portrait:
    """Read the header: 8 bytes of its length, then JSON. Source: the README of huggingface/safetensors."""
    with open(seen.path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(min(length, _MOST_HEADER))
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", {})
        rows = [
            {"name": name, "dtype": _SAFETENSORS.get(one["dtype"], one["dtype"]), "shape": list(one["shape"])}
            for name, one in header.items()
        ]
        end = max((one["data_offsets"][1] for one in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise errors.PipelineInvalid(f"{seen.path}: its header is not that of safetensors: {error}") from None
    portrait = _tensors(f"{len(rows)} tensors (safetensors)", rows, metadata)
    found = os.path.getsize(seen.path) - 8 - length
    if found != end:
        portrait.lines.append(f"  it is torn: its header says {end} bytes of data, found {found}")
    return portrait


LOOKS: dict[str, Callable[[Seen], Portrait]] = {
    "onnx": _onnx, "plan": _plan, "npz": _arrays, "npy": _arrays, "safetensors": _safetensors,
}  # fmt: skip
"""By kind, the function that looks at it."""


# --- what the store measured of it


def figures(store: Store, origin: Origin) -> list[dict[str, Any]]:
    """Give what is measured of an artifact: the checks before it was made, and what was made of it that has figures."""
    from trtpipe.documents.benchmark import Benchmark
    from trtpipe.documents.comparison import Comparison
    from trtpipe.documents.config import Config
    from trtpipe.documents.metrics import Metrics
    from trtpipe.documents.quantisation import Quantisation
    from trtpipe.trust import origin as origins

    kinds: dict[str, type[Any]] = {"metrics": Metrics, "comparison": Comparison, "benchmark": Benchmark}
    found: list[dict[str, Any]] = []
    made = origins.maker(store.layout, origin.artifact)
    for kind in (Config, Quantisation):
        before = _before(store, made, kind.file) if made is not None else None
        if before is None:
            continue
        document = _document(store, before.record.files, kind)
        change = document if kind is Quantisation else document and (document.rewrite or document.hold)
        if change is not None:
            worst = {name: one.relative_l2 for name, one in change.check.outputs.items() if one.relative_l2 is not None}
            found.append({"stage": before.label, "kind": "error against float32, relative L2", "figures": worst})
    for one in origins.readers(store.layout, origin.artifact):
        document = _document(store, one.record.files, kinds[one.artifact.kind])
        if document is not None:
            shown = {n: v for n, v in document.metrics.items() if "." not in n or one.artifact.kind == "metrics"}
            found.append({"stage": one.label, "kind": one.artifact.kind, "figures": shown})
    return found


def _before(store: Store, made: Any, file: str) -> Any:
    """Give the nearest record among those that an artifact was made from, itself included, with a file of this name."""
    from trtpipe.trust import origin as origins

    waiting, seen = [made], set()
    for one in waiting:  # grows while it is read
        if one is None or one.key in seen:
            continue
        seen.add(one.key)
        if file in one.record.files and one.artifact.kind in ("config", "model"):
            return one
        waiting += [origins.maker(store.layout, digest) for digest in one.record.key.get("inputs", {}).values()]
    return None
