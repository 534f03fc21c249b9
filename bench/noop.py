"""A run with nothing to do, as a whole process, against doit with as many tasks in the same run.

`digits` is the real pipeline, run for real once. The documents of 200 and 2,000 stages are chains of eight stages like
it, with params of their own, so that no two keys are the same; their artifacts are small files that are put into the
store through the library under the keys that the runner works out, because 2,000 worker processes would take half an
hour. That every stage is then a hit is checked with `trtpipe status`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import common

if TYPE_CHECKING:
    from trtpipe.store.artifact import Artifact

GOALS = {"digits": 0.150, "200 stages": 0.5}

CHAIN = """\
  model{i}:
    type: export
    params:
      framework: torch
      entrypoint: digits/model.py:load
      sources: [digits/weights.npz]
      inputs: {{image: {{shape: [batch, 1, 8, 8], dtype: float32}}}}
      outputs: [logits]
      seed: {i}
  network{i}: {{type: parse, inputs: {{model: model{i}}}}}
  config{i}:
    type: configure
    inputs: {{network: network{i}}}
    params:
      precision: fp16
      profiles: [{{image: {{min: [1, 1, 8, 8], opt: [60, 1, 8, 8], max: [128, 1, 8, 8]}}}}]
  engine{i}: {{type: build, inputs: {{config: config{i}}}}}
  buffers{i}: {{type: allocate, inputs: {{engine: engine{i}}}, params: {{shapes: {{image: [60, 1, 8, 8]}}}}}}
  scores{i}: {{type: infer, inputs: {{engine: engine{i}, buffers: buffers{i}, data: {{file: digits/test.npz}}}}}}
  labels{i}:
    type: postprocess
    inputs: {{tensors: scores{i}}}
    params: {{steps: [{{op: softmax, tensor: logits, axis: 1}}, {{op: top_k, k: 1}}]}}
  accuracy{i}:
    type: evaluate
    inputs: {{results: labels{i}, labels: {{file: digits/labels.npy}}}}
    params: {{metrics: [{{metric: top_k, k: 1}}], require: {{top1: ">= 0.97"}}}}
"""

DODO = """\
# {stages} tasks in chains of eight, each of which reads the file that the one before made.
def task_stage():
    for chain in range({stages} // 8):
        for step in range(8):
            made = f"made/{{chain}}-{{step}}"
            yield {{
                "name": f"{{chain}}-{{step}}",
                "actions": [f"echo {{chain}} {{step}} > {{made}}"],
                "file_dep": [f"made/{{chain}}-{{step - 1}}" if step else "digits/model.py"],
                "targets": [made],
            }}
"""


def populate(document: Path, artifacts: Path) -> None:
    """Put an artifact for every stage of a document into the store, each file with a content of its own."""
    sys.path.insert(0, str(common.PROJECT))
    from trtpipe import reads
    from trtpipe.documents.action import About
    from trtpipe.environment import choose
    from trtpipe.pipeline import loading
    from trtpipe.run.lookup import Lookup
    from trtpipe.store.state import State
    from trtpipe.store.store import Store

    os.chdir(document.parent)
    Store.make(str(artifacts))
    with State(str(artifacts)) as state:
        loaded = loading.load(document.name, [], state)
        store = Store(str(artifacts), state)
        lookup = Lookup(loaded, store, choose("onnxruntime"))
        made: dict[str, Artifact] = {}
        for name, stage in loaded.stages.items():
            assessed = lookup.assess(stage, made)
            with store.workspace() as folder:
                for file in ("a.json", "b.bin"):
                    (Path(folder) / file).write_text(f"{name} {file}\n")
                about = About(stage=name, pipeline=loaded.name)
                made[name] = store.commit(assessed.key, stage.output, folder, about)
            if stage.watched:  # nothing was seen of code that did not run
                store.add_lists(assessed.first, [reads.of(assessed.key.reads)])
            store.show(loaded.name, name, made[name])
            lookup.remember(stage, assessed.digest, 0.0)


def environment(artifacts: Path) -> dict[str, str]:
    """Give the variables of both tools; what keeps Python from storing bytecode would be measured in their place."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": str(common.PROJECT), "TRTPIPE_ARTIFACTS": str(artifacts)}


def measure(
    title: str, document: str, *, folder: Path, home: Path, env: dict[str, str], stages: int, times: int
) -> list[str]:
    """Time trtpipe and doit with nothing to do; give a row."""
    command = [sys.executable, "-m", "trtpipe"]
    status = subprocess.run(
        [*command, "status", document, "--backend", "onnxruntime"], cwd=home, env=env, capture_output=True, check=False
    )
    if status.returncode != 0:
        sys.exit(f"{title}: not everything is cached:\n{status.stdout.decode()}{status.stderr.decode()}")
    (folder / "made").mkdir()
    (folder / "dodo.py").write_text(DODO.format(stages=stages))
    if not (folder / "digits").exists():
        shutil.copytree(common.PROJECT / "pipelines" / "digits", folder / "digits")
    doit = [sys.executable, "-m", "doit", "-f", str(folder / "dodo.py"), "-d", str(folder)]
    subprocess.run(doit, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    found = common.interleaved(
        {"trtpipe": [*command, "run", document, "--backend", "onnxruntime"], "doit": doit}, times, cwd=home, env=env
    )
    mine, peer = (statistics.median(found[name]) for name in ("trtpipe", "doit"))
    goal = GOALS.get(title)
    verdict = "" if goal is None else f"{goal * 1000:.0f}: {'met' if mine <= goal else 'MISSED'}"
    return [
        title,
        common.spread(found["trtpipe"], 1000),
        common.spread(found["doit"], 1000),
        f"{mine / peer:.2f}",
        verdict,
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=21)
    parser.add_argument("--artifacts", type=Path, help="where digits runs; default: a folder of its own, made anew")
    parser.add_argument("--chains", type=int, nargs="*", default=[25, 250], help="chains of eight stages a document")
    args = parser.parse_args()
    rows = [["document", "trtpipe, ms", "doit, ms", "trtpipe / doit", "goal, ms"]]
    a_stage: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top) / "digits"
        folder.mkdir()
        env = environment((args.artifacts or folder / "artifacts").resolve())
        run = [sys.executable, "-m", "trtpipe", "run", "pipelines/digits.yaml", "--backend", "onnxruntime", "--quiet"]
        subprocess.run(run, cwd=common.PROJECT, env=env, check=True)
        home = common.PROJECT
        rows.append(
            measure("digits", "pipelines/digits.yaml", folder=folder, home=home, env=env, stages=8, times=args.times)
        )
        for chains in args.chains:
            folder = Path(top) / str(chains)
            folder.mkdir()
            shutil.copytree(common.PROJECT / "pipelines" / "digits", folder / "digits")
            document = folder / "many.yaml"
            document.write_text("name: many\nstages:\n" + "".join(CHAIN.format(i=i) for i in range(chains)))
            populate(document, folder / "artifacts")
            times = args.times if chains <= 25 else max(min(5, args.times), args.times // 3)
            env, n = environment(folder / "artifacts"), 8 * chains
            rows.append(
                measure(f"{n:,} stages", "many.yaml", folder=folder, home=folder, env=env, stages=n, times=times)
            )
            a_stage[n] = float(rows[-1][1].split()[0])
    notes = [f"Median (lowest to highest) of {args.times} runs in turns; a third as many above 200 stages."]
    base = float(rows[1][1].split()[0])
    notes += [
        f"A stage more costs {(ms - base) / (count - 8):.2f} ms at {count:,} stages." for count, ms in a_stage.items()
    ]
    common.show("A run with nothing to do", rows, [*notes, common.versions("doit") + "; " + common.machine()])


if __name__ == "__main__":
    main()
