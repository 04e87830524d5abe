"""Every statement of nodes and projectors looks rows up by key, whatever the statistics say when its plan is made.

A node keeps the plan it made first. So the plan must be right for tables that are empty, were analyzed while empty
(a new shard, a restore), are small, or are large.
"""

from collections.abc import AsyncGenerator, Iterator
from itertools import combinations
from typing import Any

import asyncpg
import orjson
import pytest

from command.load import LOCK_ACCOUNTS, OPTIONAL, load_statement
from command.record import COMMON, record_statement
from shard_router.pool import INDEXED
from shard_router.statement import load_statements
from tests.project import PROJECT

FILES = (
    "command/load.sql",
    "command/record.sql",
    "command/store.sql",
    "command/stock.sql",
    "cdc/rows.sql",
    "query/replica.sql",
    "shard_router/directory.sql",
)
STATEMENTS = {
    f"{file}:{name}": statement for file in FILES for name, statement in load_statements(PROJECT / file).items()
}
for part in COMMON:  # run only as `record_statement` puts them together
    del STATEMENTS[f"command/record.sql:{part}"]
STATEMENTS |= {
    f"record of {', '.join(tables)}, {one=}, {counted=}": record_statement(tables, one=one, counted=counted)
    for count in (1, 2, len(COMMON))
    for tables in combinations(COMMON, count)
    for one in (False, True)
    for counted in (False, True)
}
STATEMENTS |= {
    f"load by {', '.join(asked)}, {one=}": load_statement(asked, one=one)
    for count in range(len(OPTIONAL) + 1)
    for asked in combinations(OPTIONAL, count)
    for one in (False, True)
}
STATEMENTS["lock_accounts of arrays"] = LOCK_ACCOUNTS
SMALL = {"program_pkey", "incarnation", "incarnation_pkey", "reward_stock", "stock_move"}
"""What never grows with the members: program versions, restores, rewards with a stock, stock on its way (a row
goes when it has arrived)."""
JOINS = {"Hash Join", "Merge Join"}

FILL = """
INSERT INTO account (member_id, version, available, pending, held, spent, expired, debt, issued, state, due_at)
SELECT n, 1, 0, 0, 0, 0, 0, 0, 0, '{}', now() + n * interval '1 s' FROM generate_series(1, $1) AS n;
INSERT INTO journal SELECT n, 1, 'x', 1, now(), now(), NULL, 0, '[]', '{}', '{}' FROM generate_series(1, $1) AS n;
INSERT INTO member SELECT n, 1, '{}', now() FROM generate_series(1, $1) AS n;
INSERT INTO identifier SELECT 'phone', '+' || n, n, 1 FROM generate_series(1, $1) AS n;
INSERT INTO claim SELECT 'phone', '+' || n, n, NULL FROM generate_series(1, $1) AS n;
INSERT INTO purchase SELECT n, 1, 1, 's', 't', n::text, now()::date, now(), '{}' FROM generate_series(1, $1) AS n;
INSERT INTO receipt SELECT 's', 't', now()::date, n::text, 'purchase', n, 1, gen_random_uuid()
FROM generate_series(1, $1) AS n;
INSERT INTO idempotency SELECT 'k' || n, n, 1, 'c', gen_random_uuid(), 201, '{}', now()
FROM generate_series(1, $1) AS n;
INSERT INTO errand SELECT n, 1, 'release', '{}', 0, now() FROM generate_series(1, $1) AS n
"""
ROWS = {"empty": 0, "analyzed while empty": 0, "small": 40, "large": 30_000}


@pytest.fixture(params=ROWS)
async def connection(request: pytest.FixtureRequest, database: str) -> AsyncGenerator[asyncpg.Connection]:
    made = await asyncpg.connect(database, server_settings=INDEXED)
    for statement in FILL.split(";"):
        await made.execute(statement.replace("$1", str(ROWS[request.param])))
    if request.param != "empty":
        await made.execute("VACUUM (ANALYZE)")
    yield made
    await made.close()


async def test_no_statement_reads_a_table_or_an_index_from_end_to_end(connection: asyncpg.Connection) -> None:
    wrong: dict[str, list[str]] = {}
    for name, statement in STATEMENTS.items():
        explained = await explain(connection, statement.rstrip(";"))
        for node in walk(explained):
            if words := fault_of(node):
                wrong.setdefault(name, []).append(words)
    assert not wrong, "\n".join(f"{k}: {v}" for k, v in wrong.items())


async def explain(connection: asyncpg.Connection, statement: str) -> dict[str, Any]:
    """The generic plan of a statement, as a node that prepares it gets it."""
    parameters = (await connection.prepare(statement)).get_parameters()
    await connection.execute(f"PREPARE explained AS {statement}")
    nothing = f"({', '.join('NULL' for _ in parameters)})" if parameters else ""
    plan = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE explained{nothing}")
    await connection.execute("DEALLOCATE explained")
    return orjson.loads(plan)[0]["Plan"]


def fault_of(node: dict[str, Any]) -> str | None:
    """Why a node of a plan would cost more with every row of its table; None when it would not."""
    kind, table = node["Node Type"], str(node.get("Relation Name", ""))
    if kind in JOINS:
        return kind
    if kind == "Seq Scan" and not table.startswith("pg_") and table not in SMALL:
        return f"reads {table}"
    bounded = node.get("Index Cond") or node["Index Name"] in SMALL if "Index Name" in node else True
    return None if bounded else f"reads all of {node['Index Name']}"


def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for below in node.get("Plans", ()):
        yield from walk(below)
