"""The door: what is shown means nothing but itself, wherever it is shown."""

from __future__ import annotations

import ast
import html.parser
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import PROJECT
from trtpipe import escaping, formatting

HOSTILE = [
    "\x1b]0;pwned\x07", "\x9b2J", "a\u202eb", "a\nb", "a\r\tb", "\u2028", "\ufeff", "\udc80", "\"<&>]]>'", "\\",
    "#quot;",
]  # fmt: skip


@given(st.text() | st.sampled_from(HOSTILE))
def test_a_text_in_one_line_is_printable_and_stays_so(text):
    shown = escaping.inline(text)
    assert shown.isprintable()
    assert escaping.inline(shown) == shown


@given(st.text(alphabet=st.characters(whitelist_categories=("L", "N", "P", "S"), whitelist_characters=" ")))
def test_what_is_printable_is_shown_as_it_is(text):
    assert escaping.inline(text) == escaping.block(text) == text


def test_a_text_of_lines_keeps_its_lines_alone():
    assert escaping.block("a\n\tb\x1b[2J\r\n") == "a\n    b\\x1b[2J\\r\n"
    assert escaping.log("10%\r20%\r\nend\n") == "10%\n20%\nend\n"


def test_later_lines_of_a_message_do_not_begin_where_a_message_begins():
    assert escaping.indented("bad\nerror: no\n  and\n\nend", "  ") == "bad\n  error: no\n  and\n\n  end"


@pytest.mark.parametrize("text", HOSTILE)
def test_markup_is_read_again_as_the_same_text(text):
    page = f'<svg a="{escaping.markup(text)}"><t>{escaping.markup(text)}</t></svg>'
    tree = ET.fromstring(page)
    assert (tree.attrib["a"], tree[0].text) == (escaping.inline(text), escaping.inline(text))

    class Reader(html.parser.HTMLParser):
        tags, texts = [], []

        def handle_starttag(self, tag, _attrs):
            self.tags.append(tag)

        def handle_data(self, data):
            self.texts.append(data)

    reader = Reader()
    reader.tags, reader.texts = [], []
    reader.feed(page)
    assert (reader.tags, "".join(reader.texts)) == (["svg", "t"], escaping.inline(text))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_diagrams_text_holds_no_quote_no_line_and_no_tag(text):
    assert re.fullmatch(r"(?:[\w .,:=/@+()-]|#(?:quot|\d+);)*", escaping.mermaid(text))
    assert re.fullmatch(r'"(?:[^"\\\n]|\\\\|\\")*"', escaping.dot(text))


def test_a_table_has_one_line_a_row_whatever_its_cells_hold():
    rows = [[text, "x"] for text in HOSTILE]
    lines = formatting.table(rows)
    assert len(lines) == len(rows)
    assert len({formatting.width(line) for line in lines}) == 1


def test_only_the_door_writes_to_the_terminal():
    door, log = "trtpipe/cli/printing.py", {"trtpipe/run/worker.py", "trtpipe/backends/trt/library.py"}
    wrong = []
    for path in sorted((PROJECT / "trtpipe").rglob("*.py")):
        name = path.relative_to(PROJECT).as_posix()
        if name == door or name in log:  # a worker's output is its log, which `show --log` prints through the door
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called == "print" or re.fullmatch(r"sys\.(stdout|stderr)(\.buffer)?\.write(lines)?", called):
                wrong.append(f"{name}:{node.lineno}: {called}: print through {door}")
    assert not wrong, "\n".join(wrong)
