"""Compares two records of a stage and says in sentences what differs, by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from trtpipe.key import difference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trtpipe.run.record import Record


def between(old: Record, new: Record) -> tuple[str, ...]:
    """Say field by field how `new` differs from `old`."""
    lines = []
    for path, before, after in difference(old.key, new.key):
        part, _, name = path.partition(".")
        if part == "inputs":
            label = new.labels.get(name) or old.labels.get(name) or name
            port, _, stage = name.partition("[")  # one of the stages of a port that takes many
            if after is None:
                lines.append(f"input {port}: {f'{stage[:-1]} ' if stage else ''}is no longer given")
            elif before is None:
                lines.append(f"input {port}: {label} is new")
            else:
                lines.append(f"input {port}: {_files_changed(old, new, name, label)}")
        elif part == "reads" or (part == "environment" and name.partition(".")[0] == "variables"):
            continue  # reported below
        elif part == "sources":
            how = "is new" if before is None else "is gone" if after is None else "changed"
            lines.append(f"source {name} {how}")
        elif part == "environment":
            lines.append(f"{name}: {brief(before)} → {brief(after)}")
        else:
            lines.append(f"{path}: {brief(before)} → {brief(after)}")
    lines += _reads_changed(old.key.get("reads") or {}, new.key.get("reads") or {})
    before, after = ((side.key.get("environment") or {}).get("variables") or {} for side in (old, new))
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            lines.append(_changed("variables", _named("variables", name), before.get(name), after.get(name)))
    return tuple(lines)


def _reads_changed(old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Say what has changed since users' code read it."""
    for kind in dict.fromkeys([*old, *new]):
        before, after = old.get(kind, {}), new.get(kind, {})
        for name in sorted({*before, *after}):
            what = _named(kind, name)
            if name not in before or name not in after:
                yield f"{what} is {'no longer' if name in before else 'now'} read"
            elif before[name] != after[name]:
                yield _changed(kind, what, before[name], after[name])


def _named(kind: str, name: str) -> str:
    if kind == "variables":
        return "some variable" if name == "*" else f"the variable {name}"
    return {"folders": f"the list of files in {name}", "links": f"the link {name}"}.get(kind, name)


def _changed(kind: str, what: str, before: Any, after: Any) -> str:
    if kind == "packages":
        was, now = ((str(value).split(" ")[0] if value else "none") for value in (before, after))
        return f"{what} {was} → {now}" if was != now else f"{what} {was} has other files than before"
    if before is None:
        return f"{what} appeared"
    return f"{what} is gone" if after is None else f"{what} changed"


def _files_changed(old: Record, new: Record, port: str, label: str) -> str:
    """Name the files that differ in an input with the name `label`."""
    before, after = old.files.get(port), new.files.get(port)
    was = old.labels.get(port)
    renamed = f" (was {was})" if was and was != label else ""
    if before is None or after is None:
        return f"{label}{renamed} changed"
    if not renamed and [*before] == [*after] == [label.rsplit("/", 1)[-1]]:
        return f"{label} changed"  # it is the file
    parts = []
    for word, names in (
        ("changed", [n for n in after if n in before and before[n] != after[n]]),
        ("new", [n for n in after if n not in before]),
        ("gone", [n for n in before if n not in after]),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{', '.join(sorted(names)[:3])}{more} {word}")
    return f"{label}{renamed}: {'; '.join(parts) or 'changed'}"


def brief(value: Any) -> str:
    """Write a value in at most 80 characters."""
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"
