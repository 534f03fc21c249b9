"""Suggestions for misspelt words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_LISTED = 24


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Give the known word that is nearest to a misspelt one, or None."""
    import difflib

    return next(iter(difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)), None)


def suggest(word: str, known: Iterable[str]) -> str:
    """Give `, did you mean "x"?` for a misspelt word, otherwise the known words if they are few."""
    words = sorted(known)
    if close := nearest(word, words):
        return f', did you mean "{close}"?'
    if not words or len(words) > MAX_LISTED:
        return ""
    return f"; there {'is' if len(words) == 1 else 'are'} {', '.join(words)}"
