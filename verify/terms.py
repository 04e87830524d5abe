"""Holds entries to the terms of the program that decided them: prices, thanks, limits, and when points end.

Entries of long ago were decided by other rules, so only what is stored in the short form of today is looked at. A
day may be one by the clock of the store or by that of the program, as earlier versions had it.
"""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from functools import partial
from itertools import chain
from typing import Any, Final

from rules.codec import instant_text
from rules.counting import limited_points
from rules.dates import end_of_day
from rules.document import PurchaseDocument, explanation_of
from rules.program import Program, Tier
from rules.state import Account
from rules.tier import qualifying
from verify.books import TERMS, Books, MemberRows, ReadEntry
from verify.stream import attempt

_TO_DEBT: Final = "debt>program"


def check_terms(books: Books, rows: MemberRows) -> None:
    """Check all entries of a member."""
    finding = books[TERMS]
    finding.checked += len(rows.entries)
    bought = _Bought()
    for entry in rows.entries.values():
        wrong = attempt(finding, entry.name, partial(next, _wrong_with(books, rows, entry, bought), None))
        if wrong:
            finding.fault(f"{entry.name}: {wrong}")
        bought.note(entry)


def check_limits(books: Books, rows: MemberRows, stored: Account) -> None:
    """Check that a member has had nothing more often than any version of the program lets one have it."""
    wrong = chain(
        _over_offers(books, stored), _over_rewards(books, stored), _over_days(books, stored),
        _wrong_tier(books, rows, stored),
    )  # fmt: skip
    if words := attempt(books[TERMS], rows.name, partial(next, wrong, None)):
        books[TERMS].fault(f"{rows.name}: {words}")


class _Bought:
    """What a member's entries so far tell of whether they are a newcomer, and who brought them."""

    def __init__(self) -> None:
        self.purchases = 0
        self.came_back = False
        self.referrer: int | None = None
        self.latest: datetime | None = None

    @property
    def is_newcomer(self) -> bool:
        """Whether the next purchase is the first."""
        return not (self.purchases or self.came_back)

    def note(self, entry: ReadEntry) -> None:
        """Take one more entry in."""
        detail, at = entry.detail, entry.row["occurred_at"]
        self.purchases += (entry.kind == "purchase_recorded") - bool(detail.get("undone"))
        self.came_back = self.came_back or bool(detail.get("came_back"))
        self.referrer = detail.get("referred_by", self.referrer)
        self.latest = at if self.latest is None else max(self.latest, at)


def _wrong_with(books: Books, rows: MemberRows, entry: ReadEntry, before: _Bought) -> Iterator[str]:
    program = books.programs.get(entry.row["program_version"])
    if program is None or not entry.is_short:
        return
    match entry.kind:
        case "reward_redeemed":
            yield from _wrong_price(entry, program)
        case "purchase_recorded":
            document = rows.bought(entry.version)
            if document is not None and "money" in document:
                yield from _wrong_times(entry, document, program, before.latest)
                yield from _wrong_thanks(entry, document, program, before)
                yield from _wrong_welcome(document, program, before)
                in_force = books.programs.get(entry.detail.get("shown_by", program.version), program)
                most = in_force.points.limits.per_purchase
                if most and limited_points(document) > most:
                    yield f"earned {limited_points(document)} points, where a purchase earns at most {most}"
        case "purchase_returned":
            bought = rows.entries.get(entry.detail["purchase"])
            ruling = books.programs.get(bought.row["program_version"]) if bought else None
            yield from _wrong_missing(entry, ruling)
        case "referral_returned":
            yield from _wrong_missing(entry, None)
        case _:
            pass


def _wrong_price(entry: ReadEntry, program: Program) -> Iterator[str]:
    detail = entry.detail
    reward = program.rewards.get(detail["reward"])
    if reward is None:
        yield f"redeems {detail['reward']}, which its program does not have"
        return
    if detail["redeemed"] != reward.points * detail["quantity"]:
        yield f"{detail['quantity']} of {reward.code} for {detail['redeemed']} points, each is {reward.points}"
    ends: set[str | None] = {None}
    if reward.valid_days:
        valid = timedelta(days=reward.valid_days)
        zones = {program.zone, program.zone_of(entry.row["store"])}
        ends = {
            instant_text(end_of_day(entry.row["recorded_at"].astimezone(zone).date() + valid, zone)) for zone in zones
        }
    if detail["expires_at"] not in ends:
        yield f"may be used until {detail['expires_at']}, by its program until {', '.join(map(str, ends))}"


def _wrong_times(
    entry: ReadEntry, document: PurchaseDocument, program: Program, latest: datetime | None
) -> Iterator[str]:
    """Points of a purchase are available and end as its program says; by inactivity a later activity counts."""
    bought, stores = entry.row["occurred_at"], {None, entry.row["store"]}
    begins = {program.available_at(bought, store) for store in stores}
    ahead = {instant_text(at) if at and at > entry.row["recorded_at"] else None for at in begins}
    if document["available_at"] not in ahead:
        yield f"its points are available at {document['available_at']}, by its program at {_told(ahead)}"
    ends = {instant_text(program.expires_at(bought, store)) for store in stores}
    if document["expires_at"] in ends:
        return
    if program.points.expiry.kind == "inactivity" and latest and document["expires_at"]:
        last = [program.expires_at(max(bought, latest), store) or latest for store in stores]
        first = [program.expires_at(bought, store) or bought for store in stores]
        if min(first) < datetime.fromisoformat(document["expires_at"]) <= max(last):
            return
    yield f"its points end at {document['expires_at']}, by its program at {_told(ends)}"


def _told(instants: set[str | None]) -> str:
    return " or ".join(sorted(map(str, instants)))


def _wrong_thanks(entry: ReadEntry, document: PurchaseDocument, program: Program, before: _Bought) -> Iterator[str]:
    """The first purchase of who was brought owes thanks, and no other one."""
    owed: dict[str, int] = {}
    terms, currency = program.referral, program.currencies.get(document["currency"])
    is_brought = before.referrer is not None and before.is_newcomer
    money = document.get("money", 0)
    if terms and currency and is_brought and money and money >= currency.referral_min_amount:
        owed = {"referrer": before.referrer or 0, "points": terms.referrer}
    told: dict[str, Any] = dict(entry.detail.get("referral", {}))
    if told != (owed if owed.get("points") else {}):
        yield f"owes {told or 'nothing'} to who brought the buyer, by its program {owed or 'nothing'}"
    newcomer = sum(line["earned"].get("referral", 0) for line in document["lines"])
    if newcomer != (terms.newcomer if owed and terms else 0):
        yield f"{newcomer} points for having been brought, by its program {terms.newcomer if owed and terms else 0}"


def _wrong_welcome(document: PurchaseDocument, program: Program, before: _Bought) -> Iterator[str]:
    """What is for a first purchase was for none but that."""
    currency = program.currencies.get(document["currency"])
    for one in explanation_of(document):
        offer = currency.offer_named(one["campaign"]) if currency else None
        if offer is None or not offer.source.when.first_purchase:
            continue
        if one["applied"] and not before.is_newcomer:
            yield f"earned {one['points']} points by {offer.code}, which is for the first purchase"
        if one["why"].startswith("first_purchase") and before.is_newcomer:
            yield f"earned nothing by {offer.code}, though it is the first purchase"


def _wrong_missing(entry: ReadEntry, ruling: Program | None) -> Iterator[str]:
    """Points are owed or forgiven by the policy of the purchase's program, and only once nothing is left to take."""
    forgiven = entry.detail.get("points_forgiven", 0)
    owed = entry.moved[_TO_DEBT]
    if (forgiven or owed) and entry.account_after["balance"]["available"]:
        yield f"{forgiven} points are forgiven and {owed} owed, though there are others"
    policy = ruling.points.on_return if ruling else None
    if policy and (owed if policy != "debt" else forgiven):
        yield f"{forgiven} points are forgiven and {owed} owed, by its program {policy} is for them"
    if policy == "refuse" and forgiven and "why" not in entry.detail:
        yield f"{forgiven} points were missing, which should have refused it"


def _over_offers(books: Books, stored: Account) -> Iterator[str]:
    counters = stored.counters
    for reason, times in counters.get("applied", {}).items():
        offers = [one for program in books.programs.values() if (one := program.home.offer(reason))]
        most = max([one.per_member for one in offers], default=0)
        if most and times > most:
            yield f"{reason} applied {times} times, at most {most} times per member"
    for reason, flat in counters.get("applied_on", {}).items():
        offers = [one for program in books.programs.values() if (one := program.home.offer(reason))]
        most = max([one.per_member_per_day for one in offers], default=0)
        if most and max(flat[1::2], default=0) > most:
            yield f"{reason} applied {max(flat[1::2])} times on a day, at most {most} times per member and day"


def _over_rewards(books: Books, stored: Account) -> Iterator[str]:
    for code, times in stored.counters.get("rewards", {}).items():
        rewards = [one for program in books.programs.values() if (one := program.rewards.get(code))]
        limits = [one.per_member for one in rewards if one.per_member is not None]
        if limits and len(limits) == len(rewards) and times > max(limits):
            yield f"{times} of {code} redeemed, at most {max(limits)} per member"


def _over_days(books: Books, stored: Account) -> Iterator[str]:
    flat = stored.counters.get("days", [])
    limits = [program.points.limits.per_day for program in books.programs.values()]
    if not limits or min(limits) == 0:
        return
    for day, points in zip(flat[::3], flat[2::3], strict=True):
        if points > max(limits):
            yield f"{points} points on {date.fromordinal(day)}, at most {max(limits)} on a day"


def _wrong_tier(books: Books, rows: MemberRows, stored: Account) -> Iterator[str]:
    """After a purchase a member has the tier that what is counted of them earns, if not a higher one."""
    last = next(reversed(rows.entries.values()), None)
    if last is None or last.kind != "purchase_recorded" or not last.is_short:
        return
    program = books.programs.get(last.detail.get("shown_by", last.row["program_version"]))
    if program is None or len(program.tiers) == 1:
        return
    day = program.at_store(last.row["store"], last.row["recorded_at"]).date()
    counted = qualifying(stored.counters, program, day)
    earned = max([tier for tier in program.tiers if tier.threshold <= counted], key=_threshold)
    if program.rank(earned.code) > program.rank(stored.tier.code):
        yield f"is {stored.tier.code} after a purchase, with {counted} counted for {earned.code}"


def _threshold(tier: Tier) -> int:
    return tier.threshold
