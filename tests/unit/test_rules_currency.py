"""Baskets in several currencies: exact minor units, one kind of points, and what counts at home by one rate."""

from dataclasses import replace
from fractions import Fraction
from math import floor
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.command import AdjustPoints, Line, PlaceHold
from rules.document import PurchaseDocument
from rules.outcome import Entry
from rules.program import Program, ProgramError, parse_program
from rules.program_compare import compare_programs
from rules.state import Account
from rules.stored import full_purchase, short_purchase
from tests.rules_history import LAW
from tests.rules_world import NOW, TIERS, Member, campaign, earned, later, line, program, purchase
from verify.basket import wrong_basket

WORTH = "worth = { points = 100, amount = 100 }\n"
BY_AMOUNT = TIERS + '[tier_policy]\nmetric = "amount"\n'


def currency(code: str, per_unit: str, amount: int | None = None) -> str:
    worth = f"worth = {{ points = 100, amount = {amount} }}\n" if amount else ""
    return f'[[currencies]]\ncode = "{code}"\nper_unit = "{per_unit}"\n{worth}'


USD, JPY, KWD = currency("USD", "0.9"), currency("JPY", "0.006"), currency("KWD", "3")
ALL = (USD, JPY, KWD)


def wrong(member: Member, entry: Entry, rules: Program) -> list[str]:
    return list(wrong_basket(member.purchases[entry.version].document, rules))


def document_of(member: Member, entry: Entry) -> PurchaseDocument:
    return member.purchases[entry.version].document


@pytest.mark.parametrize(
    ("code", "amount", "points"),
    [
        ("EUR", 1299, 12),
        ("USD", 1299, 11),  # 12.99 x 0.9 = 11.691
        ("USD", 1111, 9),  # 9.999
        ("JPY", 1500, 9),  # a yen has no minor units
        ("JPY", 166, 0),  # 0.996
        ("JPY", 167, 1),
        ("KWD", 1000, 3),  # a dinar has a thousand
        ("KWD", 333, 0),  # 0.999
        ("KWD", 334, 1),
    ],
)
def test_money_earns_by_its_own_minor_units(code: str, amount: int, points: int) -> None:
    rules = program(*ALL)
    member = Member(rules)
    entry = member.buy(line(amount), currency=code)
    assert (entry.points, wrong(member, entry, rules)) == (points, [])
    assert document_of(member, entry)["currency"] == code


@pytest.mark.parametrize(("code", "takes"), [("CHF", "EUR, USD"), ("usd", "EUR, USD")])
def test_a_currency_that_is_not_listed_is_refused_and_told_which_are(code: str, takes: str) -> None:
    member = Member(program(USD))
    refusal: Any = member.say(purchase(line(100), currency=code))
    told = refusal.reason, refusal.pointer, refusal.detail
    assert told == ("malformed", "/currency", f"this program counts in {takes}, not {code}")


@pytest.mark.parametrize(
    ("code", "amount", "why"),
    [
        ("EUR", 1499, "min_amount: 1499 of 1500 minor units in money"),
        ("USD", 1666, "min_amount: 1666 of 1667 minor units in money"),  # 16.66 x 0.9 = 14.994
        ("USD", 1667, "applied"),
        ("JPY", 2499, "min_amount: 2499 of 2500 minor units in money"),
        ("JPY", 2500, "applied"),  # 15.00 exactly
    ],
)
def test_conditions_are_amounts_at_home(code: str, amount: int, why: str) -> None:
    member = Member(program(campaign("c", "fixed = 5", when="{ min_amount = 1500 }"), *ALL))
    member.buy(line(amount), currency=code)
    assert next(one["why"] for one in member.explanation if one["campaign"] == "c") == why


def test_campaigns_pay_per_unit_at_home_and_multiply_the_base_of_the_currency() -> None:
    rules = program(campaign("double", 'multiply = "2"'), campaign("half", 'per_unit = "0.5"'), *ALL)
    member = Member(rules)
    entry = member.buy(line(10_000), currency="USD")
    assert earned(entry) == {"base": 90, "campaign:double": 90, "campaign:half": 45}  # 100.00 count as 90.00
    assert wrong(member, entry, rules) == []


@pytest.mark.parametrize(("code", "amount", "bonus"), [("USD", 1111, 0), ("USD", 1112, 10), ("JPY", 1667, 10)])
def test_a_referral_asks_for_its_amount_at_home(code: str, amount: int, bonus: int) -> None:
    referral = "[referral]\nreferrer = 20\nnewcomer = 10\nmin_amount = 1000\n"
    member = Member(program(referral, *ALL), referrer=9)
    assert earned(member.buy(line(amount), currency=code)).get("referral", 0) == bonus


@pytest.mark.parametrize(
    ("code", "amount", "paid", "pays"),
    [("EUR", 1000, 50, 50), ("USD", 1000, 50, 55), ("JPY", 1000, 50, 80), ("USD", 11, 10, 11)],
)
def test_points_pay_by_their_worth_in_the_currency(code: str, amount: int, paid: int, pays: int) -> None:
    rules = program(currency("USD", "0.9", 110), currency("JPY", "0.006", 160), points=WORTH)
    member = Member(rules)
    member.ok(AdjustPoints(1000, "gift", NOW))
    entry = member.buy(line(amount), currency=code, pay_with_points=paid)
    document = document_of(member, entry)
    assert (document.get("payment", {}).get("amount"), document.get("money")) == (pays, amount - pays)
    assert wrong(member, entry, rules) == []


def test_holds_spend_what_the_due_takes_in_the_currency() -> None:
    rules = program(currency("JPY", "0.006", 160), points=WORTH)
    member = Member(rules)
    member.ok(AdjustPoints(1000, "gift", NOW))
    hold = member.ok(PlaceHold(500, None, NOW)).version
    entry = member.buy(line(160), currency="JPY", capture_holds=(hold,))
    assert (entry.detail.get("points_paid"), entry.detail.get("released")) == (100, 400)
    assert wrong(member, entry, rules) == []


def test_spend_counts_for_tiers_at_home_and_comes_back_as_it_counted() -> None:
    member = Member(program(BY_AMOUNT, USD))
    entry = member.buy(line(333, 3), currency="USD")  # counts as 2.997
    assert (member.now.counters.get("metric", [])[2:], member.now.tier.code) == ([299], "silver")
    member.program = program(BY_AMOUNT, currency("USD", "0.1"), version=2)  # the rate has changed meanwhile
    member.bring_back(entry.version, (1, 1), at=later(days=1))
    assert member.now.counters.get("metric", [])[2:] == [200]  # 2.997 less 0.999, each floored
    member.program = program(BY_AMOUNT, version=3)  # and no till may post it any more
    member.bring_back(entry.version, (1, 2), at=later(days=2))
    assert ("metric" in member.now.counters, member.now.tier.code) == (False, "basic")
    assert member.refused(purchase(line(100), currency="USD")) == "malformed"


def test_a_basket_that_comes_late_is_counted_by_the_program_of_its_instant() -> None:
    first, second = program(USD), program(version=2)
    member = Member(second.with_history([(NOW - (later(days=1) - NOW), first), (NOW, second)]))
    late = member.buy(line(1000), currency="USD", at=later(hours=-1), received_at=later(hours=1))
    assert late.points == 9
    assert member.refused(purchase(line(1000), currency="USD", at=later(hours=1))) == "malformed"


def test_points_of_all_currencies_are_one_kind() -> None:
    member = Member(program(*ALL))
    for code in ("EUR", "USD", "KWD"):
        member.buy(line(10_000), currency=code)
    assert len(member.now.lots) == 1
    assert member.now.available == 100 + 90 + 30


def test_only_baskets_from_abroad_note_a_rate_and_it_is_stored() -> None:
    member = Member(program(USD))
    at_home, abroad = (document_of(member, member.buy(line(500), currency=code)) for code in ("EUR", "USD"))
    assert "home" not in at_home
    assert abroad.get("home") == {"currency": "EUR", "rate": [9, 10]}
    assert full_purchase(short_purchase(abroad)) == abroad


def test_a_rate_that_no_purchase_can_note_is_refused_and_what_is_applied_is_read() -> None:
    """Each basket in it would be answered `internal`."""
    sources = [
        f'[program]\ncode = "t"\nname = "T"\ncurrency = "KWD"\n{currency("JPY", per_unit)}'
        '[points]\nper_unit = "0.00000001"\n[[stores]]\ncode = "330"\nname = "S"\nregion = "eu"\n'
        for per_unit in ("92233720.368547758", "92233720.368547759")
    ]
    member = Member(parse_program(sources[0]))
    document = document_of(member, member.buy(line(1), currency="JPY"))
    assert full_purchase(orjson.loads(orjson.dumps(short_purchase(document)))) == document
    with pytest.raises(ProgramError, match=r"line 7: currencies\.1\.per_unit: over that of \[points\] it has more"):
        parse_program(sources[1])
    assert parse_program(sources[1], version=1).currencies["JPY"].abroad


def test_verify_holds_a_basket_to_the_rate_of_its_program() -> None:
    rules = program(USD)
    member = Member(rules)
    entry = member.buy(line(1000), currency="USD")
    document = document_of(member, entry)
    assert list(wrong_basket(document, program(currency("USD", "0.8")))) != []
    assert "is in USD" in next(wrong_basket(document, program()))
    document["home"] = {"currency": "EUR", "rate": [1, 1]}
    assert "at home" in next(wrong_basket(document, rules))


def test_what_a_change_of_currencies_changes_is_told() -> None:
    lines = compare_programs(program(USD, JPY), program(currency("USD", "0.95"), KWD))
    assert lines == [
        "currency 'JPY' goes: purchases in it are refused from then on; what was bought before may still come back",
        "currency 'USD'.per_unit: 0.9 -> 0.95",
        "currency 'KWD' is new",
    ]


amounts = st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 5)), min_size=1, max_size=4)
rates = st.decimals("0.000000001", 10**6, places=9).map(str)


@LAW
@given(
    per_unit=rates, home=st.decimals("0.001", 100, places=3).map(str), code=st.sampled_from(["USD", "JPY", "KWD"]),
    basket=amounts, least=st.integers(0, 10**6),
)  # fmt: skip
def test_all_is_exact_and_floored_once(
    per_unit: str, home: str, code: str, basket: list[tuple[int, int]], least: int
) -> None:
    minor = {"USD": 100, "JPY": 1, "KWD": 1000}[code]
    unit = Fraction(per_unit) / minor
    whole = BY_AMOUNT + campaign("c", "fixed = 5", when=f"{{ min_amount = {least} }}")
    member = Member(program(whole, currency(code, per_unit), points=f'per_unit = "{home}"\n'))
    lines = [line(amount, quantity) for amount, quantity in basket]
    entry = member.buy(*lines, currency=code)
    money = sum(amount for amount, _ in basket)
    assert earned(entry).get("base", 0) == floor(money * unit)
    counts = money * unit / (Fraction(home) / 100)
    assert sum(member.now.counters.get("metric", [])[2::2]) == floor(counts)
    assert member.why("c") == ("min_amount" if counts < least else "applied" if money else "no_money")
    assert wrong(member, entry, member.program) == []


@LAW
@given(basket=amounts, per_unit=rates, data=st.data())
def test_whatever_order_goods_come_back_in_nothing_of_them_stays_counted(
    basket: list[tuple[int, int]], per_unit: str, data: st.DataObject
) -> None:
    member = Member(program(BY_AMOUNT, currency("JPY", per_unit)))
    entry = member.buy(*(line(amount, quantity) for amount, quantity in basket), currency="JPY")
    pieces = [number for number, (_, quantity) in enumerate(basket, start=1) for _ in range(quantity)]
    for number in data.draw(st.permutations(pieces)):
        member.bring_back(entry.version, (number, 1), at=later(hours=1))
    assert (member.now.available, member.now.debt, member.now.counters) == (0, 0, {})


@LAW
@given(basket=amounts)
def test_listing_other_currencies_changes_nothing_at_home(basket: list[tuple[int, int]]) -> None:
    def after(*parts: str) -> tuple[Account, PurchaseDocument]:
        member = Member(program(campaign("c", 'per_unit = "0.5"', when="{ min_amount = 700 }"), *parts))
        entry = member.buy(*(Line("a", one.quantity, one.amount) for one in map(line, *zip(*basket, strict=True))))
        return replace(member.now, version=0), document_of(member, entry)

    assert after() == after(*ALL)
