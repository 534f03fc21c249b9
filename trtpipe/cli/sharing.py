"""Commands for sharing with a team: `cache push` and `cache pull`, and the signing keys."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from trtpipe.cli.opening import WOULD_RUN, open_pipeline
from trtpipe.cli.printing import columns, err, message, out

if TYPE_CHECKING:
    import argparse


def push(args: argparse.Namespace) -> int:
    """Push what is built to the remote store, signed, except what is already there; give 10 if a stage is not built."""
    return _share(args, pushes=True)


def pull(args: argparse.Namespace) -> int:
    """Fetch from the remote store what a run would build, and check it; give 10 if something is missing there."""
    return _share(args, pushes=False)


def _share(args: argparse.Namespace, *, pushes: bool) -> int:
    from trtpipe.formatting import size_text, table
    from trtpipe.run import events

    def emit(event: Any) -> None:
        if isinstance(event, events.Warned):
            message("warning", event.message, "skipped")

    sharing = open_pipeline(args, emit=emit, make=not pushes, write=pushes).sharing
    assert sharing is not None
    name = sharing.needed.settings.name
    lines = sharing.push(args.target, force=args.force) if pushes else sharing.pull(args.target)
    missing = [line for line in lines if line.how in ("not built", "not there")]
    if args.json:
        out(json.dumps({"remote": name, "stages": [line._asdict() for line in lines]}))
    else:
        rows = [
            [one.how, one.stage, one.type, size_text(one.bytes) if one.bytes else "", (one.artifact or "")[:12]]
            for one in lines
        ]
        out("\n".join([name, *table(rows, right=(3,), room=columns(), spare=(4, 2, 3))]))
    return WOULD_RUN if missing else 0


def new_key(args: argparse.Namespace) -> int:
    """Make your signing key and print the public key, which others can trust."""
    from trtpipe.remote import signing

    public = signing.new_key()
    if args.json:
        out(json.dumps({"public": public, "file": signing.key_path()}))
    else:
        out(public)
        err(f"the private key is in {signing.key_path()}; everyone who can read it can sign as you")
    return 0


def trust(args: argparse.Namespace) -> int:
    """Trust a public key from now on, on this account; a document's `remote.trust` does so for a team."""
    from trtpipe.remote import signing

    path = signing.trust(args.name, args.key)
    out(json.dumps({"name": args.name, "public": args.key, "file": path}) if args.json else f"{args.name} is trusted")
    return 0


def list_keys(args: argparse.Namespace) -> int:
    """List the public keys that you trust; your own is `you`."""
    from trtpipe.remote import signing

    found = signing.trusted()
    if args.json:
        out(json.dumps([{"name": n, "public": p, "id": signing.keyid(p)} for n, p in found.items()]))
    else:
        out("\n".join(f"{name} {public}" for name, public in found.items()) or "no key is trusted")
    return 0
