import pytest

from trtpipe import gates


@pytest.mark.parametrize(
    ("value", "rule", "expected"),
    [
        (0.97, ">= 0.97", True), (0.97, ">0.97", False), (0.5, "<= .5", True), (0.5, "< 5e-1", False),
        (1.0, "==1", True), (-2.0, "< -1.", True), (float("nan"), ">= 0", False),
    ],
)  # fmt: skip
def test_rules(value, rule, expected):
    assert gates.holds(value, rule) is expected


@pytest.mark.parametrize("rule", ["0.97", "=> 1", ">= 97%", ">= ", "!= 1", ">= 1 and < 2", ">= nan"])
def test_what_is_no_rule_is_refused(rule):
    with pytest.raises(ValueError, match="expected an operator and a number"):
        gates.holds(1.0, rule)
    assert [path for path, _ in gates.malformed({"top1": rule})] == ["require.top1"]
