"""Digest of a 2 GB file against `openssl speed` at blocks of the same size, and what an unchanged file costs.

The file is in the page cache: what is measured is hashing, not the disk. The goal is 85 % of openssl's figure.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

sys.path.insert(0, str(common.PROJECT))
from trtpipe import key
from trtpipe.store.state import State

GOAL = 0.85
RACY_SECONDS = 2.5


def openssl(seconds: int) -> float:
    """Give openssl's SHA-256 throughput in bytes a second, at blocks of the size that trtpipe reads."""
    command = ["openssl", "speed", "-elapsed", "-seconds", str(seconds), "-bytes", str(key.CHUNK), "-evp", "sha256"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    match = re.search(r"(\d+) sha256(?: ops)? in ([\d.]+)s|Doing .*?: (\d+) .*? in ([\d.]+)s", done.stderr)
    if match is None:
        sys.exit(f"openssl speed printed something else:\n{done.stderr}")
    count, took = (match[1], match[2]) if match[1] else (match[3], match[4])
    return int(count) * key.CHUNK / float(took)


def bytes_read() -> int:
    """Give the bytes that this process has read so far."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    raise AssertionError


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3, help="how long openssl is measured each time")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "weights.bin")
        size = int(args.gigabytes * 1e9)
        block = os.urandom(1 << 20)
        with open(path, "wb") as stream:
            stream.writelines(block for _ in range(size // len(block)))
        size = os.path.getsize(path)
        key.digest_file(path)  # into the page cache
        mine, peer = [], []
        for _ in range(args.times):
            peer.append(openssl(args.seconds))
            started = time.perf_counter()
            sha256 = key.digest_file(path)
            mine.append(size / (time.perf_counter() - started))
        ratio = statistics.median(mine) / statistics.median(peer)
        time.sleep(RACY_SECONDS)  # a file written just now is not trusted to be at rest
        with State(folder) as state:
            first = state.file_digest(path)
        with State(folder) as state:
            before, started = bytes_read(), time.perf_counter()
            again = state.file_digest(path)
            took, read = time.perf_counter() - started, bytes_read() - before
        if not sha256 == first == again:
            sys.exit("the digests differ")
    rows = [
        ["what", "MB/s", "of openssl", "goal"],
        [f"openssl speed -evp sha256 -bytes {key.CHUNK}", common.spread(peer, 1e-6), "1.00", ""],
        [f"trtpipe.key.digest_file, {size / 1e9:.1f} GB", common.spread(mine, 1e-6), f"{ratio:.2f}",
         f"≥ {GOAL}: {'met' if ratio >= GOAL else 'MISSED'}"],
    ]  # fmt: skip
    openssl_version = subprocess.run(["openssl", "version"], check=True, capture_output=True, text=True).stdout.strip()
    notes = [
        f"Median (lowest to highest) of {args.times}, in turns.",
        f"The same file again, unchanged: {took * 1e3:.2f} ms, {read:,} bytes read, all of the state.",
        f"{openssl_version}; {common.machine()}",
    ]
    common.show("Digest of a file", rows, notes)


if __name__ == "__main__":
    main()
