"""`trtpipe bench`: run a pipeline's benchmarks, or measure its engines without them, and print the tables."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtpipe.errors import PipelineInvalid
from trtpipe.pipeline.graph import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.pipeline.graph import Pipeline
    from trtpipe.store.artifact import Artifact
    from trtpipe.store.store import Store


def with_benchmarks(pipeline: Pipeline, params: Mapping[str, Any]) -> tuple[Pipeline, tuple[str, ...]]:
    """Give the pipeline and the names of the benchmarks to run.

    If the pipeline has benchmarks, these run, and `params` replace their own params. Otherwise each `allocate` gets a
    benchmark with the name `<its name>_benchmark`, and with the data of `infer` if there is such a stage. Raises
    PipelineInvalid if there is nothing to measure.
    """
    import msgspec

    from trtpipe import stages

    kind = stages.get("benchmark")
    made = dict(pipeline.stages)
    mine = [s for s in pipeline.stages.values() if s.type == "benchmark"]
    if mine:
        for stage in mine:
            params_now = _params({**stage.params, **params})
            made[stage.name] = stage._replace(params=params_now, cacheable=bool(params_now["keep"]))
        return pipeline._replace(stages=made), tuple(s.name for s in mine)
    names = []
    usual = msgspec.to_builtins(kind.Params())
    for stage in pipeline.stages.values():
        if stage.type != "allocate":
            continue
        inputs: dict[str, Any] = {"engine": stage.inputs["engine"], "buffers": stage.name}
        for other in pipeline.stages.values():
            if other.type == "infer" and other.inputs.get("buffers") == stage.name:
                inputs["data"] = other.inputs["data"]
        name = f"{stage.name}_benchmark"
        params_now = _params({**usual, **params})
        made[name] = stage._replace(
            name=name, type="benchmark", version=kind.version, params=params_now, inputs=inputs, output=kind.output,
            sources=(), modules=(), packages=tuple(sorted(kind.packages)), backend=kind.backend, gpu_on=kind.gpu_on,
            cacheable=bool(params_now["keep"]), alone=kind.alone,
            tolerant=False, watched=False, limits=Limits(),
        )  # fmt: skip
        names.append(name)
    if not names:
        raise PipelineInvalid(
            [f"{pipeline.file}: found nothing to measure, expected a stage of type benchmark or allocate"]
        )
    return pipeline._replace(stages=made), tuple(names)


def _params(params: Mapping[str, Any]) -> dict[str, Any]:
    import msgspec

    from trtpipe import stages

    try:
        typed = msgspec.convert(dict(params), stages.get("benchmark").Params)
    except msgspec.ValidationError as error:
        raise PipelineInvalid([f"bench: {error}"]) from None
    record: dict[str, Any] = msgspec.to_builtins(typed)
    return record


def report(store: Store, artifacts: Mapping[str, Artifact], names: Sequence[str], *, as_json: bool) -> str:
    """Give what was measured: tables with their places, or one JSON object of records."""
    import msgspec

    from trtpipe.documents import files
    from trtpipe.documents.benchmark import Benchmark

    records = {}
    lines: list[str] = []
    for name in names:
        if name not in artifacts:
            continue
        folder = store.tree(artifacts[name])
        records[name] = msgspec.to_builtins(files.read(Path(folder, Benchmark.file), Benchmark, name))
        with open(os.path.join(folder, "table.txt"), encoding="utf-8") as stream:
            lines += ["", f"{name}: {stream.read().rstrip()}", f"figures: {folder}"]
    return json.dumps(records) if as_json else "\n".join(lines[1:])
