"""The house: rooms on floors. Imports point down, from room to room and from file to file, and never in a circle."""

import ast
import importlib.util

import pytest

from tests.helpers import PROJECT

SPEC = importlib.util.spec_from_file_location("floors", PROJECT / "docs" / "floors.py")
floors = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(floors)
MODULES = floors.modules()


def test_every_file_lives_in_a_room_that_is_in_the_table():
    homeless = [str(p.relative_to(PROJECT)) for name, p in MODULES.items()
                if floors.room(name) not in floors.FLOOR and floors.room(name) not in floors.OUTSIDE]  # fmt: skip
    assert not homeless, f"no floor is known for {homeless}: move them into a room, or add theirs to docs/floors.py"
    there = {floors.room(name) for name in MODULES}
    assert not floors.FLOOR.keys() - there, "docs/floors.py names rooms that are not there"


def climbs(modules):
    for name, path in modules.items():
        for found in floors.imports(path, modules):
            here, there = floors.FLOOR.get(floors.room(name), 99), floors.FLOOR.get(floors.room(found.module), -1)
            if here < there:
                where = f"{path.relative_to(floors.PROJECT)}:{found.line}"
                yield f"{where} is on floor {here} and imports {found.module} on floor {there}"


def test_imports_point_down():
    wrong = list(climbs(MODULES))
    assert not wrong, "\n".join(wrong)


def circle(modules):
    # The package's own face gives the public names when they are asked for; from it others take the version alone.
    modules = {name: path for name, path in modules.items() if name != "trtpipe"}
    needs = {name: {f.module for f in floors.imports(path, modules)} & modules.keys() - {name}
             for name, path in modules.items()}  # fmt: skip
    done, walk = set(), []

    def visit(name):
        walk.append(name)
        for other in sorted(needs[name]):
            if other in walk:
                return [*walk[walk.index(other) :], other]
            if other not in done and (found := visit(other)):
                return found
        walk.pop()
        done.add(name)
        return None

    return next((found for name in sorted(needs) if name not in done and (found := visit(name))), None)


def test_no_files_import_each_other_in_a_circle():
    found = circle(MODULES)
    assert found is None, "a circle: " + " → ".join(found)


def test_a_climb_and_a_circle_would_be_seen(tmp_path, monkeypatch):
    package = tmp_path / "trtpipe"
    for file, text in {
        "store/a.py": "from trtpipe.run import b\n",
        "run/b.py": "def f():\n    from trtpipe.store.a import x\n",
    }.items():
        (package / file).parent.mkdir(parents=True)
        (package / file).write_text(text)
    monkeypatch.setattr(floors, "PACKAGE", package)
    monkeypatch.setattr(floors, "PROJECT", tmp_path)
    modules = floors.modules()
    assert list(climbs(modules)) == ["trtpipe/store/a.py:1 is on floor 1 and imports trtpipe.run.b on floor 7"]
    assert circle(modules) == ["trtpipe.run.b", "trtpipe.store.a", "trtpipe.run.b"]


@pytest.mark.parametrize("path", MODULES.values(), ids=lambda p: str(p.relative_to(PROJECT)))
def test_only_the_backends_import_the_runtimes(path):
    if "backends" in path.parts:
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found = {module.split(".")[0] for module in modules} & {"polygraphy", "tensorrt", "tensorrt_rtx"}
            assert not found, f"{path}:{node.lineno} imports {found}"


def test_the_picture_is_what_the_imports_say():
    assert floors.PICTURE.read_text("utf-8") == floors.drawn(), "write it again: make schemas"
