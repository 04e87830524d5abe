"""What baskets earn: components, floors, groups, conditions, limits. One row per sentence of the rules."""

from dataclasses import replace
from datetime import date, datetime
from typing import Any

import pytest

from rules.counters import on_day
from rules.document import explanation_of
from rules.evaluate import Evaluation, evaluate
from rules.outcome import Refused
from tests.rules_world import NOW, TIERS, Member, campaign, earned, later, line, program, purchase


@pytest.mark.parametrize(
    ("per_unit", "amounts", "points"),
    [
        ("1", [1050, 299], 13),  # floored once over the basket, not per line
        ("1", [99], 0),
        ("0.5", [199, 1], 1),
        ("3.333333333", [30], 0),
        ("3.333333334", [30], 1),
        ("0.1", [999] * 10, 9),
    ],
)
def test_base_is_summed_exactly_and_floored_once(per_unit: str, amounts: list[int], points: int) -> None:
    entry = Member(program(points=f'per_unit = "{per_unit}"')).buy(*map(line, amounts))
    assert entry.points == points
    assert len(entry.postings) == (points > 0)


@pytest.mark.parametrize(
    ("effect", "points"),
    [
        ('multiply = "2"', 6),
        ('multiply = "1.5"', 3),
        ('per_unit = "0.5"', 3),
        ("fixed = 100", 100),
        ("fixed_per_item = 10", 23),  # 2 pieces and 0.375 of a weighed one, floored once
    ],
)
def test_an_effect_counts_the_matched_lines_only(effect: str, points: int) -> None:
    rules = program(campaign("c", effect, match='{ categories = ["PRODUCE"] }'))
    entry = Member(rules).buy(line(500, 2, "PRODUCE"), line(1000, 5, "DELI"), line(199, "0.375", "PRODUCE"))
    assert earned(entry) == {"base": 16, "campaign:c": points}


@pytest.mark.parametrize(("match", "items"), [('categories = ["X"]', 2), ('skus = ["s"]', 3), ("", 9)])
def test_categories_and_skus_each_alone_say_which_lines_count(match: str, items: int) -> None:
    rules = program(campaign("c", "fixed_per_item = 1", match=f"{{ {match} }}"))
    assert earned(Member(rules).buy(line(1, 2, "X"), line(1, 3, "Y", sku="s"), line(1, 4, "Y")))["campaign:c"] == items


def test_a_line_matches_by_category_or_by_sku() -> None:
    rules = program(campaign("c", "fixed_per_item = 1", match='{ categories = ["X"], skus = ["s"] }'))
    assert earned(Member(rules).buy(line(1, 2, "X"), line(1, 3, "Y", sku="s"), line(1, 4, "Y")))["campaign:c"] == 5


def test_components_are_attributed_by_largest_remainder_the_earlier_line_first_on_a_tie() -> None:
    member = Member(program(campaign("c", "fixed = 10", match='{ categories = ["P"] }')))
    version = member.buy(line(50, 1, "P"), line(50, 1, "P"), line(50, 1, "P"), line(51)).version
    lines = member.purchases[version].document["lines"]
    assert [one["earned"] for one in lines] == [
        {"base": 1, "campaign:c": 4}, {"campaign:c": 3}, {"campaign:c": 3}, {"base": 1},
    ]  # fmt: skip


def test_the_tier_held_before_the_purchase_multiplies_its_base() -> None:
    member = Member(program(TIERS))
    first = member.buy(line(40_000))
    assert (earned(first), member.now.tier.code) == ({"base": 400}, "gold")
    assert earned(member.buy(line(333))) == {"base": 3, "tier:gold": 1}


def test_of_a_group_the_best_for_the_member_applies_and_ties_go_to_the_first_listed() -> None:
    best = [campaign("a", "fixed = 5", group='"g"'), campaign("b", "fixed = 7", group='"g"')]
    member = Member(program(*best, campaign("c", "fixed = 7", group='"g"'), campaign("d", "fixed = 1")))
    assert earned(member.buy(line(100))) == {"base": 1, "campaign:b": 7, "campaign:d": 1}
    assert (member.why("a"), member.why("c"), member.why("b")) == ("group", "group", "applied")


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        ('starts_at = "2026-11-23T00:00:00Z"', "not_started"),
        ('ends_at = "2026-11-22T10:00:00Z"', "ended"),
        ('starts_at = "2026-11-22T10:00:00Z"', "applied"),
        ('when = { stores = ["331"] }', "store"),
        ('when = { stores = ["330", "331"] }', "applied"),
        ('when = { tiers = ["silver"] }', "tier"),
        ('when = { weekdays = ["mon"] }', "weekday"),
        ('when = { weekdays = ["sun"] }', "applied"),
        ('when = { from = "08:00", to = "11:00" }', "time"),  # it is 11:00 in Berlin
        ('when = { from = "11:00", to = "24:00" }', "applied"),
        ('when = { from = "22:00", to = "12:00" }', "applied"),
        ("when = { min_amount = 1001 }", "min_amount"),
        ("when = { min_amount = 1000 }", "applied"),
        ("when = { birthday_within_days = 3 }", "birthday"),
        ("when = { birthday_within_days = 4 }", "applied"),
        ('match = { categories = ["NONE"] }', "no_line"),
    ],
)
def test_a_condition_that_does_not_hold_is_the_reason(condition: str, why: str) -> None:
    key, value = condition.split(" = ", 1)
    member = Member(program(TIERS, campaign("c", "fixed = 5", **{key: value}), zone="Europe/Berlin"))
    member.buy(line(1000), birth_date=date(1990, 11, 18))
    assert member.why("c") == why


def test_an_effect_of_less_than_a_point_is_no_application() -> None:
    member = Member(program(campaign("c", 'per_unit = "0.1"', limits="{ per_member = 1 }")))
    member.buy(line(500))
    assert member.why("c") == "no_points"
    member.buy(line(5000))
    assert member.why("c") == "applied"


def test_a_first_purchase_is_the_first() -> None:
    member = Member(program(campaign("c", "fixed = 5", when="{ first_purchase = true }")))
    assert [member.buy(line(1)).points for _ in range(2)] == [5, 0]
    assert member.why("c") == "first_purchase"


def test_campaign_limits_count_times_applied_per_member_and_per_business_date() -> None:
    rules = program(
        campaign("c", "fixed = 5", limits="{ per_member = 3, per_member_per_day = 2 }"), points='per_unit="0"'
    )
    member = Member(rules)
    moments = [NOW, NOW, NOW, later(days=1), later(days=1)]
    told = [(member.buy(line(1), at=at).points, member.why("c")) for at in moments]
    assert told == [(5, "applied"), (5, "applied"), (0, "member_day_limit"), (5, "applied"), (0, "member_limit")]


def test_a_late_purchase_counts_on_the_day_it_occurred() -> None:
    rules = program(campaign("c", "fixed = 5", limits="{ per_member_per_day = 1 }"), points='per_unit="0"')
    member = Member(rules)
    member.buy(line(1), at=later(days=-3), received_at=NOW)
    assert member.buy(line(1)).points == 5
    assert member.buy(line(1), at=later(days=-3), received_at=NOW).points == 0


@pytest.mark.parametrize(
    ("limits", "points", "why"),
    [
        ("per_purchase = 12", [12, 12, 12], "purchase_limit"),
        ("per_day = 25", [15, 10, 0], "day_limit"),
        ("purchases_per_day = 2", [15, 15, 0], "day_purchases_limit"),
        ("per_purchase = 14, per_day = 20", [14, 6, 0], "day_limit"),
    ],
)
def test_beyond_a_limit_a_purchase_is_accepted_and_earns_up_to_it(limits: str, points: list[int], why: str) -> None:
    member = Member(program(campaign("c", "fixed = 5"), points=f"limits = {{ {limits} }}"))
    assert [member.buy(line(1000)).points for _ in points] == points
    assert member.why("c") == why
    assert sum(one["points"] for one in member.explanation) == points[-1]
    assert member.buy(line(1000), at=later(days=1)).points == points[0]


def test_limits_of_a_day_hold_for_days_long_past_whatever_has_been_bought_since() -> None:
    daily = campaign("c", "fixed = 5", limits="{ per_member_per_day = 1 }")
    member = Member(program(daily, points="limits = { purchases_per_day = 2 }"))
    for days in range(60):
        member.buy(line(100), at=later(days=-days), received_at=NOW)
    for days in (400, 399, 300):
        earned_then = [member.buy(line(100), at=later(days=-days), received_at=NOW).points for _ in range(3)]
        assert earned_then == [6, 1, 0]
    assert [member.buy(line(100), at=later(days=-days), received_at=NOW).points for days in (35, 40)] == [1, 1]


def test_of_days_long_past_only_a_few_are_remembered() -> None:
    daily = campaign("c", "fixed = 5", limits="{ per_member_per_day = 1 }")
    member = Member(program(daily))
    for days in range(200, 0, -1):
        member.buy(line(100), at=later(days=-days), received_at=NOW)
    counters = member.now.counters
    assert (len(counters["days"]) // 3, len(counters["applied_on"]["campaign:c"]) // 2) == (41, 41)
    for days in range(0, 2000, 50):
        member.buy(line(100), at=later(days=days))
    assert (len(member.now.counters["days"]) // 3, on_day(member.now.counters, later(days=1950).date())) == (32, (1, 6))


def test_the_sums_of_a_day_stay_64_bit_integers_though_parts_that_come_back_take_nothing_off_them() -> None:
    member = Member(program(points='per_unit = "1000000000"'))
    for _ in range(6):
        member.bring_back(member.buy(line(4 * 10**11)).version, (1, "0.999"))
    assert on_day(member.now.counters, NOW.date()) == (6, 2**62)


@pytest.mark.parametrize(
    ("hours", "moment", "why"),
    [
        ('to = "00:00"', "21:00:00", "applied"),
        ('from = "20:00", to = "00:00"', "19:59:59", "time"),
        ('from = "20:00", to = "00:00"', "23:59:59.999999", "applied"),
        ('to = "24:00"', "23:59:59.999999", "applied"),
        ('from = "00:00", to = "24:00"', "00:00:00", "applied"),
        ("from = 08:00:00, to = 12:00:00", "08:00:00", "applied"),
        ("from = 08:00:00, to = 12:00:00", "12:00:00", "time"),
    ],
)
def test_midnight_as_the_end_is_the_end_of_the_day(hours: str, moment: str, why: str) -> None:
    member = Member(program(campaign("c", "fixed = 5", when=f"{{ {hours} }}")))
    member.buy(line(100), at=datetime.fromisoformat(f"2026-11-22T{moment}Z"))
    assert member.why("c") == why


COUPON = (
    '[[coupons]]\ncode = "SAVE"\neffect = { fixed = 50 }\nwhen = { min_amount = 500 }\nends_at = 2026-12-01T00:00:00Z\n'
)


def test_a_coupon_gives_its_points_once_per_member_and_comes_back_with_the_whole_basket() -> None:
    member = Member(program(COUPON))
    first = member.buy(line(1000), coupons=("SAVE",))
    assert earned(first) == {"base": 10, "coupon:SAVE": 50}
    assert member.refused(purchase(line(1000), coupons=("SAVE",))) == "unknown_coupon"
    member.bring_all_back(first.version)
    assert member.now.available == 0
    assert earned(member.buy(line(1000), coupons=("SAVE",)))["coupon:SAVE"] == 50


@pytest.mark.parametrize(("codes", "day"), [(("NO",), 0), (("SAVE", "SAVE"), 0), (("SAVE",), 9)])
def test_a_coupon_that_is_unknown_shown_twice_or_over_refuses_the_purchase(codes: tuple[str, ...], day: int) -> None:
    asked = purchase(line(1000), at=later(days=day), coupons=codes)
    assert Member(program(COUPON)).refused(asked) == "unknown_coupon"


def test_a_coupon_whose_condition_fails_is_not_used_up() -> None:
    member = Member(program(COUPON))
    assert earned(member.buy(line(499), coupons=("SAVE",))) == {"base": 4}
    assert member.why("coupon:SAVE") == "min_amount"
    assert earned(member.buy(line(500), coupons=("SAVE",)))["coupon:SAVE"] == 50


REFERRAL = "[referral]\nreferrer = 200\nnewcomer = 100\nmin_amount = 500\n"


def test_a_newcomers_first_purchase_brings_both_sides_their_bonus_once() -> None:
    member = Member(program(REFERRAL), referrer=99)
    first = member.buy(line(500))
    assert earned(first) == {"base": 5, "referral": 100}
    assert first.detail["referral"] == {"referrer": 99, "points": 200}
    second = member.buy(line(500))
    assert (earned(second), second.detail) == ({"base": 5}, {})


@pytest.mark.parametrize(("referrer", "amount"), [(None, 500), (99, 499)])
def test_without_a_referrer_or_with_too_small_a_first_purchase_there_is_no_bonus(
    referrer: int | None, amount: int
) -> None:
    member = Member(program(REFERRAL), referrer=referrer)
    assert "referral" not in earned(member.buy(line(amount)))
    assert "referral" not in earned(member.buy(line(500)))


def test_an_evaluation_tells_of_every_campaign_at_any_instant_and_changes_nothing() -> None:
    member = Member(program(TIERS, campaign("c", "fixed = 95", starts_at='"2026-12-01T00:00:00Z"')))
    before = member.now
    today = evaluate(member.now, purchase(line(1000)), member.program, NOW)
    in_december = replace(purchase(line(1000)), occurred_at=later(days=30))
    then = evaluate(member.now, in_december, member.program, later(days=30))
    assert isinstance(today, Evaluation)
    assert isinstance(then, Evaluation)
    assert (today.points, today.explanation[1]["why"].split(":")[0]) == (10, "not_started")
    assert (then.points, then.tier_after["code"], then.explanation[1]) == (
        105, "silver", {"campaign": "c", "applied": True, "points": 95, "why": "applied"},
    )  # fmt: skip
    assert member.now == before
    assert evaluate(member.now, purchase(line(1000), store="nowhere"), member.program, NOW) == Refused(
        "unknown_store", "the program has no store 'nowhere'", "/store"
    )


def test_what_runs_and_gives_nothing_is_told_with_its_code_and_why() -> None:
    parts = [
        campaign("over", "fixed = 1", ends_at='"2026-01-01T00:00:00Z"'),
        campaign("monday", "fixed = 1", when='{ weekdays = ["mon"] }'),
        campaign("best", "fixed = 9", group='"g"'),
        campaign("beaten", "fixed = 2", group='"g"'),
        campaign("limited", "fixed = 500"),
    ]
    member = Member(program(*parts, COUPON, points="limits = { per_purchase = 13 }"))
    entry = member.buy(line(400), coupons=("SAVE",))
    assert earned(entry) == {"base": 4, "campaign:best": 9}
    told = [(one["code"], one["why"].split(":")[0]) for one in entry.detail["not_applied"]]
    assert told == [
        ("monday", "weekday"), ("beaten", "group"), ("limited", "purchase_limit"), ("SAVE", "min_amount"),
    ]  # fmt: skip
    assert "not_applied" not in Member(program(campaign("c", "fixed = 1"))).buy(line(100)).detail


def test_a_purchase_keeps_the_explanation_of_the_campaigns_that_ran() -> None:
    member = Member(
        program(campaign("over", "fixed = 1", ends_at='"2026-01-01T00:00:00Z"'), campaign("c", "fixed = 1"))
    )
    document = member.purchases[member.buy(line(1000)).version].document
    assert document["explained"] == [["base", 10], ["c", 1]]
    assert explanation_of(document) == [
        {"campaign": "base", "applied": True, "points": 10, "why": "applied"},
        {"campaign": "c", "applied": True, "points": 1, "why": "applied"},
    ]


def test_an_explanation_is_told_as_it_was_whoever_wrote_it() -> None:
    member = Member(
        program(
            campaign("none", "fixed = 1", when='{ weekdays = ["mon"] }'),
            campaign("most", "fixed = 99"),
            points="limits = { per_purchase = 13 }",
        )
    )
    document = member.purchases[member.buy(line(400)).version].document
    told = explanation_of(document)
    assert told == list(member.explanation)
    earlier: Any = {name: value for name, value in document.items() if name != "explained"} | {"explanation": told}
    assert explanation_of(earlier) == told
