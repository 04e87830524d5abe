"""What a purchase would bring, at any instant: the same decision, with nothing kept."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import cast

from rules.command import RecordPurchase
from rules.decide import decide
from rules.describe import describe_tier
from rules.detail import PurchaseDetail
from rules.document import ExplanationDocument, NotAppliedDocument, TierDocument
from rules.facts import NO_FACTS, Facts
from rules.outcome import Accepted, Refused
from rules.program import Program
from rules.purchase import told_of_holds
from rules.state import Account, Posting
from rules.value import value


@value
class Evaluation:
    """`points` would be earned; `tier_after` is `tier` of API.md; one explanation per campaign, base, tier, coupon.

    `not_applied` are the campaigns and coupons that the purchase would tell as such. `holds` tells how many points of
    the holds named would be captured and released; empty without any.
    """

    points: int
    postings: tuple[Posting, ...]
    tier_after: TierDocument
    explanation: tuple[ExplanationDocument, ...]
    not_applied: Sequence[NotAppliedDocument]
    holds: dict[str, int]


def evaluate(
    account: Account, command: RecordPurchase, program: Program, at: datetime, facts: Facts = NO_FACTS
) -> Evaluation | Refused:
    """The purchase as if received at `at` (bought when it says), on the account with time let pass up to `at`."""
    asked = replace(command, received_at=at)
    outcome = decide(account, asked, program, facts).outcome
    if isinstance(outcome, Refused):
        return outcome
    if not isinstance(outcome, Accepted):
        raise TypeError("a purchase is always something to do")
    entry, detail = outcome.entry, cast("PurchaseDetail", outcome.entry.detail)
    points = detail.get("points_earned", entry.points)
    tier, holds = describe_tier(entry.account, program), told_of_holds(detail)
    not_applied = detail.get("not_applied", ())
    return Evaluation(points, entry.postings, tier, outcome.explanation, not_applied, holds)
