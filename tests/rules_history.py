"""Programs, baskets and histories of members by chance, for laws. The books are checked after every command."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from rules.codec import parse_lots
from rules.command import (
    AdjustPoints,
    CancelRedemption,
    CancelTransfer,
    CaptureHold,
    CloseMember,
    CreditReferral,
    Line,
    PlaceHold,
    ReceiveTransfer,
    RedeemReward,
    ReturnReferral,
    ReversePurchase,
    SendTransfer,
    SettleAccount,
    SettleTransfer,
    UseRedemption,
    VoidHold,
)
from rules.outcome import Entry
from rules.program import Program
from tests.rules_world import NOW, Member, program, purchase, returned

LAW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CATEGORIES = ("PRODUCE", "DELI", None)

exact = st.decimals(0, 3, places=3).map(str)
multiplier = st.decimals(1, 3, places=2).map(str)
effects = st.one_of(
    multiplier.map('multiply = "{}"'.format),
    exact.map('per_unit = "{}"'.format),
    st.integers(1, 200).map("fixed = {}".format),
    st.integers(1, 20).map("fixed_per_item = {}".format),
)
whens = st.sampled_from(
    ["", 'weekdays = ["sun", "mon"]', "min_amount = 700", "first_purchase = true", 'tiers = ["silver", "gold"]']
)
matches = st.sampled_from(["", 'categories = ["PRODUCE"]', 'skus = ["a"]'])
expiries = st.sampled_from(
    ['kind = "none"', 'kind = "rolling", months = 1, round = "none"', 'kind = "rolling", months = 2',
     'kind = "fixed_dates", dates = ["12-31", "02-29"]', 'kind = "inactivity", months = 1']
)  # fmt: skip

LONG_AGO = NOW - timedelta(days=3650)


@st.composite
def campaigns(draw: st.DrawFn) -> str:
    texts = []
    for number in range(draw(st.integers(0, 3))):
        limits = f"per_member = {draw(st.integers(0, 2))}, per_member_per_day = {draw(st.integers(0, 2))}"
        texts.append(
            f'[[campaigns]]\ncode = "c{number}"\neffect = {{ {draw(effects)} }}\nwhen = {{ {draw(whens)} }}\n'
            f'match = {{ {draw(matches)} }}\nlimits = {{ {limits} }}\ngroup = "{draw(st.sampled_from(["", "g"]))}"\n'
        )
    return "".join(texts)


@st.composite
def programs(draw: st.DrawFn, policy: str | None = None) -> Program:
    limits = f"per_purchase = {draw(st.sampled_from([0, 25]))}, per_day = {draw(st.sampled_from([0, 60]))}"
    points = (
        f'per_unit = "{draw(exact)}"\npending_days = {draw(st.integers(0, 3))}\nexpiry = {{ {draw(expiries)} }}\n'
        f'on_return = "{policy or draw(st.sampled_from(["debt", "forgive", "refuse"]))}"\n'
        f"worth = {{ points = {draw(st.integers(1, 7))}, amount = {draw(st.integers(1, 7))} }}\n"
        f"limits = {{ {limits} }}\n"
    )
    tiers = "".join(
        f'[[tiers]]\ncode = "{code}"\nthreshold = {threshold}\nmultiplier = "{draw(multiplier)}"\n'
        for code, threshold in (("basic", 0), ("silver", 20), ("gold", 60))
    )
    window = draw(st.sampled_from(['kind = "rolling", months = 1', 'kind = "calendar_year"']))
    policy_text = (
        f'[tier_policy]\nmetric = "{draw(st.sampled_from(["points", "amount", "purchases"]))}"\n'
        f'window = {{ {window} }}\nstep = "{draw(st.sampled_from(["one", "earned"]))}"\n'
        f'downgrade = "{draw(st.sampled_from(["period_end", "never"]))}"\n'
        f"return_days = {draw(st.sampled_from([2, 30]))}\n"
        f"[transfers]\nmin_account_days = 0\nper_day = {draw(st.sampled_from([0, 30]))}\n"
        f"only_settled = {draw(st.sampled_from(['true', 'false']))}\n"
    )
    others = (
        '[[coupons]]\ncode = "SAVE"\neffect = { fixed = 7 }\n[referral]\nreferrer = 20\nnewcomer = 10\n'
        '[[rewards]]\ncode = "r"\nname = "R"\npoints = 5\nvalid_days = 3\n'
    )
    zone = draw(st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]))
    return program(tiers, policy_text, draw(campaigns()), others, points=points, zone=zone)


lines = st.builds(
    Line,
    st.sampled_from(["a", "b"]),
    st.one_of(st.integers(1, 4).map(Decimal), st.decimals("0.001", 3, places=3)),
    st.one_of(st.integers(0, 3000), st.just(0)),
    st.sampled_from(CATEGORIES),
)
baskets = st.lists(lines, min_size=1, max_size=4).map(tuple)


@dataclass
class History:
    """Random commands for one member, each made from what the member has at that moment."""

    member: Member
    data: st.DataObject
    now: datetime = NOW
    opened: dict[str, list[int]] = field(default_factory=lambda: {"hold": [], "transfer": [], "redemption": []})

    def step(self) -> None:
        self.now += timedelta(hours=self.data.draw(st.sampled_from([0, 1, 30, 24 * 9, 24 * 40])))
        self.data.draw(st.sampled_from(STEPS))(self)

    def remember(self, kind: str, entry: object) -> None:
        if isinstance(entry, Entry):
            self.opened[kind].append(entry.version)

    def pick(self, kind: str) -> int:
        return self.data.draw(st.sampled_from([*self.opened[kind], 999]))

    def points(self) -> int:
        return self.data.draw(st.integers(1, max(self.member.now.available, 1) + 2))


def _buy(history: History) -> None:
    draw = history.data.draw
    holds = tuple(draw(st.sets(st.sampled_from([*history.opened["hold"], 998]), max_size=1)))
    late = timedelta(days=draw(st.sampled_from([0, 0, 2, 45])))
    command = purchase(
        *draw(baskets),
        at=history.now - late,
        received_at=history.now,
        capture_holds=holds if 998 not in holds else (),
        coupons=draw(st.sampled_from([(), (), ("SAVE",)])),
        pay_with_points=draw(st.sampled_from([0, 0, 3, 11])),
    )
    history.member.say(command)


def _bring_back(history: History) -> None:
    if not history.member.purchases:
        return
    version = history.data.draw(st.sampled_from(sorted(history.member.purchases)))
    document = history.member.purchases[version].document
    line = history.data.draw(st.sampled_from(document["lines"]))
    left = Decimal(line["quantity"]) - Decimal(line["returned"])
    part = left if history.data.draw(st.booleans()) else (left / 2).quantize(Decimal("0.001"))
    if part:
        asked = returned(version, (line["line"], part), at=history.now)
        owed = next(entry for entry in history.member.journal if entry.version == version).detail.get("referral")
        history.member.say(asked, purchase=history.member.purchases[version], referral=owed)


def _lose_receipt(history: History) -> None:
    if history.member.purchases:
        version = history.data.draw(st.sampled_from(sorted(history.member.purchases)))
        owed = next(entry for entry in history.member.journal if entry.version == version).detail.get("referral")
        lost = ReversePurchase(version, history.now)
        history.member.say(lost, purchase=history.member.purchases[version], referral=owed)


def _redeem(history: History) -> None:
    entry = history.member.say(RedeemReward("r", history.data.draw(st.integers(1, 2)), "code", history.now))
    history.remember("redemption", entry)


def _receive(history: History) -> None:
    lots = parse_lots([[5, "2026-12-01T00:00:00Z"], [3, None]])
    history.member.say(ReceiveTransfer(8, history.data.draw(st.integers(1, 9)), lots, history.now))


def _give_for_a_while(history: History) -> None:
    draw, now = history.data.draw, history.now
    pending_until = draw(st.sampled_from([None, now + timedelta(hours=1)]))
    expires_at = now + draw(st.sampled_from([timedelta(minutes=90), timedelta(days=3)]))
    history.member.ok(AdjustPoints(9, "by hand", now, pending_until, expires_at))


STEPS: tuple[Callable[[History], None], ...] = (
    _buy,
    _buy,
    _buy,
    _bring_back,
    _bring_back,
    _lose_receipt,
    _redeem,
    _receive,
    _give_for_a_while,
    lambda h: h.remember("hold", h.member.say(PlaceHold(h.points(), 7200, h.now))),
    lambda h: h.remember("transfer", h.member.say(SendTransfer(8, h.points(), h.now))),
    lambda h: _ignore(h.member.say(CaptureHold(h.pick("hold"), h.data.draw(st.sampled_from([None, 1])), h.now))),
    lambda h: _ignore(h.member.say(VoidHold(h.pick("hold"), h.now))),
    lambda h: _ignore(h.member.say(SettleTransfer(h.pick("transfer"), h.now))),
    lambda h: _ignore(h.member.say(CancelTransfer(h.pick("transfer"), h.now))),
    lambda h: _ignore(h.member.say(UseRedemption(h.pick("redemption"), "330", h.now))),
    lambda h: _ignore(h.member.say(CancelRedemption(h.pick("redemption"), h.now))),
    lambda h: _ignore(h.member.say(CreditReferral(h.data.draw(st.integers(1, 2)), 7, 20, h.now))),
    lambda h: _ignore(h.member.say(ReturnReferral(h.data.draw(st.integers(1, 2)), 7, 20, h.now))),
    lambda h: _ignore(h.member.say(AdjustPoints(h.data.draw(st.sampled_from([-3, 9])), "by hand", h.now))),
    lambda h: _ignore(h.member.say(SettleAccount(h.now))),
)


def _ignore(_outcome: object) -> None:
    return


def live(data: st.DataObject, rules: Program, *, steps: int = 12, close: bool = False) -> Member:
    history = History(Member(rules, referrer=99), data)
    for _ in range(data.draw(st.integers(1, steps))):
        history.step()
    if close and data.draw(st.booleans()):
        history.member.say(CloseMember(history.now))
    return history.member


def story(journal: list[Entry]) -> list[Any]:
    """The entries without the time they were written down."""
    return [
        (entry.kind, entry.version, entry.occurred_at, entry.postings, entry.points, entry.detail) for entry in journal
    ]


def parts_of(data: st.DataObject, document: dict[str, Any]) -> Iterator[tuple[int, Decimal]]:
    """All of a basket in any parts and order."""
    left = {one["line"]: Decimal(one["quantity"]) for one in document["lines"]}
    while left:
        number = data.draw(st.sampled_from(sorted(left)))
        part = data.draw(st.one_of(st.just(left[number]), st.decimals("0.001", left[number], places=3)))
        yield number, part
        left[number] -= part
        if not left[number]:
            del left[number]


def versions(*parts: tuple[datetime, Program]) -> Program:
    """The newest of some versions, knowing all."""
    numbered = [(since, Program(one.document, number)) for number, (since, one) in enumerate(parts, start=1)]
    return numbered[-1][1].with_history(numbered)
