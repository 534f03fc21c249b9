"""How tensors are cut: by the bytes of a row and by nothing else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtpipe.data import parts
from trtpipe.errors import StageFailed


@settings(deadline=None)
@given(st.integers(0, 1 << 40))
def test_rows_of_a_part_are_the_step_times_a_power_of_two_and_fill_the_target_at_least_by_half(row_bytes):
    rows = parts.rows_per_part(row_bytes)
    assert rows % parts.STEP == 0
    assert (rows // parts.STEP).bit_count() == 1
    if rows > parts.STEP:
        assert parts.TARGET // 2 < rows * row_bytes <= parts.TARGET
    elif row_bytes:
        assert 2 * rows * row_bytes > parts.TARGET


@pytest.mark.parametrize(
    ("row_bytes", "rows"),
    [(0, 4096), (1, 1 << 26), (4, 1 << 24), (5, 1 << 23), (4000, 16384), (8192, 8192), (16384, 4096), (602_112, 4096)],
)
def test_the_rule_stays_what_it_is_since_artifacts_were_made_by_it(row_bytes, rows):
    assert parts.rows_per_part(row_bytes) == rows


def test_names_of_parts_sort_in_the_order_of_the_rows():
    names = [parts.file_name("0", number) for number in (0, 9, 10, 99_999)]
    assert names == ["0-00000.npy", "0-00009.npy", "0-00010.npy", "0-99999.npy"]
    assert names == sorted(names)


def test_as_many_parts_as_may_be_are_counted_and_more_are_refused():
    assert parts.count(parts.MOST * 4096, 4096, "x") == parts.MOST
    with pytest.raises(StageFailed, match="x: found 409600001 rows, which are 100001 parts of 4096 rows; expected at "):
        parts.count(parts.MOST * 4096 + 1, 4096, "x")


def test_a_name_may_be_as_long_as_any_model_has_and_no_longer():
    assert parts.check_name("/a/b" * 256, "d.npz") == "/a/b" * 256
    with pytest.raises(
        StageFailed, match=r"d\.npz: found a tensor's name of 1025 characters .*, expected at most 1024"
    ):
        parts.check_name("n" * 1025, "d.npz")
