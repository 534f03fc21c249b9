"""The shared store against a real S3 server, folders and web servers: what is believed, and what goes wrong."""

from __future__ import annotations

import base64
import functools
import http.server
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import s3
from tests.helpers import PROJECT
from trtpipe import key as keys
from trtpipe.documents.action import About
from trtpipe.errors import EnvironmentMissing, GateFailed, PipelineInvalid, StoreError
from trtpipe.key import Key
from trtpipe.pipeline.graph import Pipeline
from trtpipe.remote import settings, signing
from trtpipe.remote import signed_store as remotes
from trtpipe.remote.settings import Settings
from trtpipe.remote.signed_store import Remote, WrongContent
from trtpipe.remote.transport import Access, NotAllowed, NotReachable, NotThere, Transport, redact
from trtpipe.store.artifact import Hit, Miss
from trtpipe.store.state import State
from trtpipe.store.store import Store

ABOUT = About(seconds=1.5, notes=("hello",), environment={"host": "ci"})
MIB = 2**20


def signer_of(letter):
    return signing.Signer("ed25519-private:" + base64.b64encode(letter.encode() * 32).decode())


CI, MALLORY = signer_of("c"), signer_of("m")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    s3.needed()
    one = s3.Server(tmp_path_factory.mktemp("s3"))
    one.start()
    yield one
    one.stop()


@pytest.fixture
def place(server, monkeypatch, tmp_path):
    """A prefix of its own in the bucket, and the credentials of who writes."""
    for name, value in s3.WRITER.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(settings.VARIABLE, raising=False)
    return f"s3://{s3.BUCKET}/{os.urandom(6).hex()}"


@pytest.fixture
def stores(tmp_path):
    """Make stores by name."""
    states = []

    def make(name):
        folder = str(tmp_path / name)
        Store.make(folder)
        states.append(State(folder))
        return Store(folder, states[-1])

    yield make
    for state in states:
        state.__exit__()


def access(url, endpoint=None, timeout=3.0, **options):
    return Access(url, endpoint, "us-east-1" if endpoint else None, False, timeout, options)


def a_remote(url, store, endpoint=None, trust=None, **more):
    said = []
    trust = {"ci": CI.public} if trust is None else trust
    one = Remote(Settings(access(url, endpoint, **more), True, trust, "test"), store, said.append)
    one.said = said
    return one


def a_key(name="x"):
    return Key("parse", 1, {"name": name}, {}, {}, {})


def commit(store, files, key=None):
    with store.workspace() as folder:
        for name, content in files.items():
            with open(os.path.join(folder, name), "wb") as stream:
                stream.write(content)
        return store.commit(key or a_key(), "engine", folder, ABOUT)


FILES = {"engine.plan": b"plan" * 1000, "manifest.json": b"{}"}


@pytest.fixture
def pushed(place, server, stores):
    """An artifact that CI made and pushed; a reader with an empty store; the server's client."""
    ci, here = stores("ci"), stores("here")
    artifact = commit(ci, FILES)
    with a_remote(place, ci, server.url) as one:
        one.push([a_key().digest], CI)
    with a_remote(place, here, server.url) as reader:
        reader.artifact, reader.client = artifact, server.client()
        reader.top = place.removeprefix("s3://")
        yield reader


def blob(artifact, name):
    return remotes._blob(artifact.files[name][0])


def files_below(folder, name):
    return [f for _, _, files in os.walk(os.path.join(folder, name)) for f in files]


# --- what is there comes, whole


def test_what_ci_pushed_is_a_hit_elsewhere(pushed):
    fetched = pushed.fetch(a_key().digest, kind="engine")
    assert fetched == (pushed.artifact, 4002, "ci")
    assert pushed.store.lookup(a_key().digest) == Hit(pushed.artifact, 1.5, ("hello",))
    record = pushed.store.action(a_key().digest)
    assert record.about.signed["signer"] == "ci"
    assert record.about.environment == {"host": "ci"}
    assert files_below(pushed.store.folder, "partial") == []


def test_what_nobody_pushed_is_none(pushed):
    assert pushed.fetch(a_key("y").digest) is None
    assert pushed.fetch_many({a_key("y").digest: "engine"}) == {}


def test_only_what_is_missing_comes(pushed):
    commit(pushed.store, {"other": FILES["engine.plan"]}, a_key("y"))
    assert pushed.fetch(a_key().digest).bytes == 2


def test_a_locked_artifact_is_found_by_what_it_is(pushed, stores, server):
    second = stores("second")
    other = commit(second, {"engine.plan": b"another"})
    with a_remote(f"s3://{pushed.top}", second, server.url) as one:
        one.push([a_key().digest], CI, force=True)
    assert pushed.fetch(a_key().digest).artifact == other
    assert pushed.fetch(a_key().digest, artifact=pushed.artifact.digest).artifact == pushed.artifact
    assert pushed.fetch(a_key().digest, artifact="0" * 64) is None


def test_the_first_artifact_of_a_key_stays_the_teams(pushed, stores, server):
    second = stores("second")
    commit(second, {"engine.plan": b"another"})
    with a_remote(f"s3://{pushed.top}", second, server.url) as one:
        assert one.push([a_key().digest], CI)[a_key().digest].already
    assert pushed.fetch(a_key().digest).artifact == pushed.artifact


@pytest.mark.slow
def test_what_was_fetched_goes_on_with_its_first_signature(pushed, stores, server, place):
    pushed.fetch(a_key().digest)
    mirror = place + "-mirror"
    with a_remote(mirror, pushed.store, server.url) as one:
        one.push([a_key().digest], MALLORY)
    with a_remote(mirror, stores("third"), server.url) as one:
        assert one.fetch(a_key().digest).signer == "ci"


def test_what_was_fetched_and_changed_here_since_is_not_pushed_on(pushed, server, place):
    pushed.fetch(a_key().digest)
    path = pushed.store.action_path(a_key().digest)
    with open(path) as stream:
        record = json.load(stream)
    record["environment"]["host"] = "mallory"
    del record["check"]  # against accidents; whoever means it knows how to do without
    with open(path, "w") as stream:
        json.dump(record, stream)
    with a_remote(place + "-mirror", pushed.store, server.url) as one, pytest.raises(StoreError, match="not trusted"):
        one.push([a_key().digest], CI)


# --- what must not be believed


def swapped(pushed, server, stores, text):
    """Put other bytes where the record lies."""
    for name in (remotes._action(a_key().digest), remotes._artifact(pushed.artifact.digest)):
        pushed.client.pipe_file(f"{pushed.top}/{name}", text)


def record_of(pushed, digest=None):
    return json.loads(pushed.client.cat_file(f"{pushed.top}/{remotes._action(digest or a_key().digest)}"))


def tampered(pushed, how):
    envelope = record_of(pushed)
    record = json.loads(base64.b64decode(envelope["payload"]))
    if how == "unsigned":
        envelope = record
    elif how == "stripped":
        envelope["signatures"] = []
    elif how == "by mallory":
        envelope = MALLORY.sign(remotes.PAYLOAD_TYPE, keys.canonical(record))
    elif how == "one byte":
        payload = bytearray(base64.b64decode(envelope["payload"]))
        payload[len(payload) // 2] ^= 1
        envelope["payload"] = base64.b64encode(bytes(payload)).decode()
    elif how == "other kind of statement":
        envelope = CI.sign("application/vnd.in-toto+json", keys.canonical(record))
    elif how == "another key's":
        record["key"]["params"]["name"] = "y"
        envelope = CI.sign(remotes.PAYLOAD_TYPE, keys.canonical(record))
    elif how == "a path outside":
        record["artifact"]["files"] = {"../../evil": next(iter(record["artifact"]["files"].values()))}
        envelope = CI.sign(remotes.PAYLOAD_TYPE, keys.canonical(record))
    elif how == "not canonical":
        envelope = CI.sign(remotes.PAYLOAD_TYPE, json.dumps(record).encode())
    elif how == "no JSON":
        return b"\xff\x00"
    elif how == "nothing":
        return b""
    return json.dumps(envelope).encode()


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("unsigned", "is not signed"), ("stripped", "is not signed"), ("by mallory", "not trusted here"),
        ("one byte", "in the name of ci that does not fit"),
        ("other kind of statement", "expected application/vnd.trtpipe"),
        ("another key's", "record of something else"), ("a path outside", "record of something else"),
        ("not canonical", "record of something else"), ("no JSON", "is not signed"), ("nothing", "is not signed"),
    ],
)  # fmt: skip
def test_a_record_that_no_trusted_key_signed_for_this_key_is_refused(pushed, server, stores, how, why):
    swapped(pushed, server, stores, tampered(pushed, how))
    with pytest.raises(GateFailed, match=why):
        pushed.fetch(a_key().digest)
    assert pushed.store.lookup(a_key().digest) == Miss(None)
    assert files_below(pushed.store.folder, "blobs") == []


def test_of_many_only_the_refused_one_is_left_out(pushed, server, stores):
    second = stores("second")
    commit(second, {"a": b"1"}, a_key("good"))
    with a_remote(f"s3://{pushed.top}", second, server.url) as one:
        one.push([a_key("good").digest], CI)
    swapped(pushed, server, stores, tampered(pushed, "stripped"))
    found = pushed.fetch_many({a_key().digest: "engine", a_key("good").digest: "engine"})
    assert isinstance(found[a_key().digest], GateFailed)
    assert found[a_key("good").digest].bytes == 1


def test_an_artifact_of_another_kind_than_the_stage_makes_is_refused(pushed):
    found = pushed.fetch_many({a_key().digest: "model"})
    assert "expected model" in str(found[a_key().digest])


@pytest.mark.parametrize("how", ["one byte", "shorter", "longer", "other"])
def test_a_blob_that_is_not_what_its_name_says_is_refused_and_not_kept(pushed, how):
    name = f"{pushed.top}/{blob(pushed.artifact, 'engine.plan')}"
    content = bytearray(pushed.client.cat_file(name))
    if how == "one byte":
        content[77] ^= 1
    bad = {"one byte": content, "shorter": content[:-1], "longer": content + b"x", "other": b"x" * len(content)}[how]
    pushed.client.pipe_file(name, bytes(bad))
    # A shorter one looks like a connection that was cut; a longer one is never read to its end.
    if how == "longer":
        assert pushed.fetch(a_key().digest).artifact == pushed.artifact
        return
    with pytest.raises((WrongContent, NotReachable), match=r"not what|not have the digest in its name|cut off"):
        pushed.fetch(a_key().digest)
    assert pushed.store.lookup(a_key().digest) == Miss(None)
    assert not os.path.exists(pushed.store.blob_path(pushed.artifact.files["engine.plan"][0]))
    if how != "shorter":
        assert files_below(pushed.store.folder, "partial") in ([], [pushed.artifact.files["manifest.json"][0]])


def test_a_bad_blob_is_replaced_by_the_next_push_that_met_it(pushed, server):
    name = f"{pushed.top}/{blob(pushed.artifact, 'engine.plan')}"
    pushed.client.pipe_file(name, b"x" * 4000)
    with pytest.raises(WrongContent):
        pushed.fetch(a_key().digest)
    commit(pushed.store, FILES)
    assert not pushed.push([a_key().digest], CI)[a_key().digest].already
    assert pushed.client.cat_file(name) == FILES["engine.plan"]


def test_a_blob_that_is_gone_from_the_server_is_said(pushed):
    pushed.client.rm_file(f"{pushed.top}/{blob(pushed.artifact, 'engine.plan')}")
    with pytest.raises(NotThere) as caught:
        pushed.fetch(a_key().digest)
    pushed.failed(caught.value)
    assert "missing on the remote store, although a record names it" in pushed.said[0]
    assert pushed.reachable


# --- networks


@pytest.fixture
def proxied(place, server, stores):
    """As `pushed`, with 30 MiB, and the reader behind a proxy."""
    ci = stores("ci")
    artifact = commit(ci, {"engine.plan": os.urandom(30 * MIB)})
    with a_remote(place, ci, server.url) as one:
        one.push([a_key().digest], CI)
    proxy = s3.Proxy(server.ports["s3"])
    with a_remote(place, stores("here"), proxy.url, timeout=1.0) as reader:
        reader.artifact, reader.proxy = artifact, proxy
        yield reader
    proxy.close()


@pytest.mark.slow
def test_an_answer_that_is_cut_short_is_asked_for_again(proxied):
    proxied.proxy.cut_after, proxied.proxy.times = 3 * MIB, 2
    assert proxied.fetch(a_key().digest).artifact == proxied.artifact
    assert proxied.proxy.cuts == 2


def test_what_came_before_a_failure_is_kept_and_gone_on_from(proxied):
    get = proxied.transport._range

    def failing(name, start, end, size):
        if start >= 16 * MIB:
            raise NotReachable("the cable was pulled")
        return get(name, start, end, size)

    proxied.transport._range = failing
    with pytest.raises(NotReachable):
        proxied.fetch(a_key().digest)
    (partial,) = files_below(proxied.store.folder, "partial")
    assert os.path.getsize(os.path.join(proxied.store.folder, "partial", partial)) == 16 * MIB
    proxied.transport._range = get
    before = proxied.proxy.passed
    assert proxied.fetch(a_key().digest).artifact == proxied.artifact
    assert proxied.proxy.passed - before < 15 * MIB
    assert files_below(proxied.store.folder, "partial") == []


@pytest.mark.slow
def test_a_partial_file_with_wrong_bytes_is_seen_at_the_end(proxied):
    sha256 = proxied.artifact.files["engine.plan"][0]
    with open(proxied._partial(sha256), "wb") as stream:
        stream.write(b"x" * MIB)
    with pytest.raises(WrongContent):
        proxied.fetch(a_key().digest)
    assert proxied.fetch(a_key().digest).artifact == proxied.artifact


@pytest.mark.slow
def test_a_server_that_stalls_is_given_up_within_the_time_limit(proxied):
    proxied.transport  # noqa: B018 — made before the clock runs
    proxied.proxy.stall = True
    started = time.monotonic()
    with pytest.raises(NotReachable):
        proxied.fetch(a_key().digest)
    assert time.monotonic() - started < 45  # for ever, without a limit
    proxied.proxy.stall = False


@pytest.mark.slow
def test_a_server_that_is_down_is_said_once_and_not_asked_again(place, stores):
    (port,) = s3.free_ports(1)
    with a_remote(place, stores("here"), f"http://127.0.0.1:{port}") as one:
        started = time.monotonic()
        for _ in range(2):
            with pytest.raises(NotReachable) as caught:
                one.fetch(a_key().digest)
            one.failed(caught.value)
        assert time.monotonic() - started < 45
        assert len(one.said) == 1
        assert "cannot be reached" in one.said[0]
        assert not one.reachable


def test_no_says_the_server_to_strangers_and_to_readers_who_write(pushed, server, monkeypatch, stores):
    for name, value in s3.STRANGER.items():
        monkeypatch.setenv(name, value)
    with a_remote(f"s3://{pushed.top}", stores("there"), server.url) as one:
        with pytest.raises(NotAllowed) as caught:
            one.fetch(a_key().digest)
        one.failed(caught.value)
        assert "refuses access" in one.said[0]
        assert "stranger-secret" not in one.said[0]
    for name, value in s3.READER.items():
        monkeypatch.setenv(name, value)
    reader = stores("reader")
    with a_remote(f"s3://{pushed.top}", reader, server.url) as one:
        assert one.fetch(a_key().digest).signer == "ci"
        commit(reader, {"a": b"1"}, a_key("mine"))
        with pytest.raises(NotAllowed):
            one.push([a_key("mine").digest], MALLORY)


def test_a_push_that_was_interrupted_goes_on(place, server, stores):
    ci = stores("ci")
    commit(ci, {f"{i}": os.urandom(1000) for i in range(5)})
    with a_remote(place, ci, server.url) as one:
        put, sent = one.transport.put_file, []

        def failing(local, name):
            if len(sent) == 3:
                raise NotAllowed("the key was taken away")
            sent.append(name)
            put(local, name)

        one.transport.put_file = failing
        one._files = ThreadPoolExecutor(1)
        with pytest.raises(NotAllowed):
            one.push([a_key().digest], CI)
    with a_remote(place, stores("here"), server.url) as one:
        assert one.fetch(a_key().digest) is None  # nothing half-pushed is visible
    with a_remote(place, ci, server.url) as one:
        assert one.push([a_key().digest], CI)[a_key().digest].bytes == 2000


def test_two_who_write_one_key_at_once_leave_one_whole_artifact(place, server, stores):
    sides = []
    for name in "ab":
        store = stores(name)
        sides.append((store, commit(store, {"engine.plan": name.encode() * 3 * MIB})))
    with ThreadPoolExecutor(2) as pool:

        def push(store):
            with a_remote(place, store, server.url) as one:
                one.push([a_key().digest], CI, force=True)

        list(pool.map(push, [store for store, _ in sides]))
    with a_remote(place, stores("here"), server.url) as one:
        assert one.fetch(a_key().digest).artifact in [artifact for _, artifact in sides]
        for _, artifact in sides:
            assert one.fetch(a_key().digest, artifact=artifact.digest).artifact == artifact


@pytest.mark.slow
def test_who_is_done_first_leaves_the_transfers_of_others_alone(proxied, place, server):
    name = blob(proxied.artifact, "engine.plan")
    mine = Transport(access(place, proxied.proxy.url, timeout=20.0))
    assert mine.size(name) == 30 * MIB
    with ThreadPoolExecutor(1) as pool:
        other = Transport(access(place, server.url))
        assert other.size(name) == 30 * MIB
        proxied.proxy.stall = True
        waiting = pool.submit(mine.get, name, 30 * MIB)
        time.sleep(0.3)
        other.stop()
        time.sleep(0.3)
        proxied.proxy.stall = False
        assert len(waiting.result()) == 30 * MIB


def test_what_was_stopped_on_its_way_did_not_come(proxied, place):
    name = blob(proxied.artifact, "engine.plan")
    mine = Transport(access(place, proxied.proxy.url, timeout=20.0))
    assert mine.size(name) == 30 * MIB
    proxied.proxy.stall = True
    with ThreadPoolExecutor(3) as pool:
        waiting = [
            pool.submit(mine.get, name, 30 * MIB),
            pool.submit(mine.put, f"{name}.copy", b"x"),
            pool.submit(mine.size, name),
        ]
        time.sleep(0.3)
        mine.stop()
        for one in waiting:
            with pytest.raises(NotReachable, match="stopped"):
                one.result(timeout=15)


def test_what_is_stopped_before_its_first_step_ends_too(place, server):
    from fsspec.asyn import get_loop

    mine = Transport(access(place, server.url))
    assert mine.size("nothing") is None
    go_on = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        get_loop().call_soon_threadsafe(go_on.wait)
        waiting = [pool.submit(mine.size, "nothing"), pool.submit(mine.put, "something", b"x")]
        time.sleep(0.3)  # both are asked for now, and none has begun
        mine.stop()
        go_on.set()
        for one in waiting:
            with pytest.raises(NotReachable, match="stopped"):
                one.result(timeout=10)


@pytest.mark.slow
def test_two_who_fetch_into_one_store_at_once_both_get_it(proxied, tmp_path, place, server):
    def fetch(_):
        folder = proxied.store.folder
        with State(folder) as state, a_remote(place, Store(folder, state), server.url) as one:
            return one.fetch(a_key().digest).artifact

    with ThreadPoolExecutor(3) as pool:
        assert [one.digest for one in pool.map(fetch, range(3))] == [proxied.artifact.digest] * 3
    assert isinstance(proxied.store.lookup(a_key().digest), Hit)
    assert files_below(proxied.store.folder, "partial") == []


MEMORY = """\
import os, resource, sys
from tests.remote.test_signed_store import a_key, a_remote
from trtpipe.store.state import State
from trtpipe.store.store import Store
with State(sys.argv[1]) as state, a_remote(sys.argv[2], Store(sys.argv[1], state), sys.argv[3]) as one:
    assert one.fetch(a_key("nothing").digest) is None  # what imports take, is taken
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    one.fetch(a_key().digest)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_memory_is_bounded_however_big_a_plan_is(place, server, stores):
    ci, here = stores("ci"), stores("here")
    block = os.urandom(MIB)
    artifact = commit(ci, {"engine.plan": block * 320})
    with a_remote(place, ci, server.url) as one:
        one.push([a_key().digest], CI)
    del block
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, here.folder, place, server.url], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 120, f"{done.stdout} MiB for a plan of 320 MiB"
    assert isinstance(here.lookup(a_key().digest), Hit)
    assert here.lookup(a_key().digest).artifact == artifact


# --- folders and web servers


def test_a_shared_folder_serves_too(tmp_path, stores):
    ci, here = stores("ci"), stores("here")
    artifact = commit(ci, FILES)
    with a_remote(f"file://{tmp_path / 'share'}", ci) as one:
        one.push([a_key().digest], CI)
        assert not [f for f in files_below(tmp_path, "share") if f.endswith(".tmp")]
    with a_remote(f"file://{tmp_path / 'share'}", here) as one:
        assert one.fetch(a_key().digest).artifact == artifact
        assert one.fetch(a_key("y").digest) is None


class Ranged(http.server.SimpleHTTPRequestHandler):
    """A web server for a folder, with ranges."""

    ranges = True

    def log_message(self, *args):
        pass

    def send_head(self):
        span = self.headers.get("Range")
        path = self.translate_path(self.path)
        if not (span and self.ranges and os.path.isfile(path)):
            return super().send_head()
        first, last = (int(x) for x in span.removeprefix("bytes=").split("-"))
        size = os.path.getsize(path)
        last = min(last, size - 1)
        stream = open(path, "rb")  # noqa: SIM115 — the caller closes it
        stream.seek(first)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.left = last - first + 1
        return stream

    def copyfile(self, source, outputfile):
        outputfile.write(source.read(getattr(self, "left", None)))


class Plain(Ranged):
    """A web server that sends whole files only."""

    ranges = False


@pytest.mark.parametrize("handler", [Ranged, Plain])
def test_a_web_server_serves_who_reads(tmp_path, stores, handler):
    ci, here = stores("ci"), stores("here")
    artifact = commit(ci, {"engine.plan": os.urandom(20 * MIB), "empty": b""})
    with a_remote(f"file://{tmp_path / 'share'}", ci) as one:
        one.push([a_key().digest], CI)
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=tmp_path / "share"))
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    try:
        with a_remote(f"http://127.0.0.1:{web.server_port}", here) as one:
            assert one.fetch(a_key("y").digest) is None
            sha256 = artifact.files["engine.plan"][0]
            with open(one._partial(sha256), "wb") as part, open(ci.blob_path(sha256), "rb") as whole:
                part.write(whole.read(5 * MIB))
            assert one.fetch(a_key().digest).artifact == artifact
            commit(here, {"a": b"1"}, a_key("mine"))
            with pytest.raises(StoreError, match="can only be read"):
                one.push([a_key("mine").digest], CI)
    finally:
        web.shutdown()
        thread.join()
        web.server_close()


# --- what is said and what is kept to ourselves


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/x", "s3://bucket/x"), ("https://me:secret@host/x", "https://…@host/x"),
        ("https://host/x?X-Amz-Signature=abc&y", "https://host/x?…"), ("token=abc def", "token=… def"),
        ("cannot open 'https://u:p@h/a?b=c' now", "cannot open 'https://…@h/a?…' now"),
    ],
)  # fmt: skip
def test_credentials_are_taken_out_of_what_is_shown(text, shown):
    assert redact(text) == shown


def test_credentials_in_options_never_show(place, stores):
    (port,) = s3.free_ports(1)
    with a_remote(place, stores("here"), f"http://127.0.0.1:{port}", key="AKIAsesame", secret="sesame-open") as one:
        with pytest.raises(NotReachable) as caught:
            one.fetch(a_key().digest)
        one.failed(caught.value)
        assert "sesame" not in str(caught.value) + str(one.said)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(EnvironmentMissing, match=r"trtpipe\[remote\]"):
        Transport(access("s3://bucket"))


# --- settings


def pipeline(remote=None):
    return Pipeline("p", "auto", "p.yaml", {}, remote)


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in (settings.VARIABLE, signing.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "trtpipe").mkdir()
    return tmp_path / "trtpipe" / "config.yaml"


def test_the_command_line_comes_before_the_document_and_that_before_the_config(config, monkeypatch):
    assert settings.settings(pipeline()) is None
    config.write_text("remote: {url: s3://config}\n")
    assert settings.settings(pipeline()).access.url == "s3://config"
    document = pipeline({"url": "s3://document/", "mode": "write"})
    found = settings.settings(document)
    assert (found.access.url, found.writes) == ("s3://document", True)
    monkeypatch.setenv(settings.VARIABLE, "s3://variable")
    assert settings.settings(document).access.url == "s3://variable"
    found = settings.settings(document, "s3://line")
    assert (found.access.url, found.writes) == ("s3://line", False)
    assert settings.settings(document, "off") is None


def test_options_and_credentials_go_only_to_the_address_beside_them(config):
    config.write_text("remote: {url: s3://team, endpoint: http://localhost:1, options: {key: k, secret: s}}\n")
    document = pipeline({"url": "s3://team", "mode": "read"})
    assert settings.settings(document).access.options == {"key": "k", "secret": "s"}
    other = settings.settings(pipeline({"url": "s3://elsewhere"}))
    assert (other.access.options, other.access.endpoint) == ({}, None)


def test_trust_is_the_documents_and_the_users_and_the_users_comes_first(config):
    signing.trust("ci", MALLORY.public)
    document = pipeline({"url": "s3://x", "trust": {"ci": CI.public, "build": CI.public}})
    assert settings.settings(document).trust == {"ci": MALLORY.public, "build": CI.public}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("remote: {}\n", 'found no "url"|url'), ("remotes: {url: s3://x}\n", "unknown key"),
        ("remote: {url: ftp://x}\n", "remote.url"), ("remote: {url: s3://x, mode: push}\n", "remote.mode"),
        ("remote: {url: s3://x, trust: {ci: abc}}\n", "remote.trust.ci"),
    ],
)  # fmt: skip
def test_a_config_that_is_wrong_is_said_with_its_line(config, text, why):
    config.write_text(text)
    with pytest.raises(PipelineInvalid, match=why) as caught:
        settings.settings(pipeline())
    assert f"{config}:1:" in str(caught.value)


@pytest.mark.parametrize("url", ["ftp://x", "x", "s3://", "simplecache::s3://x", "s3://a::b"])
def test_an_address_that_is_none_is_refused(config, url):
    with pytest.raises(PipelineInvalid):
        settings.settings(pipeline(), url)
