"""Tiers: what counts, when one is reached, what the end of its period brings."""

from datetime import timedelta

import pytest

from rules.command import AdjustPoints, SettleAccount
from rules.describe import describe_account
from tests.rules_world import NOW, TIERS, Member, at, earned, later, line, policy, program


def tier(member: Member) -> dict[str, object]:
    return describe_account(member.now, member.program, "m")["tier"]


def test_reaching_a_threshold_upgrades_at_once_for_the_next_entry_until_the_window_ends() -> None:
    member = Member(program(TIERS))
    assert tier(member)["next"] == {"code": "silver", "points_needed": 100}
    entry = member.buy(line(10_000))
    assert earned(entry) == {"base": 100}
    assert entry.detail["tier"]["to"] == "silver"
    assert tier(member) == {
        "code": "silver", "name": "silver", "qualifying_points": 100, "since": "2026-11-22T10:00:00Z",
        "until": "2027-11-23T00:00:00Z", "next": {"code": "gold", "points_needed": 200},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "amounts", "qualifying"),
    [("points", [10_050, 5_000], 162), ("amount", [10_050, 5_000], 15_050), ("purchases", [1, 1, 1], 3)],
)
def test_the_metric_counts_points_amount_or_purchases(metric: str, amounts: list[int], qualifying: int) -> None:
    member = Member(program(TIERS, policy(metric=f'"{metric}"')))
    versions = [member.buy(line(amount, 2)).version for amount in amounts]
    assert tier(member)["qualifying_points"] == qualifying
    for version in versions:
        member.bring_back(version, (1, 1))
        member.bring_back(version, (1, 1))
    assert tier(member)["qualifying_points"] == 0


def test_money_counts_back_out_rounded_once_for_all_lines() -> None:
    member = Member(program(TIERS, policy(metric='"amount"')))
    version = member.buy(*[line(1, 2)] * 5).version
    member.bring_back(version, *((number, 1) for number in range(1, 6)))
    assert tier(member)["qualifying_points"] == 3
    member.bring_all_back(version)
    assert tier(member)["qualifying_points"] == 0


def test_points_given_by_hand_count_for_no_tier() -> None:
    member = Member(program(TIERS))
    member.ok(AdjustPoints(1000, "gift", NOW))
    assert (tier(member)["code"], tier(member)["qualifying_points"]) == ("basic", 0)


@pytest.mark.parametrize(("days", "code"), [(364, "silver"), (366, "basic")])
def test_a_rolling_window_counts_the_last_twelve_months_by_day(days: int, code: str) -> None:
    member = Member(program(TIERS))
    member.buy(line(6_000))
    member.buy(line(6_000), at=later(days=days))
    assert tier(member)["code"] == code


def test_a_calendar_year_counts_its_own_year_and_ends_with_it() -> None:
    member = Member(program(TIERS, policy(window='{ kind = "calendar_year" }')))
    member.buy(line(10_000))
    assert tier(member)["until"] == "2027-01-01T00:00:00Z"
    member.say(SettleAccount(at("2027-01-01T00:00:00Z")))
    assert (tier(member)["code"], tier(member)["until"]) == ("silver", "2028-01-01T00:00:00Z")
    assert tier(member)["qualifying_points"] == 0
    member.say(SettleAccount(at("2028-01-01T00:00:00Z")))
    assert (tier(member)["code"], tier(member)["until"]) == ("basic", None)
    assert [entry.kind for entry in member.journal[-2:]] == ["tier_renewed", "tier_changed"]


@pytest.mark.parametrize(
    ("keys", "codes"),
    [
        ({}, ["gold", "silver", "basic"]),
        ({"step": '"one"'}, ["gold", "silver", "basic"]),
        ({"step": '"earned"'}, ["gold", "basic", "basic"]),
        ({"downgrade": '"never"'}, ["gold", "gold", "gold"]),
    ],
)
def test_a_tier_not_earned_again_goes_down_as_the_policy_says(keys: dict[str, str], codes: list[str]) -> None:
    member = Member(program(TIERS, policy(**keys)))
    member.buy(line(30_000))
    seen = [tier(member)["code"]]
    for years in (1, 2):
        member.say(SettleAccount(NOW + timedelta(days=366 * years)))
        seen.append(tier(member)["code"])
    assert seen == codes


def test_a_tier_earned_again_within_its_window_is_kept_for_another() -> None:
    member = Member(program(TIERS))
    member.buy(line(10_000))
    member.buy(line(9_000), at=later(days=200))
    member.say(SettleAccount(later(days=367)))
    assert member.journal[-1].kind == "tier_renewed"
    assert (tier(member)["code"], tier(member)["until"]) == ("silver", "2028-11-23T00:00:00Z")


def test_a_late_return_takes_no_tier_away_before_its_period_ends_but_counts_back_at_once() -> None:
    member = Member(program(TIERS))
    member.buy(line(1_000), at=later(days=-10))
    version = member.buy(line(10_000)).version
    member.bring_all_back(version, at=later(days=31))
    assert (tier(member)["code"], tier(member)["qualifying_points"]) == ("silver", 10)
    member.say(SettleAccount(later(days=366)))
    assert tier(member)["code"] == "basic"


def test_reversed_points_count_out_of_the_time_they_were_earned() -> None:
    member = Member(program(TIERS, policy(window='{ kind = "calendar_year" }')))
    version = member.buy(line(5_000)).version
    member.buy(line(5_000), at=later(days=60))
    member.bring_all_back(version, at=later(days=61))
    assert tier(member)["qualifying_points"] == 50


def test_a_return_counts_out_only_from_the_metric_that_counted_it() -> None:
    member = Member(program(TIERS))
    first = member.buy(line(20_000)).version
    member.program = program(TIERS, policy(metric='"amount"'), version=2)
    second = member.buy(line(500, 2)).version
    member.bring_all_back(first)
    assert tier(member)["qualifying_points"] == 500
    member.bring_back(second, (1, 1))
    assert tier(member)["qualifying_points"] == 250
    member.program = program(version=3)
    uncounted = member.buy(line(500)).version
    member.program = program(TIERS, policy(metric='"amount"'), version=4)
    member.bring_all_back(uncounted)
    assert tier(member)["qualifying_points"] == 250


def test_a_return_counts_out_of_the_day_that_counted_it_though_the_program_has_moved() -> None:
    member = Member(program(TIERS))
    version = member.buy(line(9_000), at=at("2026-11-22T20:00:00Z")).version
    member.program = program(TIERS, version=2, zone="Asia/Tokyo")  # where it is the 23rd already
    member.bring_all_back(version, at=at("2026-11-22T21:00:00Z"))
    assert tier(member)["qualifying_points"] == 0


def test_a_purchase_recorded_without_a_note_of_what_it_counted_counts_out_as_it_would_today() -> None:
    member = Member(program(TIERS))
    version = member.buy(line(9_000)).version
    del member.purchases[version].document["counted"]
    member.bring_all_back(version)
    assert tier(member)["qualifying_points"] == 0


@pytest.mark.parametrize("day", range(26, 32))
@pytest.mark.parametrize("months", [1, 13])
def test_what_reached_a_tier_does_not_also_keep_it_whatever_the_day_of_the_month(months: int, day: int) -> None:
    member = Member(program(TIERS, policy(window=f'{{ kind = "rolling", months = {months} }}')))
    member.buy(line(10_000), at=at(f"2026-01-{day}T12:00:00Z"))
    until = member.now.tier.until
    assert until
    member.say(SettleAccount(until))
    assert (member.journal[-1].kind, tier(member)["code"]) == ("tier_changed", "basic")


def test_a_tier_that_never_ended_gets_a_period_under_a_program_that_has_them() -> None:
    member = Member(program(TIERS, policy(downgrade='"never"')))
    member.buy(line(10_000))
    assert tier(member)["until"] is None
    member.program = program(TIERS, version=2)
    member.buy(line(100))
    assert (tier(member)["code"], tier(member)["until"]) == ("silver", "2027-11-23T00:00:00Z")


def test_a_tier_the_program_no_longer_knows_counts_as_the_lowest() -> None:
    member = Member(program(TIERS))
    member.buy(line(10_000))
    member.program = program(TIERS.replace("silver", "bronze"), version=2)
    assert (tier(member)["code"], earned(member.buy(line(100)))) == ("basic", {"base": 1})
    assert tier(member)["code"] == "bronze"


def test_the_whole_journal_says_how_the_tier_changed() -> None:
    member = Member(program(TIERS))
    member.buy(line(30_000))
    member.buy(line(100), at=later(days=800))
    told = [
        entry.detail["tier"]["from"] + ">" + entry.detail["tier"]["to"]
        for entry in member.journal
        if "tier" in entry.detail
    ]
    assert told == ["basic>gold", "gold>silver", "silver>basic"]


@pytest.mark.parametrize("days", [2, 5])
def test_what_counts_in_a_window_stays_a_number_that_can_be_stored(days: int) -> None:
    """One basket a day of all the money that a till may send, in a currency that is worth much at home."""
    much = '[[currencies]]\ncode = "KWD"\nper_unit = "1000"\n'
    member = Member(program(TIERS, policy(metric='"amount"'), much, points='per_unit = "0.000001"'))
    for day in range(days):
        member.buy(*(line(10**12) for _ in range(1000)), at=later(days=day), currency="KWD")
    shown = describe_account(member.now, member.program, "x")
    assert (shown["tier"]["code"], shown["tier"]["qualifying_points"]) == ("gold", 2**62)
