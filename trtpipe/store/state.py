"""`state.sqlite`: facts that can be found again. Losing it costs time but makes no result wrong."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Any

from trtpipe import key
from trtpipe.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

_VERSION = 5
_TABLES = f"""
CREATE TABLE files (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, sha256 TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE resolved (known TEXT PRIMARY KEY, pipeline TEXT NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE looked (known TEXT PRIMARY KEY, text TEXT NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE derived (name TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS last (
    pipeline TEXT, stage TEXT, key TEXT NOT NULL, seconds REAL, PRIMARY KEY (pipeline, stage)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history (
    pipeline TEXT NOT NULL, stage TEXT NOT NULL, key TEXT NOT NULL, at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS history_of ON history (pipeline, stage);
CREATE TABLE failed (key TEXT PRIMARY KEY, why TEXT NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
"""
_SAME_SINCE = 3
"""Since this version the tables `last` and `history` are what they are now, so they outlive a change of the others."""
_KNOWN = 50_000
_KEEP_RESOLVED = 500
_KEEP_LOOKED = 100
_KEEP_HISTORY = 100
_KEEP_FAILED = 500
_RACY_NS = 2_000_000_000


def stamp(status: os.stat_result) -> str:
    """Give what changes when a file's content does: device, inode, size, and both times in nanoseconds."""
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


_BROKEN = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What sqlite3 raises for a damaged file; the second if the damage is in the text of its message."""


class State:
    """The run-time state of one store. Use as a context manager; writes are committed together at its end."""

    def __init__(self, folder: str) -> None:
        """Open or make the state below `folder`; if that fails, keep the state in memory."""
        self._path = os.path.join(folder, "state.sqlite")
        self._database = self._open()
        self._known: dict[str, tuple[str, str]] = {}
        """Remembered digests that were read all at once, by path."""
        self.seen: dict[str, str] = {}
        """For each requested file, a stamp that changes when it is written (without ctime, which links change)."""

    def _open(self) -> sqlite3.Connection:
        if os.path.isdir(os.path.dirname(self._path)):
            for attempt in range(2):
                try:
                    return self._connect(self._path)
                except _BROKEN as error:
                    # A locked or unwritable state is not damaged.
                    broken = not isinstance(error, sqlite3.OperationalError)
                    if attempt or not broken:
                        break
                    with contextlib.suppress(OSError):
                        os.replace(self._path, self._path + ".broken")
        return self._connect(":memory:")

    @staticmethod
    def _connect(path: str) -> sqlite3.Connection:
        database = sqlite3.connect(path, timeout=20, isolation_level=None, check_same_thread=False)
        try:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version != _VERSION:
                database.execute("BEGIN IMMEDIATE")
                if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                    kept = ("last", "history") if _SAME_SINCE <= version < _VERSION else ()
                    for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                        if table not in kept:
                            database.execute(f'DROP TABLE "{table}"')
                    for statement in _TABLES.split(";"):
                        database.execute(statement)
                database.execute("COMMIT")
        except BaseException:
            database.close()
            raise
        return database

    def __enter__(self) -> State:  # noqa: PYI034 — Self came with 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write new facts and close the file; safe to call twice."""
        self.commit()
        self._database.close()

    def commit(self) -> None:
        """Write new facts; what cannot be written is found again the next time."""
        with contextlib.suppress(sqlite3.ProgrammingError):  # it is closed
            if not self._database.in_transaction:
                return
            with contextlib.suppress(*_BROKEN):
                self._database.execute("COMMIT")

    def file_digest(self, path: str, status: os.stat_result | None = None) -> str:
        """Give a file's SHA-256; an unchanged file (stamp) is not read again. Raises OSError.

        `status` is what `os.stat` has just said of it, if the caller asked already.
        """
        status = status or os.stat(path)
        self.seen[path] = f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
        return self.remembered(path, status, key.digest_file)

    def remembered(self, path: str, status: os.stat_result, make: Callable[[str], str]) -> str:
        """Give what `make` says of a path, which is not asked again while the path's stamp stays.

        Raises StoreError if the path changes meanwhile, and what `make` raises.
        """
        now = stamp(status)
        row = self._known.get(path) or self._row("SELECT stamp, sha256 FROM files WHERE path = ?", (path,))
        if row and row[0] == now:
            return str(row[1])
        made = make(path)
        if stamp(os.stat(path)) != now:
            raise StoreError(f"{path} changed while it was read; run again when no program writes to it")
        # A file that was just written could be written again within one tick of its clock, without a new time.
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _RACY_NS:
            self._write("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (path, now, made))
            self._known.pop(path, None)
        return made

    def remembered_text(self, path: str, status: os.stat_result, make: Callable[[str], str]) -> str:
        """Do the same as `remembered` for a text that must be whole: it is made again if the state is damaged."""
        text = _unsealed((self.remembered(path, status, lambda one: _sealed(make(one), one)),), path)
        if text is None:
            self.forget(path)
            text = make(path)
        return text

    def expect_many(self) -> None:
        """Read the remembered digests at once, so that each of the next thousands of files needs no query."""
        if not self._known:
            rows = self._rows("SELECT path, stamp, sha256 FROM files LIMIT ?", (_KNOWN,))
            self._known = {path: (stamp_then, sha256) for path, stamp_then, sha256 in rows}

    def known_good(self, path: str, status: os.stat_result) -> str | None:
        """Give the digest remembered for a stored file whose inode, size and times are the same."""
        row = self._row("SELECT stamp, sha256 FROM files WHERE path = ?", (path,))
        return str(row[1]) if row and row[0] == _blob_stamp(status) else None

    def remember_good(self, path: str, status: os.stat_result, sha256: str) -> None:
        """Remember that a stored file was read and has its digest."""
        self._write("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (path, _blob_stamp(status), sha256))

    def written(self, path: str, status: os.stat_result) -> bool:
        """Tell whether a stored file is the one that was seen to be good, with another size or time: somebody wrote."""
        row = self._row("SELECT stamp FROM files WHERE path = ?", (path,))
        before = str(row[0]) if row else ""
        return before.startswith(f"blob:{status.st_ino}:") and before != _blob_stamp(status)

    def linked(self, path: str, status: os.stat_result) -> None:
        """Record that trtpipe made or removed a link to a stored file, which changes its ctime and not its content."""
        row = self._row("SELECT stamp, sha256 FROM files WHERE path = ?", (path,))
        now = _blob_stamp(status)
        if row and row[0] != now and row[0].rpartition(":")[0] == now.rpartition(":")[0]:
            self.remember_good(path, status, str(row[1]))

    def forget(self, path: str) -> None:
        """Forget a file's digest."""
        self._write("DELETE FROM files WHERE path = ?", (path,))

    def resolved(self, known: str) -> str | None:
        """Give a document's resolved pipeline (JSON), if this text with these settings passed before."""
        return _unsealed(self._row("SELECT pipeline FROM resolved WHERE known = ?", (known,)), known)

    def remember_resolved(self, known: str, pipeline: str) -> None:
        """Remember that a document passed, and what it resolved to; the oldest are forgotten."""
        self._write(
            "INSERT OR REPLACE INTO resolved VALUES (?, ?, ?)", (known, _sealed(pipeline, known), time.time_ns())
        )
        self._write(
            "DELETE FROM resolved WHERE known NOT IN (SELECT known FROM resolved ORDER BY used DESC LIMIT ?)",
            (_KEEP_RESOLVED,),
        )

    def looked(self, known: str) -> str | None:
        """Give where a stage's lists of names looked at its last hit (JSON, see trtpipe.run.unchanged)."""
        return _unsealed(self._row("SELECT text FROM looked WHERE known = ?", (known,)), known)

    def remember_looked(self, known: str, text: str) -> None:
        """Remember where a stage's lists of names looked; the oldest are forgotten."""
        self._write("INSERT OR REPLACE INTO looked VALUES (?, ?, ?)", (known, _sealed(text, known), time.time_ns()))
        self._write(
            "DELETE FROM looked WHERE known NOT IN (SELECT known FROM looked ORDER BY used DESC LIMIT ?)",
            (_KEEP_LOOKED,),
        )

    def derived(self, what: str, sha256: str) -> str | None:
        """Give what is known of a content, such as the locations of an ONNX file's external data (`locations`)."""
        name = f"{what} {sha256}"
        return _unsealed(self._row("SELECT text FROM derived WHERE name = ?", (name,)), name)

    def remember_derived(self, what: str, sha256: str, text: str) -> None:
        """Remember a fact about a content."""
        name = f"{what} {sha256}"
        self._write("INSERT OR REPLACE INTO derived VALUES (?, ?)", (name, _sealed(text, name)))

    def last(self, pipeline: str) -> dict[str, tuple[str, float | None]]:
        """Give, by stage, the key and seconds with which each stage of a pipeline was last made or found."""
        rows = self._rows("SELECT stage, key, seconds FROM last WHERE pipeline = ?", (pipeline,))
        return {stage: (digest, seconds) for stage, digest, seconds in rows}

    def remember_last(self, pipeline: str, stage: str, digest: str, seconds: float | None) -> None:
        """Remember the key with which a stage was made or found (seconds None: keep what is known)."""
        self._write(
            "INSERT INTO last VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET key = excluded.key, "
            "seconds = coalesce(excluded.seconds, seconds)",
            (pipeline, stage, digest, seconds),
        )

    def history(self, pipeline: str, stage: str) -> list[tuple[str, float]]:
        """Give the keys that a stage was made or found with, oldest first, each with the time (seconds since 1970)."""
        query = "SELECT key, at FROM history WHERE pipeline = ? AND stage = ? ORDER BY at, rowid"
        return [(digest, at / 1e9) for digest, at in self._rows(query, (pipeline, stage))]

    def remember_change(self, pipeline: str, stage: str, digest: str) -> None:
        """Remember that a stage has another key than the last time; the oldest are forgotten."""
        self._write("INSERT INTO history VALUES (?, ?, ?, ?)", (pipeline, stage, digest, time.time_ns()))
        self._write(
            "DELETE FROM history WHERE pipeline = ?1 AND stage = ?2 AND rowid NOT IN "
            "(SELECT rowid FROM history WHERE pipeline = ?1 AND stage = ?2 ORDER BY at DESC LIMIT ?3)",
            (pipeline, stage, _KEEP_HISTORY),
        )

    def failure(self, digest: str) -> str | None:
        """Give why the stage with a key failed when it last ran, if it did."""
        row = self._row("SELECT why FROM failed WHERE key = ?", (digest,))
        return str(row[0]) if row else None

    def remember_failure(self, digest: str, why: str) -> None:
        """Remember why the stage with a key failed; the oldest are forgotten."""
        self._write("INSERT OR REPLACE INTO failed VALUES (?, ?, ?)", (digest, why, time.time_ns()))
        self._write(
            "DELETE FROM failed WHERE key NOT IN (SELECT key FROM failed ORDER BY at DESC LIMIT ?)", (_KEEP_FAILED,)
        )

    def forget_failure(self, digest: str) -> None:
        """Forget a failure: the stage has been made."""
        if self.failure(digest) is not None:
            self._write("DELETE FROM failed WHERE key = ?", (digest,))

    def _rows(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.OperationalError:
            return []  # locked by a long writer: learn again
        except _BROKEN:
            self._give_up()
            return []

    def _row(self, query: str, values: tuple[object, ...]) -> tuple[Any, ...] | None:
        rows = self._rows(query, values)
        return rows[0] if rows else None

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            if not self._database.in_transaction:
                self._database.execute("BEGIN IMMEDIATE")
            self._database.execute(statement, values)
        except sqlite3.OperationalError:
            pass  # read-only, or locked by a long writer: the facts can be found again
        except _BROKEN:
            self._give_up()

    def _give_up(self) -> None:
        """Put a damaged state aside, and go on in memory."""
        self._database.close()
        with contextlib.suppress(OSError):
            os.replace(self._path, self._path + ".broken")
        self._database = self._connect(":memory:")


def _blob_stamp(status: os.stat_result) -> str:
    # ctime comes last: links that we make or remove move it, see `linked`. No device: it may change between mounts.
    return f"blob:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def _sealed(text: str, name: str) -> str:
    """Put a digest before a text on which a key depends, because SQLite does not notice a flipped byte."""
    return f"{key.digest([name, text])}:{text}"


def _unsealed(row: tuple[Any, ...] | None, name: str) -> str | None:
    """Give a sealed text, or None if it is missing or damaged."""
    seal, _, text = str(row[0]).partition(":") if row else ("", "", "")
    return text if seal and seal == key.digest([name, text]) else None
