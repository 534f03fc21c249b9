"""Change what users' code looks at, in every way; print which results were then wrong, and what ran without need.

    python tests/hits.py                 both tables of docs/reliability.md, a few minutes
    python tests/hits.py --only link     the rows whose names hold this word

A cell of the first table: a stage runs; it must hit although files were touched and unrelated ones written (twice, as
the second hit is told by stamps); then one thing changes. What the next run gives must be what a forced run gives. Exit
code 1 if a result was wrong, a control did not hit, or something ran without need.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import venv
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.helpers import PROJECT, project, python_stage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SETTLED_SECONDS = 2.1
"""Stamps that are younger are not trusted, so that a hit sooner would not be told by them."""
CHANGES = ("changed", "added", "removed", "moved")

HEAD = """\
import hashlib, json, mmap, os, sqlite3, subprocess, sys
import numpy as np
HERE = os.path.dirname(os.path.abspath(__file__))

def text(path):
    try:
        with open(path) as stream:
            return stream.read()
    except OSError as error:
        return type(error).__name__

def module(*names):
    import importlib
    for name in names:
        try:
            found = importlib.import_module(name)
        except ImportError:
            continue
        return [name, found.x, "/".join(found.__file__.split(os.sep)[-3:])]
    return None

def version(path):
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as one:
            return one.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error:
        return None

def mapped(path):
    try:
        with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as one:
            return bytes(one).decode()
    except OSError as error:
        return type(error).__name__

def f(arrays, samples):
    found = """
END = """
    digest = hashlib.sha256(json.dumps(found).encode()).digest()
    return {"seen": np.full(len(arrays["x"]), int.from_bytes(digest[:7], "big"), np.int64)}
"""


class Cell(NamedTuple):
    """One change in a folder of its own. `before` and `after` put things there; `variables` are for the commands."""

    code: str
    before: Callable[[Path], None]
    after: Callable[[Path], None]
    variables: tuple[dict[str, str], dict[str, str]] = ({}, {})
    differs: bool = True
    """Whether the code can see the change at all."""


class Outcome(NamedTuple):
    """What came of a cell: whether it ran again, and what was wrong."""

    ran: bool
    wrong: str | None


# --- what is put where; a cell's folder holds the project `p`, an environment `env`, a `home`, and folders beside them


def write(path: Path, content: str = "1") -> None:
    """Write a file; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def move(old: Path, new: Path) -> None:
    """Move a file or folder; the new one's folder is made."""
    new.parent.mkdir(parents=True, exist_ok=True)
    old.rename(new)


def database(path: Path, version: int = 1) -> None:
    """Write a database, which native code opens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as one:
        one.execute(f"PRAGMA user_version = {version}")
    one.close()


def point(link: Path, to: str) -> None:
    """Let a link lead elsewhere."""
    link.unlink(missing_ok=True)
    link.symlink_to(to)


def site(cell: Path) -> Path:
    """Give the folder into which packages of the cell's environment are installed."""
    paths = {"base": str(cell / "env"), "platbase": str(cell / "env")}
    return Path(sysconfig.get_path("purelib", "venv", vars=paths))


def install(where: Path, name: str, version: str, files: dict[str, str], code: Path | None = None) -> None:
    """Lay a distribution out as an installer does; with `code`, its files lie there and a .pth leads to them."""
    for old in where.glob(f"{name}-*.dist-info"):
        shutil.rmtree(old)
    for file, content in files.items():
        write((code or where) / name / file, content)
    info = where / f"{name}-{version}.dist-info"
    write(info / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    listed = [f"{info.name}/METADATA"]
    if code is None:
        listed += [f"{name}/{file}" for file in files]
    else:
        write(where / f"__editable__.{name}-{version}.pth", f"{code}\n")
        listed.append(f"__editable__.{name}-{version}.pth")
    write(info / "RECORD", "".join(f"{file},,\n" for file in listed))


def both(*steps: Callable[[Path], object]) -> Callable[[Path], None]:
    """Give one step made of several."""

    def every(cell: Path) -> None:
        for step in steps:
            step(cell)

    return every


def nothing(_: Path) -> None:
    """Change nothing."""


def of_a_file(code: str, name: str, make: Callable[[Path, int], object]) -> dict[str, Cell]:
    """Give the four changes of a file of the project."""
    here = lambda cell: cell / "p" / name  # noqa: E731 — read where they are used
    first = lambda cell: make(here(cell), 1)  # noqa: E731
    return {
        "changed": Cell(code, first, lambda cell: make(here(cell), 22)),
        "added": Cell(code, nothing, first),
        "removed": Cell(code, first, lambda cell: here(cell).unlink()),
        "moved": Cell(code, first, lambda cell: move(here(cell), cell / "p" / "old" / name)),
    }


def plain(path: Path, value: int) -> None:
    """Write a number into a file."""
    write(path, str(value))


def listing() -> dict[str, Cell]:
    """Give the four changes of a folder's entries."""
    code = 'sorted((one.name, one.is_dir()) for one in os.scandir(HERE + "/w"))'
    first = lambda cell: write(cell / "p" / "w" / "a")  # noqa: E731
    at = lambda cell, name: cell / "p" / "w" / name  # noqa: E731
    return {
        "changed": Cell(code, first, both(lambda cell: at(cell, "a").unlink(), lambda cell: at(cell, "a").mkdir())),
        "added": Cell(code, first, lambda cell: write(at(cell, "b"))),
        "removed": Cell(code, first, lambda cell: at(cell, "a").unlink()),
        "moved": Cell(code, first, lambda cell: move(at(cell, "a"), at(cell, "b"))),
    }


def absent() -> dict[str, Cell]:
    """Give the four changes of a file that the code only asks for."""
    code = '[(os.path.exists(p), os.path.isdir(p)) for p in (HERE + "/on", HERE + "/old/on")]'
    at = lambda cell: cell / "p" / "on"  # noqa: E731
    first = lambda cell: write(at(cell))  # noqa: E731
    return {
        "changed": Cell(code, first, both(lambda cell: at(cell).unlink(), lambda cell: at(cell).mkdir())),
        "added": Cell(code, nothing, first),
        "removed": Cell(code, first, lambda cell: at(cell).unlink()),
        "moved": Cell(code, first, lambda cell: move(at(cell), cell / "p" / "old" / "on")),
    }


def links() -> dict[str, Cell]:
    """Give the four changes of a link on the way to a file."""
    code = '[text(HERE + "/now/w.txt"), text(HERE + "/then/w.txt")]'
    folders = both(
        lambda cell: write(cell / "p" / "v1" / "w.txt"), lambda cell: write(cell / "p" / "v2" / "w.txt", "2")
    )
    first = lambda cell: point(cell / "p" / "now", "v1")  # noqa: E731
    return {
        "changed": Cell(code, both(folders, first), lambda cell: point(cell / "p" / "now", "v2")),
        "added": Cell(code, folders, first),
        "removed": Cell(code, both(folders, first), lambda cell: (cell / "p" / "now").unlink()),
        "moved": Cell(code, both(folders, first), lambda cell: move(cell / "p" / "now", cell / "p" / "then")),
    }


def shadowed() -> dict[str, Cell]:
    """Give the four changes of a module that a folder of the same name shadows."""
    code = 'module("late.a")'
    alone = lambda cell: write(cell / "p" / "late" / "a.py", "x = 1")  # noqa: E731
    above = lambda cell: write(cell / "p" / "late" / "a" / "__init__.py", "x = 22")  # noqa: E731
    return {
        "changed": Cell(code, alone, lambda cell: write(cell / "p" / "late" / "a.py", "x = 22")),
        "added": Cell(code, alone, above),
        "removed": Cell(code, both(alone, above), lambda cell: shutil.rmtree(cell / "p" / "late" / "a")),
        "moved": Cell(
            code, alone, lambda cell: move(cell / "p" / "late" / "a.py", cell / "p" / "late" / "a" / "__init__.py")
        ),
    }


def namespace() -> dict[str, Cell]:
    """Give the four changes of a namespace package over two folders of PYTHONPATH."""
    code = 'module("ns.m")'
    one = lambda cell: write(cell / "q1" / "ns" / "m.py", "x = 1")  # noqa: E731
    two = lambda cell: write(cell / "q2" / "ns" / "m.py", "x = 2")  # noqa: E731
    also = lambda cell: write(cell / "q1" / "ns" / "other.py")  # noqa: E731
    paths = ({"PYTHONPATH": "q1:q2"}, {"PYTHONPATH": "q1:q2"})
    return {
        "changed": Cell(code, both(also, two), lambda cell: write(cell / "q2" / "ns" / "m.py", "x = 33"), paths),
        "added": Cell(code, both(also, two), one, paths),
        "removed": Cell(code, both(one, two), lambda cell: (cell / "q1" / "ns" / "m.py").unlink(), paths),
        "moved": Cell(
            code, both(also, two), lambda cell: move(cell / "q2" / "ns" / "m.py", cell / "q1" / "ns" / "m.py"), paths
        ),
    }


def pth() -> dict[str, Cell]:
    """Give the four changes of a .pth file, which adds a folder to the module search path."""
    code = 'module("m")'
    folders = both(lambda cell: write(cell / "l1" / "m.py", "x = 1"), lambda cell: write(cell / "l2" / "m.py", "x = 2"))
    lead = lambda name, to: lambda cell: write(site(cell) / name, f"{cell / to}\n")  # noqa: E731
    return {
        "changed": Cell(code, both(folders, lead("b.pth", "l1")), lead("b.pth", "l2")),
        "added": Cell(code, folders, lead("b.pth", "l1")),
        "removed": Cell(code, both(folders, lead("b.pth", "l1")), lambda cell: (site(cell) / "b.pth").unlink()),
        "moved": Cell(
            code,
            both(folders, lead("b.pth", "l1"), lead("m.pth", "l2")),
            lambda cell: move(site(cell) / "b.pth", site(cell) / "z.pth"),
        ),
    }


def packages(*, editable: bool) -> dict[str, Cell]:
    """Give the four changes of a module of a package that is installed, or is installed as editable."""
    code = '[module("mylib"), module("mylib.extra", "mylib.sub.extra")]'
    top = lambda cell: (cell / "src" if editable else site(cell)) / "mylib"  # noqa: E731

    def first(cell: Path, *more: str) -> None:
        files = {"__init__.py": "x = 1", "sub/__init__.py": "", **dict.fromkeys(more, "x = 5")}
        install(site(cell), "mylib", "1.0", files, cell / "src" if editable else None)

    extra = lambda cell: first(cell, "extra.py")  # noqa: E731
    return {
        "changed": Cell(code, first, lambda cell: write(top(cell) / "__init__.py", "x = 22")),
        "added": Cell(code, first, lambda cell: write(top(cell) / "extra.py", "x = 5")),
        "removed": Cell(code, extra, lambda cell: (top(cell) / "extra.py").unlink()),
        "moved": Cell(code, extra, lambda cell: move(top(cell) / "extra.py", top(cell) / "sub" / "extra.py")),
    }


def variables() -> dict[str, Cell]:
    """Give the four changes of a variable."""
    code = '[os.environ.get("MODE_A"), os.environ.get("MODE_B")]'
    cell = lambda before, after: Cell(code, nothing, nothing, (before, after))  # noqa: E731
    return {
        "changed": cell({"MODE_A": "1"}, {"MODE_A": "2"}),
        "added": cell({}, {"MODE_A": "1"}),
        "removed": cell({"MODE_A": "1"}, {}),
        "moved": cell({"MODE_A": "1"}, {"MODE_B": "1"}),
    }


def in_home(code: str, where: str, *, differs: bool) -> dict[str, Cell]:
    """Give the four changes of a file in the user's home."""
    at = lambda cell: cell / "home" / where / "c.json"  # noqa: E731
    first = lambda cell: write(at(cell))  # noqa: E731
    made = {
        "changed": (first, lambda cell: write(at(cell), "22")),
        "added": (nothing, first),
        "removed": (first, lambda cell: at(cell).unlink()),
        "moved": (first, lambda cell: move(at(cell), at(cell).parent / "old" / "c.json")),
    }
    return {how: Cell(code, before, after, differs=differs) for how, (before, after) in made.items()}


KINDS = {
    "Python opens a file": of_a_file('[text(HERE + p) for p in ("/w", "/old/w")]', "w", plain),
    "native code opens a file": of_a_file('[version(HERE + p) for p in ("/w", "/old/w")]', "w", database),
    "a file is mapped into memory": of_a_file('[mapped(HERE + p) for p in ("/w", "/old/w")]', "w", plain),
    "a child process reads a file": of_a_file(
        '[subprocess.run(["cat", HERE + p], capture_output=True).stdout.decode() for p in ("/w", "/old/w")]', "w", plain
    ),
    "a folder is listed": listing(),
    "a path that may be absent": absent(),
    "a link on the way": links(),
    "a module that may be shadowed": shadowed(),
    "a namespace package": namespace(),
    "a .pth file": pth(),
    "an editable installation": packages(editable=True),
    "an edit in site-packages": packages(editable=False),
    "an environment variable": variables(),
    "a file in a model cache in HOME": in_home(
        '[text(os.environ["HF_HOME"] + p) for p in ("/c.json", "/old/c.json")]', ".cache/huggingface", differs=True
    ),
    "a config file in HOME": in_home(
        '[text(os.path.expanduser("~/.config" + p)) for p in ("/c.json", "/old/c.json")]', ".config", differs=False
    ),
}


# --- running


def make_environment(cell: Path) -> None:
    """Make a virtual environment that finds our packages, and has a site-packages of its own."""
    venv.create(cell / "env", symlinks=True, with_pip=False)
    write(site(cell) / "a.pth", f"{PROJECT}\n{sysconfig.get_path('purelib')}\n")


def run(cell: Path, variables: dict[str, str], *args: str, before: Sequence[str] = ()) -> tuple[str, str]:
    """Run the cell's pipeline; give what happened to its stage (`hit` or `ran`), and the artifact's digest."""
    given = {name: value for name, value in os.environ.items() if not name.startswith(("TRTPIPE_", "HF_", "PYTHON"))}
    given |= {"HOME": str(cell / "home"), "NO_COLOR": "1", **variables}
    if "PYTHONPATH" in given:
        given["PYTHONPATH"] = os.pathsep.join(str(cell / one) for one in given["PYTHONPATH"].split(":"))
    command = [*before, cell / "env" / "bin" / "python", "-m", "trtpipe", "run", "p.yaml", "--json", *args]
    result = subprocess.run(
        command, cwd=cell / "p", env=given, capture_output=True, text=True, timeout=300, check=False
    )
    for line in result.stdout.splitlines():
        event = json.loads(line)
        if event["event"] in ("StageCached", "StageFinished"):
            return "hit" if event["event"] == "StageCached" else "ran", event["artifact"]
    raise RuntimeError(f"exit {result.returncode}: {result.stdout}{result.stderr}")


def start(cell: Path, code: str) -> None:
    """Make a cell's folder with its project and environment."""
    (cell / "home").mkdir(parents=True)
    make_environment(cell)
    project(cell / "p", python_stage("a", "f"), code=f"{HEAD}{code}{END}")
    write(cell / "p" / "trtpipe.toml", "")


def try_cell(one: Cell, cell: Path) -> Outcome:
    """Try one change; see the top of this file."""
    start(cell, one.code)
    one.before(cell)
    before, after = one.variables
    how, first = run(cell, before)
    if how != "ran":
        return Outcome(ran=False, wrong="the first run was a hit")
    os.utime(cell / "p" / "step.py")
    write(cell / "p" / "unrelated.txt")
    time.sleep(SETTLED_SECONDS)
    for which in ("a control", "a control that stamps tell"):
        if run(cell, before) != ("hit", first):
            return Outcome(ran=False, wrong=f"{which} did not hit")
    one.after(cell)
    how, found = run(cell, after)
    _, true = run(cell, after, "--force")
    if one.differs == (true == first):
        return Outcome(how == "ran", "the change does not show in a forced run" if one.differs else "it shows")
    if found != true:
        return Outcome(how == "ran", f"a wrong {how}")
    if run(cell, after) != ("hit", true):
        return Outcome(how == "ran", "what was made is no hit")
    return Outcome(how == "ran", None)


# --- what must not make a stage run


STILL = '[text(HERE + "/w"), sorted(os.listdir(HERE + "/d")), module("mylib"), os.environ.get("MODE_A")]'


def still(cell: Path) -> None:
    """Make a cell whose code reads a file, lists a folder, imports a package, and asks for a variable."""
    start(cell, STILL)
    write(cell / "p" / "w")
    write(cell / "p" / "d" / "a")
    install(site(cell), "mylib", "1.0", {"__init__.py": "x = 1"})
    install(site(cell), "other", "1.0", {"__init__.py": "x = 1"})


def touched(cell: Path) -> Path:
    """Touch every file that the code reads."""
    for path in (
        cell / "p" / "w",
        cell / "p" / "d" / "a",
        cell / "p" / "step.py",
        site(cell) / "mylib" / "__init__.py",
    ):
        os.utime(path)
    return cell


def cloned(cell: Path) -> Path:
    """Give a copy of the project with the store of the first, under another path."""
    other = cell.parent / "another place" / "deeper"
    shutil.copytree(cell, other, symlinks=True)
    shutil.rmtree(other / "env")
    make_environment(other)
    for name in ("mylib", "other"):
        install(site(other), name, "1.0", {"__init__.py": "x = 1"})
    shutil.rmtree(other / "p" / "artifacts")
    (other / "p" / "artifacts").symlink_to(cell / "p" / "artifacts")
    return other


def another_environment(cell: Path) -> Path:
    """Install the same versions anew."""
    shutil.rmtree(cell / "env")
    make_environment(cell)
    for name in ("other", "mylib"):
        install(site(cell), name, "1.0", {"__init__.py": "x = 1"})
        write(site(cell) / f"{name}-1.0.dist-info" / "INSTALLER", "another")
    return cell


def upgraded(cell: Path) -> Path:
    """Upgrade a package that the code does not import, and install one more."""
    install(site(cell), "other", "2.0", {"__init__.py": "x = 2", "more.py": ""})
    install(site(cell), "another", "1.0", {"__init__.py": ""})
    return cell


def of_another_user(cell: Path) -> Path:
    """Give everything to a user who has another home."""
    for top, folders, files in os.walk(cell):
        for name in (".", *folders, *files):
            os.chown(os.path.join(top, name), NOBODY, NOBODY, follow_symlinks=False)
    shutil.rmtree(cell / "home")
    (cell / "home").mkdir()
    os.chown(cell / "home", NOBODY, NOBODY)
    return cell


NOBODY = 65534
# The interpreter may lie in a folder that only root may enter, so this user may read everything.
AS_NOBODY = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
)  # fmt: skip
ANOTHER_USER = "another user runs it"
NEEDLESS = {
    "the files were touched": touched,
    "the project lies in another clone, in a folder of another name, with another environment": cloned,
    "another environment with the same versions": another_environment,
    "a package was upgraded, and one added, that nothing imports": upgraded,
    "another process reads the same files meanwhile": lambda cell: cell,
    ANOTHER_USER: of_another_user,
}


def try_needless(name: str, cell: Path) -> Outcome:
    """Do what must not make a stage run."""
    still(cell)
    stop = threading.Event()
    reader = threading.Thread(target=lambda: _read(cell / "p", stop))
    if name.startswith("another process"):
        reader.start()
    try:
        _, first = run(cell, {})
        time.sleep(SETTLED_SECONDS)
        there = NEEDLESS[name](cell)
        found = [run(there, {}, before=AS_NOBODY if name == ANOTHER_USER else ()) for _ in range(2)]
    finally:
        stop.set()
        if reader.ident:
            reader.join()
    return Outcome(found != [("hit", first)] * 2, None if found == [("hit", first)] * 2 else f"it {found[0][0]}")


def _read(folder: Path, stop: threading.Event) -> None:
    command = 'while :; do cat "$1"/w "$1"/d/a "$1"/step.py >/dev/null; ls "$1"/d >/dev/null; done'
    with subprocess.Popen(["sh", "-c", command, "sh", folder]) as process:
        stop.wait()
        process.kill()


# --- the tables


def main() -> int:
    """Run what the arguments ask for, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="only rows whose names hold this word")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="cells at a time")
    args = parser.parse_args()
    kinds = {name: cells for name, cells in KINDS.items() if args.only in name}
    needless = {name: one for name, one in NEEDLESS.items() if args.only in name}
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        needless.pop(ANOTHER_USER, None)
    bad = []
    with tempfile.TemporaryDirectory() as top, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        os.chmod(top, 0o755)
        cells = {
            (name, how): pool.submit(try_cell, kinds[name][how], Path(top) / f"{number} {how}")
            for number, name in enumerate(kinds)
            for how in CHANGES
        }
        others = {
            name: pool.submit(try_needless, name, Path(top) / f"needless {number}" / "c")
            for number, name in enumerate(needless)
        }
        if kinds:
            print("| what the code looks at | " + " | ".join(CHANGES) + " |\n| --- |" + " --- |" * len(CHANGES))
        for name in kinds:
            outcomes = [cells[name, how].result() for how in CHANGES]
            shown = ["**" + o.wrong + "**" if o.wrong else "ran" if o.ran else "hit, and right" for o in outcomes]
            print(f"| {name} | " + " | ".join(shown) + " |", flush=True)
            bad += [f"{name}, {how}: {o.wrong}" for how, o in zip(CHANGES, outcomes, strict=True) if o.wrong]
        if needless:
            print("\n| what must not make a stage run | outcome |\n| --- | --- |")
        for name, found in others.items():
            outcome = found.result()
            print(f"| {name} | {'**' + outcome.wrong + '**' if outcome.wrong else 'hit'} |", flush=True)
            bad += [f"{name}: {outcome.wrong}"] if outcome.wrong else []
    print(f"\n{len(cells) + len(others)} tried, {len(bad)} wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
