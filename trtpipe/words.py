"""What a misspelt word may have meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_LISTED = 24


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Give the known word that a misspelt one may mean, None if there is none."""
    import difflib

    return next(iter(difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)), None)


def suggest(word: str, known: Iterable[str]) -> str:
    """Give `, did you mean "x"?` for a misspelt word, or the known words, or nothing."""
    words = sorted(known)
    if close := nearest(word, words):
        return f', did you mean "{close}"?'
    if not words or len(words) > MAX_LISTED:
        return ""
    return f"; there {'is' if len(words) == 1 else 'are'} {', '.join(words)}"
