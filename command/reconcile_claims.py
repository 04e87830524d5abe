"""Claims after a restore: every identifier has the claim of the member who has it, and nothing else is claimed.

The identifier on its member's home shard is the fact, the claim follows it. Where a restore gave an identifier back to
a member while another one has got it since, the one who got it last keeps it.
"""

from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from command.claim_move import moving_alone, put_slots_right
from command.reconciliation import PAGE, Reconciliation
from rules.command import ChangeIdentifiers
from shard_router.card import new_card
from shard_router.directory import Identifier
from shard_router.errors import MalformedIdError, ProblemError
from shard_router.member_id import format_member_id, region_number_of, slot_of

_GONE: Final = frozenset({"member_closed", "member_not_found", "not_found"})
"""Answers by which the member, or the identifier, went meanwhile."""

Named = tuple[Identifier, int]
"""An identifier and a member."""


async def reconcile_claims(work: Reconciliation) -> None:
    """Claim what members have, then free what they have not."""
    for shard in work.shards:
        async for page in _identifiers(work, shard):
            claimed = await _claimants(work, [identifier for identifier, _ in page])
            for identifier, member_id in page:
                claimant = claimed.get(identifier)
                if claimant is None:
                    await _claim(work, identifier, member_id)
                elif claimant != member_id:
                    await _settle(work, identifier, (member_id, claimant))
    for shard in work.shards:
        async for page in _claims(work, shard):
            for identifier, member_id in page - await _holding(work, page):
                await _free(work, identifier, member_id)


async def reconcile_slots(work: Reconciliation) -> None:
    """After a restore each shard keeps the claim slots that the topology gives it, and nothing of others."""
    table = work.node.topology.current.claim_shards
    if not work.restored or not (work.node.topology.current.document.claim_slots or await _any_moved(work)):
        return
    async with moving_alone({shard: work.node.pools[shard] for shard in work.shards}) as alone:
        if not alone:
            raise ProblemError("shard_unavailable", "claims are being moved just now")
        for shard in work.shards:
            async with work.node.pools[shard].primary() as connection:
                await put_slots_right(connection, table, shard)


async def _any_moved(work: Reconciliation) -> bool:
    return any([await work.fetch(shard, "any_slot_stated") for shard in work.shards])


async def _identifiers(work: Reconciliation, shard: str) -> AsyncGenerator[list[Named]]:
    """What the members of a shard are found by, as far as it needs a claim."""
    after: Identifier = ("", "")
    while rows := await work.fetch(shard, "identifiers_after", *after, PAGE):
        after = rows[-1]["kind"], rows[-1]["value"]
        page = [((row["kind"], row["value"]), row["member_id"]) for row in rows]
        yield [named for named in page if work.node.claims.needs_claim(named[0])]


async def _claims(work: Reconciliation, shard: str) -> AsyncGenerator[set[Named]]:
    """The claims that a shard keeps and is asked for."""
    after: Identifier = ("", "")
    while rows := await work.fetch(shard, "claims_after", *after, PAGE):
        after = rows[-1]["kind"], rows[-1]["value"]
        page = {((row["kind"], row["value"]), row["member_id"]) for row in rows}
        yield {named for named in page if work.node.directory.place_of(named[0]) == shard}


async def _claimants(work: Reconciliation, identifiers: Iterable[Identifier]) -> dict[Identifier, int]:
    """Who claims identifiers, asked of the shards that keep them."""
    places: defaultdict[str, list[Identifier]] = defaultdict(list)
    for identifier in identifiers:
        places[work.node.directory.place_of(identifier)].append(identifier)
    found: dict[Identifier, int] = {}
    for shard, asked in places.items():
        for row in await work.fetch_of(shard, "find_claims", asked):
            found[row["kind"], row["value"]] = row["member_id"]
    return found


async def _holding(work: Reconciliation, page: Iterable[Named]) -> set[Named]:
    """Those of the pairs where the member has the identifier, asked of the members' homes."""
    homes: defaultdict[str, list[tuple[str, str, int]]] = defaultdict(list)
    found: set[Named] = set()
    for (kind, value), member_id in page:
        try:
            homes[work.node.topology.current.shard_of(member_id)].append((kind, value, member_id))
        except MalformedIdError:
            continue  # of a region that is no more
    for shard, asked in homes.items():
        for row in await work.fetch_of(shard, "find_holders", asked):
            found.add(((row["kind"], row["value"]), row["member_id"]))
    return found


async def _claim(work: Reconciliation, identifier: Identifier, member_id: int) -> None:
    place, home = work.node.directory.place_of(identifier), work.node.topology.current.shard_of(member_id)
    if not await work.fetch(place, "restore_claim", *identifier, member_id, work.node.directory.slot_of(identifier)):
        return  # an enrolment was faster: then it is its own, or the next run finds both
    work.done["claims restored"] += 1
    if home in work.restored and place not in work.restored:
        name = format_member_id(member_id)
        work.notes.append(
            f"{name} had removed this {identifier[0]}, or was erased, in the time that is lost: do it again"
        )


async def _free(work: Reconciliation, identifier: Identifier, member_id: int) -> None:
    """Free a claim; of a member who was there it is remembered first, as the errand does that is done and lost."""
    days = work.node.program.membership.rejoin_days
    try:
        home = work.node.topology.current.shard_of(member_id)
    except MalformedIdError:
        home = None  # of a region that is no more
    if days and home and await work.fetch(home, "find_account", member_id):
        await work.node.claims.remember([identifier], datetime.now(UTC) + timedelta(days=days))
    await work.node.directory.release([identifier], member_id)
    work.done["claims freed whose member has no such identifier"] += 1


async def _settle(work: Reconciliation, identifier: Identifier, members: tuple[int, int]) -> None:
    """Of two members one has the identifier and the other claims it: who got it last keeps it."""
    since = {member_id: await _since(work, identifier, member_id) for member_id in members}
    having = sorted((at, member_id) for member_id, at in since.items() if at is not None)
    if not having:
        return  # removed meanwhile
    keeps = having[-1][1]
    (other,) = set(members) - {keeps}
    place, slot = work.node.directory.place_of(identifier), work.node.directory.slot_of(identifier)
    await work.execute(place, "correct_claim", *identifier, keeps, other, slot)
    work.done["claims corrected"] += 1
    if len(having) > 1:
        await _remove(work, identifier, other)
        work.done["identifiers removed that another member has got since"] += 1
        work.notes.append(
            f"{format_member_id(other)} lost this {identifier[0]}: {format_member_id(keeps)} has got it since"
        )


async def _since(work: Reconciliation, identifier: Identifier, member_id: int) -> datetime | None:
    """When the member got it; None when they have it not."""
    home = work.node.topology.current.shard_of(member_id)
    rows = await work.fetch(home, "identified_at", *identifier, member_id)
    return rows[0]["recorded_at"] if rows else None


async def _remove(work: Reconciliation, identifier: Identifier, member_id: int) -> None:
    """A member who is found by nothing else gets a new card."""
    code = await work.run(member_id, ChangeIdentifiers((), (identifier,), datetime.now(UTC)))
    if code == "limit_exceeded":
        card = new_card(region_number_of(member_id), slot_of(member_id))
        code = await work.run(member_id, ChangeIdentifiers((("card", card),), (identifier,), datetime.now(UTC)))
    if code is not None and code not in _GONE:
        raise ProblemError(code, f"a {identifier[0]} of {format_member_id(member_id)} could not be removed")
