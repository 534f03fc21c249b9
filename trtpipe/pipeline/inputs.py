"""Inputs from outside the pipeline: found, checked, digested."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple

from trtpipe import environment, project
from trtpipe.errors import EnvironmentMissing, PipelineInvalid, StoreError
from trtpipe.store.artifact import Artifact

if TYPE_CHECKING:
    from trtpipe.pipeline.graph import Pipeline, Source, Stage
    from trtpipe.store.state import State
    from trtpipe.store.store import Store

MAX_FILES = 200_000


class Found(NamedTuple):
    """An input from outside as it is now. `folder` is None for a url whose content is not in the store yet."""

    artifact: Artifact
    folder: str | None


def check(pipeline: Pipeline, stages: tuple[str, ...], *, allow_outside: bool) -> None:
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
            place = f"{stage.place}.params"
            found = file_problems(pipeline.folder, file, place, root)
            if not found and os.path.isdir(os.path.join(pipeline.folder, file)):
                hint = "name each one; what the code itself reads of a folder is seen, and need not be named"
                found = [f"{place}: found the folder {file}, expected files: {hint}"]
            problems += found
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


def _below(folder: str) -> str:
    """Give the beginning of the real paths of all files in a folder; it may be `/`."""
    return os.path.join(os.path.realpath(folder), "")


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
        return _folder(path, source, store, limit) if os.path.isdir(path) else _file(path, source.model, store.state)
    except OSError as error:
        raise PipelineInvalid(f"{source.place}: {source.label} cannot be read: {_what(error, path)}") from None


def _file(path: str, is_model: bool, state: State) -> Found:
    folder, name = os.path.split(os.path.abspath(path))
    sha256 = state.file_digest(os.path.join(folder, name))
    files = {name: (sha256, os.path.getsize(path))}
    if is_model and name.endswith(".onnx"):
        for location in _external(os.path.join(folder, name), sha256, state):
            beside = os.path.join(folder, *location.split("/"))
            inside = os.path.realpath(beside).startswith(_below(folder))
            # The stage's body refuses a missing or outside file, with the model's name.
            if inside and os.path.isfile(beside):
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
    state = store.state
    files: dict[str, tuple[str, int]] = {}

    def refused(full: str, why: str) -> PipelineInvalid:
        return PipelineInvalid(f"{source.place}: {source.label}/{os.path.relpath(full, top)} {why}")

    for folder, names, here in os.walk(top, onerror=_raise, followlinks=True):
        names[:] = sorted(n for n in names if not n.startswith(".") and os.path.join(folder, n) != store.folder)
        for name in (*names, *sorted(here)):
            full = os.path.join(folder, name)
            if not _is_utf8(full):
                raise PipelineInvalid(f"{path}: found a file called {os.fsencode(name)!r}, expected names in UTF-8")
            if name.startswith("."):
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
            files[os.path.relpath(full, top).replace(os.sep, "/")] = (state.file_digest(full), os.path.getsize(full))
            if len(files) > MAX_FILES:
                raise StoreError(f"{path}: found more than {MAX_FILES} files, which is the limit of an input")
    return Found(Artifact("folder", dict(sorted(files.items()))), top)


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


def sources(stage: Stage, pipeline: Pipeline, state: State) -> dict[str, str]:
    """Give the content digests of a stage's own source files and modules, by their names in records."""
    found = {}
    for file in stage.sources:
        path = os.path.abspath(os.path.join(pipeline.folder, file))
        found[project.name(path, pipeline.root)] = state.file_digest(path)
    for module in stage.modules:
        for name, path in (module_files(module) or {}).items():
            found[name] = state.file_digest(path)
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
