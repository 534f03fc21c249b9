"""Text for people: columns, sizes and durations."""

from __future__ import annotations

from trtpipe import formatting


def test_sizes_and_times_are_written_as_people_read_them():
    assert [formatting.size_text(n) for n in (0, 1023, 1024, 3 * 2**20, 5 * 2**40)] == [
        "0 B", "1023 B", "1.0 KiB", "3.0 MiB", "5120.0 GiB",
    ]  # fmt: skip
    assert [formatting.seconds_text(s) for s in (0.123, 12.3, 125)] == ["0.12 s", "12 s", "2 min 05 s"]


def test_a_table_aligns_its_columns():
    assert formatting.table([["a", "1"], ["bbb", "22"]], right=[1]) == ["a     1", "bbb  22"]
