"""The layout of what is stored as JSON: each key has its home here, and whoever writes or reads one is checked.

Postings, accounts and purchases are stored in a short form of it (rules/stored.py), and so is a member's state
(rules/codec.py).
A key that is `NotRequired` is missing where there is nothing to tell, or in what an earlier version has stored.
Instants are texts, RFC 3339 in UTC; quantities are texts without trailing zeros; points and money are integers.
"""

from collections.abc import Iterable
from typing import Any, Final, NotRequired, TypedDict

APPLIED: Final = "applied"
"""Why something gave its points, when no limit cut them."""

Explained = tuple[str, int, str]
"""What became of one thing that may give points: its name, the points (0: not applied), and why."""

LotRow = list[Any]
"""Points, when they expire, and the activation of those still pending."""


class CountersDocument(TypedDict, total=False):
    """What is counted of a member beside points (see counters).

    Of days: flat rows of a day's ordinal and its values, `metric` behind its name. `tier_before`: rows of code, since
    and until. `referrals`: rows of referee, purchase, day, points and when they end; in earlier versions the first
    four or two, or the referee alone. `alive`: begin and end of a run of activities. `sent`: a day and the points sent
    to others on it.
    `unsettled`: points of a day that may come back. `lapsed`: points and when they expired.
    """

    purchases: int
    days: list[int]
    applied: dict[str, int]
    applied_on: dict[str, list[int]]
    rewards: dict[str, int]
    metric: list[Any]
    tier_before: list[list[Any]]
    active_at: str
    alive: list[str]
    came_back: bool
    referred_by: int
    referrals: list[Any]
    sent: list[int]
    unsettled: list[int]
    lapsed: list[LotRow]


StateRow = list[Any]
"""What the columns of an account do not say, in a fixed order (see `rules.codec.state_row`)."""


class StateDocument(TypedDict):
    """The same as earlier versions have stored it, with rows of the tier, each hold and each open redemption."""

    tier: list[Any]
    changed_at: str
    lots: NotRequired[list[LotRow]]
    holds: NotRequired[list[list[Any]]]
    redemptions: NotRequired[list[list[Any]]]
    counters: NotRequired[CountersDocument]


PostingDocument = TypedDict(
    "PostingDocument",
    {
        "points": int,
        "from": str,
        "to": str,
        "expires_at": str | None,
        "reason": str,
        "available_at": NotRequired[str | None],
        "hold": NotRequired[int],
        "expires_before": NotRequired[str | None],
    },
)
"""A posting as API.md shows it; the last three only where they matter."""


class ExpiringDocument(TypedDict):
    """Available points with the instant at which they expire."""

    points: int
    at: str


class BalanceDocument(TypedDict):
    """Points by bucket; `lifetime` are all ever issued less those reversed; `next_change_at`: by time alone."""

    available: int
    pending: int
    held: int
    debt: int
    lifetime: int
    expiring: list[ExpiringDocument]
    next_change_at: str | None


class NextTierDocument(TypedDict):
    """What is missing for the next tier."""

    code: str
    points_needed: int


class TierDocument(TypedDict):
    """The tier a member has, and how far the next one is; none above the highest."""

    code: str
    name: str
    qualifying_points: int
    since: str
    until: str | None
    next: NextTierDocument | None


class AccountDocument(TypedDict):
    """An account as answers and views show it, at a version; kept with the entry that made it."""

    member_id: str
    version: int
    balance: BalanceDocument
    tier: TierDocument
    as_of: str


class ExplanationDocument(TypedDict):
    """What became of one thing that may give points: `base`, `tier:<code>`, a campaign, `coupon:<code>`, `referral`."""

    campaign: str
    applied: bool
    points: int
    why: str


class NotAppliedDocument(TypedDict):
    """A campaign or coupon that ran and gave nothing."""

    code: str
    why: str


class LineDocument(TypedDict):
    """A line of a basket: what it earned by reason, and what of that was undone when it came back.

    Of a basket that points paid: the money they stand for, and the line's part of each paying lot, given and repaid.
    """

    line: int
    sku: str
    quantity: str
    amount: int
    category: str | None
    points: int
    earned: dict[str, int]
    returned: str
    reversed: dict[str, int]
    paid_amount: NotRequired[int]
    paid: NotRequired[list[int]]
    repaid: NotRequired[list[int]]


class PaymentDocument(TypedDict):
    """What points paid: how many, the money they stand for, pairs of hold and points, and the lots that paid."""

    points: int
    amount: int
    holds: list[list[int]]
    lots: list[LotRow]


class ReceiptDocument(TypedDict):
    """How a till names its document."""

    store: str
    till: str
    receipt: str


class ReturnedLineDocument(TypedDict):
    """So much of a line came back."""

    line: int
    quantity: str


class ReversedDocument(TypedDict):
    """What a return took back of what was earned, gave back of what had paid, and forgave."""

    points_reversed: int
    points_returned: NotRequired[int]
    points_forgiven: NotRequired[int]


class ReturnDocument(ReceiptDocument, ReversedDocument):
    """One return of a purchase; `version` is that of its entry. `why`: the reason, where no goods came back."""

    version: int
    why: NotRequired[str]
    occurred_at: str
    lines: list[ReturnedLineDocument]


class CountedDocument(TypedDict):
    """What a purchase counted for, under the names of the counters, and on which day: a return counts it back out."""

    day: str
    applied: list[str]
    applied_on: list[str]
    metric: NotRequired[str]
    unsettled: NotRequired[bool]


class PartlyCountedDocument(TypedDict, total=False):
    """What an earlier version noted of it."""

    day: str
    metric: str
    coupons: list[str]


class HomeDocument(TypedDict):
    """The home currency, and how many of its minor units one of the purchase's counts as: numerator, denominator."""

    currency: str
    rate: list[int]


class PurchaseDocument(TypedDict):
    """A purchase: its lines, what they earned and why, what paid, what it counted for, and its returns.

    `explained`: short rows of an explanation, see `explanation_of`; earlier versions wrote the `explanation` itself.
    `home` is missing where the purchase was in the home currency.
    """

    currency: str
    home: NotRequired[HomeDocument]
    amount: int
    money: NotRequired[int]
    points_earned: int
    expires_at: str | None
    available_at: str | None
    lines: list[LineDocument]
    explained: NotRequired[list[list[Any]]]
    explanation: NotRequired[list[ExplanationDocument]]
    returns: list[ReturnDocument]
    coupons: NotRequired[list[str]]
    payment: NotRequired[PaymentDocument]
    counted: NotRequired[CountedDocument | PartlyCountedDocument]
    rounded_once: NotRequired[bool]


def at_home(home: HomeDocument | None, amount: int) -> int:
    """What an amount of a purchase counts as in whole minor units at home, at the rate that the purchase noted."""
    return amount * home["rate"][0] // home["rate"][1] if home else amount


def payment_of(document: PurchaseDocument) -> PaymentDocument:
    """What points paid of a purchase."""
    return document.get("payment", {"points": 0, "amount": 0, "holds": [], "lots": []})


def explained_rows(explained: Iterable[Explained]) -> list[list[Any]]:
    """An explanation as short rows: the reason is left out where it simply applied."""
    return [[name, points] if why == APPLIED else [name, points, why] for name, points, why in explained]


def explanation(explained: Iterable[Explained]) -> list[ExplanationDocument]:
    """An explanation as API.md shows it."""
    return [{"campaign": name, "applied": points > 0, "points": points, "why": why} for name, points, why in explained]


def explanation_of(document: PurchaseDocument) -> list[ExplanationDocument]:
    """Why a purchase earned what it did, as API.md shows it."""
    if "explanation" in document:
        return document["explanation"]
    rows = document.get("explained", ())
    return explanation((name, points, why[0] if why else APPLIED) for name, points, *why in rows)
