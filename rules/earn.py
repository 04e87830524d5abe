"""What a purchase earns and what a return takes back. All arithmetic is exact; integers at the edges.

A component is summed over its lines exactly and floored once, then shared out to the lines by
largest remainder. A return reverses, per line and component,

    floor(attributed * returned_so_far / quantity) - reversed_so_far

so returning everything, in any parts and order, reverses exactly everything and never more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from rules.command import Line
from rules.program import Program

BASE = "base"


@dataclass(frozen=True, slots=True)
class Component:
    """Points earned for one reason (`base`, `campaign:<code>`, ...), with each line's part of them."""

    reason: str
    points: int
    attributed: tuple[int, ...]


def earn(lines: Sequence[Line], program: Program) -> list[Component]:
    """The components a basket earns, none of zero points."""
    exact = [line.amount * program.per_minor_unit for line in lines]
    return [component for component in (make_component(BASE, exact),) if component.points]


def make_component(reason: str, exact: Sequence[Fraction]) -> Component:
    """Floor the exact sum once and share it out."""
    points = int(sum(exact, Fraction(0)))
    return Component(reason, points, share(points, exact))


def share(points: int, weights: Sequence[Fraction]) -> tuple[int, ...]:
    """`points` split in proportion to `weights` by largest remainder, the earlier one first on a tie."""
    total = sum(weights, Fraction(0))
    if not total:
        return (0,) * len(weights)
    exact = [points * weight / total for weight in weights]
    floors = [int(part) for part in exact]
    by_remainder = sorted(range(len(exact)), key=lambda index: (floors[index] - exact[index], index))
    for index in by_remainder[: points - sum(floors)]:
        floors[index] += 1
    return tuple(floors)


def reversed_points(attributed: int, *, returned: Fraction, quantity: Fraction, reversed_before: int) -> int:
    """What a line gives back of one component once `returned` of `quantity` came back in all."""
    return int(attributed * returned / quantity) - reversed_before
