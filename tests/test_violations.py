"""What is said of a value that does not fit a JSON Schema."""

from trtpipe.violations import dotted, violations


def test_a_float_is_no_whole_number():
    schema = {"properties": {"n": {"type": "integer"}}}
    assert violations({"n": 4}, schema) == []
    assert violations({"n": 4.0}, schema) == [(("n",), "found 4.0, expected a whole number")]
    assert violations({"n": True}, schema) == [(("n",), "found true, expected a whole number")]


def test_a_path_is_written_as_people_write_it():
    assert dotted(("stages", "a", "params", "steps", 0, "op")) == "stages.a.params.steps[0].op"
    assert dotted((0, "id")) == "[0].id"
    assert dotted(()) == ""
