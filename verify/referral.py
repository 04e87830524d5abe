"""Holds together what was owed for bringing a member, given for it, and taken back with what was bought.

Each is on its own shard, and word between them is under way as an errand: what is missing until then is no fault.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from shard_router.member_id import format_member_id
from verify.across import ALL, Across, member_named
from verify.finding import Finding
from verify.stream import STATEMENTS, Row, attempt, merged

_NUMBER: Final = re.compile("[0-9]{1,19}")

Referral = defaultdict[str, list[Row]]
"""All about one purchase of a newcomer, by kind of entry or errand."""


async def check_referrals(across: Across) -> Finding:
    """Check that each first purchase is thanked for once, and that thanks for one that came back whole came back."""
    finding = Finding("each referral is credited once", ALL)
    async for referee, found in merged(across.streams("referrals", "referee")):
        finding.checked += 1
        name = f"for bringing {member_named(referee)}"
        referrals = _by_purchase([row for rows in found for row in rows])
        for wrong in attempt(finding, name, list, _wrong_with(referrals)) or ():
            finding.fault(f"{name}: {wrong}")
        for row, missing in attempt(finding, name, list, _missing(referrals)) or ():
            if await _could_be_told(across, row):
                finding.fault(f"{name}: {missing}")
    return finding


def _by_purchase(rows: list[Row]) -> dict[str, Referral]:
    """All rows by the purchase they are about; credits of earlier versions do not say for which, and there was one."""
    referrals: dict[str, Referral] = {}
    only = next((row["purchase"] for row in rows if row["kind"] == "purchase_recorded"), "")
    for row in rows:
        referrals.setdefault(row["purchase"] or only, defaultdict(list))[row["kind"]].append(row)
    return referrals


def _wrong_with(referrals: dict[str, Referral]) -> Iterator[str]:
    """Thanks may be given and taken back in turn: a restore on one side undoes what the other then does again."""
    for one in referrals.values():
        owed, credited = one["purchase_recorded"], one["referral_credited"]
        taken, returned = one["purchase_returned"], one["referral_returned"]
        if max(len(owed), len(taken)) > 1 or len(credited) - len(returned) not in {0, 1}:
            yield f"{len(owed)} times owed, {len(credited)} times credited, {len(returned)} times taken back"
        elif len(credited) > len(returned) and not owed:
            yield f"{format_member_id(credited[0]['member_id'])} was credited, no purchase owes it"
        elif returned and owed and not taken and len(credited) == len(returned) and _given_back(one):
            yield f"{format_member_id(returned[0]['member_id'])} gave back what no return takes back"
        else:
            yield from _wrong_parts(one)
    kept = [one for one in referrals.values() if one["referral_credited"] and not _given_back(one)]
    if len(kept) > 1:
        yield f"{len(kept)} purchases are thanked for at once"


def _wrong_parts(one: Referral) -> Iterator[str]:
    """Who was owed got it, and gave back just that, owing it or forgiven what they had no more."""
    owed, credited = one["purchase_recorded"], one["referral_credited"]
    for row in credited:
        yield from _unlike((owed or [_as_cause(credited[0])])[0], row, row["points"], "credited")
    for row in one["referral_returned"]:
        cause = (one["purchase_returned"] or owed or [_as_cause(credited[0])])[0]
        yield from _unlike(cause, row, int(row["forgiven"]) + int(row["lapsed"]) - row["points"], "taken back from")


def _as_cause(credit: Row) -> Row:
    """A credit whose purchase is lost tells itself what was owed."""
    return {"kind": "purchase_recorded", "referrer": str(credit["member_id"]), "owed": str(credit["points"])}


def _unlike(cause: Row, row: Row, points: int, what: str) -> Iterator[str]:
    if (str(row["member_id"]), str(points)) != (cause["referrer"], cause["owed"]):
        yield f"{_told(cause)}, {points} were {what} {format_member_id(row['member_id'])}"


def _told(cause: Row) -> str:
    return f"{cause['owed']} points {_OWED[cause['kind']]} {member_named(str(cause['referrer']))}"


_OWED: Final = {"purchase_recorded": "are owed to", "purchase_returned": "are due back from"}


def _given_back(one: Referral) -> bool:
    """Whether thanks are void; who was forgiven keeps them, and is not thanked again."""
    returned = one["referral_returned"]
    void = [row for row in returned if row["forgiven"] == "0"]
    return bool(void) and len(one["referral_credited"]) <= len(returned)


def _missing(referrals: dict[str, Referral]) -> Iterator[tuple[Row, str]]:
    """What is owed or due back, has not been done, and is not under way either."""
    forgiven = any(row["forgiven"] != "0" for one in referrals.values() for row in one["referral_returned"])
    for one in referrals.values():
        credited, returned = one["referral_credited"], one["referral_returned"]
        if one["purchase_recorded"] and not (credited or one["referral"] or forgiven):
            yield one["purchase_recorded"][0], f"{_told(one['purchase_recorded'][0])}, never credited"
        if one["purchase_returned"] and len(credited) > len(returned) and not one["referral_return"]:
            yield one["purchase_returned"][0], f"{_told(one['purchase_returned'][0])}, never taken back"


async def _could_be_told(across: Across, cause: Row) -> bool:
    """A referrer who is gone gets and gives nothing, and the errand ends; one who is there must have been told."""
    referrer = str(cause["referrer"])
    if not _NUMBER.fullmatch(referrer):
        return True
    connection = across.connection_of(int(referrer))
    return connection is not None and await connection.fetchval(STATEMENTS["status_of"], int(referrer)) == "open"
