"""The table of `benchmarks.gaps`: each fault beside its target, and reads beside those without a fault."""

from benchmarks.chaos import Gap
from benchmarks.gaps import NO_FAULT, Read, Reads, table

VISIBLE = [
    Read(5, 0.02), Read(20.5, 0.5), Read(21, 7.0), Read(29, 0.03), Read(29.5, 0.2), Read(41, 1.0), Read(42.5, 10.5)
]  # fmt: skip
"""When a command was answered, and how long until it was seen. What takes a quarter of a second is no delay."""


def reads(*at: tuple[float, float]) -> Reads:
    return Reads(asked=len(at), answered=[Read(*one) for one in at], visible=VISIBLE[:1])


def row(lines: list[str], name: str) -> list[str]:
    (found,) = (line for line in lines if line.startswith(f"| {name} "))
    return [cell.strip() for cell in found.strip("|").split("|")]


GAPS = [Gap(NO_FAULT, 0.1, 0, 10), Gap("primary killed", 0.4, 20, 30), Gap("standby killed", 1.5, 40, 50)]


def test_reads_of_a_fault_are_held_against_those_without_one() -> None:
    lines = table(GAPS, reads((5, 0.010), (15, 9.0), (25, 0.015), (45, 0.030)), standbys=1)
    assert row(lines, "primary killed")[1:] == ["1", "0.40 s", "0.40 s", "2 s", "15 ms", "1.50", "0.0 s", ""]
    assert row(lines, "standby killed")[1:] == ["1", "1.50 s", "1.50 s", "3 s", "30 ms", "3.00", "0.0 s", "not reached"]
    assert "no fault: 10 ms" in row(lines, "reads answered")


def test_with_two_standbys_the_loss_of_one_is_hardly_seen() -> None:
    lines = table(GAPS, reads((5, 0.010), (25, 0.010), (45, 0.010)), standbys=2)
    assert row(lines, "standby killed")[4:] == ["1 s", "10 ms", "1.00", "0.0 s", "not reached"]


def test_a_change_is_to_be_visible_as_soon_as_ever_ten_seconds_after_a_fault() -> None:
    watched = reads((5, 0.010), (25, 0.010), (45, 0.010))
    watched.visible = VISIBLE
    lines = table(GAPS, watched, standbys=1)
    assert row(lines, "primary killed")[7:] == ["8.0 s", ""]
    assert row(lines, "standby killed")[7:] == ["13.0 s", "not reached"]


def test_a_read_without_an_answer_is_seen() -> None:
    lost = Reads(asked=1000, unanswered=1, answered=[Read(5, 0.01)])
    assert row(table(GAPS, lost, standbys=1), "reads answered")[-1] == "not reached"
