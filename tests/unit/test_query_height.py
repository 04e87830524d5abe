"""What a node remembers of versions: the highest, of so many members."""

from query.announcement import Announcements
from query.height import Heights
from rules.version import VERSION_MAX


def test_the_highest_version_stays() -> None:
    heights = Heights()
    for version in (3, 5, 4, VERSION_MAX):
        heights.note(1, version)
    assert (heights.of(1), heights.of(2)) == (5, 0)
    heights.forget(1)
    assert heights.of(1) == 0


def test_what_is_remembered_is_bounded_and_whoever_is_heard_of_again_stays() -> None:
    heights = Heights(members_max=100)
    heights.note(0, 7)
    for member_id in range(1, 10_000):
        heights.note(member_id, 1)
        heights.note(0, 7 + member_id % 2)
        assert len(heights) <= 100
        assert heights.of(0) >= 7
        assert heights.of(member_id) == 1
    assert heights.of(1) == 0


def test_an_older_version_heard_of_later_never_lowers_what_is_remembered() -> None:
    heights = Heights(members_max=4)
    heights.note(1, 9)
    heights.note(2, 1)  # so that 1 is among those heard of before
    heights.note(1, 3)
    assert heights.of(1) == 9
    heights.note(3, 1)
    assert heights.of(1) == 9


def test_announcements_are_remembered_and_what_is_none_is_passed_over() -> None:
    visible = Announcements("redis://unused", waiters_max=1)
    visible.announce(b"5:3 6:9 7 :8 9: x:1 1:y 5:2 \xc2\xb2:1")
    assert [visible.announced.of(member_id) for member_id in (5, 6, 7, 8, 9, 1)] == [3, 9, 0, 0, 0, 0]
