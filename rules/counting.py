"""Counting a purchase, and counting it back out: one that came back whole never happened.

The purchase's document notes what it counted for and where, whatever the program says later: a note has the
counters' own names. What the member was forgiven they have had: such a purchase stays counted.
"""

from collections.abc import Mapping
from datetime import date

from rules import counters
from rules.document import CountedDocument, PartlyCountedDocument, PurchaseDocument, at_home, explanation_of
from rules.earn import REFERRAL, Earning
from rules.offer import Basket
from rules.outcome import Purchase
from rules.program import Program
from rules.reversal import came_back_whole
from rules.tier import metric_of_purchase, with_metric, without_metric
from rules.unsettled import may_come_back, with_unsettled, without_unsettled


def count(
    before: counters.Counters, basket: Basket, earning: Earning, program: Program, today: date
) -> tuple[counters.Counters, CountedDocument]:
    """The counters with a purchase, and the note of what a return of it counts back out."""
    limited = sum([component.points for component in earning.components if component.reason != REFERRAL])
    counted = counters.with_purchase(counters.without_old_lapsed(before, today), basket.day, limited)
    noted: CountedDocument = {
        "day": basket.day.isoformat(),
        "applied": [offer.reason for offer in earning.applied if offer.per_member],
        "applied_on": [offer.reason for offer in earning.applied if offer.per_member_per_day],
    }
    for reason in noted["applied"]:
        counted = counters.with_applied(counted, reason)
    for reason in noted["applied_on"]:
        counted = counters.with_applied_on(counted, reason, basket.day)
    if len(program.tiers) > 1 and basket.money:
        metric = metric_of_purchase(program, points=earning.points, amount=at_home(basket.abroad, basket.money))
        counted = with_metric(counted, program, basket.day, metric)
        noted["metric"] = program.tier_policy.metric
    if may_come_back(basket.day, program, today):
        noted["unsettled"] = True
    return with_unsettled(counted, basket.day, earning.points, program, today), noted


def count_out(
    counted: counters.Counters, purchase: Purchase, change: Mapping[str, int], program: Program
) -> counters.Counters:
    """The counters without what now came back of a purchase: `change` of each metric, and all of it once it is undone.

    `purchase` is as the return leaves it. By `change` 1 of `purchases` is the one that came back whole by this return.
    """
    document = purchase.document
    noted = _noted(purchase, program)
    day = date.fromisoformat(noted["day"])
    if change["purchases"] and is_undone(document):
        counted = counters.without_purchase(counted, day, limited_points(document))
        for reason in noted["applied"]:
            counted = counters.with_applied(counted, reason, -1)
        for reason in noted["applied_on"]:
            counted = counters.without_applied_on(counted, reason, day)
    if noted.get("unsettled"):
        counted = without_unsettled(counted, day, change["points"])
    if "metric" not in noted:
        return counted
    return without_metric(counted, noted["metric"], day, change[noted["metric"]])


def limited_points(document: PurchaseDocument) -> int:
    """What of a purchase's points the limits of a day have counted: all but those for having been brought."""
    earned = (line["earned"] for line in document["lines"])
    return sum(points for parts in earned for reason, points in parts.items() if reason != REFERRAL)


def is_undone(document: PurchaseDocument) -> bool:
    """Whether a purchase came back whole and every point of it too."""
    return came_back_whole(document) and not any(one.get("points_forgiven") for one in document["returns"])


def _noted(purchase: Purchase, program: Program) -> CountedDocument:
    """The note; one that an earlier version has not written, or only in part, is what it would be today."""
    document = purchase.document
    noted = document.get("counted")
    if noted is not None and "applied" in noted:
        return noted
    day = program.business_date(purchase.occurred_at).isoformat()
    if noted is None:
        noted = PartlyCountedDocument(coupons=document.get("coupons", []))
        if len(program.tiers) > 1:
            noted["metric"] = program.tier_policy.metric
    told = {one["campaign"] for one in explanation_of(document) if one["applied"]}
    campaigns = [offer for offer in program.home.campaigns if offer.code in told]
    coupons = [f"coupon:{code}" for code in noted.get("coupons", ())]
    whole: CountedDocument = {
        "day": noted.get("day", day),
        "applied": [*coupons, *(offer.reason for offer in campaigns if offer.per_member)],
        "applied_on": [offer.reason for offer in campaigns if offer.per_member_per_day],
    }
    if "metric" in noted:
        whole["metric"] = noted["metric"]
    return whole
