"""The program file: what is refused and in which words, what a change would change, what the default one holds."""

import re
from pathlib import Path

import pytest

from rules.program import ProgramError, parse_program
from rules.program_compare import compare_programs

SOURCE = Path("rules/main_street.toml").read_text()


def test_the_default_program_is_valid_and_keeps_its_stores() -> None:
    program = parse_program(SOURCE)
    assert {"berlin-mitte", "paris-bastille", "330", "367", "tokyo-ginza", "singapore-orchard"} == set(program.stores)
    assert [tier.code for tier in program.tiers] == ["basic", "silver", "gold"]
    assert {"FUEL", "PRODUCE", "PASTRY", "DRUG GM", "FLORAL"} <= {
        category for offer in program.home.campaigns for category in offer.categories
    }


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("threshold = 3000", "treshold = 3000", "tiers.3.treshold: unknown key; did you mean 'threshold'?"),
        ('["sat", "sun"]', '["sat", "sunday"]', "campaigns.1.when.weekdays.2: Input should be 'mon'"),
        ('multiply = "1.5"', "multiply = 1.5", 'effect.multiply: write the exact decimal as a string: "1.5"'),
        ('multiply = "1.5"', 'multiply = "1.5", fixed = 3', "campaigns.2.effect: write exactly one: multiply"),
        ('code = "gold"', 'code = "silver"', "tiers.3.code: 'silver' stands there twice"),
        ('name = "A coffee"\n', "", "rewards.1.name: is missing; write name = ..."),
        ('tiers = ["silver"', 'tiers = ["silber"', "no 'silber' among the tiers; did you mean 'silver'?"),
        ('kind = "rolling", months = 12, round', 'kind = "fixed_dates", round', 'dates = ["06-30", "12-31"] belongs'),
        ("when = { birthday", "starts_at = 2026-01-01T00:00:00\nwhen = { birthday", "write the instant with its zone"),
        ("threshold = 0", "threshold = 1", "one tier is the one everybody has"),
        ("threshold = 3000", "threshold = 1000", "tiers.3.threshold: two tiers at 1000"),
        ('time_zone = "Europe/Berlin"', 'time_zone = "Berlin"', "no time zone 'Berlin'; write one like Europe/Berlin"),
        ('time_zone = "Europe/Berlin"', 'time_zone = "localtime"', "no time zone 'localtime'; write one like"),
        ('"Asia/Tokyo"', '"right/Asia/Tokyo"', "no time zone 'right/Asia/Tokyo'; write one like Europe/Berlin"),
        ('currency = "EUR"', 'currency = "EURO"', "no currency 'EURO' in ISO 4217"),
        ('code = "USD"', 'code = "EUR"', "currencies.1.code: EUR is the home currency; its per_unit and"),
        ('code = "SGD"', 'code = "JPY"', "currencies.3.code: 'JPY' stands there twice"),
        ('code = "USD"', 'code = "US$"', "currencies.1.code: no currency 'US$' in ISO 4217"),
        ('per_unit = "0.9"', 'per_unit = "0"', "currencies.1.per_unit: Input should be greater than 0"),
        ('per_unit = "0.9"', "per_unit = 0.9", "currencies.1.per_unit: write the exact decimal as a string"),
        ('per_unit = "1" ', 'per_unit = "0" ', "points.per_unit: with [[currencies]] it must be above 0"),
        ("worth = { points = 100, amount = 110 }", "", "currencies.1.worth: is missing; write worth = { points"),
        ("worth = { points = 100, amount = 100 }", "", "points.worth: is missing; points pay in every"),
        ('region = "ap"\nlat = 1.3', 'region = "ap"\nlat = 91.3', "stores.6.lat: Input should be less than"),
        ('"Asia/Tokyo"', '"Tokyo"', "stores.5.time_zone: no time zone 'Tokyo'; write one like Europe/Berlin"),
        ("per_day = 10000 ", "per_day = -1 ", "transfers.per_day: Input should be greater"),
        ("rejoin_days = 365", "rejoin_days = true", "membership.rejoin_days: write a whole number without quotes"),
        ("valid_days = 90", "valid_days = 0", "rewards.3.valid_days: Input should be greater"),
        ("[points]", "[points", "not TOML: Expected ']'"),
        ('from = "06:00"', 'from = "06:00Z"', 'campaigns.3.when.from: write the time of day like "08:30"'),
        ('from = "06:00"', "from = 6", 'campaigns.3.when.from: write the time of day like "08:30"'),
        ('from = "06:00"', 'from = "06"', 'campaigns.3.when.from: write the time of day like "08:30"'),
        ('from = "06:00"', 'from = "24:00"', "campaigns.3.when.from: hour must be in 0..23"),
        ('to = "10:00"', 'to = "10:00+01:00"', 'campaigns.3.when.to: write the time of day like "08:30"'),
        ('to = "10:00"', 'to = "06:00"', "campaigns.3.when: from and to are the same time of day"),
        ("when = { birthday", 'starts_at = "2026"\nwhen = { birthday', "write the instant with its zone"),
        ("when = { birthday", "starts_at = 20260101\nwhen = { birthday", "write the instant with its zone"),
        ("when = { birthday", 'ends_at = "2026-01-01T00:00:00"\nwhen = { birthday', "write the instant with its zone"),
        ("when = { birthday", "ends_at = 2026-01-01\nwhen = { birthday", "write the instant with its zone"),
        ("when = { birthday", 'ends_at = "2026-13-01T00:00:00Z"\nwhen = { birthday', "month must be in 1..12"),
        ("pending_days = 0", "pending_days = true", "points.pending_days: write a whole number without quotes"),
        ("pending_days = 0", 'pending_days = "14"', "points.pending_days: write a whole number without quotes"),
        ("hold_max_s = 86400", 'hold_max_s = "86400"', "points.hold_max_s: write a whole number without quotes"),
        ("valid_days = 90", "valid_days = true", "rewards.3.valid_days: write a whole number without quotes"),
        ("birthday_within_days = 7", 'birthday_within_days = "7"', "write a whole number without quotes"),
        ("first_purchase = true", 'first_purchase = "yes"', "when.first_purchase: write true or false, without quotes"),
        ("lat = 1.3048", "lat = true", "stores.6.lat: Input should be a valid number"),
        ("effect = { fixed = 25 }", "effect = 25", "campaigns.8.effect: write effect = { ... }"),
        ('weekdays = ["sat", "sun"]', 'weekdays = "sat"', "campaigns.1.when.weekdays: write weekdays = [ ... ]"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_with_its_line_and_the_fix(right: str, wrong: str, complaint: str) -> None:
    assert right in SOURCE
    source = SOURCE.replace(right, wrong, 1)
    with pytest.raises(ProgramError) as caught:
        parse_program(source)
    message = str(caught.value)
    assert complaint in message
    changed = next(
        number
        for number, (one, other) in enumerate(zip(source.splitlines(), SOURCE.splitlines(), strict=False), 1)
        if one != other
    )
    tables = [
        number for number, text in enumerate(source.splitlines(), 1) if text.startswith("[") and number <= changed
    ]
    told = int(re.findall(r"line (\d+)", message)[0])
    assert changed - 1 <= told <= changed or told in (tables[-1], min(changed, tables[-1])) or "everybody" in message


def test_codes_of_coupons_differ_in_more_than_capitals_unless_they_are_in_force() -> None:
    source = SOURCE.replace("[[coupons]]", '[[coupons]]\ncode = "hello50"\neffect = { fixed = 1 }\n\n[[coupons]]', 1)
    with pytest.raises(ProgramError, match=r"coupons\.2\.code: 'HELLO50' is 'hello50'"):
        parse_program(source)
    assert parse_program(source, version=7).version == 7


def test_texts_that_are_compared_are_composed_and_trimmed() -> None:
    match = 'match = { categories = ["Ka\u0308se "], skus = ["e\u0301"] }'
    program = parse_program(SOURCE + f'\n[[campaigns]]\ncode = "cheese"\n{match}\neffect = {{ fixed = 1 }}\n')
    assert (program.home.campaigns[-1].categories, program.home.campaigns[-1].skus) == ({"Käse"}, {"é"})


def test_every_mistake_is_told_in_the_order_of_the_file() -> None:
    source = SOURCE.replace('per_unit = "1" ', "per_unit = 1.5 ").replace('name = "A coffee"', 'nam = "A coffee"')
    with pytest.raises(ProgramError) as caught:
        parse_program(source)
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == [
        "points.per_unit", "rewards.1.name", "rewards.1.nam",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("", "", []),
        ('per_unit = "1" ', 'per_unit = "2" ', ["points.per_unit: 1 -> 2"]),
        ('multiplier = "1.5"', 'multiplier = "2"', ["tier 'gold'.multiplier: 1.5 -> 2"]),
        ('["sat", "sun"]', '["sat"]', ["campaign 'weekend-produce'.when.weekdays: [sat, sun] -> [sat]"]),
        ('code = "coffee"', 'code = "tea"', ["reward 'coffee' goes", "reward 'tea' is new: A coffee"]),
        ("referrer = 200", "referrer = 300", ["referral.referrer: 200 -> 300"]),
        ("# The default program.", "# Another word.", []),
        ('per_unit = "1" ', 'per_unit = "1.00" ', []),
        ('effect = { per_unit = "0.5" }', '[campaigns.effect]\nper_unit = "0.50"', []),
        ('to = "10:00"', 'to = "10:00:00"', []),
        ('to = "10:00"', 'to = "00:00"', ["campaign 'happy-morning'.when.to: 10:00 -> 24:00"]),
    ],
)
def test_what_a_file_would_change_is_told_in_words(old: str, new: str, told: list[str]) -> None:
    assert compare_programs(parse_program(SOURCE), parse_program(SOURCE.replace(old, new, 1))) == told


def test_against_nothing_everything_is_new() -> None:
    told = compare_programs(None, parse_program(SOURCE))
    assert "tier 'basic' is new: Basic" in told
    assert any(line.startswith("points: nothing -> per_unit 1") for line in told)


def moved(source: str, part: str) -> str:
    """The second table of a list before the first."""
    first, second = re.findall(rf"(?ms)^\[\[{part}\]\].*?(?=^$)", source)[:2]
    return source.replace(second, "", 1).replace(first, f"{second}\n\n{first}", 1)


DATED = SOURCE.replace("when = { birthday", "starts_at = 2026-01-01T00:00:00Z\nwhen = { birthday")
ANOTHER_INSTANT = ["starts_at: 2026-01-01T00:00:00Z -> 2026-01-01T00:00:00+02:00"]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (DATED.replace("2026-01-01T00:00:00Z", '"2026-01-01T02:00:00+02:00"'), []),
        (DATED.replace("2026-01-01T00:00:00Z", '"2026-01-01T00:00:00+02:00"'), ANOTHER_INSTANT),
        (moved(DATED, "stores"), ["stores stand in another order"]),
        (moved(DATED, "rewards"), ["rewards stand in another order"]),
        (moved(DATED, "tiers"), ["tiers stand in another order"]),
    ],
    ids=range(5),
)
def test_what_is_told_to_change_is_what_makes_another_program(source: str, told: list[str]) -> None:
    old, new = parse_program(DATED), parse_program(source)
    said = compare_programs(old, new)
    assert [line.partition("'.")[2] or line for line in said] == told
    assert (said == []) == (old.document == new.document)
