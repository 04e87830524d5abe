"""Every statement prepares against the schema, and the hot ones go by an index to few rows."""

from typing import Any

import asyncpg
import orjson
import pytest

from query.replica import STATEMENTS
from tests.query_world import START, member

MEMBERS = [member(unique, slot=unique % 4096) for unique in range(1, 3001)]
ADA = MEMBERS[70]
HOT: dict[str, tuple[Any, ...]] = {
    "find_accounts": (MEMBERS[100:132],),
    "find_member": (ADA,),
    "find_standing": (ADA, [2, 3], START, START),
    "find_activity": (ADA, 10**15, 51),
    "find_purchase": (ADA, 1),
    "find_identifier": ("phone", "+71"),
    "find_holder": (ADA, "phone", "+71"),
    "find_command": ("key-71", None),
}


@pytest.fixture
async def filled(database: str) -> Any:
    connection = await asyncpg.connect(database)
    await connection.execute(
        "INSERT INTO account (member_id, version, available, pending, held, spent, expired, debt, issued, state)"
        " SELECT m, 5, 0, 0, 0, 0, 0, 0, 0, '{}' FROM unnest($1::bigint[]) AS m",
        MEMBERS,
    )
    await connection.execute(
        "INSERT INTO journal SELECT m, v, 'x', 1, $2, $2, NULL, 0, '[]', '{}', '{}'"
        " FROM unnest($1::bigint[]) AS m, generate_series(1, 5) AS v",
        MEMBERS,
        START,
    )
    await connection.execute("INSERT INTO member SELECT m, 1, '{}', $2 FROM unnest($1::bigint[]) AS m", MEMBERS, START)
    await connection.execute(
        "INSERT INTO identifier SELECT 'phone', '+' || n, m, 1 FROM unnest($1::bigint[]) WITH ORDINALITY AS t (m, n)",
        MEMBERS,
    )
    await connection.execute(
        "INSERT INTO purchase SELECT m, 1, 1, 's', 't', m::text, $2::timestamptz::date, $2, '{}'"
        " FROM unnest($1::bigint[]) AS m",
        MEMBERS,
        START,
    )
    await connection.execute(
        "INSERT INTO idempotency (key, credential, fingerprint, status, answer, answered_at)"
        " SELECT 'key-' || n, 'c', gen_random_uuid(), 201, '{}', $1 FROM generate_series(1, 3000) AS n",
        START,
    )
    await connection.execute(
        "INSERT INTO program (version, effective_at, source) SELECT n, $1, '' FROM generate_series(1, 1000) AS n", START
    )
    await connection.execute("ANALYZE")
    yield connection
    await connection.close()


async def test_every_statement_prepares(filled: Any) -> None:
    for statement in STATEMENTS.values():
        await filled.prepare(statement)


@pytest.mark.parametrize("name", HOT)
async def test_a_hot_statement_reads_few_rows_by_index(filled: Any, name: str) -> None:
    explained = f"EXPLAIN (ANALYZE, FORMAT JSON, TIMING OFF) {STATEMENTS[name]}"
    plan = orjson.loads(await filled.fetchval(explained, *HOT[name]))[0]["Plan"]
    nodes = list(walk(plan))
    assert {node["Node Type"] for node in nodes}.isdisjoint({"Seq Scan", "Sort", "Hash Join", "Merge Join"}), nodes
    assert any(node["Node Type"].startswith(("Index", "Bitmap Index")) for node in nodes)
    asked = len(HOT[name][0]) if isinstance(HOT[name][0], list) else 1
    scanned = sum(node["Actual Rows"] * node["Actual Loops"] for node in nodes if "Scan" in node["Node Type"])
    assert scanned <= 5 * asked + 3
    assert plan["Actual Rows"] > 0


def walk(plan: dict[str, Any]) -> Any:
    yield plan
    for part in plan.get("Plans", []):
        yield from walk(part)
