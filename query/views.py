"""The layout of every view in Valkey: keys, the version header, and the JSON a query sends.

The reader owns the layout; the projector (cdc) writes through these functions. A value is a fixed
header (the version, zero-padded, so that text order is number order) followed by the JSON bytes of
the answer: the hot path looks whether that is JSON, and renders nothing. Views hold whole states, never
deltas. One that cannot be parsed is as good as none: nobody but Postgres says what is in it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from query.subject import subject_of
from rules.document import AccountDocument, LineDocument, PaymentDocument, at_home
from rules.stored import full_account, full_balance, full_postings, full_purchase, stored_explanation
from shard_router.errors import LoyaltyError
from shard_router.member_id import format_member_id, format_reference

HEADER_SIZE: Final = 16
RECENT_ENTRIES: Final = 50
"""Entries of one member kept in Valkey; older pages come from a standby. One default page of the activity list."""

DAMAGED_CHANNEL: Final = "damaged"
"""Pub/sub channel: keys of views that a query node could not parse, for the projector to look at."""

VISIBLE_CHANNEL: Final = "visible"
"""Pub/sub channel: `<member>:<version>` words, space separated, one message per applied batch; or `ANYTHING`."""
ANYTHING: Final = b"*"
"""Announced of a change that is not told member by member: a rebuild, and what takes views out or back."""

ACCOUNT: Final = "a:"
PROFILE: Final = "m:"


def account_key(member_id: int) -> str:
    """Key of the account view."""
    return f"{ACCOUNT}{member_id}"


def profile_key(member_id: int) -> str:
    """Key of the personal data view."""
    return f"{PROFILE}{member_id}"


def activity_key(member_id: int) -> str:
    """Key of the sorted set of recent entries, scored by version."""
    return f"e:{member_id}"


def purchase_key(member_id: int, version: int) -> str:
    """Key of a purchase view; `version` is that of the entry that recorded it."""
    return f"p:{member_id}-{version}"


def identifier_key(kind: str, value: str) -> str:
    """Key from a card, phone or e-mail to its member."""
    return f"i:{kind}:{value}"


def mark_key(shard: str) -> str:
    """Key of the projector's mark: hash of `epoch`, `run_id`, `complete`."""
    return f"projector:{shard}"


def in_logs(key: str) -> str:
    """A key as a log may name it: that of an identifier holds a phone number, an address or a card."""
    return ":".join(key.split(":")[:2]) if key.startswith("i:") else key


def header(version: int) -> bytes:
    """The header of a stored value: 16 digits."""
    return b"%016d" % version


class DamagedViewError(LoyaltyError):
    """A view that cannot be parsed, whatever put it there."""

    def __init__(self, key: str) -> None:
        super().__init__(key[:1])  # the rest may hold a phone number
        self.key = key


def split(key: str, value: bytes) -> tuple[int, bytes]:
    """Version and body of a stored value; DamagedViewError when it is none."""
    version, body = version_of(key, value), value[HEADER_SIZE:]
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise DamagedViewError(key) from error
    name, kind = _CONTENT[key[0]]
    if not isinstance(content, dict) or not isinstance(content.get(name), kind):
        raise DamagedViewError(key)
    return version, body


def version_of(key: str, value: bytes) -> int:
    """Version of a stored value, where its body does not matter; DamagedViewError when it has none."""
    head = value[:HEADER_SIZE]
    if len(head) != HEADER_SIZE or not head.isdigit():
        raise DamagedViewError(key)
    return int(head)


def is_readable(key: str, value: bytes) -> bool:
    """Whether a stored value can be parsed."""
    try:
        split(key, value)
    except DamagedViewError:
        return False
    return True


_CONTENT: Final[Mapping[str, tuple[str, type]]] = {
    "a": ("balance", dict),
    "i": ("member_id", str),
    "m": ("", object),
    "p": ("lines", list),
}
"""What a view of each kind (the first letter of its key) has at least: what queries read out of it."""


def profile_view(row: Mapping[str, Any]) -> bytes:
    """Body of the profile view from a `member` row: its profile document as stored."""
    return row["profile"].encode()


def is_erased(profile: bytes) -> bool:
    """Tell from a profile view whether the member was erased; no other profile has that key."""
    return profile.startswith(b'{"erased"')


def account_view(row: Mapping[str, Any]) -> bytes:
    """Body of the account view from a `journal` row: the account as the command's answer showed it."""
    stored: str = row["account_after"]
    return stored.encode() if stored.startswith("{") else orjson.dumps(_account(row))


def _account(row: Mapping[str, Any]) -> AccountDocument:
    return full_account(
        orjson.loads(row["account_after"]),
        member=format_member_id(row["member_id"]),
        version=row["version"],
        as_of=utc_text(row["recorded_at"]),
    )


def identifier_view(row: Mapping[str, Any]) -> bytes:
    """Body of the identifier view from an `identifier` row."""
    return orjson.dumps({"member_id": format_member_id(row["member_id"])})


def activity_item(row: Mapping[str, Any]) -> bytes:
    """One item of the activity list from a `journal` row (json columns as text)."""
    member_id, version = row["member_id"], row["version"]
    item: dict[str, Any] = {
        "entry_id": format_reference("ent", member_id, version),
        "kind": row["kind"],
        "occurred_at": _moment(row["occurred_at"]),
        "store": row["store"],
        "points": row["points"],
        "postings": full_postings(orjson.loads(row["postings"])),
        "balance_after": full_balance(orjson.loads(row["account_after"])),
    }
    item |= subject_of(member_id, version, row["kind"], orjson.loads(row["detail"]))
    item["version"] = version
    return orjson.dumps(item, option=orjson.OPT_UTC_Z)


def versions_of(member_id: int, items: Sequence[bytes]) -> list[int]:
    """Versions of the items of an activity view; DamagedViewError when one of them is none."""
    try:
        versions = [int(item["version"]) for item in orjson.loads(b"[" + b",".join(items) + b"]")]
    except (ValueError, TypeError, KeyError) as error:  # ValueError: also that of a JSON text
        raise DamagedViewError(activity_key(member_id)) from error
    if len(versions) != len(items):
        raise DamagedViewError(activity_key(member_id))
    return versions


_NOTES: Final = ("counted", "rounded_once", "explained")
"""Of a purchase for its returns, and what its explanation spells out."""


def purchase_view(row: Mapping[str, Any]) -> bytes:
    """Body of the purchase view from a `purchase` row; `document` holds lines, what each earned, and returns."""
    head = {
        "purchase_id": format_reference("pur", row["member_id"], row["version"]),
        "member_id": format_member_id(row["member_id"]),
        "version": row["changed_version"],
        "store": row["store"],
        "till": row["till"],
        "receipt": row["receipt"],
        "business_date": row["business_date"],
        "occurred_at": _moment(row["occurred_at"]),
    }
    stored = orjson.loads(row["document"])
    document = full_purchase(stored, explained=False)
    shown: dict[str, Any] = {**head, **document}
    shown["returns"] = [
        {**one, "return_id": format_reference("ret", row["member_id"], one["version"])}
        for one in document.get("returns", ())
    ]
    shown["explanation"] = stored_explanation(stored)
    for note in _NOTES:
        shown.pop(note, None)
    if "home" in document:
        shown["home"] = {
            "currency": document["home"]["currency"],
            "amount": at_home(document["home"], document.get("money", document["amount"])),
        }
    if "payment" in document:
        shown["payment"] = _shown_payment(document["payment"], row["member_id"])
        shown["lines"] = [_shown_line(line) for line in document["lines"]]
    return orjson.dumps(shown, option=orjson.OPT_UTC_Z)


def _shown_payment(payment: PaymentDocument, member_id: int) -> dict[str, Any]:
    """A payment without what only returns need: which lots paid."""
    holds = [
        {"hold_id": format_reference("hld", member_id, version), "points": points}
        for version, points in payment["holds"]
    ]
    return {"points": payment["points"], "amount": payment["amount"], "holds": holds}


def _shown_line(line: LineDocument) -> dict[str, Any]:
    """A line without its part of the lots that paid."""
    return {name: value for name, value in line.items() if name not in {"paid", "repaid"}}


def _moment(moment: Any) -> Any:
    """As `utc_text`, in what orjson dumps with OPT_UTC_Z: a datetime stays as it is."""
    return utc_text(moment) if isinstance(moment, str) else moment


def utc_text(moment: Any) -> str:
    """RFC 3339 in UTC with `Z` from a datetime or from the text a change stream carries."""
    if not isinstance(moment, str):
        return moment.isoformat().removesuffix("+00:00") + "Z"
    return moment.replace(" ", "T").removesuffix("+00:00").removesuffix("+00").removesuffix("Z") + "Z"
