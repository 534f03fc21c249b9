"""The document: YAML read strictly, with places; variables; overrides."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtpipe.errors import PipelineInvalid, SchemaViolation, UnknownReference
from trtpipe.pipeline import checking, document, variables


def value(text):
    return document.parse(text, "p.yaml").value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("010", "010"),
        ("0o10", "0o10"),
        ("1_000", "1_000"),
        ("2026-11-22", "2026-11-22"),
        ("=", "="),
        ("true", True),
        ("null", None),
        ("~", None),
        ("10", 10),
        ("-3", -3),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("'10'", "10"),
        ('"true"', "true"),
        ("1GiB", "1GiB"),
    ],
)
def test_a_scalar_is_what_json_would_say_or_a_plain_text(text, expected):
    found = value(f"a: {text}")["a"]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", 'p.yaml:2:1 document: found "a" twice (first at line 1), expected each name once'),
        ("a:\n  b: 1\n  b: 2", 'p.yaml:3:3 a: found "b" twice (first at line 2), expected each name once'),
        ("a: !!python/object:os.system x", "p.yaml:1:4 document: found the tag tag:yaml.org,2002:python/object"),
        ("a: !env HOME", "p.yaml:1:4 document: found the tag !env, expected plain values"),
        ("a: &x {b: 1}\nc:\n  <<: *x", "p.yaml:3:3 c: found a merge key, which YAML 1.2 does not have"),
        ("[1, 2]: 3", "p.yaml:1:1 document: found a name that is not a text"),
        ("a: *b", "p.yaml:1:4 document: found the alias *b, expected an anchor &b before it"),
        ("a: &x [*x]", "found the alias *x, expected an anchor &x before it"),
        ("a: .inf", "found .inf, expected a finite number"),
        ("a: .NaN", "found .NaN, expected a finite number"),
        ("a: 1e999", "found the number 1e999, which is too large"),
        ("a: 1\n---\nb: 2", "p.yaml:2:1 document: found a second document, expected one document a file"),
        ("a: [1, 2", "p.yaml:2:1: not YAML: "),
        ("a: 'x", "not YAML: "),
        ("\ta: 1", "p.yaml:1:1: not YAML: "),
        ("a: " + "[" * 40 + "]" * 40, "found more than 32 levels of nesting"),
        ("a: " + "9" * 400, "which is too long"),
    ],
)
def test_what_can_be_read_in_two_ways_is_an_error_with_its_place(text, message):
    with pytest.raises(PipelineInvalid) as caught:
        value(text)
    assert message in str(caught.value)


def test_a_bomb_of_aliases_is_refused_quickly():
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]" for i in range(12)]
    begun = time.process_time()
    with pytest.raises(PipelineInvalid, match="aliases that expand to more than"):
        value("\n".join(lines))
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("text", ["[", "{b: ", "- ", "[{b: "])
def test_a_hundred_thousand_levels_do_not_crash_the_parser_and_are_called_too_deep(text):
    with pytest.raises(PipelineInvalid, match=r"p\.yaml:1:.*: found more than 32 levels of nesting$"):
        value("a: " * (text != "- ") + text * 100_000)


@pytest.mark.parametrize("levels", [2, 60])
def test_aliases_do_not_nest_deeper_than_brackets_may(levels):
    lines = ["a0: &a0 " + "[" * 28 + "]" * 28]
    lines += [f"a{i}: &a{i} {'[' * 28}*a{i - 1}{']' * 28}" for i in range(1, levels)]
    with pytest.raises(PipelineInvalid, match="p.yaml:2:.* found more than 32 levels of nesting"):
        value("\n".join(lines))


@pytest.mark.parametrize("path", ["vars." + "a." * 3000 + "b", f"stages.a[{'1' * 5000}]"])
def test_a_setting_that_leads_too_deep_or_too_far_is_refused(path):
    with pytest.raises(PipelineInvalid, match="expected path=value"):
        variables.override(document.parse("stages: {a: [1]}", "p.yaml"), [f"{path}=1"])


def test_a_name_may_not_end_in_a_newline_and_a_message_holds_no_control_characters():
    schema = {"properties": {"name": {"pattern": "^[a-z]+$", "description": "A name."}}}
    checking.check(document.parse("name: abc", "p.yaml"), schema)
    with pytest.raises(SchemaViolation) as caught:
        checking.check(document.parse('name: "abc\\e[31m\\n"', "p.yaml"), schema)
    assert str(caught.value) == r'p.yaml:1:1 name: found "abc\x1b[31m\n", expected a name'
    with pytest.raises(SchemaViolation):
        checking.check(document.parse('name: "abc\\n"', "p.yaml"), schema)


def test_anchors_are_fine_for_small_repeats():
    assert value("a: &s [1, 2]\nb: *s") == {"a": [1, 2], "b": [1, 2]}


def test_a_large_file_is_refused_without_reading_it_all(tmp_path):
    path = tmp_path / "p.yaml"
    with path.open("wb") as stream:
        stream.truncate(100 * 2**20)
    with pytest.raises(PipelineInvalid, match="more than 8 MiB"):
        document.read(str(path))


def test_what_is_not_utf_8_is_refused_with_its_line(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_bytes(b"name: x\nb: \xff\n")
    with pytest.raises(PipelineInvalid, match=r"p\.yaml:2: found a byte that is not UTF-8"):
        document.read(str(path))


def test_a_missing_file_suggests_its_neighbour(tmp_path):
    (tmp_path / "digits.yaml").write_text("")
    with pytest.raises(PipelineInvalid, match=r'there is no such file, did you mean "digits.yaml"'):
        document.read(str(tmp_path / "digit.yaml"))


def test_every_part_knows_its_place():
    found = document.parse("a:\n  - b: 1\n    c: [2,\n      3]", "p.yaml")
    assert str(found.place(("a", 0, "c"))) == "p.yaml:3:5"
    assert str(found.place(("a", 0, "c", 1))) == "p.yaml:4:7"
    assert str(found.place(("a", 0, "missing"))) == "p.yaml:2:5"


def replaced(text):
    return variables.substitute(document.parse(text, "p.yaml")).value["x"]


def test_a_variable_keeps_its_type_alone_and_is_written_out_within_a_text():
    head = "vars: {n: 8, s: abc, l: [1, 2], t: true, z: null}\nx: "
    assert replaced(head + '"${vars.n}"') == 8
    assert replaced(head + '["${n}", 1]') == [8, 1]
    assert replaced(head + '"${vars.l}"') == [1, 2]
    assert replaced(head + '"a-${vars.n}-${s}-${t}-${z}"') == "a-8-abc-true-null"
    assert replaced(head + '"$${vars.n}"') == "${vars.n}"


def test_a_variable_that_uses_a_variable_is_an_error_and_not_silently_text():
    with pytest.raises(UnknownReference) as caught:
        replaced('vars: {a: 8, b: ["${vars.a}"], c: "${matrix.p}"}\nx: 1')
    assert caught.value.problems == (
        "p.yaml:1:18 vars.b[0]: found ${vars.a} in the value of a variable, expected a value that uses none",
        "p.yaml:1:32 vars.c: found ${matrix.p} in the value of a variable, expected a value that uses none",
    )
    assert replaced('vars: {a: "$${b}"}\nx: "${a}"') == "${b}"


def test_unknown_variables_are_all_named_with_a_suggestion():
    with pytest.raises(UnknownReference) as caught:
        replaced('vars: {batch: 8}\nx: ["${vars.bacth}", "${vars.zzz}", "${not closed"]')
    assert [p.split(": ", 1)[1] for p in caught.value.problems] == [
        'unknown variable bacth, did you mean "batch"?',
        "unknown variable zzz; there is batch",
        "found ${not closed, expected ${vars.name}",
    ]


def test_settings_reach_variables_params_and_list_items():
    base = document.parse("vars: {a: 1}\nstages: {s: {params: {p: [{x: 1}]}}}", "p.yaml")
    found = variables.override(base, ["vars.a=2", "vars.new=[1, b]", "stages.s.params.p[0].x=no"])
    assert found.value == {"vars": {"a": 2, "new": [1, "b"]}, "stages": {"s": {"params": {"p": [{"x": "no"}]}}}}
    assert base.value["vars"] == {"a": 1}
    assert str(found.place(("vars", "a"))) == "--set vars.a=2"


def test_a_setting_of_a_variable_that_nothing_uses_is_an_error_and_an_idle_variable_is_not():
    base = document.parse('vars: {batch: 8, idle: 1}\nx: "${batch}"', "p.yaml")
    assert variables.substitute(base).value["x"] == 8
    with pytest.raises(UnknownReference) as caught:
        variables.substitute(variables.override(base, ["vars.bacth=3", "vars.idle=2", "vars.batch=4"]))
    assert caught.value.problems == (
        '--set vars.bacth=3: nothing uses the variable bacth, did you mean "batch"?',
        "--set vars.idle=2: nothing uses the variable idle; there is batch",
    )


@pytest.mark.parametrize("setting", ["vars.a", "=3", "a..b=1", "stages.s[4].x=1", "vars.a.b=1", "a[x]=1"])
def test_a_malformed_setting_is_an_error(setting):
    base = document.parse("vars: {a: 1}\nstages: {s: [1]}", "p.yaml")
    with pytest.raises(PipelineInvalid, match="--set"):
        variables.override(base, [setting])


@given(st.text(max_size=200))
def test_any_text_gives_a_value_or_a_clear_error(text):
    try:
        document.parse(text, "p.yaml")
    except PipelineInvalid as error:
        assert str(error).startswith("p.yaml")


words = st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(words, plain, max_size=4))
def test_json_is_read_as_json_reads_it(given_value):
    assert value(json.dumps(given_value, ensure_ascii=False)) == given_value
