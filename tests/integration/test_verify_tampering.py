"""Every kind of tampering with a shard's rows is found, and the promise named that it breaks.

The statements run on both shards, then all views are written anew as a rebuild would: only the rows can tell.
"""

from collections.abc import AsyncGenerator
from pathlib import Path
from string import Template

import pytest

from tests.engine import PostgresServer, ValkeyServer
from tests.integration.tampering import (
    CONFLICTS,
    FOUND,
    RECEIPTS,
    REFERRALS,
    TRANSFERS,
    answer,
    bought,
    detail,
    edited,
    lengthen,
    postings,
    shown,
    state,
)
from tests.verify_world import World, prepared_world
from verify import books, view

CONDITIONS = {
    "ADA": "member_id = $ada",
    "FIRST": "member_id = $ada AND version = $first",
    "SECOND": "member_id = $ada AND version = $second",
    "LAST": "member_id = $ada AND version = (SELECT max(version) FROM journal WHERE member_id = $ada)",
}
ONE_OF_A_KIND = (
    "hold_placed", "hold_voided", "points_adjusted", "purchase_returned", "redemption_used", "reward_redeemed",
)  # fmt: skip
FIRST_OF_KIND = (
    "member_id = $ada AND version = (SELECT min(version) FROM journal WHERE member_id = $ada AND kind = '{}')"
)
CONDITIONS |= {kind: FIRST_OF_KIND.format(kind) for kind in ONE_OF_A_KIND}
"""What a statement means by `$FIRST`, the first basket, and the like; by `$hold_placed` Ada's first entry of it."""

MEMBERS = {
    "every account is gone": "DELETE FROM account",
    "the last account is gone": "DELETE FROM account WHERE member_id = (SELECT max(member_id) FROM account)",
    "an account without a journal": "DELETE FROM journal WHERE member_id = $cem",
    "a journal of nobody": "DELETE FROM account WHERE member_id = $bea; DELETE FROM member WHERE member_id = $bea",
    "an account without a member": "DELETE FROM member WHERE $ADA",
    "a member without an account": "INSERT INTO member VALUES ($ada + 1, 1, '{}', now())",
    "an identifier of nobody": "INSERT INTO identifier VALUES ('phone', '+4999', $ada + 1, 1)",
    "a member on a shard where nobody looks": """
        UPDATE member SET member_id = $cem # (1::bigint << 56) WHERE member_id = $cem;
        UPDATE account SET member_id = $cem # (1::bigint << 56) WHERE member_id = $cem;
        UPDATE journal SET member_id = $cem # (1::bigint << 56) WHERE member_id = $cem
    """,
    "a member row of another version": "UPDATE member SET version = 2 WHERE $ADA",
    "an identifier no entry gave": "UPDATE identifier SET version = 2 WHERE $ADA",
    "a profile with a phone of somebody else": edited("member", "profile", "phone", '"+4930222"', "$ADA"),
    "a journal that begins otherwise": "UPDATE journal SET kind = 'tier_renewed' WHERE $ADA AND version = 1",
}
ACCOUNTS = {
    "a balance": "UPDATE account SET available = available + 1, issued = issued + 1 WHERE $ADA",
    "a lot that expires later": state("lots,0,1", '"2099-01-01T00:00:00Z"', "$ADA"),
    "a hold of more points": state("holds,0,2,0,0", "21", "$ADA"),
    "a hold that no entry placed": state("holds,9", '[3, "2099-01-01T00:00:00Z", [], "hold"]', "$ADA"),
    "a redemption no entry made": state("redemptions,9", '[3, "mug", 1, null, []]', "$ADA"),
    "a redemption of more pieces": state("redemptions,0,2", "7", "$ADA"),
    "a tier": state("tier,0", '"gold"', "$ADA"),
    "the first tier since another day": state("tier,1", '"2020-01-01T00:00:00Z"', "member_id = $bea"),
    "a status": "UPDATE account SET status = 'closed' WHERE $ADA",
    "an account changed at another time": state("changed_at", '"2020-01-01T00:00:00Z"', "$ADA"),
    "an account that time forgets": "UPDATE account SET due_at = NULL WHERE $ADA",
    "a posting of other points": postings("0,points", "1", "$points_adjusted"),
    "a posting of no points": postings("0,points", "0", "$points_adjusted"),
    "a posting from an empty bucket": postings("0,from", '"held"', "$reward_redeemed"),
}
FORGET = "DELETE FROM idempotency WHERE $ADA"
SHOWN = {
    "the last entry, its answer forgotten": "; ".join((FORGET, shown("balance,available", "1000", "$LAST"))),
    "an entry of old, its answer forgotten": "; ".join((FORGET, shown("balance,held", "1000", "$hold_voided"))),
    "a lifetime": shown("balance,lifetime", "7", "$FIRST"),
    "what expires": shown("balance,expiring", "[]", "$FIRST"),
    "a tier": shown("tier,code", '"gold"', "$LAST"),
    "the progress": shown("tier,qualifying_points", "9", "$LAST"),
    "a version": shown("version", "9000", "$FIRST"),
    "no balance": "UPDATE journal SET account_after = account_after::jsonb - 'balance' WHERE $FIRST",
    "a program that is not there": "DELETE FROM program",
}
EFFECTS = {
    "points": "UPDATE journal SET points = 999 WHERE $FIRST",
    "points that nothing moved": "UPDATE journal SET points = 5 WHERE $redemption_used",
    "an unheard-of kind": "UPDATE journal SET kind = 'gift' WHERE $points_adjusted",
    "another kind": "UPDATE journal SET kind = 'hold_voided' WHERE $hold_placed",
    "points held": detail("held", "1", "$hold_placed"),
    "points released": detail("released", "1", "$SECOND"),
    "debt written off": detail("written_off", "1", "kind = 'member_closed'"),
    "points earned and paid": detail("points_earned", "1", "$SECOND"),
    "points captured": detail("captured,0,points", "1", "$SECOND"),
    "a reward without its code": "UPDATE journal SET detail = detail::jsonb - 'code' WHERE $reward_redeemed",
    "a hold of another name": detail("hold", "99", "$hold_placed"),
    "the end of another hold": detail("hold", "99", "$hold_voided"),
}
COUNTED = {
    "purchases": state("counters,purchases", "9", "$ADA"),
    "rewards": state("counters,rewards", "{}", "$ADA"),
    "referrals": state("counters,referrals", "[7]", "$ADA"),
    "a tier to come back to": state("counters,tier_before", '[["gold", "2026-01-01T00:00:00Z", null]]', "$ADA"),
    "an activity": state("counters,active_at", '"2026-01-01T00:00:00Z"', "$ADA"),
    "an offer": state("counters,applied,campaign:hello", "9", "$ADA"),
    "an offer of no purchase": state("counters,applied,campaign:gone", "1", "$ADA"),
    "an offer of a day": state("counters,applied_on,campaign:hello,1", "9", "$ADA"),
    "purchases of a day": state("counters,days,1", "1", "$ADA"),
    "points of a day": state("counters,days,2", "7", "$ADA"),
    "points sent on a day": state("counters,sent,1", "7", "$ADA"),
    "points that may come back": state("counters,unsettled,1", "1", "$ADA"),
    "points that may come back forgotten": state("counters,unsettled", "[]", "$ADA"),
    "points that may come back of another day": state("counters,unsettled,0", "700000", "$ADA"),
    "one who came back": state("counters,came_back", "true", "$ADA"),
    "who brought a newcomer": state("counters,referred_by", "7", "member_id = $cem"),
    "thanks of another day": state("counters,referrals,0,2", "700000", "$ADA"),
    "a day forgotten": state("counters,days", "[]", "$ADA"),
    "what counts for tiers of another day": state("counters,metric,1", "700000", "$ADA"),
    "a purchase of which a return says that it never was": detail("undone", "true", "$purchase_returned"),
}
ANSWERS = {
    "the answer of nobody": "UPDATE idempotency SET member_id = NULL WHERE $FIRST",
    "nothing where the command said something": """
        UPDATE idempotency SET answer = '{}' WHERE member_id = $ada AND version = 1
    """,
    "other points": answer("points_earned", "99", "$FIRST"),
    "another entry": answer("entry_id", '"ent_x-1"', "$FIRST"),
    "another account": answer("account", '{"version": 9}', "$FIRST"),
    "a coupon that applied after all": answer("not_applied", "[]", "$SECOND"),
    "other points captured": answer("captured", "1", "$SECOND"),
    "other points released": answer("released", "1", "$SECOND"),
    "other postings": answer("postings", "[]", "$FIRST"),
    "other points held": answer("points", "9", "$hold_placed"),
    "another code": answer("code", '"X"', "$reward_redeemed"),
    "less reversed": answer("points_reversed", "0", "$purchase_returned"),
    "a yes with the status of a no": "UPDATE idempotency SET status = 422 WHERE $FIRST",
    "an entry that is not there": "UPDATE idempotency SET version = 900 WHERE $FIRST",
    "a yes to nothing": "UPDATE idempotency SET version = NULL WHERE $FIRST",
    "what nobody asked": """
        UPDATE idempotency i SET version = j.version FROM journal j
        WHERE i.member_id = $bea AND i.version = 1 AND j.member_id = $bea AND j.kind = 'transfer_received'
    """,
    "under a key that is not the asker's": "UPDATE idempotency SET credential = 'member:X' WHERE $FIRST",
    "a list": "UPDATE idempotency SET answer = '[]' WHERE $FIRST",
}
PURCHASES = {
    "it says it earned more": bought("points_earned", "999", "$FIRST"),
    "a line earned more": bought("lines,0,earned,base", "999", "$FIRST"),
    "a line shows more": bought("lines,0,points", "999", "$FIRST"),
    "more returned than bought": bought("lines,0,returned", '"9"', "$FIRST"),
    "less than nothing returned": bought("lines,0,returned", '"-1"', "$FIRST"),
    "other quantities returned": bought("returns,0,lines,0,quantity", '"2"', "$FIRST"),
    "more reversed than earned": bought("lines,0,reversed,base", "999", "$FIRST"),
    "less than nothing reversed": bought("lines,0,reversed,base", "-1", "$FIRST"),
    "reversed what it never earned": bought("lines,0,reversed,gift", "0", "$FIRST"),
    "reversed without a return": bought("lines,1,reversed,base", "1", "$FIRST"),
    "a return forgotten": bought("returns", "[]", "$FIRST"),
    "a return of other points": bought("returns,0,points_reversed", "0", "$FIRST"),
    "a return forgiven": bought("returns,0,points_forgiven", "5", "$FIRST"),
    "a return of all that says nothing of it": """
        UPDATE journal SET detail = detail::jsonb - 'undone' WHERE member_id = $bea AND kind = 'purchase_returned'
    """,
    "a return that takes nothing back from a referrer": """
        UPDATE journal SET detail = detail::jsonb - 'referral_return' WHERE kind = 'purchase_returned'
    """,
    "a return of another": detail("purchase", "900", "$purchase_returned"),
    "points paid": bought("payment,points", "1", "$SECOND"),
    "holds paid with": bought("payment,holds,0,1", "1", "$SECOND"),
    "lots paid with": bought("payment,lots,0,1", "null", "$SECOND"),
    "a line paid with more": bought("lines,0,paid,0", "999", "$SECOND"),
    "a line paid back more": bought("lines,0,repaid,0", "999", "$SECOND"),
    "other money": bought("money", "1", "$SECOND"),
    "more taken off for its points": "; ".join(
        (bought("payment,amount", "91", "$SECOND"), bought("money", "1258", "$SECOND"))
    ),
    "points taken off another line": "; ".join(
        (bought("lines,0,paid_amount", "1", "$SECOND"), bought("lines,1,paid_amount", "89", "$SECOND"))
    ),
    "another line paid with the lot": "; ".join(
        (bought("lines,0,paid,0", "0", "$SECOND"), bought("lines,1,paid,0", "90", "$SECOND"))
    ),
    "points for nothing": "; ".join(
        (bought("lines,0,earned,base", "8", "$FIRST"), bought("lines,1,earned,base", "5", "$FIRST"))
    ),
    "what did not apply forgotten": detail("not_applied", "[]", "$SECOND"),
    "explained otherwise": bought("explained,0,1", "1", "$FIRST"),
    "points that expire otherwise": bought("expires_at", "null", "$FIRST"),
    "another version": "UPDATE purchase SET changed_version = version WHERE $FIRST",
    "another store": "UPDATE journal SET store = '331' WHERE $FIRST",
}
ERASED = {
    "found by a phone": "INSERT INTO identifier SELECT 'phone', '+49', member_id, 1 FROM member WHERE member_id = $dan",
    "with a name": """UPDATE member SET profile = '{"name": "Dan"}' WHERE member_id = $dan""",
    "with an open account": """UPDATE member SET profile = '{"erased": true}' WHERE $ADA""",
    "with an answer": "UPDATE idempotency SET version = 1 WHERE member_id = $dan AND version IS NULL",
}
TAMPERING = {
    books.WHOLE: MEMBERS,
    books.VERSIONS: {
        "an entry is gone": "DELETE FROM journal WHERE $hold_voided",
        "an account of another": "UPDATE account SET version = version + 1 WHERE $ADA",
    },
    books.NEGATIVE: {"a bucket": "UPDATE account SET pending = -1, issued = issued - 1 WHERE $ADA"},
    books.ZERO_SUM: {"more issued than there is": "UPDATE account SET issued = issued + 1 WHERE $ADA"},
    books.FOLD: ACCOUNTS,
    books.SHOWN: SHOWN,
    books.RULED: {
        "one of a program to come": """
            INSERT INTO program SELECT 9, now() + interval '9 days', now(), source FROM program;
            UPDATE journal SET program_version = 9 WHERE $points_adjusted
        """,
        "one of a program that had ended": """
            INSERT INTO program SELECT 9, now() - interval '99 days', now(), source FROM program
        """,
    },
    books.EFFECT: EFFECTS,
    books.COUNTED: COUNTED,
    books.ANSWERS: ANSWERS,
    books.RECEIPTS: RECEIPTS,
    books.PURCHASES: PURCHASES,
    books.ERASED: ERASED,
    books.STOCK: {
        "more redeemed": "UPDATE reward_stock SET redeemed = redeemed + 1",
        "nobody counts": "DELETE FROM reward_stock",
    },
    **CONFLICTS,
    "transfers are conserved and none is long in doubt": TRANSFERS,
    "each referral is credited once": REFERRALS,
    "allotments make up each reward's stock": {
        "more than there is": "UPDATE reward_stock SET allotted = allotted + 1",
        "vanished on the way": "UPDATE reward_stock SET allotted = redeemed",
        "arrived twice": "INSERT INTO stock_move VALUES (gen_random_uuid(), 'coffee', 1, 'eu-2')",
    },
    "every shard holds the same programs": {
        "one is not on all": "DELETE FROM program WHERE EXISTS (SELECT FROM account WHERE $ADA)",
        "from another instant on": """
            UPDATE program SET effective_at = effective_at - interval '1 h'
            WHERE EXISTS (SELECT FROM account WHERE $ADA)
        """,
        "another text": "UPDATE program SET source = source || '#' WHERE EXISTS (SELECT FROM account WHERE $ADA)",
    },
    "an identifier has one member in the whole program": {
        "one phone of two": """
            INSERT INTO identifier SELECT 'phone', '+4930111', member_id, 1 FROM account WHERE member_id = $bea
        """
    },
    "every identifier is found from everywhere": FOUND,
    "claims are kept where the topology says, and nowhere else": {
        "by two shards": "INSERT INTO claim_slot SELECT slot, 'here' FROM generate_series(0, 4095) AS slot",
        "by none": "INSERT INTO claim_slot SELECT slot, 'gone' FROM generate_series(0, 4095) AS slot",
        "on their way": "INSERT INTO claim_slot VALUES (7, 'fenced', 'eu-2')",
    },
    "who left is known again wherever they come back": {
        "a hash where nobody looks": """
            INSERT INTO former_identifier SELECT gen_random_uuid(), NULL, now() FROM generate_series(1, 9)
        """,
        "a card's hash where nobody looks": "INSERT INTO former_identifier VALUES (gen_random_uuid(), $ada, now())",
    },
}
SHORT = {
    books.FOLD: {"a posting": postings("0,0", "1", "$points_adjusted")},
    books.SHOWN: {"an account": shown("0", "1000", "$LAST")},
    books.PURCHASES: {"points": bought("6,0,4,base", "999", "$FIRST")},
    books.COUNTED: {
        "purchases": state("5", "9", "$ADA"),
        "what was sent forgotten": "UPDATE account SET state = state::jsonb #- '{10,counters,sent}' WHERE $ADA",
    },
    books.EFFECT: {
        "points earned, not told": "UPDATE journal SET detail = detail::jsonb - 'points_earned' WHERE $SECOND",
    },
}
"""Tampering with documents in the short form in which they are stored today."""
DOCUMENTS = (
    ("account", "state", "$ADA", ("{}", "7", '{"tier": 7, "changed_at": "x"}', '{"tier": ["basic", "x", null]}')),
    ("account", "state", "$ADA", ("[]", '["basic", 1, null, "x", []]', '["basic", 1e300, 1, 1, []]', "[1, 2]")),
    ("member", "profile", "$ADA", ("7", '{"card": []}')),
    ("journal", "postings", "$FIRST", ("7", "[7]", '[{"points": "10"}]', '{"a": 1}')),
    ("journal", "detail", "$reward_redeemed", ("null", "[]", '"x"', '{"reward": 7}')),
    ("journal", "account_after", "$FIRST", ("7", "[]", '"x"')),
    ("journal", "detail", "$purchase_returned", ('{"purchase": []}',)),
    ("purchase", "document", "$FIRST", ("7", "{}", '{"lines": 7}', '{"lines": [7], "returns": {}}')),
)
HARMLESS = {
    "documents as an earlier version stored them": "SELECT 1",
    "a return of before returns rounded once": """
        UPDATE purchase SET document = document::jsonb - 'rounded_once' WHERE $FIRST
    """,
    "an explanation written out by an earlier version": """
        UPDATE purchase SET document = jsonb_set(document::jsonb - 'explained', '{explanation}', (
            SELECT jsonb_agg(jsonb_build_object(
                'campaign', row -> 0, 'applied', (row ->> 1)::bigint > 0, 'points', row -> 1,
                'why', coalesce(row ->> 2, 'applied')
            )) FROM jsonb_array_elements(document::jsonb -> 'explained') AS row
        ))
    """,
    "baskets of before only money earned": """
        UPDATE purchase SET document = document::jsonb - 'money';
        UPDATE journal SET detail = detail::jsonb - 'released' - 'not_applied' WHERE kind = 'purchase_recorded';
        UPDATE idempotency SET answer = answer::jsonb - 'captured' - 'released' - 'not_applied'
        WHERE answer ->> 'purchase_id' IS NOT NULL
    """,
    "a lease whose end nobody has settled": "UPDATE claim SET leased_until = now() - interval '1 h' WHERE $ADA",
    "a claim that the courier is about to free": """
        DELETE FROM identifier WHERE value = 'ada@example.org';
        UPDATE member SET profile = profile::jsonb - 'email' WHERE $ADA;
        INSERT INTO errand SELECT member_id, 1, 'release', '{"identifiers": [["email", "ada@example.org"]]}', 0, now()
        FROM account WHERE $ADA
    """,
    "stock taken in that its giver still notes": """
        INSERT INTO stock_arrival VALUES ('00000000-0000-0000-0000-000000000001');
        INSERT INTO stock_move VALUES ('00000000-0000-0000-0000-000000000001', 'coffee', 1, 'eu-2')
    """,
    "answers forgotten after a month": "DELETE FROM idempotency",
}


@pytest.fixture(scope="module")
async def prepared(
    postgres_server: PostgresServer, valkey_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[World]:
    async with prepared_world(postgres_server, valkey_server, tmp_path_factory.mktemp("verify")) as world:
        await see(world, tmp_path_factory.mktemp("known"))
        for shard in world.shards.values():
            await lengthen(shard.connection)
            await shard.keep("long")
        yield world


async def see(world: World, known: Path) -> None:
    """Have a clean run see everybody: from now on only who was tampered with is folded."""
    whole = await world.verify()
    world.known = known
    for _ in range(2):  # the first sees them, the second knows them
        assert [one.document() for one in await world.verify()] == [one.document() for one in whole]
        assert all(one.ok for one in whole)


@pytest.fixture
def world(prepared: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(view, "PATIENCE_S", 0.0)
    return prepared


async def tamper(world: World, sql: str, *, long: bool = True) -> None:
    for shard in world.shards.values():
        await shard.restore("long" if long else "kept")
        await shard.connection.execute(Template(Template(sql).safe_substitute(CONDITIONS)).substitute(world.names))
        await shard.fill_views()


@pytest.mark.parametrize(("check", "what"), [(check, what) for check, cases in TAMPERING.items() for what in cases])
async def test_tampering_is_found(world: World, check: str, what: str) -> None:
    await tamper(world, TAMPERING[check][what])
    assert check in await world.broken()


@pytest.mark.parametrize(("check", "what"), [(check, what) for check, cases in SHORT.items() for what in cases])
async def test_tampering_with_what_is_stored_today_is_found(world: World, check: str, what: str) -> None:
    await tamper(world, SHORT[check][what], long=False)
    assert check in await world.broken()


@pytest.mark.parametrize(("place", "text"), [(place, text) for *place, texts in DOCUMENTS for text in texts])
async def test_a_document_of_another_shape_is_a_violation_and_no_crash(
    world: World, place: tuple[str, str, str], text: str
) -> None:
    table, column, where = place
    await tamper(world, f"UPDATE {table} SET {column} = '{text}' WHERE {where}", long=False)  # noqa: S608
    broken = await world.broken()
    named = f"{world.names['Ada']}{'' if column == 'profile' else '-'}"
    assert any(named in one for examples in broken.values() for one in examples), broken


async def test_a_program_that_cannot_be_read_is_a_violation_and_no_crash(world: World) -> None:
    await tamper(world, "UPDATE program SET source = 'nonsense'")
    assert (await world.broken())[books.READABLE][0].startswith("program 1: ")


@pytest.mark.parametrize("what", HARMLESS)
async def test_what_heals_by_itself_is_no_violation(world: World, what: str) -> None:
    await tamper(world, HARMLESS[what])
    assert await world.broken() == {}
