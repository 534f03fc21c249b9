"""What `status`, `show`, `graph`, `validate`, `stages` and `schema` tell people and programs."""

from __future__ import annotations

import json

from tests.helpers import events, project, python_stage, within


def test_graph_draws_text_mermaid_and_dot(graph):
    assert within("graph", "g.yaml", cwd=graph).stdout == (
        "network (parse → network)\n  └─ model ← my model.onnx\nconfig (configure → config)\n  └─ network ← network\n"
    )
    mermaid = within("graph", "g.yaml", "--format", "mermaid", cwd=graph).stdout
    assert 'file_20_my_20_model_2e_onnx(["my model.onnx"]) -- model --> network' in mermaid
    assert "network -- network --> config" in mermaid
    dot = within("graph", "g.yaml", "--format", "dot", cwd=graph).stdout
    assert '"my model.onnx" -> "network" [label="model"];' in dot
    found = json.loads(within("graph", "g.yaml", "--json", cwd=graph).stdout)
    assert found["edges"][0] == {"from": "my model.onnx", "to": "network", "input": "model", "outside": True}


def test_graphs_can_be_read_whatever_files_and_stages_are_called(tmp_path):
    parse = "  {}: {{type: parse, inputs: {{model: {{file: '{}'}}}}}}\n"
    stages = parse.format("end", 'a "b" #1.onnx') + parse.format("a", "end")
    (tmp_path / "g.yaml").write_text(f"name: g\nstages:\n{stages}")
    mermaid = within("graph", "g.yaml", "--format", "mermaid", cwd=tmp_path).stdout
    assert '(["a #quot;b#quot; #35;1.onnx"]) -- model --> end_\n' in mermaid
    dot = within("graph", "g.yaml", "--format", "dot", cwd=tmp_path).stdout
    assert '"./end" -> "a" [label="model"];' in dot


def test_validate_says_each_documents_verdict(graph):
    (graph / "bad.yaml").write_text("name: bad\nstages: {}\n")
    result = within("validate", "g.yaml", "bad.yaml", cwd=graph)
    assert result.returncode == 2
    assert result.stdout == "g.yaml: valid, 2 stages\n"
    assert result.stderr == "bad.yaml:2:1 stages: found an empty mapping, expected at least one entry\n"
    found = json.loads(within("validate", "g.yaml", "bad.yaml", "--json", cwd=graph).stdout)
    assert [f["valid"] for f in found] == [True, False]


def test_show_before_a_run_says_how_to_get_there(tmp_path):
    project(tmp_path, python_stage("a"))
    result = within("show", "p.yaml", "a", cwd=tmp_path)
    assert result.returncode == 1
    assert "trtpipe run p.yaml --target a" in result.stderr


def test_show_prints_paths_and_json(tmp_path):
    project(tmp_path, python_stage("a"))
    within("run", "p.yaml", cwd=tmp_path)
    found = json.loads(within("show", "p.yaml", "a", "--json", cwd=tmp_path).stdout)
    assert found["kind"] == "results"
    assert "results.jsonl" in found["files"]
    missing = within("show", "p.yaml", "a/result.jsonl", cwd=tmp_path)
    assert missing.returncode == 2
    assert 'did you mean "results.jsonl"?' in missing.stderr
    assert within("show", "p.yaml", "zz", cwd=tmp_path).returncode == 2


def test_an_unknown_stage_is_named_as_it_was_given(graph):
    for command in (["explain", "g.yaml", "confg"], ["show", "g.yaml", "confg"], ["run", "g.yaml", "--force", "confg"]):
        result = within(*command, cwd=graph)
        assert (result.returncode, result.stderr) == (2, 'error: unknown stage confg, did you mean "config"?\n')


def test_stages_lists_types_and_describes_one(tmp_path):
    assert "postprocess  results" in within("stages", cwd=tmp_path).stdout
    one = within("stages", "configure", cwd=tmp_path).stdout
    assert "precision: " in one
    assert "workspace: " in one
    assert len(json.loads(within("stages", "--json", cwd=tmp_path).stdout)) >= 9
    wrong = within("stages", "confgure", cwd=tmp_path)
    assert wrong.returncode == 2
    assert 'did you mean "configure"?' in wrong.stderr


def test_schema_is_printed_written_and_checked(tmp_path):
    assert within("schema", "--check", cwd=tmp_path).returncode == 1
    assert within("schema", "--write", cwd=tmp_path).returncode == 0
    assert within("schema", "--check", cwd=tmp_path).returncode == 0
    printed = within("schema", cwd=tmp_path).stdout
    assert (tmp_path / "schemas" / "pipeline.schema.json").read_text() == printed
    manifest = tmp_path / "schemas" / "manifest.schema.json"
    manifest.write_text(manifest.read_text().replace("plan_bytes", "plan_byte"))
    stale = within("schema", "--check", cwd=tmp_path)
    assert stale.returncode == 1
    assert stale.stderr == "schemas/manifest.schema.json is stale; write it again: trtpipe schema --write\n"
    told = events(within("schema", "--check", "--json", cwd=tmp_path))
    assert [one["file"] for one in told if not one["fresh"]] == ["schemas/manifest.schema.json"]
