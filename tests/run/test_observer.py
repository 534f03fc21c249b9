"""What real processes look at is seen, whoever in them looks, and what is refused fails at its line."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from trtpipe.run import observer

WORKER = """\
import importlib.util, json, os, sys
spec = importlib.util.spec_from_file_location("observer", sys.argv[1])
observer = sys.modules["observer"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(observer)
given = json.loads(sys.argv[2])
if given["begin"] is not None:
    observer.begin(given["fd"], **given["begin"])
exec(compile(given["code"], "step.py", "exec"), {"__name__": "step", "observer": observer})
if given["begin"] is not None:
    observer.end()
"""
"""Loads the observer by its path, as an interpreter without trtpipe does, and runs code as `step.py`."""


class Ran(NamedTuple):
    seen: observer.Seen
    code: int
    out: str
    error: str


def allow(kind, path, flags):
    return 0


def command(code, fd=-1, python=sys.executable, begin=None):
    given = {"fd": fd, "begin": begin, "code": code}
    return [str(python), "-c", WORKER, observer.__file__, json.dumps(given)]


def run(
    code, decide=allow, *, python=sys.executable, folders=(), limit=200_000, cwd=None, env=None, fails=False, **begin
):
    """Run code in a watched process; `begin` goes to the observer's `begin`."""
    supervisor = observer.Supervisor(decide, folders=map(str, folders), limit=limit)
    process = subprocess.Popen(
        command(code, supervisor.fd, python, begin), pass_fds=(supervisor.fd,), cwd=cwd, text=True,
        env=None if env is None else {**os.environ, **env}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    supervisor.start()
    try:
        out, error = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        seen = supervisor.stop()
    if not fails:
        assert process.returncode == 0, error
        assert seen.ended
        assert not seen.gaps
    json.dumps(seen._asdict())
    return Ran(seen, process.returncode, out, error)


def unwatched(code, cwd=None):
    done = subprocess.run(command(code), cwd=cwd, text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def missing(mode, *readable):
    """Give why a way of watching is not to be had here, or nothing."""
    ran = run("", mode=mode, readable=readable, fails=True)
    return "" if ran.code == 0 else ran.error.strip().splitlines()[-1]


def need(mode):
    why = missing(mode, *(("/",) if mode == "inotify" else ()))
    if why:
        pytest.skip(f"no {'seccomp listener' if mode == 'seccomp' else 'Landlock'}: {why}")


@pytest.fixture
def seccomp():
    need("seccomp")


@pytest.fixture
def landlock():
    need("inotify")


SYSTEM = ["/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/dev", sys.base_prefix, sys.prefix]


# ---- However it is looked at. All of these run in one process, and once more without being watched.

READS = {
    "Python's open": "open(p).read()",
    "open to read and append": "open(p, 'a+').close()",
    "open to read and change": "open(p, 'r+').close()",
    "os.open to create what is there": "os.open(p, os.O_RDWR | os.O_CREAT)",
    "os.open below a folder's descriptor": "os.read(os.open(name, os.O_RDONLY, dir_fd=os.open(here, os.O_RDONLY)), 9)",
    "a relative name after chdir": "os.chdir(here); open('./' + name).read()",
    "a name with dots": "open(f'{here}/../{os.path.basename(here)}//./{name}').read()",
    "a name that is no UTF-8": "open(os.fsencode(p) + b'\\xff', 'rb').read()",
    "mmap": "import mmap; m = mmap.mmap(os.open(p, os.O_RDONLY), 0, prot=mmap.PROT_READ); print(m[:3])",
    "sqlite3": "import sqlite3; print(sqlite3.connect(p).execute('select * from t').fetchall())",
    "numpy.load": "import numpy; print(numpy.load(p))",
    "numpy.memmap": "import numpy; print(numpy.memmap(p, mode='r'))",
    "fopen of C": "import ctypes; ctypes.CDLL(None).fopen(os.fsencode(p), b'r')",
    "a path at the end of a page": "at_the_end_of_a_page(p)",
    "openat2": "openat2(p)",
    "a child": "print(subprocess.check_output(['cat', p]))",
    "a child's own descriptor": "print(subprocess.check_output(['cat'], stdin=open(p)))",
    "a shell in another folder": "print(subprocess.check_output(['sh', '-c', 'cd $1 && cat $2', 'sh', here, name]))",
    "a forked child": "os.fork() == 0 and (open(p).read(), os._exit(0)); os.wait()",
    "a program that takes its place": "os.fork() == 0 and os.execv('/bin/cat', ['cat', p]); os.wait()",
    "a thread that outlives its starter": "threading.Timer(0.05, lambda p=p: open(p).read()).start()",
    "a descriptor opened anew": "open(f'/proc/self/fd/{os.open(p, os.O_PATH)}').read()",
    "another name of it": "os.link(p, p + '2'); open(p + '2').read()",
    "deleted after reading": "open(p).read(); os.remove(p); os.path.exists(p)",
    "moved before reading": "os.rename(p, p + '2'); open(p + '2').read()",
    "a script that is run": "print(subprocess.check_output([p]))",
}  # fmt: skip
LOOKS = {
    "open to append": ("written", "open(p, 'a').close()"),
    "os.path.exists": ("stat", "os.path.exists(p)"),
    "lstat": ("stat", "os.lstat(p)"),
    "access of C": ("stat", "import ctypes; ctypes.CDLL(None).access(os.fsencode(p), 4)"),
    "test in a shell": ("stat", "subprocess.run(['sh', '-c', 'test -e \"$1\"', 'sh', p])"),
    "open without reading": ("stat", "os.open(p, os.O_PATH)"),
    "open of a folder": ("stat", "os.open(os.path.join(p, 'folder'), os.O_RDONLY)"),
    "exclusive open": ("stat", "exclusive(p)"),
    "open of what is absent": ("absent", "try_open(p)"),
    "exists of what is absent": ("absent", "os.path.exists(p)"),
    "native look for what is absent": ("absent", "import ctypes; ctypes.CDLL(None).fopen(os.fsencode(p), b'r')"),
    "absent below what is absent": ("absent", "os.path.exists(os.path.join(p, 'x', 'y'))"),
    "a child's look for what is absent": ("absent", "subprocess.run(['cat', p], stderr=subprocess.DEVNULL)"),
    "os.listdir": ("listed", "print(sorted(os.listdir(p)))"),
    "os.scandir": ("listed", "print(sorted(e.name for e in os.scandir(p)))"),
    "glob": ("listed", "import glob; print(glob.glob(os.path.join(p, '*')))"),
    "pathlib": ("listed", "import pathlib; print(list(pathlib.Path(p).rglob('*.json')))"),
    "readdir of C": ("listed", "native_listing(p)"),
    "ls": ("listed", "print(subprocess.check_output(['ls', p]))"),
    "open to write": ("written", "open(p, 'w').close()"),
    "mkdir": ("written", "os.mkdir(p)"),
}  # fmt: skip
HELPERS = """\
import ctypes, os, platform, struct, subprocess, sys, threading, time
def at_the_end_of_a_page(p):
    libc, data = ctypes.CDLL(None, use_errno=True), os.fsencode(p) + b"\\0"
    libc.mmap.restype = ctypes.c_void_p
    size = os.sysconf("SC_PAGE_SIZE")
    start = libc.mmap(None, ctypes.c_size_t(2 * size), 3, 0x22, -1, ctypes.c_long(0))
    libc.munmap(ctypes.c_void_p(start + size), ctypes.c_size_t(size))
    ctypes.memmove(start + size - len(data), data, len(data))
    assert libc.open(ctypes.c_void_p(start + size - len(data)), 0) >= 0
    assert libc.open(ctypes.c_void_p(start + size), 0) < 0 and ctypes.get_errno() == 14  # EFAULT
def openat2(p):
    how = ctypes.create_string_buffer(struct.pack("QQQ", os.O_RDONLY, 0, 0), 24)
    assert ctypes.CDLL(None).syscall(437, -100, os.fsencode(p), how, 24) >= 0
def native_listing(p):
    libc = ctypes.CDLL(None)
    libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
    folder = ctypes.c_void_p(libc.opendir(os.fsencode(p)))
    while libc.readdir(folder):
        pass
def try_open(p):
    try:
        open(p)
    except FileNotFoundError:
        print("absent")
def exclusive(p):
    try:
        open(p, "x")
    except FileExistsError:
        print("there")
"""


def prepare(folder):
    """Give each way a file of its own below a folder, and give the program that goes all ways."""
    import numpy as np

    folder.mkdir()
    lines = [HELPERS]
    for number, (way, code) in enumerate([*READS.items(), *((w, c) for w, (_, c) in LOOKS.items())]):
        here = folder / f"f{number}"
        here.mkdir()
        path = here / "name.bin"
        if way == "sqlite3":
            import sqlite3

            with sqlite3.connect(path) as database:
                database.execute("create table t as select 7")
            database.close()
        elif way == "numpy.load":
            with path.open("wb") as stream:
                np.save(stream, np.arange(3))
        elif LOOKS.get(way, ("",))[0] == "listed" or way == "open of a folder":
            (path / "folder").mkdir(parents=True)
            (path / "a.json").write_text("{}")
        elif LOOKS.get(way, ("",))[0] not in ("absent", "written"):
            path.write_text("#!/bin/sh\necho run\n")
            path.chmod(0o755)
            Path(os.fsdecode(os.fsencode(path) + b"\xff")).write_text("text")
        lines.append(f"here, name = {str(here)!r}, 'name.bin'; p = os.path.join(here, name)")
        lines.append(code)
    return "\n".join(lines)


def file_of(way, folder):
    return folder / f"f{[*READS, *LOOKS].index(way)}" / "name.bin"


@pytest.fixture(scope="module")
def all_ways(tmp_path_factory):
    need("seccomp")
    top = tmp_path_factory.mktemp("ways").resolve()
    return run(prepare(top / "watched"), env={"PYTHONDONTWRITEBYTECODE": "1"}), top / "watched", top


@pytest.mark.parametrize("way", READS)
def test_a_file_is_seen_however_it_is_read(way, all_ways):
    ran, folder, _ = all_ways
    path = os.fsencode(file_of(way, folder)) + (b"\xff" if "UTF-8" in way else b"")
    found = {**ran.seen.read, **ran.seen.run}
    assert os.fsdecode(path) in found
    if os.path.exists(path) and way != "another name of it":
        assert found[os.fsdecode(path)] == observer.stamp_of(os.stat(path))


@pytest.mark.parametrize("way", LOOKS)
def test_a_look_without_reading_is_seen_as_what_it_is(way, all_ways):
    ran, folder, _ = all_ways
    kind, _ = LOOKS[way]
    path = str(file_of(way, folder))
    path += {"open of a folder": "/folder", "absent below what is absent": "/x/y"}.get(way, "")
    assert path in getattr(ran.seen, kind)
    others = set(observer.Seen._fields[5:12]) - {kind}
    assert not [other for other in others if path in getattr(ran.seen, other)]


def test_the_same_code_does_the_same_without_being_watched(all_ways):
    ran, folder, top = all_ways
    control = unwatched(prepare(top / "control"))
    assert ran.out.replace(str(folder), "") == control.replace(str(top / "control"), "")


def test_what_is_not_looked_at_is_not_seen(all_ways):
    ran, folder, _ = all_ways
    seen = {path for kind in observer.Seen._fields[5:12] for path in getattr(ran.seen, kind)}
    assert str(file_of("os.listdir", folder) / "a.json") not in seen
    assert str(folder) not in {**ran.seen.listed, **ran.seen.read}


def test_programs_and_what_a_script_names_are_seen_as_run(all_ways):
    ran, folder, _ = all_ways
    assert os.path.realpath("/bin/cat") in ran.seen.run
    assert str(file_of("a script that is run", folder)) in ran.seen.run
    assert os.path.realpath("/bin/sh") in ran.seen.run


def test_weights_in_external_data_are_seen_though_only_native_code_opens_them(seccomp, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 64]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", value[:1], value[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    ran = run("import onnxruntime; onnxruntime.InferenceSession('m.onnx')", cwd=tmp_path)
    assert {str(tmp_path / "m.onnx"), str(tmp_path / "w.bin")} <= ran.seen.read.keys()
    assert any(path.endswith(".so") and "onnxruntime" in path for path in ran.seen.read), ort.__version__


def test_weights_that_safetensors_maps_are_seen(seccomp, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    import numpy as np

    safetensors.save_file({"w": np.ones(3)}, tmp_path / "w.safetensors")
    code = f"import safetensors; safetensors.safe_open({str(tmp_path / 'w.safetensors')!r}, 'numpy').get_tensor('w')"
    assert str(tmp_path / "w.safetensors") in run(code).seen.read


# ---- Links, and what the code makes itself.


def test_a_link_is_seen_with_its_target_and_so_is_what_it_leads_to(seccomp, tmp_path):
    top = tmp_path.resolve()
    for version in ("v1", "v2"):
        (top / version).mkdir()
        (top / version / "model.bin").write_text(version)
    (top / "now").symlink_to("v1")
    (top / "file").symlink_to(top / "now" / "model.bin")
    shell = "cat now/model.bin; cd now; cat model.bin; cat ../file"
    code = f"import subprocess; print(subprocess.check_output({shell!r}, shell=True))"
    first = run(code, cwd=top)
    assert first.seen.links[str(top / "now")] == "v1"
    assert first.seen.links[str(top / "file")] == str(top / "now" / "model.bin")
    assert str(top / "v1" / "model.bin") in first.seen.read
    assert str(top / "v2" / "model.bin") not in first.seen.read
    (top / "now").unlink()
    (top / "now").symlink_to("v2")
    second = run(code, cwd=top)
    assert second.seen.links[str(top / "now")] == "v2"
    assert str(top / "v2" / "model.bin") in second.seen.read
    assert "v2v2v2" in second.out


def test_a_folder_that_is_entered_through_a_link_gives_the_link(seccomp, tmp_path):
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "a").write_text("a")
    (tmp_path / "now").symlink_to("v1")
    seen = run("import os; os.chdir('now'); open('a').read(); os.path.exists('b')", cwd=tmp_path).seen
    assert str(tmp_path.resolve() / "now") in seen.links
    assert str(tmp_path.resolve() / "v1" / "a") in seen.read
    assert str(tmp_path.resolve() / "v1" / "b") in seen.absent


def test_a_link_that_is_turned_while_the_code_runs_is_seen_at_both_targets(seccomp, tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    (tmp_path / "now").symlink_to("a")
    code = "import os\nopen('now').read(); os.symlink('b', 'new'); os.replace('new', 'now'); print(open('now').read())"
    ran = run(code, cwd=tmp_path)
    assert ran.out == "b\n"
    assert ran.seen.links[str(tmp_path.resolve() / "now")] == "a"
    assert {str(tmp_path.resolve() / name) for name in "ab"} <= ran.seen.read.keys()


@pytest.mark.parametrize(
    "code",
    [
        "open('made', 'w').close(); open('made').read()",
        "open('made.tmp', 'w').close(); os.rename('made.tmp', 'made'); open('made').read()",
        "os.path.exists('made'); open('made', 'x').close(); open('made').read()",
        "os.makedirs('made/a'); open('made/a/x', 'w').close(); open('made/a/x').read(); os.listdir('made')",
        "os.mkdir('tmp'); open('tmp/x', 'w').close(); os.rename('tmp', 'made'); open('made/x').read()",
        "subprocess.check_call('echo 1 > made; cat made', shell=True)",
        "open('old', 'w').close(); open('old').read(); os.remove('old'); os.path.exists('old')",
    ],
)
def test_what_the_code_made_itself_is_not_what_it_read(code, seccomp, tmp_path):
    (tmp_path / "old").write_text("old")
    seen = run(f"import os, subprocess\n{code}", cwd=tmp_path).seen
    below = str(tmp_path.resolve()) + os.sep
    assert not [path for kind in ("read", "listed") for path in getattr(seen, kind) if path.startswith(below)]
    assert str(tmp_path.resolve() / ("old" if "old" in code else "made")) in seen.written
    assert str(tmp_path.resolve() / "old") not in seen.absent


def test_a_file_that_could_not_be_emptied_and_is_then_read_counts_as_read(seccomp, tmp_path):
    program = tmp_path / "sleep"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    code = f"""\
import subprocess
running = subprocess.Popen([{str(program)!r}, "60"])
try:
    open({str(program)!r}, "wb")
except OSError as error:
    print(error.errno)
running.kill()
running.wait()
open({str(program)!r}, "rb").read()
"""
    ran = run(code)
    assert ran.out == f"{errno.ETXTBSY}\n"
    assert str(program.resolve()) in ran.seen.read


def test_a_file_that_cannot_be_made_for_want_of_a_folder_shows_that_the_folder_is_absent(seccomp, tmp_path):
    code = "import os\ntry: open('out/a', 'w')\nexcept OSError: pass\ntry: os.mkdir('b/c')\nexcept OSError: pass"
    seen = run(code, cwd=tmp_path).seen
    assert {str(tmp_path.resolve() / name) for name in ("out", "b")} <= set(seen.absent)
    assert not [path for path in seen.written if path.startswith(str(tmp_path.resolve()))]


def test_a_file_that_appears_meanwhile_is_seen_as_absent_and_as_read(seccomp, tmp_path):
    code = "import os, sys, time\nwhile not os.path.exists('late'): time.sleep(0.01)\nopen('late').read()"

    def decide(kind, path, flags):
        if kind == "absent" and path.endswith("/late"):
            (tmp_path / "late").write_text("late")
        return 0

    seen = run(code, decide, cwd=tmp_path).seen
    assert str(tmp_path.resolve() / "late") in seen.absent
    assert str(tmp_path.resolve() / "late") in seen.read


def test_what_a_process_sees_of_itself_is_its_own_and_named_alike_everywhere(seccomp):
    code = """\
import os, subprocess
print(f"Pid:\\t{os.getpid()}" in open("/proc/self/status").read(), open("/proc/thread-self/comm").read() != "")
print(subprocess.run(["cat", "/dev/stdin"], input=b"x", stdout=-1).stdout, os.listdir("/proc/self/fdinfo") != [])
"""
    ran = run(code)
    assert ran.out == "True True\nb'x' True\n"
    assert {"/proc/self/status", "/proc/self/comm"} <= ran.seen.read.keys()
    assert "/proc/self/fdinfo" in ran.seen.listed


def test_of_two_processes_at_once_each_is_seen_alone(seccomp, tmp_path):
    code = """\
import os, time
while not os.path.exists("both"): time.sleep(0.01)
for number in range(200): open(f"{name}{number}").read()
"""
    for name in "ab":
        for number in range(200):
            (tmp_path / f"{name}{number}").write_text("x")
    supervisors = {name: observer.Supervisor(allow) for name in "ab"}
    workers = []
    for name, supervisor in supervisors.items():
        given = command(f"name = {name!r}\n{code}", supervisor.fd, begin={})
        workers.append(subprocess.Popen(given, pass_fds=(supervisor.fd,), cwd=tmp_path))
        supervisor.start()
    (tmp_path / "both").write_text("")
    assert [worker.wait(60) for worker in workers] == [0, 0]
    top = str(tmp_path.resolve()) + os.sep
    for name, supervisor in supervisors.items():
        read = [path[len(top) :] for path in supervisor.stop().read if path.startswith(top)]
        assert sorted(read) == sorted(f"{name}{number}" for number in range(200))


# ---- Refusals.


def refuse(name):
    def decide(kind, path, flags):
        return errno.EACCES if path.endswith(name) else 0

    return decide


def refuse_connects(kind, path, flags):
    return errno.ENETUNREACH if kind == "connect" else 0


def test_a_refused_open_fails_at_the_line_that_asks(seccomp, tmp_path):
    (tmp_path / "secret").write_text("x")
    ran = run("import os\n\nopen('secret').read()\n", refuse("/secret"), cwd=tmp_path, fails=True)
    assert 'File "step.py", line 3' in ran.error
    assert ran.error.rstrip().endswith("PermissionError: [Errno 13] Permission denied: 'secret'")
    (refused,) = ran.seen.refused
    path = str(tmp_path.resolve() / "secret")
    assert refused == {"kind": "read", "path": path, "named": path, "errno": errno.EACCES, "where": ""}
    assert path not in ran.seen.read


def test_code_that_swallows_a_refusal_is_told_on_with_its_line(seccomp, tmp_path):
    (tmp_path / "secret").write_text("x")
    (tmp_path / "link").symlink_to("secret")
    code = """\
def f():
    try:
        open("link")
    except OSError:
        pass
f()
f()
print(observer.refusals())
"""
    ran = run(code, refuse("/secret"), cwd=tmp_path)
    (refused,) = ran.seen.refused
    assert (refused["path"], refused["where"]) == (str(tmp_path.resolve() / "secret"), "step.py:3")
    assert "where='step.py:3'" in ran.out


@pytest.mark.parametrize(
    "code",
    [
        "import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.open(b'secret', 0), ctypes.get_errno())",
        "import subprocess; print(-subprocess.run(['cat', 'secret'], stderr=-3).returncode, 13)",
        "import os\ntry: os.open('secret', os.O_RDWR | os.O_CREAT)\nexcept OSError as e: print(-1, e.errno)",
        "import os\ntry: os.link('secret', 'b')\nexcept OSError as e: print(-1, e.errno)",
    ],
)
def test_native_code_and_children_are_refused_too(code, seccomp, tmp_path):
    (tmp_path / "secret").write_text("x")
    ran = run(code, refuse("/secret"), cwd=tmp_path)
    assert ran.out == "-1 13\n"
    assert [r["kind"] for r in ran.seen.refused] == ["read"]


def test_a_folder_whose_names_are_refused_cannot_be_listed(seccomp, tmp_path):
    (tmp_path / "secret").mkdir()

    def decide(kind, path, flags):
        return errno.EACCES if kind == "listed" and path.endswith("/secret") else 0

    ran = run("import os\nos.listdir('secret')", decide, cwd=tmp_path, fails=True)
    assert "PermissionError: [Errno 13] Permission denied: 'secret'" in ran.error
    assert not ran.seen.listed.keys() & {str(tmp_path.resolve() / "secret")}


def test_a_connect_is_seen_and_can_be_refused(seccomp):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        code = f"""\
import socket
for family, address in [(socket.AF_INET, ("127.0.0.1", {port})), (socket.AF_UNIX, "/no/such/socket")]:
    with socket.socket(family) as s:
        try:
            s.connect(address)
        except OSError as error:
            print(error.errno)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.sendto(b"x", ("127.0.0.1", {port}))
"""
        free = run(code)
        assert free.out.split() == [str(errno.ECONNREFUSED), str(errno.ENOENT)]
        assert free.seen.connects == [["inet", f"127.0.0.1:{port}"], ["unix", "/no/such/socket"]]
        ran = run(code, refuse_connects, fails=True)
    assert ran.out.split() == [str(errno.ENETUNREACH)] * 2
    assert "line 9" in ran.error
    assert not ran.seen.connects
    assert ran.seen.refused[0]["named"] == f"inet 127.0.0.1:{port}"


def test_the_status_of_a_path_is_told_once_and_asked_for_each_time(seccomp, tmp_path):
    code = """\
import os, pathlib
path = os.path.abspath("a")
for look in (os.stat, os.lstat, os.path.exists, os.path.getsize, lambda p: pathlib.Path(p).is_file()):
    look(path), look(path)
open(path, "w").write("longer")
print(os.stat(path).st_size, os.stat(path, follow_symlinks=False).st_size, os.stat in os.supports_dir_fd)
os.remove(path)
print(os.path.exists(path), os.stat(os.open(".", 0)).st_mode == os.stat(".", dir_fd=os.open(".", 0)).st_mode)
"""
    (tmp_path / "a").write_text("x")
    ran = run(code, cwd=tmp_path)
    assert ran.out == "6 6 True\nFalse True\n" == unwatched(code, cwd=fresh(tmp_path))
    assert str(tmp_path.resolve() / "a") in ran.seen.stat
    code = "import os\nfor _ in range(3):\n try: os.stat(os.path.abspath('a'))\n except OSError as e: print(e.errno)"
    assert run(code, refuse("/a"), cwd=fresh(tmp_path)).out == f"{errno.EACCES}\n" * 3


def fresh(folder):
    (folder / "a").write_text("x")
    return folder


def test_a_policy_that_fails_refuses_and_is_told(seccomp, tmp_path):
    (tmp_path / "a").write_text("a")

    def decide(kind, path, flags):
        if path.endswith("/a"):
            raise ValueError("no rule")
        return 0

    ran = run("open('a')", decide, cwd=tmp_path, fails=True)
    assert "PermissionError" in ran.error
    assert ran.seen.gaps == ["the policy failed: ValueError: no rule"]


@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("syscall(425, 8, ctypes.create_string_buffer(120))", errno.ENOSYS),  # io_uring_setup
        ("unshare(0x10000000)", errno.EPERM),  # CLONE_NEWUSER
        ("chroot(b'/')", errno.EPERM),
    ],
)
def test_calls_that_would_read_unseen_are_refused(call, number, seccomp):
    code = f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nprint(libc.{call}, ctypes.get_errno())"
    assert run(code).out == f"-1 {number}\n"


# ---- Many, long, and at the same time.


def test_threads_that_open_many_files_ask_the_policy_once_for_each(seccomp, tmp_path):
    for number in range(2000):
        (tmp_path / f"{number}").write_text("x")
    asked = []

    def decide(kind, path, flags):
        asked.append((kind, path))
        return 0

    code = """\
from concurrent.futures import ThreadPoolExecutor
def look(number):
    for _ in range(2):
        with open(str(number)) as stream:
            stream.read()
with ThreadPoolExecutor(8) as pool:
    list(pool.map(look, range(2000)))
"""
    seen = run(code, decide, cwd=tmp_path).seen
    assert {str(tmp_path.resolve() / f"{number}") for number in range(2000)} <= seen.read.keys()
    assert len(asked) == len(set(asked))


@pytest.mark.slow
def test_a_folder_of_200_000_names_is_one_fact():
    need("seccomp")
    top = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=top) as folder:
        for number in range(200_000):
            os.mknod(os.path.join(folder, f"{number}"))
        ran = run(f"import os; print(len(os.listdir({folder!r})))")
    assert ran.out == "200000\n"
    assert os.path.realpath(folder) in ran.seen.listed
    assert sum(len(getattr(ran.seen, kind)) for kind in observer.Seen._fields[5:12]) < 1000


def test_more_facts_than_the_limit_are_a_gap_and_not_a_refusal(seccomp):
    code = "import os\nfor n in range(3000): os.path.exists(f'/no/such/{n}')\nprint('done')"
    ran = run(code, limit=1000, fails=True)
    assert ran.out == "done\n"
    assert ran.code == 0
    assert ran.seen.gaps == ["more than 1,000 files, folders and addresses"]
    assert len(ran.seen.absent) <= 1000


def test_a_name_that_is_too_long_is_the_kernels_to_refuse(seccomp):
    code = """\
import os
for name in ("x" * 5000, "/tmp/" + "y" * 300, "", "nul"):
    try:
        os.stat(name)
    except OSError as error:
        print(error.errno)
"""
    assert run(code).out.split() == [
        str(n) for n in (errno.ENAMETOOLONG, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOENT)
    ]


def test_signals_while_a_call_is_judged_do_no_harm(seccomp, tmp_path):
    for number in range(300):
        (tmp_path / f"{number}").write_text("x")
    code = """\
import signal
count = 0
def tick(*_):
    global count
    count += 1
signal.signal(signal.SIGALRM, tick)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
for number in range(300):
    assert open(str(number)).read() == "x"
signal.setitimer(signal.ITIMER_REAL, 0)
print(count > 0)
"""
    ran = run(code, cwd=tmp_path)
    assert ran.out == "True\n"
    assert len([p for p in ran.seen.read if p.startswith(str(tmp_path.resolve()))]) == 300


# ---- Variables.


def test_variables_that_code_asks_for_are_seen_by_name(tmp_path):
    code = """\
import os
from os import environ
os.environ["SET"] = "1"
os.environ["SET"], os.environ.get("GOT"), os.getenv("ASKED", "x"), "THERE" in environ, os.environb.get(b"BYTES")
os.environ.pop("POPPED", None), os.environ.setdefault("DEFAULT", "1")
os.putenv("PUT", "1")
del os.environ["GONE"]
if os.fork() == 0:
    os.getenv("FORKED")
    os._exit(0)
os.wait()
"""
    for mode in ("", "audit"):
        seen = run(code, mode=mode, env={"GONE": "1"}).seen
        assert seen.variables == ["ASKED", "BYTES", "DEFAULT", "FORKED", "GOT", "POPPED", "THERE"]


@pytest.mark.parametrize(
    "code",
    ["list(os.environ)", "dict(os.environ)", "os.environ.copy()", "repr(os.environ)", "{**os.environ, 'A': '1'}"],
)
def test_asking_for_all_variables_is_seen_as_that(code):
    assert observer.ALL in run(f"import os; {code}", mode="audit").seen.variables


def test_what_our_own_code_asks_for_is_not_recorded_and_what_it_calls_is(tmp_path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "house.py").write_text("import os\ndef f(g):\n    os.getenv('OURS')\n    g()\n")
    code = "import os, sys\nsys.path.insert(0, 'ours')\nimport house\nhouse.f(lambda: os.path.expanduser('~'))"
    seen = run(code, cwd=tmp_path, mode="audit", ours=[str(tmp_path / "ours")]).seen
    assert seen.variables == ["HOME"]


def test_the_line_of_a_look_is_the_users_and_not_the_librarys(seccomp, tmp_path):
    (tmp_path / "x-packages").mkdir()
    (tmp_path / "x-packages" / "lib.py").write_text("def load(path):\n    return open(path).read()\n")
    (tmp_path / "secret").write_text("x")
    code = "import sys\nsys.path.insert(0, 'x-packages')\nimport lib\ntry: lib.load('secret')\nexcept OSError: pass\n"
    assert run(code, refuse("/secret"), cwd=tmp_path).seen.refused[0]["where"] == "step.py:4"


# ---- Ends.

DRIVER = """\
import sys, time, importlib.util, os, subprocess
spec = importlib.util.spec_from_file_location("observer", sys.argv[1])
observer = sys.modules["observer"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(observer)
def decide(kind, path, flags):
    if path.endswith("/wait"):
        print("judging", flush=True)
        time.sleep(600)
    return 0
supervisor = observer.Supervisor(decide)
command = [a if a != "FD" else str(supervisor.fd) for a in sys.argv[2:]]
command[-1] = command[-1].replace('"fd": -1', f'"fd": {supervisor.fd}')
process = subprocess.Popen(command, pass_fds=(supervisor.fd,))
supervisor.start()
process.wait()
"""


def killed_while(code):
    """Start a supervisor in a process of its own and kill it after the first line of output.

    Gives that line, the rest that its worker prints, and how long that took.
    """
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, observer.__file__, *command(code, begin={})],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert driver.stdout is not None
    try:
        first = driver.stdout.readline()
        os.kill(driver.pid, signal.SIGKILL)
        begun = time.monotonic()
        rest = driver.stdout.read()  # ends with the last process that holds the pipe
        return first, rest, time.monotonic() - begun
    finally:
        driver.wait()
        driver.stdout.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)


def test_a_call_that_waits_for_a_supervisor_that_is_killed_fails_at_once(seccomp):
    first, rest, seconds = killed_while(
        "try:\n    open('/no/such/wait')\nexcept OSError as error:\n    print(error.errno)"
    )
    assert first == "judging\n"
    assert rest.startswith(f"{errno.ENOSYS}\n")
    assert seconds < 20


def test_a_worker_whose_supervisor_was_killed_fails_at_its_next_look(seccomp):
    code = """\
import os, time
parent = os.getppid()
print("running", flush=True)
while os.getppid() == parent:
    time.sleep(0.01)
try:
    open("/etc/hostname")
except OSError as error:
    print(error.errno)
print(os.system("exit 3") != 0)
"""
    first, rest, seconds = killed_while(code)
    assert first == "running\n"
    assert rest.startswith(f"{errno.ENOSYS}\nTrue\n")
    assert seconds < 20


def test_a_worker_that_asked_for_it_dies_with_its_supervisor_though_it_looks_at_nothing(seccomp):
    pdeathsig, sigkill = 1, 9
    code = f"import ctypes; ctypes.CDLL(None).prctl({pdeathsig}, {sigkill}); print('on', flush=True)\nwhile True: pass"
    _, rest, seconds = killed_while(code)
    assert rest == ""
    assert seconds < 20


@pytest.mark.parametrize("mode", ["seccomp", "audit"])
def test_a_supervisor_that_fails_leaves_nobody_waiting(mode):
    need(mode)
    code = """\
import os, time
observer._worker.channel.send(b"this is no JSON")
while observer._worker.channel.recv(9): pass
try:
    os.stat("/etc")
except OSError as error:
    print(error.errno)
"""
    ran = run(code, mode=mode, fails=True)
    assert ran.code == 1  # `end` cannot say that it has ended
    assert ran.out == (f"{errno.ENOSYS}\n" if mode == "seccomp" else "")
    assert ran.seen.gaps[0].startswith("the supervisor failed: JSONDecodeError")


def test_what_still_runs_when_watching_is_stopped_sees_nothing_more(seccomp, tmp_path):
    supervisor = observer.Supervisor(allow)
    code = "print('ready', flush=True); input()\ntry: open('a')\nexcept OSError as e: print(e.errno)"
    with subprocess.Popen(
        command(code, supervisor.fd, begin={}), pass_fds=(supervisor.fd,), cwd=tmp_path, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        supervisor.start()
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        seen = supervisor.stop()
        out, _ = process.communicate("\n", timeout=30)
    assert out == f"{errno.ENOSYS}\n"
    assert not seen.ended


def test_a_child_that_outlives_the_worker_is_still_seen(seccomp, tmp_path):
    (tmp_path / "late").write_text("x")
    code = "import subprocess; subprocess.Popen('sleep 0.3; cat late', shell=True, stdout=1, start_new_session=True)"
    seen = run(code, cwd=tmp_path).seen  # returns when the pipe is closed, which the child holds
    assert str(tmp_path.resolve() / "late") in seen.read


def test_code_that_closes_all_descriptors_cannot_end_in_silence(tmp_path):
    ran = run("import os\nos.closerange(3, 200)\nopen('a', 'w'); os.getenv('LOST')", cwd=tmp_path, fails=True)
    assert ran.code == 1
    assert not ran.seen.ended
    assert (tmp_path / "a").read_text() == ""


def test_a_worker_that_dies_has_not_ended():
    seen = run("import os; os._exit(0)", fails=True).seen
    assert not seen.ended


def test_a_worker_that_never_begins_leaves_nothing():
    supervisor = observer.Supervisor(allow)
    supervisor.start()
    seen = supervisor.stop()
    assert (seen.native, seen.ended, seen.why) == (observer.UNSEEN, False, "the worker never began")
    assert observer.Supervisor(allow).stop().read == {}


def test_nobody_can_watch_himself():
    supervisor = observer.Supervisor(allow)
    with pytest.raises(ValueError, match="another process"):
        observer.begin(supervisor.fd)
    supervisor.stop()


# ---- Other ways of watching.

NESTED = """\
import subprocess, sys
supervisor = observer.Supervisor(lambda kind, path, flags: 0)
command = [a.replace('"fd": -1', f'"fd": {{supervisor.fd}}') for a in {command!r}]
process = subprocess.Popen(command, pass_fds=(supervisor.fd,))
supervisor.start()
process.wait()
seen = supervisor.stop()
print(seen.watched, seen.native, seen.why, seen.ended, process.returncode)
"""


def test_beneath_another_listener_the_next_best_way_is_taken_and_told(seccomp, tmp_path):
    (tmp_path / "a").write_text("a")
    inner = command(f"open({str(tmp_path / 'a')!r}).read()", begin={})
    outer = run(NESTED.format(command=inner))
    assert outer.out == f"inotify not seen seccomp: {os.strerror(errno.EBUSY)} True 0\n"
    assert str(tmp_path.resolve() / "a") in outer.seen.read
    forced = run(NESTED.format(command=command("", begin={"mode": "seccomp"})))
    assert forced.out == "audit not seen the worker never began False 1\n"


def test_without_seccomp_native_reads_in_the_project_are_seen_without_owner(landlock, tmp_path):
    project = tmp_path.resolve() / "project"
    (project / "deep" / "deeper").mkdir(parents=True)
    names = ("python", "native", "deep/deeper/child", "unread", "new.txt")
    for name in names:
        (project / name).write_text("x")
    code = """\
import ctypes, os, subprocess
open("python").read()
ctypes.CDLL(None).fopen(b"native", b"r")
subprocess.check_output(["cat", "deep/deeper/child"])
os.mkdir("fresh")
os.rename("new.txt", "fresh/new.txt")
subprocess.check_output(["ls", "deep"])
os.getenv("TOKENIZER")
"""
    seen = run(
        code, cwd=project, folders=[project], mode="inotify", readable=[*SYSTEM, str(project)],
    ).seen  # fmt: skip
    assert (seen.watched, seen.native) == (observer.INOTIFY, observer.UNOWNED)
    assert {str(project / name) for name in names[:3]} <= seen.read.keys()
    assert str(project / "unread") not in seen.read
    assert str(project / "deep") in seen.listed
    assert seen.variables == ["PATH", "TOKENIZER"]


def test_without_seccomp_reads_elsewhere_are_refused_at_their_line_and_natively(landlock, tmp_path):
    project = tmp_path.resolve() / "project"
    project.mkdir()
    (tmp_path / "outside").write_text("x")
    code = """\
import subprocess
print(subprocess.run(["cat", "../outside"], stderr=subprocess.DEVNULL).returncode)
try:
    open("../outside")
except PermissionError as error:
    print(error)
"""
    ran = run(code, cwd=project, folders=[project], mode="inotify", readable=[*SYSTEM, str(project)])
    assert ran.out == f"1\n[Errno 13] Permission denied: '{project}/../outside'\n"
    (refused,) = ran.seen.refused
    assert (refused["path"], refused["where"]) == (str(tmp_path.resolve() / "outside"), "step.py:4")


def test_with_the_audit_hook_alone_python_is_seen_and_native_reads_are_said_not_to_be(tmp_path):
    top = tmp_path.resolve()
    for name in ("python", "child", "module.py", "link"):
        (top / name).write_text("")
    (top / "to").symlink_to("link")
    code = """\
import os, subprocess, sys
sys.path.insert(0, os.getcwd())
import module
open("python").read(), open("to").read(), os.listdir(".")
subprocess.check_output(["cat", "child"])
open("made", "w").close(); open("made").read()
try:
    open("absent")
except OSError:
    pass
"""
    ran = run(code, cwd=top, mode="audit", env={"PYTHONDONTWRITEBYTECODE": "1"})
    seen = ran.seen
    assert (seen.watched, seen.native) == (observer.AUDIT, observer.UNSEEN)
    assert {str(top / name) for name in ("python", "module.py", "link")} <= seen.read.keys()
    assert not seen.read.keys() & {str(top / "child"), str(top / "made")}
    assert seen.links[str(top / "to")] == "link"
    assert str(top) in seen.listed
    assert str(top / "absent") in seen.absent


def test_a_policy_that_the_audit_hook_cannot_enforce_is_told_all_the_same(tmp_path):
    (tmp_path / "secret").write_text("x")
    ran = run("open('secret').read()\nopen('secret').read()", refuse("/secret"), cwd=tmp_path, mode="audit")
    (refused,) = ran.seen.refused
    assert refused["where"] == "step.py:1"


def test_the_policy_is_told_the_family_of_a_connect_in_whatever_way(tmp_path):
    asked = {}

    def decide(kind, path, flags):
        if kind == "connect":
            asked[path] = flags
        return 0

    code = """\
import socket
for family, address in [(socket.AF_INET, ("127.0.0.1", 9)), (socket.AF_UNIX, "/no/such/socket")]:
    with socket.socket(family) as s:
        s.connect_ex(address)
"""
    for mode in ("", "audit"):
        asked.clear()
        run(code, decide, mode=mode)
        assert asked == {"inet 127.0.0.1:9": socket.AF_INET, "unix /no/such/socket": socket.AF_UNIX}


def interpreters():
    """Give other versions of Python that lie beside this one, oldest and newest."""
    found = sorted(
        (tuple(int(n) for n in p.parents[1].name.split(".")[:2]), p)
        for p in Path(sys.base_prefix).parent.glob("3.*/bin/python3")
    )
    return [path for version, path in found if version >= (3, 8) and version != sys.version_info[:2]]


@pytest.mark.parametrize("which", [0, -1])
def test_an_older_and_a_newer_python_without_trtpipe_are_watched_too(which, seccomp, tmp_path):
    if not interpreters():
        pytest.skip("no other Python lies beside this one")
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    code = "import os, subprocess\nopen('a'), subprocess.check_output(['cat', 'b']), os.getenv('X'), len(os.environ)"
    for mode in ("seccomp", "audit"):
        seen = run(code, cwd=tmp_path, python=interpreters()[which], mode=mode).seen
        assert str(tmp_path.resolve() / "a") in seen.read
        assert (str(tmp_path.resolve() / "b") in seen.read) == (mode == "seccomp")
        assert seen.variables == ["*", "PATH", "X"]


BOTH_SIDES = """\
import ctypes, fcntl, importlib.util, json, os, select, sys, tempfile, threading
spec = importlib.util.spec_from_file_location("observer", sys.argv[1])
observer = sys.modules["observer"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(observer)
user = int(sys.argv[2])
with tempfile.TemporaryDirectory() as folder:
    os.chmod(folder, 0o755)
    path = os.path.join(os.path.realpath(folder), "a")
    open(path, "w").close()
    os.chmod(path, 0o644)
    if os.fork() == 0:
        if user != os.getuid():
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, which changing the user has taken
        supervisor = observer.Supervisor(lambda kind, path, flags: 0)
        pid = os.fork()
        if pid == 0:
            observer.begin(supervisor.fd, mode="seccomp")
            open(path).read()
            os.getenv("X")
            observer.end()
            os._exit(0)
        supervisor.start()
        os.waitpid(pid, 0)
        seen = supervisor.stop()
        json.dumps(seen._asdict())
        print(os.getuid(), seen.watched, path in seen.read, seen.variables, seen.ended, seen.gaps, flush=True)
        os._exit(0)
    os.wait()
"""


def both_sides(python, user):
    command = [str(python), "-c", BOTH_SIDES, observer.__file__, str(user)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == f"{user} seccomp True ['X'] True []\n", done.stderr


def test_it_needs_no_privileges(seccomp):
    if os.getuid() != 0:
        pytest.skip("is not root, so that all other tests show it")
    both_sides(sys.executable, 65534)


@pytest.mark.parametrize("which", [0, -1])
def test_an_older_and_a_newer_python_can_watch_too(which, seccomp):
    if not interpreters():
        pytest.skip("no other Python lies beside this one")
    both_sides(interpreters()[which], os.getuid())


# ---- The filter, also for the machine that this is not.


def answer(program, audit, number, arguments=()):
    """Run a filter as the kernel does."""
    data = struct.pack("iIQ6Q", number, audit, 0, *[*arguments, *[0] * 6][:6])
    at = value = 0
    while True:
        code, yes, no, constant = program[at]
        at += 1
        if code == 0x20:
            (value,) = struct.unpack_from("I", data, constant)
        elif code == 0x06:
            return constant
        else:
            true = {0x15: value == constant, 0x35: value >= constant, 0x45: bool(value & constant)}[code]
            at += yes if true else no


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_tells_of_looks_and_of_nothing_else(machine):
    audit, numbers = observer._MACHINES[machine]
    program = observer.filter_program(audit, numbers)
    allowed, told = 0x7FFF0000, 0x7FC00000
    watched = {numbers[name] for name in observer._CALLS if name in numbers} - {numbers["sendto"]}
    refused = {numbers[name]: 0x00050000 | number for name, number in observer._REFUSED.items()}
    for number in range(600):
        expected = refused.get(number, told if number in watched else allowed)
        assert answer(program, audit, number) == expected
        assert answer(program, 0x40000003, number) == 0x00050000 | errno.ENOSYS  # a 32-bit program's
        assert answer(program, audit, number | 0x40000000) == 0x00050000 | errno.ENOSYS
    for address in (0x1000, 0x7F00_0000_0000):
        assert answer(program, audit, numbers["sendto"], [3, 0, 0, 0, address, 16]) == told
    assert answer(program, audit, numbers["clone"], [0x00010000]) == allowed  # CLONE_THREAD
    for name, place in (("newfstatat", 3), ("statx", 2)):
        for folder, flags, expected in (
            (observer._TOLD, 0, allowed), (5, 0x1000, allowed), (5, 0x1100, allowed), (5, 0, told), (5, 0x100, told),
            (-100, 0, told), (-100, 0x1000, told),
        ):  # fmt: skip
            arguments = [folder & 0xFFFFFFFFFFFFFFFF, 0, 0, 0]
            arguments[place] = flags
            assert answer(program, audit, numbers[name], arguments) == expected
    for name in ("clone", "unshare"):
        assert answer(program, audit, numbers[name], [0x00020000]) == 0x00050000 | errno.EPERM  # CLONE_NEWNS


@pytest.mark.parametrize(
    ("machine", "header", "prefixes"),
    [
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", ("__NR_",)),
        ("aarch64", "/usr/include/asm-generic/unistd.h", ("__NR_", "__NR3264_")),
    ],
)
def test_the_numbers_are_those_of_the_kernels_own_headers(machine, header, prefixes):
    if not Path(header).exists():
        pytest.skip(f"{header} is not installed")
    words = [line.split() for line in Path(header).read_text().splitlines() if line.startswith("#define __NR")]
    known = {w[1]: w[2] for w in words if len(w) > 2}
    renamed = {"newfstatat": "fstatat"} if machine == "aarch64" else {}
    unknown = []
    for name, number in observer._MACHINES[machine].numbers.items():
        found = [known[p + renamed.get(name, name)] for p in prefixes[::-1] if p + renamed.get(name, name) in known]
        if found:
            assert found[0] == str(number), name
        else:
            unknown.append(name)
    assert set(unknown) <= {"open_tree_attr"}  # newer than many headers


def test_the_benchmark_of_watching_gives_a_ratio(seccomp):
    script = Path(__file__).parents[2] / "bench" / "watch.py"
    done = subprocess.run(
        [sys.executable, script, "--runs", "1", "--only", "nothing", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["nothing"]["ratio"] > 0
