"""What a till asks of the system for a member, and what its answer teaches the client about that member.

A kind that is not possible now (nothing to return, too few points) becomes a purchase, so that the rate is kept. An
open hold is captured or voided by the next order of its kind, a redemption's code used.
"""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from benchmarks.witness import Balance, Witness, change_of

CommandKind = Literal["purchase", "basket", "return", "hold", "redemption"]
CURRENCY: Final = "EUR"
HOLD_POINTS: Final = 10
REWARD: Final = ("coffee", 150)  # of rules/main_street.toml
_PRODUCTS: Final = (
    ("milk", "dairy", 129),
    ("bread", "bakery", 249),
    ("coffee", "grocery", 699),
    ("apples", "fruit", 318),
)
Lines = Sequence[Mapping[str, Any]]


@dataclass(slots=True)
class BenchMember:
    """A member and what a client of theirs knows."""

    member_id: str
    region: str
    token: str | None = None
    version: int = 0
    etag: str | None = None
    available: int = 0
    purchase_id: str | None = None
    hold: tuple[str, int] | None = None
    redemption: tuple[str, str] | None = None

    def learn(self, account: Mapping[str, Any], token: str | None) -> None:
        """Keep the newest of what commands answered."""
        if account["version"] > self.version:
            self.version, self.token = account["version"], token
            self.available = account["balance"]["available"]


@dataclass(frozen=True, slots=True)
class Order:
    """A command: where it goes, its body, and what to make of its answer."""

    path: str
    body: dict[str, Any]
    learn: Callable[[dict[str, Any], Witness], None]


@dataclass(slots=True)
class Till:
    """Makes orders. `baskets` are lines of real shopping, asked for by the kind `basket`."""

    run_id: str
    random: random.Random
    baskets: Sequence[Lines]
    _receipts: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def order(self, kind: CommandKind, member: BenchMember, store: str) -> Order:
        """An order of this kind, or a purchase where it is not possible now."""
        if kind == "return" and member.purchase_id:
            return self._return(member, store)
        if kind == "hold" and (member.hold or member.available >= HOLD_POINTS):
            return self._end_hold(member) if member.hold else self._hold(member, store)
        if kind == "redemption" and (member.redemption or member.available >= REWARD[1]):
            return self._use(member, store) if member.redemption else self._redeem(member, store)
        return self._purchase(member, store, self._lines(kind))

    def _lines(self, kind: CommandKind) -> Lines:
        if kind != "purchase" and self.baskets:
            return self.random.choice(self.baskets)
        sku, category, amount = self.random.choice(_PRODUCTS)
        return [{"sku": sku, "quantity": 1, "amount": amount, "category": category}]

    def _purchase(self, member: BenchMember, store: str, lines: Lines) -> Order:
        body = self._at(store) | {"member": {"member_id": member.member_id}, "currency": CURRENCY, "lines": lines}
        money = sum(line["amount"] for line in lines)

        def learn(answer: dict[str, Any], witness: Witness) -> None:
            witness.purchased(answer, money)
            witness.commanded(answer["account"], change_of(answer["postings"]))
            member.purchase_id = answer["purchase_id"]

        return Order("/v1/purchases", body, learn)

    def _return(self, member: BenchMember, store: str) -> Order:
        path, member.purchase_id = f"/v1/purchases/{member.purchase_id}/returns", None

        def learn(answer: dict[str, Any], witness: Witness) -> None:
            witness.commanded(answer["account"], change_of(answer["postings"]))

        return Order(path, self._at(store) | {"lines": [{"line": 1, "quantity": 1}]}, learn)

    def _hold(self, member: BenchMember, store: str) -> Order:
        body = {"member": {"member_id": member.member_id}, "points": HOLD_POINTS, "store": store}

        def learn(answer: dict[str, Any], witness: Witness) -> None:
            witness.commanded(answer["account"], _moved(available=-HOLD_POINTS, held=HOLD_POINTS))
            member.hold = answer["hold_id"], HOLD_POINTS

        return Order("/v1/holds", body, learn)

    def _end_hold(self, member: BenchMember) -> Order:
        assert member.hold is not None
        (hold_id, points), member.hold = member.hold, None
        captures = self.random.random() < 0.5  # noqa: PLR2004 - as often as not

        def learn(answer: dict[str, Any], witness: Witness) -> None:
            back = 0 if captures else points
            witness.commanded(answer["account"], _moved(available=back, held=-points))

        return Order(f"/v1/holds/{hold_id}/{'capture' if captures else 'void'}", {}, learn)

    def _redeem(self, member: BenchMember, store: str) -> Order:
        reward, points = REWARD
        body = {"member": {"member_id": member.member_id}, "reward": reward, "store": store}

        def learn(answer: dict[str, Any], witness: Witness) -> None:
            witness.commanded(answer["account"], _moved(available=-points))
            member.redemption = answer["redemption_id"], answer["code"]

        return Order("/v1/redemptions", body, learn)

    def _use(self, member: BenchMember, store: str) -> Order:
        assert member.redemption is not None
        (redemption_id, code), member.redemption = member.redemption, None

        def learn(answer: dict[str, Any], witness: Witness) -> None:
            witness.commanded(answer["account"], _moved())

        return Order(f"/v1/redemptions/{redemption_id}/use", {"store": store, "code": code}, learn)

    def _at(self, store: str) -> dict[str, Any]:
        """Where and when a till document was made."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "store": store, "till": f"bench-{self.run_id}", "receipt": str(next(self._receipts)), "occurred_at": now,
        }  # fmt: skip


def _moved(*, available: int = 0, held: int = 0) -> Balance:
    return (available, 0, held, 0)
