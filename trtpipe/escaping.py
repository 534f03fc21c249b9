"""The one door for names and texts that are shown: each kind of target has its own way of being led astray.

Names of stages, files, tensors, nodes and classes, and the messages of users' exceptions, come from documents and
models that others wrote. On a terminal a control character can write the clipboard or hide a line; in a diagram a
newline or a quote begins a statement. So whatever is shown passes one of these functions, and then means nothing else.
Sources: ECMA-48; Unicode Standard, chapter 23; Graphviz, "The DOT Language"; Mermaid, "Flowcharts", "Special
characters"; XML 1.0, section 2.2.
"""

from __future__ import annotations

import re


def inline(text: str) -> str:
    r"""Give a text in one line: whatever is not printable is written as Python writes it, such as `\x1b`, `\n`.

    Not printable are controls, line and paragraph separators, marks that turn the direction of writing, characters
    without a glyph, private and unassigned ones, and halves of surrogate pairs.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def block(text: str) -> str:
    """Give a text of several lines; a tab becomes spaces, all else is as in `inline`."""
    if text.isprintable():
        return text
    return "\n".join(inline(line.replace("\t", "    ")) for line in text.split("\n"))


def log(text: str) -> str:
    """Give the text of a log: `block`, where a return to the line's beginning (a bar that moves) begins a new line."""
    return block(text.replace("\r\n", "\n").replace("\r", "\n"))


def indented(text: str, by: str) -> str:
    """Give a text of several lines whose later lines begin with `by`, so that none looks like a message of its own."""
    first, *rest = block(text).split("\n")
    return "\n".join([first, *(line if line.startswith(by) or not line else by + line for line in rest)])


def mermaid(text: str) -> str:
    """Give the text of a node or an edge in a mermaid diagram, for use between quotes."""
    return re.sub(r"[^\w .,:=/@+()-]", lambda m: "#quot;" if m[0] == '"' else f"#{ord(m[0])};", inline(text))


def dot(text: str) -> str:
    """Give a quoted string of Graphviz."""
    escaped = inline(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def markup(text: str) -> str:
    """Give a text, or a value of an attribute, in HTML, SVG or any other XML, such as a JUnit report."""
    import html

    return html.escape(inline(text))
