"""Tampering with what spans shards, and how a statement edits a stored document."""

from functools import partial

import asyncpg
import orjson

from rules.stored import full_purchase
from service.stored_answer import answer_of, read_entry
from tests.rules_world import earlier_state

ENTRIES = """
SELECT journal.*, purchase.document FROM journal LEFT JOIN purchase USING (member_id, version)
"""
LONG = """
UPDATE journal SET postings = $3, detail = $4, account_after = $5 WHERE member_id = $1 AND version = $2
"""
LONG_ANSWER = "UPDATE idempotency SET answer = $3 WHERE member_id = $1 AND version = $2 AND answer::text = '{}'"
LONG_STATE = "UPDATE account SET state = $2 WHERE member_id = $1"
LONG_PURCHASE = "UPDATE purchase SET document = $3 WHERE member_id = $1 AND version = $2"


async def lengthen(connection: asyncpg.Connection) -> None:
    """Store every document as earlier versions did, so that a path names what it leads to."""
    for row in await connection.fetch(ENTRIES):
        entry = read_entry(row["member_id"], row["version"], row)
        parts = (orjson.dumps(part).decode() for part in (entry.postings, entry.detail, entry.account))
        await connection.execute(LONG, entry.member_id, entry.version, *parts)
        answer = orjson.dumps(answer_of(entry)).decode()
        await connection.execute(LONG_ANSWER, entry.member_id, entry.version, answer)
        if row["document"] is not None:
            document = orjson.dumps(full_purchase(orjson.loads(row["document"]))).decode()
            await connection.execute(LONG_PURCHASE, entry.member_id, entry.version, document)
    for row in await connection.fetch("SELECT member_id, state FROM account"):
        long = orjson.dumps(earlier_state(orjson.loads(row["state"]))).decode()
        await connection.execute(LONG_STATE, row["member_id"], long)


def edited(table: str, column: str, path: str, value: str, where: str) -> str:
    return f"UPDATE {table} SET {column} = jsonb_set({column}::jsonb, '{{{path}}}', '{value}') WHERE {where}"  # noqa: S608


state = partial(edited, "account", "state")
postings = partial(edited, "journal", "postings")
detail = partial(edited, "journal", "detail")
shown = partial(edited, "journal", "account_after")
answer = partial(edited, "idempotency", "answer")
bought = partial(edited, "purchase", "document")

TRANSFERS = {
    "received, not sent": "DELETE FROM journal WHERE kind = 'transfer_sent'",
    "settled, not received": "DELETE FROM journal WHERE kind = 'transfer_received'",
    "of more than was sent": "UPDATE journal SET points = points + 1 WHERE kind = 'transfer_received'",
    "to somebody else": detail("receiver", "7", "kind = 'transfer_sent'"),
    "that lives longer": detail("lots,0,1", "null", "kind = 'transfer_sent'"),
    "received and cancelled": "UPDATE journal SET kind = 'transfer_cancelled' WHERE kind = 'transfer_settled'",
    "of nobody": detail("sender", '"x"', "kind = 'transfer_received'"),
    "in doubt": """
        DELETE FROM journal WHERE kind IN ('transfer_settled', 'transfer_received');
        UPDATE journal SET recorded_at = recorded_at - interval '2 min' WHERE kind = 'transfer_sent'
    """,
}
REFERRALS = {
    "never": "DELETE FROM journal WHERE kind = 'referral_credited'",
    "for nothing": "UPDATE journal SET detail = '{}' WHERE member_id = $cem AND kind = 'purchase_recorded'",
    "otherwise": "UPDATE journal SET points = 7 WHERE kind = 'referral_credited'",
    "given back for nothing": """
        UPDATE journal SET detail = detail::jsonb - 'referral_return' WHERE kind = 'purchase_returned'
    """,
    "never given back": "DELETE FROM journal WHERE kind = 'referral_returned'",
    "given back otherwise": "UPDATE journal SET points = 7 WHERE kind = 'referral_returned'",
    "given back by another": "UPDATE journal SET member_id = $bea WHERE kind = 'referral_returned'",
    "a return that nobody brings word of": "DELETE FROM errand WHERE kind IN ('referral', 'referral_return')",
    "of another purchase": detail("purchase", "90", "kind = 'referral_credited'"),
    "twice": """
        INSERT INTO journal
        SELECT (json_populate_record(j, '{"version": 900}')).* FROM journal j
        WHERE kind = 'referral_credited' AND detail ->> 'referee' = '$cem'
    """,
}
FOUND = {
    "a phone without a claim": "DELETE FROM claim WHERE value = '+4930111'",
    "a card of foreign form without a claim": "DELETE FROM claim WHERE value = 'FOREIGN-1'",
    "a phone claimed for somebody else": "UPDATE claim SET member_id = $bea WHERE value = '+4930111'",
    "a claim without an identifier": "DELETE FROM identifier WHERE value = 'ada@example.org'",
    "a claim where nobody looks": "INSERT INTO claim VALUES ('phone', '+4930111', $ada) ON CONFLICT DO NOTHING",
    "a claim under another slot": "UPDATE claim SET slot = (slot + 1) % 4096 WHERE value = '+4930111'",
    "a card elsewhere": "UPDATE identifier SET member_id = $ada WHERE kind = 'card' AND member_id = $bea",
}
RECEIPTS = {
    "two purchases name one": """
        UPDATE receipt SET receipt = 'other' WHERE $FIRST; UPDATE purchase SET receipt = 'ada-2' WHERE $FIRST
    """,
    "a purchase without": "DELETE FROM receipt WHERE $FIRST",
    "an entry without its purchase": "DELETE FROM purchase WHERE $FIRST",
    "a purchase without its entry": "UPDATE purchase SET version = 900 WHERE $FIRST",
    "one of nothing": """
        INSERT INTO receipt SELECT '330', '9', now(), 'x', 'purchase', $ada, 900, fingerprint FROM receipt WHERE $FIRST
    """,
    "a second one": """
        INSERT INTO receipt SELECT store, '9', business_date, receipt, kind, member_id, version, fingerprint
        FROM receipt WHERE $FIRST
    """,
    "one of another kind": "UPDATE receipt SET kind = 'return' WHERE $FIRST",
    "a transfer received under a day": "UPDATE receipt SET business_date = now() WHERE kind = 'transfer'",
    "thanks received under a day": "UPDATE receipt SET business_date = now() WHERE kind = 'referral'",
    "a return under another name": "UPDATE receipt SET till = '9' WHERE receipt = 'back-1'",
    "a return of another purchase": "UPDATE receipt SET subject = $ada || '-900' WHERE receipt = 'back-1'",
    "a purchase with a subject": "UPDATE receipt SET subject = 'x' WHERE $FIRST",
    "one of another day": """
        UPDATE receipt SET business_date = '2020-01-01' WHERE $FIRST;
        UPDATE purchase SET business_date = '2020-01-01' WHERE $FIRST
    """,
    "a return of another day": "UPDATE receipt SET business_date = '2020-01-01' WHERE receipt = 'back-1'",
    "a transfer that could come twice": "DELETE FROM receipt WHERE kind = 'transfer'",
    "a transfer under another name": "UPDATE receipt SET receipt = '900' WHERE kind = 'transfer'",
    "a referral under another name": "UPDATE receipt SET store = 'x' || store WHERE kind = 'referral'",
}
CONFLICTS = {
    "every receipt is unique over all shards": {
        "on two": """
            INSERT INTO receipt SELECT '330', '9', '2026-01-01', 'x', 'purchase', member_id, 1, gen_random_uuid()
            FROM account WHERE member_id IN ($ada, $bea);
            UPDATE journal SET recorded_at = recorded_at - interval '1 h' WHERE member_id IN ($ada, $bea)
        """,
        "a lost one that was never taken back": """
            UPDATE purchase SET document = jsonb_set(document::jsonb, '{returns}', '[]') WHERE member_id = $ida;
            UPDATE journal SET recorded_at = recorded_at - interval '1 h' WHERE member_id IN ($hal, $ida)
        """,
        "taken back from both": """
            UPDATE purchase SET document = jsonb_set(document::jsonb, '{returns}', '[{"why": "receipt_conflict"}]')
            WHERE member_id IN ($hal, $ida)
        """,
    },
    "every claimed receipt is of a purchase that is there": {
        "one of nobody": """
            INSERT INTO receipt SELECT '330', '9', '2026-01-01', 'x', 'purchase', $ida, 77, gen_random_uuid()
            WHERE NOT EXISTS (SELECT FROM account WHERE member_id = $ida)
        """
    },
}
