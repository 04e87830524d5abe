"""Holds identifiers against the claims by which every shard finds them: one member each in the whole program.

Nothing personal is told: an identifier is named by its kind and its member.
"""

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from service.identifier import canonical_identifier
from shard_router.card import parse_card
from shard_router.directory import Directory
from shard_router.errors import MalformedIdError
from shard_router.member_id import format_member_id, region_number_of, slot_of
from shard_router.topology import Topology
from verify.across import ALL, Across
from verify.finding import Finding
from verify.stream import STATEMENTS, attempt, merged

_CLAIMS: Final = ("claim", "lease")


@dataclass(frozen=True, slots=True)
class Holder:
    """A row about an identifier: whose, on which shard, and as what (see the statement `names`)."""

    role: str
    member_id: int
    shard: str
    slot: int | None
    """The slot that a claim is stored under; none of a version before, until it moves."""

    @property
    def name(self) -> str:
        """The member id as people know it."""
        return format_member_id(self.member_id)


async def check_identifiers(across: Across, places: Directory) -> list[Finding]:
    """Check that nobody shares an identifier, that every look-up by one leads to who has it, however it is written."""
    unique = Finding("an identifier has one member in the whole program", ALL)
    claims = Finding("every identifier is found from everywhere", ALL)
    forms = Finding("phones and e-mails are stored in their one form", ALL)
    async for (kind, value), rows in _names(across):
        holders = [one for one in rows if one.role == "identifier"]
        unique.checked += bool(holders)
        claims.checked += 1
        forms.checked += 1
        if not _is_canonical(kind, value):
            forms.fault(f"a {kind} of {', '.join(sorted({one.name for one in rows}))}: run `loyalty respell`")
        if len(holders) > 1:
            unique.fault(f"a {kind} is that of {', '.join(f'{one.name} on {one.shard}' for one in holders)}")
            continue
        home = _home_of_card(value, across.topology) if kind == "card" else None
        slot = places.slot_of((kind, value))
        wrong = _misplaced_card(holders, home) if home else _wrong_with(rows, across.topology.claim_shards[slot], slot)
        for words in wrong:
            claims.fault(f"a {kind} {words}")
            break
    return [unique, claims, forms, await _check_former(across, places), await _check_slots(across)]


async def _check_former(across: Across, places: Directory) -> Finding:
    """Who comes back is known by a hash that lies where it is looked for."""
    finding = Finding("who left is known again wherever they come back", ALL)
    async for text, found in merged(across.streams("former", "hash")):
        finding.checked += 1
        for shard, rows in zip(across.connections, found, strict=True):
            for row in rows:
                member_id = row["member_id"]
                looked_for = attempt(finding, text, _home_of, across, member_id) if member_id else None
                place = looked_for or places.place_of_hash(UUID(text).hex)
                if shard != place:
                    finding.fault(f"{text} is kept on {shard}, it is looked for on {place}")
    return finding


async def _check_slots(across: Across) -> Finding:
    """Once any has moved each shard says what it keeps; it is what the topology says."""
    finding = Finding("claims are kept where the topology says, and nowhere else", ALL)
    table = across.topology.claim_shards
    for shard, connection in across.connections.items():
        rows = await connection.fetch(STATEMENTS["claim_slots"])
        finding.checked += len(rows) or 1  # a shard that says nothing keeps what the topology says
        for row in rows:
            slot, state = row["slot"], row["state"]
            keeper = table[slot] if slot < len(table) else "nobody"
            if state == "fenced":
                finding.fault(f"claim slot {slot} of {shard} is on its way to another shard: `loyalty up` goes on")
            elif (state == "here") != (keeper == shard):
                kept = "keeps" if state == "here" else "refuses"
                finding.fault(f"{shard} {kept} claim slot {slot}, which the topology gives to {keeper}")
    return finding


def _home_of(across: Across, member_id: int) -> str:
    return across.topology.shard_of(member_id)


def _is_canonical(kind: str, value: str) -> bool:
    """Whether this is the one form; what no numbering plan can have has none, and stays as a version before took it."""
    try:
        return canonical_identifier(kind, value) == value
    except ValueError:
        return True


async def _names(across: Across) -> AsyncGenerator[tuple[tuple[str, str], list[Holder]]]:
    async for name, found in merged(across.streams("names", "kind", "value")):
        shards = zip(across.connections, found, strict=True)
        yield (
            name,
            [Holder(row["role"], row["member_id"], shard, row["slot"]) for shard, rows in shards for row in rows],
        )


def _home_of_card(card: str, topology: Topology) -> tuple[int, int] | None:
    """Region number and slot that a card of our own form names; any other card needs a claim."""
    try:
        home = parse_card(card)
    except MalformedIdError:
        return None
    return home if home[0] in topology.region_of_number else None


def _misplaced_card(holders: list[Holder], home: tuple[int, int]) -> Iterator[str]:
    for one in holders:
        if (region_number_of(one.member_id), slot_of(one.member_id)) != home:
            yield f"of {one.name} names slot {home[1]} of region {home[0]}, where they do not live"


def _wrong_with(rows: list[Holder], place: str, slot: int) -> Iterator[str]:
    """A lease is as good as a claim, the next who asks settles it; and what is removed stays claimed for a moment."""
    claims = [one for one in rows if one.role in _CLAIMS]
    having = {one.member_id for one in rows if one.role == "identifier"}
    leaving = {one.member_id for one in rows if one.role == "release"}
    for one in claims:
        if one.shard != place:
            yield f"of {one.name} is claimed on {one.shard}, it is looked for on {place}"
        elif one.slot not in (None, slot):
            yield f"of {one.name} is claimed under slot {one.slot}, and would stay behind when slot {slot} moves"
        elif having and one.member_id not in having:
            yield f"of {format_member_id(*having)} is claimed for {one.name}"
        elif one.role == "claim" and one.member_id not in having | leaving:
            yield f"is claimed for {one.name}, who has none such"
    if having and not claims:
        yield f"of {format_member_id(*having)} has no claim on {place}"
