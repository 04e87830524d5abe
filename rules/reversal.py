"""What the lines of a basket give back once part of them came back: arithmetic on the purchase's document.

Per component, and per lot that paid, what is undone in all is

    floor(sum over lines of attributed * returned / bought)

rounded once, not once a line. It hangs only on what came back, not on the parts or the order in which
it did; so returning everything undoes exactly everything, and a return undoes what is not undone yet.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import lcm
from typing import Final

from rules.document import LineDocument, PurchaseDocument, payment_of
from rules.outcome import Reason, Refused

_WHOLE: Final = 1000
"""Quantities are counted in thousandths: three places are all there are."""
_PLACES: Final = 128
"""Binary places of a remainder: two that differ do so by 2**-80 at least, as a line is less than 2**40 thousandths."""


@dataclass(slots=True)
class Reversal:
    """What a return takes (points by reason) and gives (points by number of the paying lot)."""

    taken: Counter[str] = field(default_factory=Counter[str])
    given: Counter[int] = field(default_factory=Counter[int])


def thousandths(quantity: str) -> int:
    """A quantity with up to three places, in thousandths."""
    whole, _, places = quantity.partition(".")
    return int(whole) * _WHOLE + int(f"{places:0<3}")


def units(quantity: int) -> str:
    """Thousandths as a quantity without trailing zeros."""
    text = f"{quantity // _WHOLE}.{quantity % _WHOLE:03d}"
    return text.rstrip("0").rstrip(".")


def undone(attributed: Sequence[int], returned: Sequence[int], bought: Sequence[int]) -> tuple[int, ...]:
    """Each line's part of what is undone in all, once `returned` of `bought` thousandths of each line came back.

    A line gives back its own floor, those with the largest remainders one more, the earlier one first on a tie. So a
    line that came back whole gives back just what it had.
    """
    parts = [divmod(points * back, of) for points, back, of in zip(attributed, returned, bought, strict=True)]
    rests = [(rest << _PLACES) // of for (_, rest), of in zip(parts, bought, strict=True)]
    left = sum(rests) >> _PLACES
    if left != (sum(rests) + len(rests)) >> _PLACES:  # so near below a whole number that only the exact sum tells
        whole = lcm(*(of for (_, rest), of in zip(parts, bought, strict=True) if rest))
        left = sum(rest * whole // of for (_, rest), of in zip(parts, bought, strict=True)) // whole
    largest = set(sorted(range(len(rests)), key=rests.__getitem__, reverse=True)[:left])
    return tuple(floor + (index in largest) for index, (floor, _) in enumerate(parts))


def bring_back(lines: Sequence[LineDocument], quantities: Counter[int]) -> Refused | None:
    """Count so many thousandths, by line number, as returned; the refusal of a line or a quantity that is not there."""
    for number, quantity in quantities.items():
        if not 1 <= number <= len(lines):
            return Refused(Reason.RETURN_EXCEEDS_PURCHASE, f"the purchase has no line {number}", "/lines")
        line = lines[number - 1]
        returned = thousandths(line["returned"]) + quantity
        if returned > thousandths(line["quantity"]):
            told = f"{line['quantity']} bought, {line['returned']} returned before, {units(quantity)} now"
            return Refused(Reason.RETURN_EXCEEDS_PURCHASE, f"line {number}: {told}", "/lines")
        line["returned"] = units(returned)
    return None


def money_back(document: PurchaseDocument) -> int:
    """The money that what came back stands for, in minor units; what was paid with points is not of it."""
    lines = document["lines"]
    money = [line["amount"] - line.get("paid_amount", 0) for line in lines]
    returned, bought = quantities_of(lines)
    if document.get("rounded_once"):
        return sum(undone(money, returned, bought))
    return sum(amount * back // of for amount, back, of in zip(money, returned, bought, strict=True))


def reverse(document: PurchaseDocument) -> Reversal:
    """Undo in the document's lines what the goods that came back stand for; tells what had not been undone yet.

    Earlier versions rounded each line: what such a return left over is undone with the next one.
    """
    lines, reversal = document["lines"], Reversal()
    document["rounded_once"] = True
    returned, bought = quantities_of(lines)
    undone_before = [dict(line["reversed"]) for line in lines]
    for line in lines:
        line["reversed"] = {}
    for reason in reasons_of(lines):
        parts = undone([line["earned"].get(reason, 0) for line in lines], returned, bought)
        reversal.taken[reason] = sum(parts) - sum(before.get(reason, 0) for before in undone_before)
        for line, part in zip(lines, parts, strict=True):
            if part:
                line["reversed"][reason] = part
    for lot in range(len(payment_of(document)["lots"])):
        parts = undone([line.get("paid", [])[lot] for line in lines], returned, bought)
        repaid = [line.get("repaid", []) for line in lines]
        reversal.given[lot] = sum(parts) - sum(before[lot] for before in repaid)
        for line, before, part in zip(lines, repaid, parts, strict=True):
            line["repaid"] = [*before[:lot], part, *before[lot + 1 :]]
    return reversal


def reasons_of(lines: Iterable[LineDocument]) -> list[str]:
    """For what the lines earned, in the order in which it first stands there."""
    return list(dict.fromkeys(reason for line in lines for reason in line["earned"]))


def quantities_of(lines: Iterable[LineDocument]) -> tuple[list[int], list[int]]:
    """What came back of each line and what was bought, in thousandths."""
    pairs = [(thousandths(line["returned"]), thousandths(line["quantity"])) for line in lines]
    return [returned for returned, _ in pairs], [bought for _, bought in pairs]


def came_back_whole(document: PurchaseDocument) -> bool:
    """Whether nothing of the basket is left with the member."""
    returned, bought = quantities_of(document["lines"])
    return returned == bought
