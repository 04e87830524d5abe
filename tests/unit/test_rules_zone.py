"""Dates go by the clock of the store: expiry, activation, tier years, birthdays, days and hours of campaigns."""

from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, reset_tzpath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rules.command import AdjustPoints, RedeemReward, SettleAccount
from rules.dates import time_zone
from rules.describe import describe_account
from rules.outcome import Entry
from rules.program import Program
from tests.rules_history import LAW, LONG_AGO, versions
from tests.rules_world import NOW, TIERS, Member, campaign, earned, later, line, program

ZONES = {
    "berlin": "Europe/Berlin",
    "tokyo": "Asia/Tokyo",
    "ohio": "America/New_York",
    "lord-howe": "Australia/Lord_Howe",
}
BY_YEAR = TIERS + '[tier_policy]\nmetric = "purchases"\nwindow = { kind = "calendar_year" }\n'
POINTS_BY_YEAR = TIERS + '[tier_policy]\nwindow = { kind = "calendar_year" }\n'
YEARLY = BY_YEAR.replace("threshold = 100", "threshold = 2").replace("threshold = 300", "threshold = 99")


def test_a_zone_is_the_same_whatever_the_host_has(tmp_path: Path) -> None:
    (tmp_path / "Asia").mkdir()
    (tmp_path / "Asia" / "Tokyo").write_bytes(files("tzdata").joinpath("zoneinfo", "Europe", "Berlin").read_bytes())
    reset_tzpath(to=[str(tmp_path)])
    ZoneInfo.clear_cache()
    time_zone.cache_clear()
    try:
        host, ours = ZoneInfo("Asia/Tokyo"), time_zone("Asia/Tokyo")
    finally:
        reset_tzpath()
        ZoneInfo.clear_cache()
    assert [zone.utcoffset(NOW.replace(tzinfo=None)) for zone in (host, ours)] == [
        timedelta(hours=1),
        timedelta(hours=9),
    ]


def store(code: str, zone: str) -> str:
    return f'[[stores]]\ncode = "{code}"\nname = "S"\nregion = "eu"\ntime_zone = "{zone}"\n'


def worldwide(*parts: str, points: str = "", zone: str = "Europe/Berlin", zones: dict[str, str] = ZONES) -> Program:
    stores = (store(code, where) for code, where in zones.items())
    return program(*parts, *stores, points=points, zone=zone)


def at(text: str, zone: str = "UTC") -> datetime:
    """An instant as a clock shows it there."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def expiring(entry: Entry) -> list[Any]:
    return [posting.expires_at for posting in entry.postings if posting.source == "program"]


@pytest.mark.parametrize(
    ("expiry", "where", "bought", "expires"),
    [
        ('kind = "rolling", months = 12', "tokyo", "2026-12-31T23:30:00", "2027-12-31T23:59:59"),
        ('kind = "rolling", months = 12', "tokyo", "2027-01-01T00:30:00", "2028-01-31T23:59:59"),  # 2026 in Berlin
        ('kind = "rolling", months = 12', "ohio", "2026-12-31T23:30:00", "2027-12-31T23:59:59"),  # 2027 in Berlin
        (
            'kind = "rolling", months = 1, round = "day"',
            "ohio",
            "2026-10-01T12:00:00",
            "2026-11-01T23:59:59",
        ),  # 25 hours
        (
            'kind = "rolling", months = 1, round = "day"',
            "ohio",
            "2026-02-08T12:00:00",
            "2026-03-08T23:59:59",
        ),  # 23 hours
        ('kind = "rolling", months = 1, round = "none"', "ohio", "2026-02-08T12:00:00", "2026-03-08T12:00:00"),
        ('kind = "fixed_dates", dates = ["12-31"]', "tokyo", "2027-01-01T00:30:00", "2027-12-31T23:59:59"),
        ('kind = "inactivity", months = 1', "ohio", "2026-12-31T23:30:00", "2027-01-31T23:59:59"),
    ],
)
def test_points_expire_by_the_calendar_of_the_store(expiry: str, where: str, bought: str, expires: str) -> None:
    member = Member(worldwide(points=f"expiry = {{ {expiry} }}\n"))
    entry = member.buy(line(1000), store=where, at=at(bought, ZONES[where]))
    assert expiring(entry) == [at(expires, ZONES[where])]


def test_what_happens_in_no_store_goes_by_the_zone_of_the_program() -> None:
    member = Member(worldwide(points='expiry = { kind = "rolling", months = 1 }\n'))
    entry = member.ok(AdjustPoints(10, "gift", at("2026-12-31T23:30:00", "America/New_York")))
    assert expiring(entry) == [at("2027-02-28T23:59:59", "Europe/Berlin")]


def test_points_become_available_when_the_day_begins_at_the_store() -> None:
    member = Member(worldwide(points="pending_days = 2\n"))
    entry = member.buy(line(1000), store="tokyo", at=at("2026-12-31T23:30:00", "Asia/Tokyo"))
    assert [one.available_at for one in entry.postings] == [at("2027-01-02T00:00:00", "Asia/Tokyo")]


def test_points_of_stores_in_different_zones_are_lots_of_their_own_and_merge_within_one() -> None:
    member = Member(worldwide(points='expiry = { kind = "rolling", months = 1 }\n'))
    for where in ("tokyo", "berlin", "tokyo", "berlin"):
        member.buy(line(1000), store=where)
    assert [lot.points for lot in member.now.lots] == [20, 20]


def test_a_reward_can_be_used_until_the_day_is_over_where_it_was_redeemed() -> None:
    reward = '[[rewards]]\ncode = "coffee"\nname = "A coffee"\npoints = 1\nvalid_days = 1\n'
    member = Member(worldwide(reward))
    member.ok(AdjustPoints(10, "gift", NOW))
    evening = at("2026-11-22T22:00:00", "America/New_York")
    entry = member.ok(RedeemReward("coffee", 1, "X", evening, "ohio"))
    assert entry.account.redemptions[0].expires_at == at("2026-11-23T23:59:59", "America/New_York")


@pytest.mark.parametrize(("where", "applies"), [("tokyo", True), ("berlin", False)])
def test_the_birthday_is_that_of_the_store(where: str, applies: object) -> None:
    rules = worldwide(campaign("b", "fixed = 5", when="{ birthday_within_days = 1 }"))
    member = Member(rules)
    bought = at("2026-12-31T00:30:00", "Asia/Tokyo")  # the 30th in Berlin
    member.buy(line(1000), store=where, at=bought, birth_date=date(1990, 1, 1))
    assert (member.why("b") == "applied") is applies


@pytest.mark.parametrize(
    ("where", "bought", "why"),
    [
        ("ohio", "2026-03-08T01:59:00", "applied"),
        ("ohio", "2026-03-08T03:00:00", "time"),  # a minute later: the hour from two to three is left out
        ("ohio", "2026-11-01T01:30:00", "applied"),  # it comes twice
        ("lord-howe", "2026-10-04T01:59:00", "applied"),
        ("lord-howe", "2026-10-04T02:30:00", "time"),  # its clocks move by half an hour
    ],
)
def test_hours_of_a_campaign_are_on_the_clock_of_the_store_through_its_summer_time(
    where: str, bought: str, why: str
) -> None:
    member = Member(worldwide(campaign("night", "fixed = 5", when='{ from = "01:00", to = "02:00" }')))
    for fold in (0, 1):
        moment = datetime.fromisoformat(bought).replace(tzinfo=ZoneInfo(ZONES[where]), fold=fold).astimezone(UTC)
        member.buy(line(1000), store=where, at=moment)
        assert member.why("night") == why


def test_new_years_eve_in_tokyo_is_of_the_old_year_and_half_an_hour_later_of_the_new_one() -> None:
    """Both while it is still New Year's Eve in Berlin."""
    member = Member(worldwide(YEARLY))
    for text in ("2026-12-31T23:29:00", "2026-12-31T23:30:00"):
        member.buy(line(1000), store="tokyo", at=at(text, "Asia/Tokyo"))
    assert member.now.tier.code == "silver"
    entry = member.buy(line(1000), store="tokyo", at=at("2027-01-01T00:30:00", "Asia/Tokyo"))
    shown = describe_account(entry.account, member.program, "7")["tier"]
    assert (shown["code"], shown["qualifying_points"]) == ("silver", 1)
    member.say(SettleAccount(at("2027-01-03T00:00:00")))
    assert (member.journal[-1].kind, member.now.tier.code) == ("tier_renewed", "silver")  # by the two of 2026
    member.say(SettleAccount(at("2028-01-03T00:00:00")))
    assert (member.journal[-1].kind, member.now.tier.code) == ("tier_changed", "basic")  # 2027 has one


def test_the_last_evening_of_a_year_counts_in_ohio_though_berlin_is_in_the_next() -> None:
    member = Member(worldwide(YEARLY))
    for text in ("2025-05-01T12:00:00", "2025-05-02T12:00:00", "2026-12-31T20:00:00", "2026-12-31T23:30:00"):
        member.buy(line(1000), store="ohio", at=at(text, "America/New_York"))
    assert member.now.tier.code == "silver"
    assert member.now.tier.until == at("2027-01-01T00:00:00", "America/New_York")
    member.say(SettleAccount(at("2027-01-03T00:00:00")))
    assert (member.journal[-1].kind, member.now.tier.code) == ("tier_renewed", "silver")


def test_a_tier_is_reached_on_the_last_evening_by_the_year_of_the_store() -> None:
    member = Member(worldwide(YEARLY))
    for text in ("2026-12-30T12:00:00", "2026-12-31T23:30:00"):
        member.buy(line(1000), store="ohio", at=at(text, "America/New_York"))
    assert member.now.tier.code == "silver"


def test_what_the_east_buys_in_the_new_year_keeps_no_tier_of_the_old_one() -> None:
    member = Member(worldwide(YEARLY))
    for text in ("2025-05-01T12:00:00", "2025-05-02T12:00:00", "2026-05-01T12:00:00", "2027-01-01T00:30:00"):
        member.buy(line(1000), store="tokyo", at=at(text, "Asia/Tokyo"))
    member.say(SettleAccount(at("2027-01-03T00:00:00")))
    assert (member.journal[-1].kind, member.now.tier.code) == ("tier_changed", "basic")


def test_a_year_ends_with_itself_where_a_store_is_a_whole_day_behind_the_program() -> None:
    member = Member(worldwide(YEARLY, zone="Pacific/Kiritimati", zones={"beach": "Pacific/Honolulu"}))
    for text in ("2026-12-01T12:00:00", "2026-12-02T12:00:00"):
        member.buy(line(1000), store="beach", at=at(text, "Pacific/Honolulu"))
    member.say(SettleAccount(at("2027-01-03T00:00:00")))
    assert (member.journal[-1].kind, member.now.tier.code) == ("tier_renewed", "silver")


def test_a_period_that_an_earlier_version_ended_at_the_programs_midnight_ends_once() -> None:
    member = Member(program(YEARLY, zone="Europe/Berlin"))
    for day in (1, 2):
        member.buy(line(1000), at=at(f"2026-12-0{day}T12:00:00"))
    assert member.now.tier.until == at("2027-01-01T00:00:00", "Europe/Berlin")
    member.program = worldwide(YEARLY)
    member.say(SettleAccount(at("2027-01-03T00:00:00")))
    assert [entry.kind for entry in member.journal if "tier" in entry.kind] == ["tier_renewed"]
    assert member.now.tier.until == at("2028-01-01T00:00:00", "America/New_York")


extremes = st.sampled_from(
    ["Pacific/Kiritimati", "Pacific/Pago_Pago", "Pacific/Honolulu", "Asia/Tokyo", "Europe/Berlin", "UTC",
     "America/St_Johns", "Asia/Kathmandu", "Pacific/Apia", "Pacific/Chatham"]
)  # fmt: skip
days = st.dates(date(2000, 1, 3), date(2040, 12, 30))


@LAW
@given(zone=extremes, others=st.lists(extremes, max_size=3), day=days)
def test_a_day_is_over_when_it_is_in_every_store(zone: str, others: list[str], day: date) -> None:
    rules = worldwide(zone=zone, zones={f"s{number}": one for number, one in enumerate(others)})
    over = rules.day_over(day)
    local = [over.astimezone(ZoneInfo(one)).date() for one in (zone, *others)]
    assert min(local) > day
    assert min((over - timedelta(seconds=1)).astimezone(ZoneInfo(one)).date() for one in (zone, *others)) <= day
    if zone != "Pacific/Apia" and "Pacific/Apia" not in others:  # where 30 December 2011 was left out
        assert rules.day_ended(over) == day


@LAW
@given(before=extremes, after=extremes, stores=st.lists(extremes, max_size=2))
@example("Asia/Tokyo", "America/New_York", [])
@example("Europe/Berlin", "Europe/Berlin", ["Pacific/Honolulu"])
@example("Pacific/Pago_Pago", "Pacific/Kiritimati", [])
@example("Pacific/Kiritimati", "Pacific/Honolulu", [])
def test_a_period_ends_once_with_its_day_wherever_the_program_has_moved_since(
    before: str, after: str, stores: list[str]
) -> None:
    moved = worldwide(POINTS_BY_YEAR, zone=after, zones={f"s{number}": one for number, one in enumerate(stores)})
    first = worldwide(POINTS_BY_YEAR, zone=before, zones={})
    rules = versions((LONG_AGO, first), (at("2026-06-01T12:00:00"), moved))
    over, kept, lost = rules.day_over(date(2026, 12, 31)), Member(first), Member(first)
    for member in (kept, lost):
        member.buy(line(30_000), at=at("2025-05-01T12:00:00"))
        member.say(SettleAccount(at("2026-05-01T12:00:00")))
        assert member.now.tier.until == first.day_over(date(2026, 12, 31))
        member.program = rules
    last = over - timedelta(minutes=1)
    west = next(code for code in rules.stores if rules.at_store(code, last).date() <= date(2026, 12, 31))
    kept.buy(line(30_000), store=west, at=last)
    for member, code in ((kept, "gold"), (lost, "silver")):
        member.say(SettleAccount(at("2027-01-04T00:00:00")))
        assert (member.now.tier.code, member.now.tier.until) == (code, rules.day_over(date(2027, 12, 31)))


@LAW
@given(where=st.sampled_from(list(ZONES)), moment=st.integers(0, 20 * 365 * 86_400))
def test_points_are_kept_for_whole_days_of_the_store(where: str, moment: int) -> None:
    rules = worldwide(points='expiry = { kind = "rolling", months = 1 }\npending_days = 1\n')
    occurred_at, zone = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=moment), ZoneInfo(ZONES[where])
    expires_at, available_at = rules.expires_at(occurred_at, where), rules.available_at(occurred_at, where)
    assert expires_at
    assert available_at
    day = occurred_at.astimezone(zone).date()
    ends = expires_at.astimezone(zone)
    assert (ends.hour, ends.minute, ends.second) == (23, 59, 59)
    assert (ends + timedelta(days=1)).day == 1
    assert available_at.astimezone(zone).date() == day + timedelta(days=1)
    assert available_at - timedelta(seconds=1) >= occurred_at - timedelta(days=1)
    assert rules.receipt_dates(where, occurred_at) == (day,)
    assert earned(Member(rules).buy(line(100), store=where, at=later()))
