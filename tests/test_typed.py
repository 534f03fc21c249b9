"""Paths, entrypoints and sizes of every stage type are found by their types, wherever they lie in the params."""

from __future__ import annotations

import re

import msgspec
import pytest
from msgspec import inspect

from trtpipe import stages, typed
from trtpipe.stage import DocumentPath, Entrypoint, InnerPath, Size  # noqa: TC001  msgspec reads the annotations

HOOKS = [{"entrypoint": "./h.py:f", "sources": ["a//b.txt", "/abs/c.txt"], "args": {"file": "./free.txt"}},
         {"entrypoint": "pack.age:g", "sources": ["../up.txt"]}]  # fmt: skip
EXAMPLES = {
    "export": {
        "framework": "torch", "entrypoint": "./m.py:load", "sources": ["./w.npz", "../x/y.py"], "outputs": ["y"],
        "kwargs": {"path": "./free"}, "inputs": {"x": {"shape": [1], "dtype": "float32"}},
    },
    "parse": {"custom_ops": ["./ops.so"], "plugins": ["../plugins//p.so"]},
    **{name: {"custom_ops": ["./ops.so"]} for name in ("optimize", "quantize", "compare")},
    "configure": {"workspace": "1024MiB", "keep_fp32": ["./Node"]},
    "preprocess": {"tensor": "./x", "list": "./lists//train.txt", "patterns": ["./*.png"], "python": HOOKS},
    "postprocess": {"steps": [{"op": "softmax", "tensor": "./y"}, *({"op": "python", **hook} for hook in HOOKS)]},
}  # fmt: skip
"""Params of every type that has a typed text, with all places in which it has one."""
TYPED = ("entrypoint", "sources", "python", "steps", "custom_ops", "plugins")
"""Those params of them that hold paths or entrypoints."""
NO_PATHS = {
    "preprocess.patterns[]": "a pattern that names of an input's files fit, and no name",
    "postprocess.arrays[]": "names of tensors; the files are made",
}
SPEAKS_OF_FILES = re.compile(r"\b(files?|paths?|folders?|director(y|ies)|weights|sources?)\b|\.(py|txt|csv|npz)\b")


def texts_of(kind, path, doc="", mark=None):
    """Give (path, what is said of it, kind of typed text) of each place for a text in a type."""
    if isinstance(kind, inspect.Metadata):
        doc = f"{doc} {(kind.extra_json_schema or {}).get('description', '')}"
        yield from texts_of(kind.type, path, doc, (kind.extra or {}).get(typed.MARK, mark))
    elif isinstance(kind, inspect.StrType):
        yield path, doc, mark
    elif isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from texts_of(one, path, doc, mark)
    elif isinstance(kind, inspect.StructType):
        for field in kind.fields:
            yield from texts_of(field.type, f"{path}.{field.encode_name}")
    elif isinstance(kind, inspect.CollectionType):
        yield from texts_of(kind.item_type, f"{path}[]", doc, mark)
    elif isinstance(kind, inspect.TupleType):
        for one in kind.item_types:
            yield from texts_of(one, f"{path}[]", doc, mark)
    elif isinstance(kind, inspect.DictType):
        yield from texts_of(kind.value_type, f"{path}{{}}", doc, mark)


def places(name):
    return list(texts_of(inspect.type_info(stages.get(name).Params), name))


@pytest.mark.parametrize("name", stages.NAMES)
def test_a_text_that_speaks_of_files_has_a_path_type(name):
    untyped = {
        path
        for path, doc, mark in places(name)
        if mark is None and SPEAKS_OF_FILES.search(f"{path.rpartition('.')[2]} {doc}")
    }
    assert not untyped - NO_PATHS.keys(), "give these a path type of trtpipe.stage, or say in NO_PATHS why not"


def test_each_exception_is_still_there():
    assert {path for name in stages.NAMES for path, _, mark in places(name) if mark is None} >= NO_PATHS.keys()


def test_the_examples_have_every_place_with_a_typed_text():
    there = {name: {mark for _, _, mark in places(name) if mark} for name in stages.NAMES}
    assert {name: marks for name, marks in there.items() if marks} == {
        "export": {"path", "entrypoint"}, "parse": {"path"}, "configure": {"size"},
        "optimize": {"path"}, "quantize": {"path"}, "compare": {"path"},
        "preprocess": {"path", "inner path", "entrypoint"},
        "postprocess": {"path", "entrypoint"},
    }  # fmt: skip
    assert EXAMPLES.keys() == {name for name, marks in there.items() if marks}


@pytest.mark.parametrize(
    ("name", "paths", "entrypoints"),
    [
        ("export", ["w.npz", "../x/y.py"], ["m.py:load"]),
        ("parse", ["ops.so", "../plugins/p.so"], []),
        ("optimize", ["ops.so"], []),
        ("quantize", ["ops.so"], []),
        ("compare", ["ops.so"], []),
        ("configure", [], []),
        ("preprocess", ["a/b.txt", "/abs/c.txt", "../up.txt"], ["h.py:f", "pack.age:g"]),
        ("postprocess", ["a/b.txt", "/abs/c.txt", "../up.txt"], ["h.py:f", "pack.age:g"]),
    ],
)
def test_all_paths_and_entrypoints_of_a_stage_are_found(name, paths, entrypoints):
    kind = stages.get(name).Params
    params = msgspec.convert(typed.plain(kind, EXAMPLES[name]), kind)
    assert typed.found(params, typed.PATH) == list(params.files()) == paths
    assert typed.found(params, typed.ENTRYPOINT) == list(params.entrypoints()) == entrypoints


def test_only_typed_texts_get_their_one_spelling():
    assert typed.plain(stages.get("preprocess").Params, EXAMPLES["preprocess"]) == {
        "tensor": "./x", "list": "lists/train.txt", "patterns": ["./*.png"],
        "python": [
            {"entrypoint": "h.py:f", "sources": ["a/b.txt", "/abs/c.txt"], "args": {"file": "./free.txt"}},
            {"entrypoint": "pack.age:g", "sources": ["../up.txt"]},
        ],
    }  # fmt: skip
    assert typed.plain(stages.get("configure").Params, EXAMPLES["configure"])["workspace"] == "1GiB"


@pytest.mark.parametrize("name", EXAMPLES)
def test_moved_params_are_those_of_the_same_files_written_from_elsewhere(name):
    kind = stages.get(name).Params
    before = msgspec.convert(typed.plain(kind, EXAMPLES[name]), kind)
    after = msgspec.convert(typed.moved(kind, EXAMPLES[name], "team/recipes"), kind)
    assert list(after.files()) == [p if p[0] == "/" else f"team/recipes/{p}" for p in before.files()]
    assert list(after.entrypoints()) == [
        e if e.startswith("pack.age") else f"team/recipes/{e}" for e in before.entrypoints()
    ]
    rest = [text for text in EXAMPLES[name].items() if text[0] not in TYPED]
    moved = typed.moved(kind, EXAMPLES[name], "team/recipes")
    assert [text for text in moved.items() if text[0] in dict(rest)] == rest


class Two(msgspec.Struct, tag="two", tag_field="is"):
    """One of several structs in a union."""

    where: DocumentPath


class Other(msgspec.Struct, tag="other", tag_field="is"):
    """Has a plain text of the same name."""

    where: str


class Everywhere(msgspec.Struct):
    """Has typed texts in every sort of place."""

    tree: dict[str, list[DocumentPath]] = {}
    pair: tuple[DocumentPath, str] = ("", "")
    one: Two | Other | None = None
    several: DocumentPath | tuple[DocumentPath, ...] | int = 0
    inner: InnerPath | None = None
    size: Size | None = None
    code: Entrypoint | None = None


def test_typed_texts_are_found_in_every_sort_of_place():
    given = {
        "tree": {"./name": ["./a", "./b"]}, "pair": ["./c", "./free"], "one": {"is": "two", "where": "./d"},
        "several": ["./e", "./f"], "inner": "./g",
    }  # fmt: skip
    plain = typed.plain(Everywhere, given)
    assert plain == {
        "tree": {"./name": ["a", "b"]}, "pair": ["c", "./free"], "one": {"is": "two", "where": "d"},
        "several": ["e", "f"], "inner": "g",
    }  # fmt: skip
    assert typed.found(msgspec.convert(plain, Everywhere), typed.PATH) == ["a", "b", "c", "d", "e", "f"]
    assert typed.plain(Everywhere, {"one": {"is": "other", "where": "./d"}, "several": "./e"}) == {
        "one": {"is": "other", "where": "./d"}, "several": "e",
    }  # fmt: skip


@pytest.mark.parametrize(
    "given",
    [{"tree": 1, "pair": ["./c"], "unknown": "./x"}, {"one": {"is": "none", "where": "./d"}}, [], "./text", None],
)
def test_what_does_not_fit_its_type_stays_as_it_is(given):
    assert typed.moved(Everywhere, given, "team") == given
