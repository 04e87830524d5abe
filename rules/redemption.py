"""Redemptions: points spent for a reward, which is then used, cancelled or left to end.

A redemption remembers the lots that paid it: cancelling gives them back with their own expiry.
One that ends unused keeps its points spent.
"""

from datetime import timedelta
from hmac import compare_digest

from rules import counters
from rules.codec import instant_text
from rules.command import CancelRedemption, RedeemReward, UseRedemption
from rules.dates import end_of_day
from rules.draft import Draft
from rules.facts import Facts
from rules.guess import CODES_MAX, too_many
from rules.hold import insufficient, too_many_open
from rules.outcome import Accepted, Outcome, Reason, Refused
from rules.program import Program, Reward
from rules.state import Account, Bucket


def redeem_reward(account: Account, command: RedeemReward, program: Program, facts: Facts) -> Outcome:
    """Spend points for a reward, within its stock and the member's own limit."""
    reward = program.rewards.get(command.reward)
    if reward is None:
        return Refused(Reason.REWARD_NOT_FOUND, f"the program has no reward {command.reward!r}", "/reward")
    refused = (
        _unavailable(account, command, reward, facts)
        or _unknown_store(command.store, program)
        or too_many_open(account.redemptions, "redemptions")
    )
    if refused:
        return refused
    points = reward.points * command.quantity
    draft = Draft(account)
    draft.keep_alive(program, command.received_at, command.store)  # what is spent too: it may come back
    if draft.take(points, Bucket.SPENT, "redeemed") < points:
        return insufficient(account, points)
    expires_at = None
    if reward.valid_days:
        zone = program.zone_of(command.store)
        expires_at = end_of_day(command.received_at.astimezone(zone).date() + timedelta(days=reward.valid_days), zone)
    version = draft.open_redemption(reward.code, command.quantity, expires_at)
    draft.counters = counters.with_redeemed(draft.counters, reward.code, command.quantity)
    entry = draft.entry(
        "reward_redeemed",
        occurred_at=command.received_at,
        recorded_at=command.received_at,
        points=-points,
        store=command.store,
        detail={
            "redemption": version,
            "reward": reward.code,
            "quantity": command.quantity,
            "code": command.code,
            "redeemed": points,
            "expires_at": instant_text(expires_at),
        },
    )
    return Accepted(entry)


def _unavailable(account: Account, command: RedeemReward, reward: Reward, facts: Facts) -> Refused | None:
    had = counters.times_redeemed(account.counters, reward.code)
    if reward.per_member is not None and had + command.quantity > reward.per_member:
        words = f"member_limit: {had} of at most {reward.per_member} per member redeemed"
        return Refused(Reason.LIMIT_EXCEEDED, words, "/quantity")
    if reward.stock is not None and command.quantity > (facts.stock_left or 0):
        return Refused(Reason.OUT_OF_STOCK, f"{facts.stock_left or 0} of {reward.name!r} left", "/quantity")
    return None


def _unknown_store(store: str | None, program: Program) -> Refused | None:
    if store is None or store in program.stores:
        return None
    return Refused(Reason.UNKNOWN_STORE, f"the program has no store {store!r}", "/store")


def use_redemption(account: Account, command: UseRedemption, program: Program, facts: Facts) -> Outcome:
    """Hand the reward out."""
    redemption = account.redemption(command.redemption)
    if redemption is None:
        return _none_open(facts)
    refused = _unknown_store(command.store, program) or _wrong_code(command, facts)
    if refused:
        return refused
    draft = Draft(account)
    draft.close_redemption(redemption.version)
    entry = draft.entry(
        "redemption_used",
        occurred_at=command.received_at,
        recorded_at=command.received_at,
        store=command.store,
        detail={
            "redemption": redemption.version,
            "status": "used",
            "till": command.till,
            "reward": redemption.reward,
        },
    )
    return Accepted(entry)


def cancel_redemption(account: Account, command: CancelRedemption, program: Program, facts: Facts) -> Outcome:
    """Give the points back. `detail` names what goes back on the shelf."""
    redemption = account.redemption(command.redemption)
    if redemption is None:
        return _none_open(facts)
    refused = _wrong_code(command, facts)
    if refused:
        return refused
    draft = Draft(account)
    draft.close_redemption(redemption.version)
    points = draft.give_back(redemption.lots, "redemption_cancelled", command.received_at, program)
    draft.counters = counters.with_redeemed(draft.counters, redemption.reward, -redemption.quantity)
    entry = draft.entry(
        "redemption_cancelled",
        occurred_at=command.received_at,
        recorded_at=command.received_at,
        points=points,
        store=command.store,
        detail={
            "redemption": redemption.version,
            "status": "cancelled",
            "reward": redemption.reward,
            "quantity": redemption.quantity,
        },
    )
    return Accepted(entry)


def _none_open(facts: Facts) -> Refused:
    if facts.redemption_existed:
        return Refused(Reason.REDEMPTION_CLOSED, "the redemption was used, cancelled or has ended")
    return Refused(Reason.NOT_FOUND, "no such redemption")


def _wrong_code(command: UseRedemption | CancelRedemption, facts: Facts) -> Refused | None:
    """The refusal of a code that is not the redemption's; how long comparing takes tells nothing about it."""
    if command.code is None:
        return None
    refused = too_many(facts.wrong_guesses, command.received_at, guesses_max=CODES_MAX, what="wrong codes")
    if refused or compare_digest(command.code.upper().encode(), facts.redemption_code.encode()):
        return refused
    return Refused(Reason.NOT_FOUND, "no such redemption, or its code is another one", "/code", wrong_guess=True)
