"""What is said of a value that does not fit a JSON Schema."""

from trtpipe.violations import dotted, violations


def test_a_float_is_no_whole_number():
    schema = {"properties": {"n": {"type": "integer"}}}
    assert violations({"n": 4}, schema) == []
    assert violations({"n": 4.0}, schema) == [(("n",), "found 4.0, expected a whole number")]
    assert violations({"n": True}, schema) == [(("n",), "found true, expected a whole number")]


def test_a_text_of_which_there_are_examples_is_asked_for_with_one():
    schema = {"properties": {"t": {"type": "string", "examples": ["90s", "2h"]}, "u": {"type": "string"}}}
    assert violations({"t": 900, "u": 1}, schema) == [
        (("t",), "found 900, expected a text such as 90s"), (("u",), "found 1, expected a text"),
    ]  # fmt: skip


def test_a_word_that_is_not_to_be_used_is_told_as_such_and_never_suggested():
    kept = {"not": {}, "description": "Kept for later."}
    schema = {"properties": {"extends": kept, "name": {}}, "additionalProperties": False}
    assert violations({"extends": 1}, schema) == [
        (("extends",), 'found the word "extends", which is kept for later; leave it out')
    ]
    assert violations({"extend": 1}, schema) == [(("extend",), 'unknown key "extend"; there is name')]


def test_a_path_is_written_as_people_write_it():
    assert dotted(("stages", "a", "params", "steps", 0, "op")) == "stages.a.params.steps[0].op"
    assert dotted((0, "id")) == "[0].id"
    assert dotted(()) == ""
