"""What the replay makes of the data's lines, on a small made-up year."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from benchmarks.complete_journey import Journey, arrange, spread, stores_toml, whole_days
from benchmarks.demo import curl_lines, program_stores, program_with_stores
from benchmarks.history import Event, Purchase, Return

MILK, GAS, CORN = 11, 22, 33
CATEGORIES = {MILK: "GROCERY", GAS: "FUEL"}
Row = tuple[int, int, int, int, int, float, str]  # household, store, basket, product, quantity, sales value, when


def journey(*rows: Row) -> Journey:
    names = ("household_id", "store_id", "basket_id", "product_id", "quantity", "sales_value")
    columns = {name: np.array([row[index] for row in rows]) for index, name in enumerate(names)}
    columns["transaction_timestamp"] = np.array([row[6] for row in rows], dtype="datetime64[ns]")
    return arrange(columns, categories=CATEGORIES, fuel=frozenset({GAS}))


def only(events: Iterable[Event]) -> Event:
    (event,) = events
    return event


def test_a_basket_becomes_a_purchase_in_api_shape() -> None:
    event = only(
        journey(
            (7, 330, 100, MILK, 2, 2.58, "2017-05-01T10:30:00"), (7, 330, 100, CORN, 1, 0.0, "2017-05-01T10:30:00")
        ).events(shift=timedelta(days=1))
    )
    assert event == Purchase(
        shopper="household-7",
        store="330",
        key="basket-100",
        body={
            "store": "330",
            "till": "1",
            "occurred_at": "2017-05-02T10:30:00Z",
            "receipt": "100",
            "currency": "EUR",
            "lines": [
                {"sku": "11", "quantity": 2, "amount": 258, "category": "GROCERY"},
                {"sku": "33", "quantity": 1, "amount": 0},
            ],
        },
    )


@pytest.mark.parametrize(
    ("product", "quantity", "sent", "why"),
    [
        (GAS, 8725, "8.725", "thousandths of a gallon"),
        (GAS, 10000, "10", "a whole number of gallons"),
        (GAS, 1, 1, "fuel sold by money counts one sale"),
        (CORN, 144, 144, "much corn is no fuel"),
        (MILK, 3, 3, "pieces"),
    ],
)
def test_quantities(product: int, quantity: int, sent: object, why: str) -> None:
    event = only(journey((7, 1, 100, product, quantity, 9.99, "2017-05-01")).events())
    assert isinstance(event, Purchase)
    assert event.body["lines"][0]["quantity"] == sent, why


def test_a_zero_quantity_line_of_something_bought_before_is_a_return_of_one() -> None:
    year = journey(
        (7, 1, 100, CORN, 1, 0.5, "2017-05-01"),
        (7, 1, 100, MILK, 2, 2.0, "2017-05-01"),
        (7, 2, 101, MILK, 0, 0.0, "2017-05-03"),
    )
    *_, event = year.events()
    assert isinstance(event, Return)
    assert (event.key, event.purchase_key, event.store) == ("basket-101-return-1", "basket-100", "2")
    assert event.body["lines"] == [{"line": 2, "quantity": 1}]
    assert event.body["receipt"] == "101-R1"
    assert year.counted["returns"] == 1


def test_no_more_is_returned_than_was_bought() -> None:
    year = journey(
        (7, 1, 100, MILK, 1, 1.0, "2017-05-01"),
        (7, 1, 101, MILK, 0, 0.0, "2017-05-02"),
        (7, 1, 102, MILK, 0, 0.0, "2017-05-03"),
    )
    assert [type(event) for event in year.events()] == [Purchase, Return]
    assert (year.counted["returns"], year.counted["voids"], year.counted["skipped"]) == (1, 1, 1)


def test_weighed_goods_go_back_whole() -> None:
    *_, event = journey((7, 1, 100, GAS, 8725, 20.0, "2017-05-01"), (7, 1, 101, GAS, 0, 0.0, "2017-05-02")).events()
    assert event.body["lines"] == [{"line": 1, "quantity": "8.725"}]


@pytest.mark.parametrize("household", [8, 9])
def test_a_zero_quantity_line_of_something_never_bought_is_a_void(household: int) -> None:
    year = journey((7, 1, 100, MILK, 1, 1.0, "2017-05-01"), (household, 1, 101, MILK, 0, 0.0, "2017-05-02"))
    assert [type(event) for event in year.events()] == [Purchase]
    assert (year.counted["voids"], year.counted["skipped"]) == (1, 1)
    assert year.purchase_count() == 1


def test_a_purchase_before_the_replayed_part_cannot_be_returned_to() -> None:
    year = journey((7, 1, 100, MILK, 1, 1.0, "2017-05-01"), (7, 1, 101, MILK, 0, 0.0, "2017-05-02"))
    assert list(year.events(newest_count=1)) == []


def test_a_zero_quantity_line_with_money_counts_as_one() -> None:
    event = only(journey((7, 1, 100, CORN, 0, 0.79, "2017-05-01")).events())
    assert event.body["lines"] == [{"sku": "33", "quantity": 1, "amount": 79}]


def test_noise_below_half_a_cent_is_no_money() -> None:
    year = journey((7, 1, 100, CORN, 0, 1.8e-15, "2017-05-01"))
    assert list(year.events()) == []
    assert year.purchase_count() == 0


def test_baskets_come_in_time_order_and_the_newest_are_the_last() -> None:
    year = journey(
        (7, 1, 5, MILK, 1, 1.0, "2017-05-03"),
        (7, 1, 9, MILK, 1, 1.0, "2017-05-01"),
        (7, 1, 7, MILK, 1, 1.0, "2017-05-02"),
    )
    assert [event.key for event in year.events()] == ["basket-9", "basket-7", "basket-5"]
    assert [event.key for event in year.events(newest_count=2)] == ["basket-7", "basket-5"]


def test_the_last_basket_is_moved_to_today_by_whole_days() -> None:
    newest = datetime(2018, 1, 1, 4, 1, tzinfo=UTC)
    after, before = datetime(2026, 11, 22, 9, 0, tzinfo=UTC), datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
    assert newest + whole_days(newest, until=after) == datetime(2026, 11, 22, 4, 1, tzinfo=UTC)
    assert newest + whole_days(newest, until=before) == datetime(2026, 11, 21, 4, 1, tzinfo=UTC)


def test_home_is_where_a_household_shops_most() -> None:
    year = journey(
        (7, 1, 100, MILK, 1, 1.0, "2017-05-01"),
        (7, 2, 101, MILK, 1, 1.0, "2017-05-02"),
        (7, 2, 102, MILK, 1, 1.0, "2017-05-03"),
    )
    assert year.homes({"1": "eu", "2": "us"}) == {"household-7": "us"}


def test_stores_are_spread_evenly_and_pinned_ones_stay() -> None:
    volumes = {"1": 50, "2": 40, "3": 30, "4": 20, "5": 10}
    placed = spread(volumes, ["eu", "us", "ap"], {"1": "us", "2": "nowhere"})
    assert placed["1"] == "us"
    assert placed == spread(volumes, ["eu", "us", "ap"], {"1": "us", "2": "nowhere"})
    sold = {region: sum(volumes[store] for store in placed if placed[store] == region) for region in ("eu", "us", "ap")}
    assert max(sold.values()) - min(sold.values()) <= 10


def test_a_program_gets_the_stores_it_does_not_know() -> None:
    program = '[program]\ncode = "main"\n\n[[stores]]\ncode = "330"\nname = "Store 330"\nregion = "us"\n'
    extended = program_with_stores(program, {"330": "us", "367": "eu"})
    assert program_stores(extended) == {"330": "us", "367": "eu"}
    assert stores_toml({"330": "us"}, {"330": "us"}) == ""


def test_each_demo_has_a_purchase_of_its_own_to_try_with_any_curl() -> None:
    status = {"door": "http://door", "regions": {"eu": {}}, "keys": {"service": "loy_x"}}
    moments = [datetime(2026, 11, 28, 10, 0, second, tzinfo=UTC) for second in (0, 1)]
    one, other = (curl_lines(status, "047SKAJT3E9PTJ", moment)[2] for moment in moments)
    assert "--json" not in one
    assert [text.count("try-261128100000") for text in (one, other)] == [2, 0]
