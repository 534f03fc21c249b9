"""Commands of the way out: `deploy` writes a bundle, `serve-check` runs one."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from trtpipe import errors
from trtpipe.cli.opening import open_pipeline
from trtpipe.cli.printing import answer, for_programs, message, wrapped
from trtpipe.formatting import size_text

if TYPE_CHECKING:
    import argparse

    from trtpipe.deploy.writing import Ready


def deploy(args: argparse.Namespace) -> int:
    """Write an engine with all that is known of it to where it is used."""
    from trtpipe.deploy import oci, triton, writing

    if not args.to:
        raise errors.PipelineInvalid("--to: found nothing, expected a path")
    if args.link and args.form != "folder":
        raise errors.PipelineInvalid(f"found --link with --as {args.form}, expected it with --as folder")
    for one in args.licence:
        if not os.path.isfile(one):
            raise errors.PipelineInvalid(f"--licence: {one}: there is no such file")
    lookup = open_pipeline(args).lookup
    ready = writing.prepare(lookup, args.stage, allow_failed=args.allow_failed, licences=tuple(args.licence))
    contents = ready.contents
    if args.form == "triton":
        contents = triton.files_of(ready, os.path.basename(os.path.abspath(args.to)))
        ready = ready._replace(contents=contents)
    elif args.form == "oci":
        ready = ready._replace(contents=oci.files_of(ready))
    if args.dry_run:
        _told(args, ready, None)
        return 0
    if args.form == "tar":
        path, new = writing.to_tar(ready, args.to)
    elif args.form in ("triton", "oci"):
        path, new = writing.to_model(ready, args.to)
    else:
        notes: list[str] = []
        path, new = writing.to_folder(ready, args.to, link=args.link, note=notes.append)
        ready = ready._replace(told=(*ready.told, *notes))
    _told(args, ready, path, new=new)
    return 0


def _told(args: argparse.Namespace, ready: Ready, path: str | None, *, new: bool = True) -> None:
    sizes = {
        name: len(content) if isinstance(content, bytes) else os.path.getsize(content)
        for name, content in sorted(ready.contents.items())
    }
    value: dict[str, Any] = {
        "path": path, "new": new, "as": args.form, "files": sizes, "told": ready.told, "samples": ready.bundle.samples,
        "requirements": [{"stage": one.stage, "figure": one.figure, "value": one.value, "rule": one.rule,
                          "passed": one.passed} for one in ready.bundle.requirements],
    }  # fmt: skip
    lines = [*(f"note: {one}" for one in ready.told)]
    lines += [f"{one.stage}: {one.figure} {one.value:.6g} {one.rule} {'✓' if one.passed else '✗'}"
              if isinstance(one.value, float | int) else f"{one.stage}: {one.figure} {one.value} {one.rule}"
              for one in ready.bundle.requirements]  # fmt: skip
    lines += [f"  {name}  {size_text(size)}" for name, size in sizes.items()]
    total = size_text(sum(sizes.values()))
    if path is None:
        lines.append(f"nothing was written; this would be {len(sizes)} files, {total}, in {args.to}")
    elif new:
        lines.append(f"{path}  {total}")
    else:
        lines.append(f"{path}  is the same bundle already; nothing was written")
    answer(value, as_json=args.json, lines=lines)


def serve_check(args: argparse.Namespace) -> int:
    """Load a bundle as a server would, run its recorded samples, compare and time; exit 5 past a bound."""
    from trtpipe.api.engine import Engine
    from trtpipe.deploy import serving

    trust = _trust(args.trust)
    if args.calls < 1:
        raise errors.PipelineInvalid(f"--calls: found {args.calls}, expected at least 1")
    start = time.perf_counter()
    folder, bundle = serving.find(args.bundle, trust)
    with Engine.open(folder, verify=False) as engine:  # every file was compared a line above
        opened = time.perf_counter() - start
        found = serving.check(folder, engine.run, bundle, opened=opened, bound=args.bound,
                              latency_ms=args.latency, calls=args.calls)  # fmt: skip
    value = {
        "bundle": str(folder), "pipeline": bundle.pipeline, "stage": bundle.stage, "key": bundle.key,
        "samples": bundle.samples, "relative_l2": found.differences, "bound": found.bound,
        "problems": list(found.problems), "open_ms": found.open_ms, "first_ms": found.first_ms,
        "median_ms": found.median_ms, "p99_ms": found.p99_ms, "calls": found.calls,
    }  # fmt: skip
    if args.json:
        for_programs(json.dumps(value))
        return errors.GateFailed.exit_code if found.problems else 0
    wrapped(f"{folder}: {bundle.pipeline}/{bundle.stage}, key {bundle.key[:12]}", hang=2)
    for name, difference in found.differences.items():
        sign = "✓" if difference <= found.bound else "✗"
        wrapped(f"{name}  relative L2 {difference:.3g}  <= {found.bound:g} {sign}", hang=2)
    wrapped(f"opened in {found.open_ms:.0f} ms, first call {found.first_ms:.3g} ms", hang=2)
    wrapped(f"a call of {bundle.samples} samples: median {found.median_ms:.3g} ms, 99 % within {found.p99_ms:.3g} ms "
            f"({found.calls} calls)", hang=2)  # fmt: skip
    if found.problems:
        message("error", "the bundle does not answer as it must:\n  " + "\n  ".join(found.problems))
        return errors.GateFailed.exit_code
    return 0


def _trust(given: list[str]) -> dict[str, str] | None:
    """Read `--trust NAME=KEY`; without one, no signature is asked for."""
    if not given:
        return None
    found = {}
    for one in given:
        name, _, public = one.partition("=")
        if not (name and public.startswith("ed25519:")):
            raise errors.PipelineInvalid(
                f"--trust: found {one}, expected a name and a public key: --trust ci=ed25519:…; trtpipe keys list "
                "prints those that you trust"
            )
        found[name] = public
    return found
