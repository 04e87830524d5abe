"""Holds baskets against the entries that recorded and returned them, and receipts against both."""

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date
from functools import partial
from operator import itemgetter
from typing import Any, Final

from rules.counting import is_undone
from rules.document import LineDocument, PurchaseDocument, payment_of
from rules.program import Program
from rules.reversal import came_back_whole, quantities_of, reasons_of, thousandths, undone
from rules.text import composed
from shard_router.member_id import format_member_id
from verify.basket import wrong_basket, wrong_not_applied
from verify.books import PURCHASES, READABLE, RECEIPTS, Books, MemberRows, ReadEntry
from verify.finding import Finding
from verify.stream import Row, attempt

_KIND_OF_RECEIPT: Final = {
    "purchase_recorded": "purchase",
    "purchase_returned": "return",
    "transfer_received": "transfer",
    "transfer_returned": "transfer_returned",
    "transfer_revoked": "transfer_revoked",
    "referral_credited": "referral",
    "referral_returned": "referral_return",
}
"""The receipt of each of these entries, unless another one revokes it or no till sent it; other kinds have none."""

_NO_DATE: Final = date(1970, 1, 1)
"""Of documents that are named uniquely without one."""
_OF_TILLS: Final = frozenset({"purchase_recorded", "purchase_returned"})

Receipt = tuple[int, str]
"""Version of the entry and kind."""
_NAME: Final = itemgetter("store", "till", "business_date", "receipt", "subject")
Name = tuple[Any, ...]
"""Store, till, business date, receipt and subject; None where what names it does not say."""


def check_receipts(books: Books, rows: MemberRows) -> None:
    """Check that entries and receipts, and entries and purchases, belong together one to one, under one name."""
    finding = books[RECEIPTS]
    finding.checked += len(rows.receipts)
    kinds = {row["version"]: row["kind"] for row in rows.journal}
    bought = {row["version"] for row in rows.purchases}
    receipts = [(row["version"], row["kind"]) for row in rows.receipts]
    without = {entry.detail.get("revokes") for entry in rows.entries.values()}
    without |= {one.version for one in rows.entries.values() if one.kind == "purchase_returned" and "why" in one.detail}
    wanted = {
        (version, _KIND_OF_RECEIPT[kind])
        for version, kind in kinds.items()
        if kind in _KIND_OF_RECEIPT and version not in without
    }
    if len(receipts) != len(wanted) or wanted.symmetric_difference(receipts):
        _tell_receipts(finding, rows, wanted, Counter(receipts))
    if {version for version, kind in wanted if kind == "purchase"} != bought:
        _tell_purchases(finding, rows, wanted, bought)
    for receipt in rows.receipts:
        attempt(books[READABLE], f"{rows.name}-{receipt['version']}: document", _check_name, books, rows, receipt)
        _check_day(books, rows, receipt)


def _tell_receipts(finding: Finding, rows: MemberRows, wanted: set[Receipt], receipts: Counter[Receipt]) -> None:
    kinds = {row["version"]: row["kind"] for row in rows.journal}
    for version, kind in sorted(wanted | receipts.keys()):
        times = receipts[version, kind]
        if (version, kind) not in wanted:
            finding.fault(f"{rows.name}-{version}: a receipt of kind {kind}, the entry is {kinds.get(version, 'none')}")
        elif times != 1:
            finding.fault(f"{rows.name}-{version}: {times} receipts of kind {kind}, not 1")


def _tell_purchases(finding: Finding, rows: MemberRows, wanted: set[Receipt], bought: set[int]) -> None:
    kinds = {row["version"]: row["kind"] for row in rows.journal}
    for version in sorted(bought | {version for version, kind in wanted if kind == "purchase"}):
        if (version, "purchase") not in wanted:
            finding.fault(f"{rows.name}-{version}: a purchase, the entry is {kinds.get(version, 'none')}")
        elif version not in bought:
            finding.fault(f"{rows.name}-{version}: an entry of a purchase that is not there")


def _check_name(books: Books, rows: MemberRows, receipt: Row) -> None:
    found = _NAME(receipt)
    if receipt["kind"] == "return" and not receipt["subject"]:
        found = found[:-1]  # recorded by the first release, which did not name the purchase here
    if receipt["kind"] == "purchase" and receipt["subject"] == f"{rows.member_id}-{receipt['version']}":
        found = (*found[:-1], "")  # it made room for another's purchase of that name (see receipt.py)
    wanted = _name_of(rows, receipt["version"])
    if found == wanted:
        return
    found, wanted = _composed(found), _composed(wanted)
    if any(should is not None and is_ != should for is_, should in zip(found, wanted, strict=False)):
        words = " ".join(str(part) for part in wanted if part is not None)
        is_ = " ".join(map(str, found))
        books[RECEIPTS].fault(f"{rows.name}-{receipt['version']}: its receipt is {is_}, it names {words}")


def _composed(name: Iterable[Any]) -> Name:
    """A name as it is compared: versions before kept texts in purchases as they were sent."""
    return tuple(composed(part) if isinstance(part, str) else part for part in name)


def _check_day(books: Books, rows: MemberRows, receipt: Row) -> None:
    """Check that a till's document is of a day that its store had when it happened."""
    entry = rows.entries.get(receipt["version"])
    if entry is None or entry.kind not in _OF_TILLS:
        return
    days = books.days_of(receipt["store"], entry.row["occurred_at"])
    if days and receipt["business_date"] not in days:
        told = f"its receipt is of {receipt['business_date']}, it happened on {min(days)} there"
        books[RECEIPTS].fault(f"{entry.name}: {told}")


def _name_of(rows: MemberRows, version: int) -> Name:
    """How what an entry made names its receipt; nothing where that is not there, which is a fault of its own."""
    entry = rows.entries.get(version)
    purchase = next((row for row in rows.purchases if row["version"] == version), None)
    match entry.kind if entry else None:
        case "purchase_recorded" if purchase:
            return purchase["store"], purchase["till"], purchase["business_date"], purchase["receipt"], ""
        case "purchase_returned" if entry:
            return _name_of_return(rows, entry)
        case "transfer_received" if entry:
            return format_member_id(entry.detail["sender"]), "-", _NO_DATE, str(entry.detail["transfer"]), ""
        case "transfer_returned" if entry:
            return rows.name, "-", _NO_DATE, str(entry.detail["transfer"]), ""
        case "transfer_revoked" if entry:
            return rows.name, "-", _NO_DATE, str(entry.detail["revokes"]), ""
        case "referral_credited" | "referral_returned" if entry:
            return format_member_id(entry.detail["referee"]), "-", _NO_DATE, None, ""
        case _:
            return ()


def _name_of_return(rows: MemberRows, entry: ReadEntry) -> Name:
    for row in rows.purchases:
        if row["version"] == entry.detail["purchase"]:
            for one in rows.purchase(row)["returns"]:
                if one["version"] == entry.version:
                    return one["store"], one["till"], None, one["receipt"], f"{rows.member_id}-{row['version']}"
    return ()


def check_purchases(books: Books, rows: MemberRows) -> None:
    """Check every basket of a member, and that each return is of one of them."""
    finding = books[PURCHASES]
    finding.checked += len(rows.purchases)
    returns: dict[int, list[ReadEntry]] = {row["version"]: [] for row in rows.purchases}
    for entry in rows.entries.values():
        if entry.kind == "purchase_returned":
            of = entry.detail.get("purchase")
            if isinstance(of, int) and of in returns:
                returns[of].append(entry)
            else:
                finding.fault(f"{entry.name}: returns purchase {of}, which is not there")
    for row in rows.purchases:
        entry = rows.entries.get(row["version"])
        name = f"{rows.name}-{row['version']}"
        document = attempt(books[READABLE], f"{name}: document", rows.purchase, row)
        if document is None or entry is None:
            continue
        program = books.programs.get(entry.row["program_version"])
        wrong = partial(next, _wrong_with(row, document, entry, returns[row["version"]], program), None)
        difference = attempt(books[READABLE], f"{name}: document", wrong)
        if difference:
            finding.fault(f"purchase {name}: {difference}")


def _wrong_with(
    row: Row, document: PurchaseDocument, entry: ReadEntry, returns: list[ReadEntry], program: Program | None
) -> Iterator[str]:
    for column in ("store", "occurred_at"):
        if row[column] != entry.row[column]:
            yield f"{column} is {row[column]}, its entry says {entry.row[column]}"
    changed = max((one.version for one in returns), default=entry.version)
    if row["changed_version"] != changed:
        yield f"is of version {row['changed_version']}, entry {changed} changed it last"
    yield from _wrong_earned(document, entry)
    yield from _wrong_paid(document, entry)
    if program is not None and "money" in document:  # baskets of old were decided by other formulas
        yield from wrong_basket(document, program)
        yield from wrong_not_applied(document, entry.detail)
    yield from _wrong_returns(document, returns)
    yield from _wrong_consequences(document, entry, returns)
    for line in document["lines"]:
        yield from _wrong_line(line)
    yield from _wrong_undone(document)


def _wrong_earned(document: PurchaseDocument, entry: ReadEntry) -> Iterator[str]:
    """What the lines earned, reason by reason, is what the postings took from the program."""
    postings: dict[str, int] = {}
    lines: dict[str, int] = {}
    for posting in entry.postings:
        if posting["from"] == "program":
            postings[posting["reason"]] = postings.get(posting["reason"], 0) + posting["points"]
            times = posting["expires_at"], posting.get("available_at")
            if times != (document["expires_at"], document["available_at"]):
                yield f"expires and activates otherwise than its entry: {times}"
    for line in document["lines"]:
        for reason, points in line["earned"].items():
            lines[reason] = lines.get(reason, 0) + points
    if lines != postings and Counter(lines) != Counter(postings):
        yield f"its lines earned {lines}, its entry {postings}"
    earned = sum(postings.values())
    if document["points_earned"] != earned:
        yield f"points_earned says {document['points_earned']}, its entry earned {earned}"


def _wrong_paid(document: PurchaseDocument, entry: ReadEntry) -> Iterator[str]:
    """The lots and holds that paid are those the postings spent; each line has its part of them."""
    lots: dict[str | None, int] = {}
    holds: dict[int, int] = {}
    for posting in entry.postings:
        if posting["to"] == "spent":
            lots[posting["expires_at"]] = lots.get(posting["expires_at"], 0) + posting["points"]
            if posting["from"] == "held":
                holds[posting["hold"]] = holds.get(posting["hold"], 0) + posting["points"]
    payment = payment_of(document)
    told = {expires_at: points for points, expires_at in payment["lots"]}, sorted(payment["holds"])
    spent = sum(lots.values())
    if (payment["points"], *told) != (spent, lots, sorted(map(list, holds.items()))):
        yield f"{payment['points']} points paid, its entry spent {spent}; or other lots or holds"
    for index, (points, _) in enumerate(payment["lots"]):
        by_line = sum(line.get("paid", [])[index] for line in document["lines"])
        if by_line != points:
            yield f"its lines are paid with {by_line} points of lot {index + 1}, which gave {points}"


def _wrong_returns(document: PurchaseDocument, returns: list[ReadEntry]) -> Iterator[str]:
    """What was returned, taken back and given back in all is what the entries of its returns say."""
    told = {one["version"]: one for one in document["returns"]}
    if list(told) != [entry.version for entry in returns]:
        yield f"tells of returns {list(told)}, the journal of {[entry.version for entry in returns]}"
        return
    quantities: dict[int, int] = {}
    taken = given = 0
    for entry in returns:
        one = told[entry.version]
        points = one["points_reversed"], one.get("points_returned", 0)
        moved = entry.moved[">program"], entry.moved["spent>"]
        if points != moved:
            yield f"return {entry.version} says {points} points reversed and returned, its entry {moved}"
        taken += points[0] + one.get("points_forgiven", 0)
        given += points[1]
        for part in one["lines"]:
            quantities[part["line"]] = quantities.get(part["line"], 0) + thousandths(part["quantity"])
    lines = document["lines"]
    came_back = {line["line"]: thousandths(line["returned"]) for line in lines if line["returned"] != "0"}
    if came_back != quantities:
        yield "its lines came back in other quantities than its returns say"
    sums = (
        sum([sum(line["reversed"].values()) for line in lines]),
        sum([sum(line.get("repaid", ())) for line in lines]),
    )
    if sums != (taken, given):
        yield f"its lines gave up {sums[0]} points and got {sums[1]}, its returns say {taken} and {given}"


def _wrong_consequences(document: PurchaseDocument, entry: ReadEntry, returns: list[ReadEntry]) -> Iterator[str]:
    """The return by which all came back says that the purchase never happened, and what the referrer owes for it.

    Earlier versions left it at that. Whose receipt was another member's may have brought all back before.
    """
    last = max((told["version"] for told in document["returns"] if told["lines"]), default=None)
    for one in returns:
        whole = one.version == last and bool(document.get("rounded_once")) and came_back_whole(document)
        undone, thanked = whole and is_undone(document), entry.detail.get("referral") if whole else None
        if bool(one.detail.get("undone")) != undone:
            yield f"return {one.version} must {'' if undone else 'not '}say that it undid the purchase"
        due_back = {**one.detail.get("referral_return", {})}
        due_back.pop("on_return", None)
        if due_back != (thanked | {"purchase": entry.version} if thanked else {}):
            yield f"return {one.version} takes back from a referrer what the purchase did not owe them, or does not"


def _wrong_line(line: LineDocument) -> Iterator[str]:
    """A line keeps to what it earned, and no more of it comes back than was bought."""
    number, earned = line["line"], line["earned"]
    if line["points"] != sum(earned.values()) or min(earned.values(), default=0) < 0:
        yield f"line {number}: {line['points']} points, earned {earned}"
    if line["returned"] != "0" and not 0 <= thousandths(line["returned"]) <= thousandths(line["quantity"]):
        yield f"line {number}: {line['returned']} of {line['quantity']} returned"
    if not line["reversed"].keys() <= earned.keys():
        yield f"line {number}: gave up points it never earned"


def _wrong_undone(document: PurchaseDocument) -> Iterator[str]:
    """Of each component, and of each lot that paid, the lines have given up just the part that came back."""
    lines = document["lines"]
    if all(
        line["returned"] == "0" and not any((*line["reversed"].values(), *line.get("repaid", ()))) for line in lines
    ):
        return  # as most baskets are, for ever
    parts = [
        (reason, [(line["earned"].get(reason, 0), line["reversed"].get(reason, 0)) for line in lines])
        for reason in reasons_of(lines)
    ]
    parts += [
        (f"lot {lot + 1}", [(line.get("paid", [])[lot], line.get("repaid", [])[lot]) for line in lines])
        for lot in range(len(payment_of(document)["lots"]))
    ]
    returned, bought = quantities_of(lines)
    for name, pairs in parts:
        attributed, done = [points for points, _ in pairs], [points for _, points in pairs]
        should = _undone(document, attributed, returned, bought)
        if done != should:
            yield f"{done} of {attributed} points of {name} undone, {should} by what was returned"


def _undone(document: PurchaseDocument, attributed: list[int], returned: list[int], bought: list[int]) -> list[int]:
    """What the lines must have given up; before returns rounded once for all lines, each line had its own floor."""
    if document.get("rounded_once"):
        return list(undone(attributed, returned, bought))
    return [points * back // of for points, back, of in zip(attributed, returned, bought, strict=True)]
