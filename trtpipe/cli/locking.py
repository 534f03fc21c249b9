"""Commands that compare a pipeline with what was locked, built or attested before: `lock`, `verify`, `attest`."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from trtpipe import errors
from trtpipe.cli.opening import open_pipeline
from trtpipe.cli.printing import answer, for_programs, message, out
from trtpipe.pipeline.graph import lock_path

if TYPE_CHECKING:
    import argparse


def lock(args: argparse.Namespace) -> int:
    """Write the lock file, or compare it with how everything is now; give 5 if anything has drifted."""
    from trtpipe.trust import lockfile

    lookup = open_pipeline(args).lookup
    path = lock_path(args.pipeline)
    if args.check:
        found = lockfile.compare(lookup, lockfile.read(path), args.target)
        if args.json:
            drifts = [{"stage": d.stage, "reasons": d.reasons} for d in found.drifts]
            out(json.dumps({"lock": path, "fits": not drifts, "drifts": drifts, "absent": found.absent}))
            return errors.GateFailed.exit_code if drifts else 0
        if found.drifts:
            lines = [f"  {d.stage}: {why}" for d in found.drifts for why in d.reasons]
            help_text = f"if the change is intended: trtpipe run {args.pipeline} && trtpipe lock {args.pipeline}"
            raise errors.GateFailed("\n".join([f"{path} does not fit:", *lines, help_text]))
        unseen = f"; not here, taken as locked: {', '.join(found.absent)}" if found.absent else ""
        out(f"{path} fits: {len(found.entries)} stages{unseen}")
        return 0
    old = lockfile.read(path) if os.path.exists(path) and not args.prune else None
    new = lockfile.locked(lookup, old, args.target, prune=args.prune)
    written = lockfile.write(path, new, args.pipeline)
    lockfile.keep_root(lookup.store, args.pipeline)
    before = old.stages if old else {}
    gaps = lockfile.gaps(lookup, new)
    changed = [n for n in {**before, **new.stages} if before.get(n) != new.stages.get(n)]
    answer(
        {"lock": path, "written": written, "stages": list(new.stages), "changed": changed, "gaps": gaps},
        as_json=args.json,
        lines=[f"{path}: {len(new.stages)} stages, " + (f"changed: {', '.join(changed)}" if written and changed else
               "written" if written else "nothing changed"),
               *(f"  {name}: {gap}" for name, found in gaps.items() for gap in found)],
    )  # fmt: skip
    return 0


def verify(args: argparse.Namespace) -> int:
    """Rebuild stages and compare, or check the attestation of one; give 5 if they differ too much."""
    return _rebuild(args) if args.attestation is None else _check_attestation(args)


def _rebuild(args: argparse.Namespace) -> int:
    from trtpipe.trust import verify

    lookup = open_pipeline(args).lookup
    rows, failed = [], []
    tell = (lambda _: None) if args.json else (lambda text: out(f"    {text}"))
    for one in verify.verify(lookup, args.stage, args.times, tell):
        past = one.fails(args.bound)
        rows.append({**one._asdict(), "passed": not past})
        if past:
            failed.append(one.stage)
        if args.json:
            continue
        if not one.different:
            out(f"{one.stage} ({one.type}), rebuild {one.number}: all {len(one.equal)} files are byte-equal")
            continue
        drift = "the drift is not known" if one.drift is None else f"the drift is {one.drift:.3g} of the largest value"
        out(f"{one.stage} ({one.type}), rebuild {one.number}: {', '.join(one.different)} differ; {drift} "
              f"({one.measured}; bound {args.bound:g})")  # fmt: skip
        for line in one.details:
            out(f"    {line}")
    if args.json:
        out(json.dumps({"bound": args.bound, "rebuilds": _finite(rows)}))
    if failed:
        names = ", ".join(dict.fromkeys(failed))
        if not args.json:
            message("error", f"{names}: the drift of a rebuild is above the bound of {args.bound:g}, or not known")
        return errors.GateFailed.exit_code
    return 0


def _finite(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**r, "drift": "inf" if r["drift"] == float("inf") else r["drift"]} for r in rows]


def _check_attestation(args: argparse.Namespace) -> int:
    """Say whether a trusted key attested a stage's artifact and what it was made of; exit 5 if not."""
    from trtpipe.remote import settings
    from trtpipe.trust import attest

    lookup = open_pipeline(args).lookup
    if len(args.stage) != 1:
        raise errors.PipelineInvalid(
            f"--attestation: found {len(args.stage)} stages, expected the one stage that was attested"
        )
    (name,) = lookup.pipeline.match(args.stage)
    found = attest.read(args.attestation, settings.trusted(lookup.pipeline))
    differences = attest.differences(found, lookup, name)
    if differences:
        raise errors.GateFailed("\n".join([f"{args.attestation} does not fit the stage {name} here:", *differences]))
    what = f"{name} is what {found.signer} attested"
    out(json.dumps({"stage": name, "signer": found.signer}) if args.json else what)
    return 0


def attest(args: argparse.Namespace) -> int:
    """Write a signed statement of what a stage's artifact was made of; `verify --attestation` checks it."""
    from trtpipe.remote import signing
    from trtpipe.trust import attest as provenance

    lookup = open_pipeline(args).lookup
    lookup.pipeline.closure([args.stage])
    signer = signing.own_signer()
    text = provenance.sign(provenance.statement(lookup, args.stage, args.builder or provenance.BUILDER), signer)
    if args.output is None:
        for_programs(text.removesuffix("\n"))
        return 0
    try:
        with open(args.output, "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise errors.StoreError(f"{args.output} cannot be written: {error.strerror}") from None
    out(json.dumps({"stage": args.stage, "file": args.output}) if args.json else args.output)
    return 0
