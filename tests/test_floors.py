"""The house: rooms on floors. Imports point down, from room to room and from file to file, and never in a circle."""

import ast

import pytest

from tests.helpers import PROJECT

FLOORS = (
    (
        "errors",
        "interrupts",
        "words",
        "columns",
        "key",
        "variant",
        "runtime",
        "stage",
        "environment",
        "gates",
        "documents",
    ),
    ("store",),
    ("data",),
    ("models",),
    ("backends",),
    ("stages",),
    ("pipeline",),
    ("run",),
    ("remote",),
    ("trust",),
    ("cli",),
)
"""From the ground up; docs/architecture.md says who lives where."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
TOP = PROJECT / "trtpipe"


def files():
    for path in sorted(TOP.rglob("*.py")):
        parts = path.relative_to(TOP).with_suffix("").parts
        yield path, ".".join(("trtpipe", *(parts[:-1] if parts[-1] == "__init__" else parts)))


NAMES = {name: path for path, name in files()}


def imports(path):
    """Give each import of trtpipe's own, wherever in the file it stands, as (line, module)."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "trtpipe")
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "trtpipe"):
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield node.lineno, whole if whole in NAMES else str(node.module)


def room(module):
    return module.split(".")[1] if "." in module else ""


def test_every_file_lives_in_a_room_that_is_in_the_table():
    outside = {"", "__main__"}  # the package itself, and the door
    lost = [
        str(path.relative_to(PROJECT))
        for path, name in files()
        if room(name) not in FLOOR and room(name) not in outside
    ]
    assert not lost, f"no floor is known for {lost}: put them into a room, or the room into FLOORS and the docs"


def test_imports_point_down():
    wrong = []
    for path, name in files():
        for line, module in imports(path):
            here, there = FLOOR.get(room(name), 99), FLOOR.get(room(module), -1)
            if here < there:
                wrong.append(f"{path.relative_to(PROJECT)}:{line} is on floor {here} and imports {module} on {there}")
    assert not wrong, "\n".join(wrong)


def test_no_files_import_each_other_in_a_circle():
    needs = {name: {m for _, m in imports(path) if m in NAMES and m != name} for path, name in files()}
    state, walk = {}, []

    def visit(name):
        state[name] = "open"
        walk.append(name)
        for other in sorted(needs[name]):
            if state.get(other) == "open":
                pytest.fail("a circle: " + " → ".join([*walk[walk.index(other) :], other]))
            if other not in state:
                visit(other)
        walk.pop()
        state[name] = "done"

    for name in sorted(needs):
        if name not in state:
            visit(name)


@pytest.mark.parametrize("path", [path for path, _ in files()], ids=lambda p: str(p.relative_to(PROJECT)))
def test_only_the_backends_import_the_runtimes(path):
    if "backends" in path.parts:
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        modules = (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
        )
        if isinstance(node, ast.Import | ast.ImportFrom):
            found = {module.split(".")[0] for module in modules} & {"polygraphy", "tensorrt", "tensorrt_rtx"}
            assert not found, f"{path}:{node.lineno} imports {found}"
