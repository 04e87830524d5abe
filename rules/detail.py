"""The layout of what an entry tells beside its postings, kind by kind: answers, returns, views and verify read it.

A key that is `NotRequired` is missing where there is nothing to tell, or in entries of earlier versions.
"""

from typing import Any, Final, NotRequired, TypedDict

from rules.document import LotRow, NotAppliedDocument

TierChangeDocument = TypedDict("TierChangeDocument", {"from": str, "to": str, "since": str, "until": str | None})
"""Another tier, or another period of the same one."""


class EntryDetail(TypedDict):
    """What an entry tells beside its postings: answers, returns and verify read it. Each kind has a layout of its own.

    `key`: the key under which personal data were answered, so that they can be erased. `shown_by`: the version of the
    program by which the account is shown, when the one that decided is another.
    """

    tier: NotRequired[TierChangeDocument]
    key: NotRequired[str | None]
    shown_by: NotRequired[int]


class EnrolledDetail(EntryDetail, total=False):
    """Who brought the member; whether they had been one before."""

    referred_by: int
    came_back: bool


class IdentifiersDetail(EntryDetail):
    """Kinds of identifiers that came and went; whether they tell that the member had been one before."""

    added: list[str]
    removed: list[str]
    came_back: NotRequired[bool]


class ClosedDetail(EntryDetail):
    """Points that were left, and those that were owed."""

    forfeited: int
    written_off: NotRequired[int]


class CapturedDocument(TypedDict):
    """So many points of a hold were spent."""

    hold: int
    points: int


class ReferralDocument(TypedDict):
    """Points owed to the member who brought the buyer."""

    referrer: int
    points: int


class ReferralReturnDocument(ReferralDocument):
    """The same, to be taken back: for which purchase they were, and what becomes of what is missing."""

    purchase: int
    on_return: NotRequired[str]


class PurchaseDetail(EntryDetail, total=False):
    """What a purchase earned, paid with points and released of holds; what it owes a referrer; what did not apply.

    The last is stored by earlier versions only: the purchase's explanation tells it (rules/stored.py).
    """

    points_earned: int
    points_paid: int
    captured: list[CapturedDocument]
    released: int
    not_applied: list[NotAppliedDocument]
    referral: ReferralDocument


class ReturnDetail(EntryDetail):
    """Which purchase came back; the points where they are not those of the entry; whether nothing of it is left.

    `why`: the reason, where no goods came back.
    """

    purchase: int
    why: NotRequired[str]
    points_reversed: NotRequired[int]
    points_returned: NotRequired[int]
    points_forgiven: NotRequired[int]
    undone: NotRequired[bool]
    referral_return: NotRequired[ReferralReturnDocument]


class ReferralDetail(EntryDetail):
    """For which member thanks were given or taken back, for which purchase of theirs, when, and until when they live.

    Of those taken back: how many were missing and are forgiven, and how many had expired.
    """

    referee: int
    purchase: NotRequired[int]
    day: NotRequired[str]
    expires_at: NotRequired[str | None]
    points_forgiven: NotRequired[int]
    points_lapsed: NotRequired[int]


class HeldDetail(EntryDetail):
    """A hold, its points and until when."""

    hold: int
    held: int
    expires_at: str


class HoldEndDetail(EntryDetail):
    """What became of a hold; one that lapsed tells no points but those of its entry."""

    hold: int
    captured: NotRequired[int]
    released: NotRequired[int]


class RedeemedDetail(EntryDetail):
    """A redemption, what was redeemed for how many points, and the code for which it is handed out."""

    redemption: int
    reward: str
    quantity: int
    code: str
    redeemed: int
    expires_at: str | None


class RedemptionEndDetail(EntryDetail):
    """What became of a redemption, and how many of which reward go back on the shelf."""

    redemption: int
    status: str
    reward: NotRequired[str]
    quantity: NotRequired[int]
    till: NotRequired[str | None]


class TransferSentDetail(EntryDetail):
    """A transfer under way: to whom, and the lots that wait."""

    transfer: int
    receiver: int
    sent: int
    lots: list[LotRow]


class TransferReceivedDetail(EntryDetail):
    """Whose transfer it is, and the version of the entry that sent it."""

    sender: int
    transfer: int


class TransferEndDetail(EntryDetail):
    """What became of one's own transfer."""

    transfer: int
    settled: NotRequired[int]
    released: NotRequired[int]
    returned: NotRequired[int]
    why: NotRequired[str]


class TransferRevokedDetail(TransferReceivedDetail):
    """The version of the entry that received what is revoked, and how much of it a closed account no longer owes."""

    revokes: int
    revoked: int
    forgiven: int


Detail = (
    EntryDetail
    | EnrolledDetail
    | IdentifiersDetail
    | ClosedDetail
    | PurchaseDetail
    | ReturnDetail
    | ReferralDetail
    | HeldDetail
    | HoldEndDetail
    | RedeemedDetail
    | RedemptionEndDetail
    | TransferSentDetail
    | TransferReceivedDetail
    | TransferEndDetail
    | TransferRevokedDetail
)
DETAILS: Final[dict[str, Any]] = {
    "member_enrolled": EnrolledDetail,
    "identifiers_changed": IdentifiersDetail,
    "member_closed": ClosedDetail,
    "purchase_recorded": PurchaseDetail,
    "purchase_returned": ReturnDetail,
    "points_adjusted": EntryDetail,
    "referral_credited": ReferralDetail,
    "referral_returned": ReferralDetail,
    "hold_placed": HeldDetail,
    "hold_captured": HoldEndDetail,
    "hold_voided": HoldEndDetail,
    "hold_lapsed": HoldEndDetail,
    "reward_redeemed": RedeemedDetail,
    "redemption_used": RedemptionEndDetail,
    "redemption_cancelled": RedemptionEndDetail,
    "redemption_expired": RedemptionEndDetail,
    "transfer_sent": TransferSentDetail,
    "transfer_received": TransferReceivedDetail,
    "transfer_settled": TransferEndDetail,
    "transfer_cancelled": TransferEndDetail,
    "transfer_returned": TransferEndDetail,
    "transfer_revoked": TransferRevokedDetail,
    "points_activated": EntryDetail,
    "points_expired": EntryDetail,
    "tier_changed": EntryDetail,
    "tier_renewed": EntryDetail,
}
"""The layout of each kind of entry's detail."""
