"""What users' code looks at is in its key, however it looks; what cannot be in a key is refused, or told."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

from tests.helpers import PATHS, events, further, project, python_stage, trtpipe
from trtpipe.run import request, watching

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "import os, sys\nimport numpy as np\nHERE = os.path.dirname(os.path.abspath(__file__))\n"
END = '\n    return {"twice": (arrays["x"][:, 0] * len(str(found))).astype(np.int64)}\n'


class Look(NamedTuple):
    """A way of looking: code that gives `found`, what is there at first, what changes, and how that is told."""

    code: str
    first: dict[str, str]
    then: dict[str, str | None]
    told: str


LOOKS = {
    "Python opens": Look("found = open(HERE + '/w.txt').read()", {"w.txt": "1"}, {"w.txt": "22"}, "w.txt changed"),
    "native code opens": Look(
        "import sqlite3\n    found = sqlite3.connect(HERE + '/w.db').execute('pragma user_version').fetchall()",
        {"w.db": ""}, {"w.db": None}, "w.db is gone",
    ),
    "memory is mapped": Look(
        "found = np.memmap(HERE + '/w.bin', mode='r').tobytes()", {"w.bin": "1"}, {"w.bin": "22"}, "w.bin changed"
    ),
    "a child reads": Look(
        "import subprocess\n    found = subprocess.check_output(['cat', HERE + '/w.txt'])",
        {"w.txt": "1"}, {"w.txt": "22"}, "w.txt changed",
    ),
    "a folder is listed": Look("found = sorted(os.listdir(HERE + '/w'))", {"w/a": ""}, {"w/b": ""}, "w changed"),
    "a file is not there": Look(
        "found = os.path.exists(HERE + '/override.json')", {}, {"override.json": "1"}, "override.json appeared"
    ),
    "a file is there": Look("found = os.path.exists(HERE + '/on')", {"on": ""}, {"on": None}, "on is gone"),
    "a file of two names": Look(
        "fd = os.open('w', os.O_RDWR, dir_fd=os.open(HERE, os.O_RDONLY))\n    found = os.read(fd, 9)",
        {"w": "1"}, {"w": "22"}, "w changed",
    ),
    "a module is shadowed": Look("import late.a as found", {"late/a.py": "x = 1"}, {"late/a/__init__.py": ""}, "late"),
    "a variable": Look("found = os.environ.get('TOKENIZER')", {}, {}, "TOKENIZER"),
}  # fmt: skip


def change(folder: Path, files: dict[str, str | None]) -> None:
    for name, text in files.items():
        path = folder / name
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def run(folder, *args, **variables):
    result = trtpipe("run", "p.yaml", *args, cwd=folder, env=variables)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


QUICK = ("native code opens", "a child reads", "a file is not there", "a variable")


@pytest.mark.parametrize("how", [*QUICK, *further(*(how for how in LOOKS if how not in QUICK))])
def test_what_the_code_looked_at_is_a_hit_as_long_as_it_stays_and_none_afterwards(tmp_path, how):
    look = LOOKS[how]
    change(tmp_path, look.first)
    project(tmp_path, python_stage("a", "f"), code=f"{HEAD}def f(arrays, samples):\n    {look.code}{END}")
    run(tmp_path)
    assert "1 hit" in run(tmp_path)
    (tmp_path / "unrelated.txt").write_text("x")
    os.utime(tmp_path / "step.py")
    assert "1 hit" in run(tmp_path)
    change(tmp_path, look.then)
    variables = {"TOKENIZER": "fast"} if how == "a variable" else {}
    said = run(tmp_path, **variables)
    assert "1 ran" in said
    assert look.told in said
    assert "1 hit" in run(tmp_path, **variables)


def test_a_link_that_leads_elsewhere_counts(tmp_path):
    for name in ("v1", "v2"):
        change(tmp_path, {f"{name}/w.txt": "same"})
    (tmp_path / "now").symlink_to("v1")
    code = f"{HEAD}def f(arrays, samples):\n    found = open(HERE + '/now/w.txt').read(){END}"
    project(tmp_path, python_stage("a", "f"), code=code)
    run(tmp_path)
    assert "1 hit" in run(tmp_path)
    (tmp_path / "now").unlink()
    (tmp_path / "now").symlink_to("v2")
    assert "now" in run(tmp_path)


ALL = "found = sorted(v for k, v in os.environ.items() if k.startswith('MY_'))"


def test_code_that_goes_through_all_variables_depends_on_those_that_are_not_there_yet(tmp_path):
    project(tmp_path, python_stage("a", "f"), code=f"{HEAD}def f(arrays, samples):\n    {ALL}{END}")
    run(tmp_path)
    assert "1 hit" in run(tmp_path)
    assert "1 hit" in run(tmp_path, COLUMNS="50", CUDA_VISIBLE_DEVICES="0", MY_TOKEN="a secret that it does not get")
    assert "some variable changed" in run(tmp_path, MY_THING="1")
    assert "1 hit" in run(tmp_path, MY_THING="1")
    assert "1 ran" in run(tmp_path, MY_THING="2")


@pytest.mark.slow
def test_a_package_that_goes_through_all_variables_depends_on_its_own(tmp_path):
    site = tmp_path / "site-packages"
    change(site, {"acme/__init__.py": f"import os\n{ALL.replace('MY_', 'ACME_')}\n"})
    code = f"{HEAD}def f(arrays, samples):\n    from acme import found{END}"
    project(tmp_path / "p", python_stage("a", "f"), code=code)
    path = {"PYTHONPATH": f"{PATHS}{os.pathsep}{site}"}
    run(tmp_path / "p", **path)
    assert "1 hit" in run(tmp_path / "p", **path, MY_THING="1")
    assert "the variable ACME_* appeared" in run(tmp_path / "p", **path, ACME_THING="1")
    assert "the variable ACME_* changed" in run(tmp_path / "p", **path, ACME_THING="2")


USES = f"""{HEAD}import acme, importlib.util
from importlib.metadata import entry_points
def f(arrays, samples):
    found = acme.answer() + len(entry_points(group="none"))
    try:
        import fastmath
        found += fastmath.x
    except ImportError:
        pass
    try:
        importlib.import_module("quick")
        found += 800
    except ImportError:
        pass
    found += 30 * (importlib.util.find_spec("turbo") is not None){END}"""
ACME = """import os
def answer():
    try:
        from acme import extra
        return 500
    except ImportError:
        return 1 + os.path.exists(os.path.join(os.path.dirname(__file__), "override.json"))
"""


def install(site, name, version, **files):
    """Lay a distribution out as an installer does."""
    for old in site.glob(f"{name}-*.dist-info"):
        shutil.rmtree(old)
    folder = f"{name}-{version}.dist-info"
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    change(site, {f"{name}/{file}.py": code for file, code in files.items()})
    change(site, {f"{folder}/METADATA": text, f"{folder}/entry_points.txt": "[a]\nb = c:d\n"})
    change(site, {f"{folder}/RECORD": "".join(f"{name}/{file}.py,,\n" for file in files)})


@pytest.mark.parametrize(
    ("added", "told"),
    [
        ("acme/override.json", "the list of files in package:acme/acme changed"),
        *further(
            ("acme/extra.py", "the list of files in package:acme/acme changed"),
            ("fastmath.py", "python:fastmath.py appeared"),
            ("quick.py", "python:quick.py appeared"),
            ("turbo/__init__.py", "python:turbo appeared"),
        ),
    ],
)
def test_what_is_added_where_packages_are_installed_counts_if_it_was_looked_for(tmp_path, added, told):
    site = tmp_path / "site-packages"
    install(site, "acme", "1.0", __init__=ACME)
    install(site, "other", "1.0", __init__="")
    path = {"PYTHONPATH": f"{PATHS}{os.pathsep}{site}"}
    project(tmp_path / "p", python_stage("a", "f"), code=USES)
    run(tmp_path / "p", **path)
    install(site, "other", "2.0", __init__="", more="")
    install(site, "another", "1.0", __init__="")
    assert "1 hit" in run(tmp_path / "p", **path)  # nobody imports these
    change(site, {added: "x = 70\n"})
    said = run(tmp_path / "p", **path)
    assert "1 ran" in said
    assert told in said
    (site / added).unlink()
    shutil.rmtree(site / "turbo", ignore_errors=True)
    assert "1 hit" in run(tmp_path / "p", **path)  # as it was
    install(site, "acme", "2.0", __init__=ACME)
    assert "acme 1.0 → 2.0" in run(tmp_path / "p", **path)


def test_an_installed_file_that_changes_while_the_stage_runs_makes_it_fail(tmp_path):
    site = tmp_path / "site-packages"
    install(site, "acme", "1.0", __init__="x = 1")
    code = f"{HEAD}def f(arrays, samples):\n    import acme, subprocess\n    found = acme.x\n"
    code += f"    open({str(tmp_path / 'ready')!r}, 'w').close()\n    import time; time.sleep(2){END}"
    project(tmp_path / "p", python_stage("a", "f"), code=code)

    def edit():
        while not (tmp_path / "ready").exists():
            time.sleep(0.05)
        (site / "acme" / "__init__.py").write_text("x = 22")

    editor = threading.Thread(target=edit)
    editor.start()
    path = {"PYTHONPATH": f"{PATHS}{os.pathsep}{site}"}
    result = trtpipe("run", "p.yaml", "--allow-outside", cwd=tmp_path / "p", env=path)
    editor.join()
    assert result.returncode == 1
    assert "package:acme/acme/__init__.py changed while the stage ran" in result.stderr


CONNECTS = f"""{HEAD}import socket
def f(arrays, samples):
    with socket.socket() as one:
        found = one.connect_ex(("127.0.0.1", 9)){END}"""


def test_code_that_connects_is_refused_at_its_line(tmp_path):
    project(tmp_path, python_stage("a", "f"), code=CONNECTS)
    result = trtpipe("run", "p.yaml", cwd=tmp_path)
    assert result.returncode == 1
    assert "step.py:7: the code connects to 127.0.0.1" in result.stderr
    assert "params.network: true" in result.stderr


def test_what_could_not_be_seen_is_told_each_time_and_refused_by_strict(tmp_path):
    stage = python_stage("a", "f").replace("params: {", "params: {network: true, ")
    project(tmp_path, stage, code=CONNECTS)
    told = "network: what it answers is not seen"
    assert told in run(tmp_path)
    assert told in run(tmp_path)  # a hit
    strict = trtpipe("run", "p.yaml", "--strict", cwd=tmp_path)
    assert strict.returncode == 5
    assert told in strict.stderr
    assert told in trtpipe("lock", "p.yaml", cwd=tmp_path).stdout
    own = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    trtpipe("keys", "new", cwd=tmp_path, env=own)
    attested = json.loads(trtpipe("attest", "p.yaml", "a", cwd=tmp_path, env=own).stdout)
    said = json.loads(base64.b64decode(attested["payload"]))
    assert said["predicate"]["buildDefinition"]["internalParameters"]["gaps"] == {"a": [told]}
    shutil.rmtree(tmp_path / "artifacts")
    assert trtpipe("run", "p.yaml", "--strict", cwd=tmp_path).returncode == 5
    assert not list((tmp_path / "artifacts").rglob("actions/**/*.json"))


def test_nothing_is_told_where_everything_is_seen(tmp_path):
    project(tmp_path, python_stage("a"))
    notes = [e for e in events(trtpipe("run", "p.yaml", "--strict", "--json", cwd=tmp_path)) if "Note" in e["event"]]
    assert notes == []


def test_doctor_says_how_users_code_is_watched(tmp_path):
    found = json.loads(trtpipe("doctor", "--json", cwd=tmp_path).stdout)
    assert found["watching"].startswith("by the kernel" if sys.platform == "linux" else "audit")


WALK = HEAD + "def f(arrays, samples):\n    found = sum(len(names) for _, _, names in os.walk(HERE + '/w'))" + END
READ = (
    HEAD
    + "def f(arrays, samples):\n"
    + "    paths = [os.path.join(top, name) for top, _, names in os.walk(HERE + '/w') for name in names]\n"
    + "    found = [len(open(path).read()) for path in paths]"
    + END
)


def many_files(folder: Path, folders: int, each: int) -> None:
    for number in range(folders):
        (folder / f"d{number}").mkdir(parents=True)
        for name in range(each):
            (folder / f"d{number}" / f"f{name}").touch()


def test_code_that_reads_more_files_than_a_list_holds_is_stopped_there_and_told_to_declare_the_folder(tmp_path):
    many_files(tmp_path / "w", 3, 400)
    project(tmp_path, python_stage("a", "f"), code=READ)
    fewer = "from trtpipe import reads; reads.MAX_NAMES = 1000; from trtpipe.cli import main; import sys; "
    run = [sys.executable, "-c", fewer + "sys.exit(main.main(['run', 'p.yaml']))"]
    env = {**os.environ, "PYTHONPATH": PATHS}
    result = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "the code looks at more files than the 1,000 that a list of names holds, 1,000 of them in w" in result.stderr
    assert "declare their folder in sources ([w])" in result.stderr
    document = tmp_path / "p.yaml"
    document.write_text(document.read_text().replace('"args": {}', '"sources": ["w"]'))
    result = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert " 1 ran" in result.stdout


@pytest.mark.slow
def test_200_000_files_below_a_listed_folder_are_a_few_names_and_hits_are_told_by_their_folders(tmp_path):
    many_files(tmp_path / "w", 200, 1000)
    project(tmp_path, python_stage("a", "f"), code=WALK)

    def run():
        result = trtpipe("run", "p.yaml", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert " 1 ran" in run()
    assert "1 hit" in run()
    shown = trtpipe("show", "p.yaml", "a", "--record", cwd=tmp_path).stdout.strip()
    record = json.loads((tmp_path / shown).read_text())
    assert len(record["key"]["reads"]["folders"]) < 220
    (tmp_path / "w" / "d3" / "new").touch()
    assert "the list of files in w/d3 changed" in run()


@pytest.mark.slow
def test_code_that_reads_200_000_files_is_stopped_halfway_and_its_folder_counts_as_one_where_it_is_declared(tmp_path):
    many_files(tmp_path / "w", 200, 1000)
    project(tmp_path, python_stage("a", "f"), code=READ)
    result = trtpipe("run", "p.yaml", cwd=tmp_path)
    assert result.returncode == 1
    assert "more files than the 100,000 that a list of names holds, 100,000 of them in w" in result.stderr


def test_a_name_by_folder_is_the_name_of_each_file_in_it(tmp_path):
    project(tmp_path / "p", python_stage("a"))
    (tmp_path / "p" / "w" / "deep").mkdir(parents=True)
    (tmp_path / "p" / "w" / "deep" / "x").touch()
    (tmp_path / "p" / "package:x").touch()
    (tmp_path / "store").mkdir()
    (tmp_path / "work").mkdir()
    given = {"t": request.Given("tensors", str(tmp_path / "p"), ("w/deep/x",), "t")}
    one = request.Request(
        "a", "postprocess", {}, given, {}, ("step.py",), str(tmp_path / "p"), str(tmp_path / "p"),
        str(tmp_path / "work" / "out"), str(tmp_path / "work" / "scratch"), str(tmp_path), str(tmp_path / "store"), "",
        "onnxruntime", (),
    )  # fmt: skip
    watch = watching.Watch(one)
    site = os.path.dirname(os.path.dirname(np.__file__))
    tops = [str(tmp_path), site, os.path.dirname(os.__file__), "/etc", "/usr/lib", "/usr/share", "/proc/self", "/dev"]
    tops += [os.path.expanduser("~"), *sys.path[1:], "/opt", "/var", sys.prefix, sys.base_prefix]
    seen = set()
    for top in tops:
        for number, (folder, folders, files) in enumerate(os.walk(top)):
            seen |= {folder, *(os.path.join(folder, name) for name in [*folders[:20], *files[:20], "absent"])}
            if number > 60:
                break
    seen |= {one for path in list(seen)[:100] for one in watching._folders_above(path)}
    assert len(seen) > 1000
    assert {path: watch._place(path) for path in seen} == {path: watch._place_of(path) for path in seen}
    watch.supervisor.stop()
