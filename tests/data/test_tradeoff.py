"""The picture of a choice: what lies on the Pareto front, which text it has, and that it is XML, each time the same."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtpipe.data.tradeoff import Axis, Point, front, svg

LATENCY, TOP1 = Axis("latency_p50_ms", "min"), Axis("top1", "max", ((">=", 0.97),))
THREE = [
    Point("precision=fp32", 1.31, 0.9972, "passed", "latency_p50_ms 1.31, the best has 0.83"),
    Point("precision=fp16", 0.83, 0.9972, "best", "the best"),
    Point("precision=int8", 0.52, 0.9611, "lost", "top1 0.9611, expected >= 0.97"),
]


def texts(picture):
    return [element.text for element in ET.fromstring(picture).iter() if element.tag.endswith("}text")]


def test_the_picture_names_figures_variants_and_the_rule():
    found = texts(svg("best: precision=fp16", "min latency_p50_ms", THREE, LATENCY, TOP1))
    assert {"best: precision=fp16", "precision=fp32", "precision=fp16", "precision=int8"} <= {*found}
    assert {"latency_p50_ms (less is better)", "top1 (more is better)", "top1 >= 0.97"} <= {*found}
    assert {"chosen", "keeps every rule", "breaks a rule"} <= {*found}


def test_every_point_says_why_it_lost_when_the_mouse_is_over_it():
    picture = svg("t", "s", THREE, LATENCY, TOP1)
    titles = [element.text for element in ET.fromstring(picture).iter() if element.tag.endswith("}title")]
    assert "precision=int8: top1 0.9611, expected >= 0.97" in titles


def test_the_front_is_what_nothing_beats_in_both():
    assert [p.label for p in front(THREE, LATENCY, TOP1)] == ["precision=int8", "precision=fp16"]


def test_what_ties_is_tinted_and_the_tint_stays_within_the_picture():
    picture = svg("t", "s", THREE, LATENCY._replace(tie=(0.83, 99.0, "3 %")), TOP1)
    assert "tie within 3 %" in texts(picture)
    (band,) = re.findall(r'<rect x="([\d.]+)" y="84" width="([\d.]+)" [^>]*fill-opacity="0.1"/>', picture)
    assert sum(map(float, band)) == 800 - 32


def test_names_are_escaped():
    picture = svg("<a> & b", "1 < 2", [Point("a<b", 1, 1, "best", "x & y")], LATENCY, TOP1)
    assert "<a>" not in picture
    assert "<a> & b" in texts(picture)


value = st.floats(-1e6, 1e6, allow_nan=False).map(lambda v: round(v, 6)) | st.floats(1e-9, 1e9)


@given(st.lists(st.tuples(value, value), min_size=1, max_size=30), st.sampled_from(["min", "max"]), value)
@settings(max_examples=150, deadline=None)
def test_any_points_make_a_picture_within_its_bounds_and_the_same_each_time(places, goal, limit):
    points = [
        Point(f"v={i}", x, y, "lost" if i % 3 else "passed" if i else "best", "why") for i, (x, y) in enumerate(places)
    ]
    x, y = Axis("x", goal, (("<=", limit),)), Axis("y", "max", ((">=", limit),))
    picture = svg("title", "subtitle", points, x, y)
    assert picture == svg("title", "subtitle", points[::-1], x, y)
    ET.fromstring(picture)
    assert "nan" not in picture
    assert "inf" not in picture
    for across, up in re.findall(r'<circle cx="([-\d.]+)" cy="([-\d.]+)"', picture):
        assert 0 <= float(across) <= 800
        assert 0 <= float(up) <= 520
    best = front(points, x, y)
    assert best
    for one in best:
        assert not any(x.better(o.x, one.x) and y.better(o.y, one.y) for o in points)


@pytest.mark.parametrize("count", [1, 12, 256])
def test_labels_never_lie_on_each_other(count):
    points = [Point(f"precision=fp16,batch={i}", 1 + i % 7, 1 + i % 5, "passed", "") for i in range(count)]
    picture = svg("t", "s", points, Axis("x", "min"), Axis("y", "min"))
    boxes = []
    for x, y, more, text in re.findall(
        r'<text x="([\d.]+)" y="([\d.]+)" fill="[^"]+"([^>]*)>(precision=[^<]+)<', picture
    ):
        width = 6.7 * len(text)
        left = float(x) - (width if "end" in more else width / 2 if "middle" in more else 0)
        boxes.append((left, float(y) - 11, left + width, float(y) + 3))
    assert boxes
    for i, a in enumerate(boxes):
        assert not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in boxes[:i])
