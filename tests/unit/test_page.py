"""Pages that cannot be, by their header: what the checksums of a base backup pass over."""

from pathlib import Path

import pytest

from cluster.page import HEADER, NOTHING, PAGE, impossible_pages

END = 3 << 32 | 500
FAST = 1 << 40


def page(lsn: int, upper: int = PAGE) -> bytes:
    return HEADER.pack(lsn >> 32, lsn & 0xFFFFFFFF, 1, 0, 24, upper) + b"\x01" * (PAGE - HEADER.size)


@pytest.mark.parametrize(
    ("content", "is_impossible"),
    [
        (page(END), False),
        (page(0), False),
        (NOTHING, False),
        (page(END + 1), True),
        (page(4 << 32), True),
        (b"\x55" * PAGE, True),
        (page(7, upper=0), True),
        (NOTHING[1:] + b"\x01", True),
    ],
)
def test_a_page_that_cannot_be_is_found(tmp_path: Path, content: bytes, *, is_impossible: bool) -> None:
    for name in ("base/5/16384", "base/5/16384.1", "base/5/16384_fsm", "global/1260", "base/5/pg_filenode.map"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(page(1) + content + page(2)[:-1])  # half a page at the end is under way
    expected = ["base/5/16384:1", "base/5/16384.1:1", "base/5/16384_fsm:1", "global/1260:1"]
    assert impossible_pages(tmp_path, END, FAST) == (expected if is_impossible else [])
