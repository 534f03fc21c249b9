"""Inputs from outside the pipeline: found, checked, digested."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from trtpipe import environment, project
from trtpipe.errors import EnvironmentMissing, PipelineInvalid, StoreError
from trtpipe.row import Row
from trtpipe.store.artifact import Artifact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.pipeline.graph import Pipeline, Source, Stage
    from trtpipe.store.state import State
    from trtpipe.store.store import Store

MAX_FILES = 200_000


class Found(Row):
    """An input from outside as it is now. `folder` is None for a url whose content is not in the store yet."""

    artifact: Artifact
    folder: str | None


def check(pipeline: Pipeline, stages: tuple[str, ...], *, allow_outside: bool, store: str = "") -> None:
    """Check before anything runs that every file exists and that none is outside the project.

    Raises PipelineInvalid with every missing or outside file, EnvironmentMissing for a package that is absent.
    """
    problems: list[str] = []
    missing: dict[str, None] = {}
    root = None if allow_outside else pipeline.root
    for name in stages:
        stage = pipeline.stages[name]
        for source in stage.inputs.values():
            if isinstance(source, str):
                continue
            if source.file is not None:
                problems += file_problems(pipeline.folder, source.file, source.place, root)
            elif source.package is not None and environment.find_file(source.package) is None:
                missing[f"{source.place}: {_package_missing(source.package)}"] = None
        for file in stage.sources:
            problems += _source_problems(pipeline.folder, file, f"{stage.place}.params", root, store)
        for module in stage.modules:
            if module_files(module) is None:
                top = module.split(".", 1)[0]
                missing[f"{stage.place}.params: the module {module} is not installed: pip install {top}"] = None
    if problems:
        raise PipelineInvalid(list(dict.fromkeys(problems)))
    if missing:
        raise EnvironmentMissing("\n".join(missing))


def file_problems(folder: str, file: str, place: str, root: str | None) -> list[str]:
    """Give the errors of a path in a document in `folder`: it does not exist, or is outside `root` (None: no limit)."""
    path = os.path.join(folder, file)
    if "\0" in file:
        return [f"{place}: found a path with a null character"]
    if root is not None and not project.holds(root, path):
        plain = ".." not in file.split("/") and not os.path.isabs(file)
        shown = "through a link" if plain else f"to {os.path.realpath(path)}"
        return [f"{place}: {file} leads out of the project {shown}; allow it with --allow-outside"]
    if not os.path.exists(path):
        if os.path.islink(path):
            return [f"{place}: {file} is a link to a file that does not exist"]
        from trtpipe.words import nearest

        here = os.path.dirname(path)
        close = nearest(os.path.basename(path), os.listdir(here) if os.path.isdir(here) else [])
        # As it should be in the document, with its folder.
        hint = f', did you mean "{os.path.join(os.path.dirname(file), close)}"?' if close else ""
        return [f"{place}: there is no file {file} beside the document{hint}"]
    if not os.path.isfile(path) and not os.path.isdir(path):
        return [f"{place}: {file} is neither a file nor a folder"]  # a pipe or device may never end
    return []


def _source_problems(folder: str, source: str, place: str, root: str | None, store: str) -> list[str]:
    """Give the errors of a declared source: a file, a folder, or a pattern of files."""
    path = os.path.join(folder, source)
    if not _is_pattern(path) and not os.path.isdir(path):
        return file_problems(folder, source, place, root)
    try:
        files = source_files(source, folder, root, place, store)
    except PipelineInvalid as error:
        return list(error.problems)
    except OSError as error:
        return [f"{place}: {source} cannot be read: {_what(error, path)}"]
    what = "file fits the pattern" if _is_pattern(path) else "file is in the folder"
    return [p for one in files for p in file_problems(folder, one, place, root)] or (
        [] if files else [f"{place}: no {what} {source}"]
    )


def source_files(source: str, folder: str, root: str | None = None, place: str = "", store: str = "") -> list[str]:
    """Give the files that a declared source of a document in `folder` stands for, by their paths from there.

    A folder stands for all files below it but hidden ones, bytecode and the store's; a pattern (`data/*.json`, `**`)
    for what fits it. The name of a file that exists is no pattern. Raises what `_files_below` raises.
    """
    path = os.path.join(folder, source)
    if os.path.isdir(path):
        found = (os.path.relpath(full, path) for full in _files_below(path, source, place, root, store))
        return sorted(os.path.join(source, one) for one in found if "__pycache__" not in one.split(os.sep))
    if _is_pattern(path):
        import glob

        every = glob.glob(source, root_dir=folder, recursive=True)
        return sorted(one for one in every if os.path.isfile(os.path.join(folder, one)))
    return [source]


def _is_pattern(path: str) -> bool:
    return any(mark in path for mark in "*?[") and not os.path.lexists(path)


def stands_for(source: str, name: str) -> bool:
    """Tell whether a declared source, by its name in records, stands for a file of this name there."""
    import fnmatch

    return name == source or name.startswith(f"{source}/") or fnmatch.fnmatchcase(name, source.replace("**/", "*"))


def _package_missing(package: str) -> str:
    top = package.split("/", 1)[0]
    if environment.find_file(top) is None:
        return f"the package {top}, which has {package}, is not installed: pip install {top}"
    return f"the package {top} is installed, but has no file {package}; try another version"


def find(source: Source, folder: str, store: Store, root: str | None = None) -> Found:
    """Give an input from outside with its digest. Links in a folder lead out of `root` only if that is None.

    Raises StoreError if it changes while it is read.
    """
    if source.url is not None:
        assert source.sha256 is not None
        blob = store.blob_path(source.sha256)
        name, size = _url_name(source.url), os.path.getsize(blob) if os.path.exists(blob) else 0
        there = os.path.exists(blob) and store.damage(source.sha256, size, name) is None
        artifact = Artifact("file", {name: (source.sha256, size if there else 0)})
        return Found(artifact, store.tree(artifact) if there else None)
    if source.file is not None:
        path = os.path.join(folder, source.file)
    else:
        assert source.package is not None
        found = environment.find_file(source.package)
        if found is None:
            raise EnvironmentMissing(_package_missing(source.package))
        path = found
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise PipelineInvalid(f"{source.place}: {source.label} is neither a file nor a folder")
    limit = root if source.file is not None else None
    try:
        return _folder(path, source, store, limit) if os.path.isdir(path) else _file(path, source, store.state, limit)
    except OSError as error:
        raise PipelineInvalid(f"{source.place}: {source.label} cannot be read: {_what(error, path)}") from None


def _file(path: str, source: Source, state: State, root: str | None) -> Found:
    """Digest a file, and of an ONNX model its external data; links among these lead out of `root` only if it is None.

    A model cache holds links beside each other that lead to its blobs. Raises PipelineInvalid for a link out of `root`.
    """
    folder, name = os.path.split(os.path.abspath(path))
    sha256 = state.file_digest(os.path.join(folder, name))
    files = {name: (sha256, os.path.getsize(path))}
    if source.model and name.endswith(".onnx"):
        for location in _external(os.path.join(folder, name), sha256, state):
            beside = os.path.join(folder, *location.split("/"))
            # The stage's body refuses a missing or outside file, with the model's name.
            if os.path.isabs(location) or ".." in location.split("/") or not os.path.isfile(beside):
                continue
            if root is not None and not project.holds(root, beside):
                raise PipelineInvalid(
                    f"{source.place}: the external data {location!r} of {source.label} leads out of the project "
                    "through a link; allow it with --allow-outside"
                )
            files[location] = (state.file_digest(beside), os.path.getsize(beside))
    return Found(Artifact("file", dict(sorted(files.items()))), folder)


def _external(path: str, sha256: str, state: State) -> list[str]:
    """Give the locations of an ONNX file's external data; onnx is imported only for a file not seen before."""
    if known := state.derived("locations", sha256):
        return [str(location) for location in json.loads(known)]
    from trtpipe.models import onnxfile

    locations = onnxfile.external_locations(path)
    state.remember_derived("locations", sha256, json.dumps(locations))
    return locations


def _folder(path: str, source: Source, store: Store, root: str | None) -> Found:
    """Digest a folder: every file but hidden ones and the store's, by name. Links are followed; out of `root` if None.

    Nothing is left out in silence. Raises PipelineInvalid for a link that leads out of `root`, to nothing or in a
    circle, and for what is neither a file nor a folder; OSError for what cannot be listed or read.
    """
    top = os.path.abspath(path)
    files: dict[str, tuple[str, int]] = {}
    for full in _files_below(path, source.label, source.place, root, store.folder):
        name = os.path.relpath(full, top).replace(os.sep, "/")
        files[name] = (store.state.file_digest(full), os.path.getsize(full))
    return Found(Artifact("folder", dict(sorted(files.items()))), top)


def _files_below(path: str, label: str, place: str, root: str | None, skip: str) -> Iterator[str]:
    """Give the absolute paths of the files below a folder but hidden ones, and what is in the folder `skip`.

    Raises what `_folder` raises, and StoreError if there are too many.
    """
    top = os.path.abspath(path)
    number = 0

    def refused(full: str, why: str) -> PipelineInvalid:
        return PipelineInvalid(f"{place}: {label}/{os.path.relpath(full, top)} {why}")

    for folder, names, here in os.walk(top, onerror=_raise, followlinks=True):
        names[:] = sorted(n for n in names if not _is_left_out(n) and os.path.join(folder, n) != skip)
        for name in (*names, *sorted(here)):
            full = os.path.join(folder, name)
            if not _is_utf8(full):
                raise PipelineInvalid(f"{path}: found a file called {os.fsencode(name)!r}, expected names in UTF-8")
            if _is_left_out(name):
                continue
            if os.path.islink(full):
                if root is not None and not project.holds(root, full):
                    raise refused(full, "leads out of the project through a link; allow it with --allow-outside")
                if not os.path.exists(full):
                    raise refused(full, "is a link to a file that does not exist")
            if os.path.isdir(full):
                if os.path.islink(full) and _is_circle(full, top):
                    raise refused(full, "is a link to a folder in which it lies")
                continue
            if not os.path.isfile(full):
                raise refused(full, "is neither a file nor a folder")
            yield full
            number += 1
            if number > MAX_FILES:
                raise StoreError(f"{path}: found more than {MAX_FILES} files, which is the limit of an input")


def _is_left_out(name: str) -> bool:
    return name.startswith(".")


def _what(error: OSError, path: str) -> str:
    name = os.path.relpath(os.fspath(error.filename), path) if isinstance(error.filename, str) else "."
    return f"{error.strerror}" if name == "." else f"{name}: {error.strerror}"


def _raise(error: OSError) -> None:
    raise error


def _is_circle(link: str, top: str) -> bool:
    """Tell whether a link leads to one of the folders through which it was reached."""
    aim, folder = os.path.realpath(link), os.path.dirname(link)
    while True:
        if os.path.realpath(folder) == aim:
            return True
        if folder == top:
            return os.path.realpath(top).startswith(os.path.join(aim, ""))
        folder = os.path.dirname(folder)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def sources(stage: Stage, pipeline: Pipeline, store: Store) -> dict[str, str]:
    """Give the content digests of a stage's own source files and modules, by their names in records."""
    found = {}
    for source in stage.sources:
        for file in source_files(source, pipeline.folder, store=store.folder):
            path = os.path.abspath(os.path.join(pipeline.folder, file))
            found[project.name(path, pipeline.root)] = store.state.file_digest(path)
    for module in stage.modules:
        for name, path in (module_files(module) or {}).items():
            found[name] = store.state.file_digest(path)
    return found


def module_files(module: str) -> dict[str, str] | None:
    """Give every file of the top-level package that a module belongs to, without importing it."""
    top = module.split(".", 1)[0]
    single = environment.find_file(f"{top}.py")
    package = environment.find_file(top)
    if package is None or not os.path.isdir(package):
        return {f"{top}.py": os.path.abspath(single)} if single and "." not in module else None
    parts = os.path.join(os.path.dirname(package), *module.split("."))
    if not os.path.isdir(parts) and not os.path.exists(parts + ".py"):
        return None
    files = {}
    for folder, names, here in os.walk(package):
        names[:] = sorted(n for n in names if n != "__pycache__")
        for name in here:
            path = os.path.abspath(os.path.join(folder, name))
            files[os.path.relpath(path, os.path.dirname(os.path.abspath(package))).replace(os.sep, "/")] = path
    return files


def _url_name(url: str) -> str:
    name = url.split("?", 1)[0].split("#", 1)[0].rstrip("/").rpartition("/")[2]
    return name if name not in ("", ".", "..") else "file"


def fetch(source: Source, store: Store) -> Found:
    """Fetch a url into the store. Raises StoreError if its digest is not the one in the document, and keeps nothing."""
    import hashlib
    import urllib.parse

    assert source.url is not None
    assert source.sha256 is not None
    try:
        import fsspec
    except ImportError:
        raise EnvironmentMissing("a url needs fsspec, which is not installed: pip install 'trtpipe[remote]'") from None
    with store.workspace() as folder:
        path = os.path.join(folder, "download")
        hasher, size = hashlib.sha256(), 0
        try:
            with fsspec.open(source.url, "rb") as remote, open(path, "wb") as local:
                while chunk := remote.read(1 << 20):
                    hasher.update(chunk)
                    local.write(chunk)
                    size += len(chunk)
        except ImportError as error:
            scheme = urllib.parse.urlsplit(source.url).scheme
            raise EnvironmentMissing(f"{source.label}: fsspec needs another package for {scheme}: {error}") from None
        except Exception as error:
            # fsspec's file systems raise any class of error; each means that the content was not fetched.
            raise StoreError(f"{source.label} cannot be fetched: {type(error).__name__}: {error}") from error
        if hasher.hexdigest() != source.sha256:
            raise StoreError(
                f"{source.place}: {source.label} has the wrong content: found sha256 {hasher.hexdigest()} "
                f"({size} bytes), expected {source.sha256}; nothing is kept"
            )
        store.take_file(path, source.sha256, size)
    return find(source, "", store)
