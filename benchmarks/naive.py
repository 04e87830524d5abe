"""The naive baseline of the targets: aiohttp, one asyncpg transaction per request, the rows a purchase writes in ours.

Its rules are one line, it validates nothing, and its documents have the sizes ours had before anything was stored once.
`python -m benchmarks.naive PORT DSN` serves until its standard input closes, so it never outlives the benchmark.
"""

import itertools
import sys
import uuid
from pathlib import Path
from typing import Any, Final

import asyncpg
import orjson
import uvloop
from aiohttp import web

from benchmarks.bare import serve
from shard_router.statement import load_statements

POOL_SIZE: Final = 16
MEMBERS: Final = 10_000
STATEMENTS: Final = load_statements(Path(__file__).with_name("naive.sql"))
_WHY: Final = [{"code": f"campaign-{number}", "why": "no_line: no line of it matches"} for number in range(8)]


class Earn:
    """`POST /earn`: a purchase of one line, decided and stored in one transaction."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._members = itertools.cycle(range(1, MEMBERS + 1))

    async def __call__(self, request: web.Request) -> web.Response:
        """Answer 201 after COMMIT."""
        body = orjson.loads(await request.read())
        key = request.headers["Idempotency-Key"]
        async with self._pool.acquire() as connection, connection.transaction():
            stored = await connection.fetchrow(STATEMENTS["naive_answer"], key)
            if stored is not None:
                return web.Response(text=stored["answer"], status=stored["status"])
            answer = await self._earn(connection, body, key)
        return web.Response(body=answer, status=201, content_type="application/json")

    async def _earn(self, connection: Any, body: dict[str, Any], key: str) -> bytes:
        member_id = next(self._members)
        account = await connection.fetchrow(STATEMENTS["naive_lock"], member_id)
        points = sum(line["amount"] for line in body["lines"]) // 100
        version, available = account["version"] + 1, account["available"] + points
        postings = [{"points": points, "from": "program", "to": "available", "reason": "base"}]
        balance = {"available": available, "pending": 0, "held": 0, "debt": 0, "lifetime": available, "expiring": []}
        tier = {"code": "basic", "name": "Basic", "qualifying_points": available, "since": None, "until": None}
        after = {"member_id": str(member_id), "version": version, "balance": balance, "tier": tier}
        answer = {"purchase_id": key, "postings": postings, "not_applied": _WHY, "account": after}
        document = {"currency": "EUR", "points_earned": points, "lines": body["lines"], "explained": _WHY}
        store, till, receipt = body["store"], body["till"], body["receipt"]
        for name, *values in (
            ("naive_account", member_id, version, available, _text(after)),
            ("naive_journal", member_id, version, store, points, _text(postings), _text(_WHY), _text(after)),
            ("naive_purchase", member_id, version, store, till, receipt, _text(document)),
            ("naive_receipt", store, till, receipt, member_id, version, uuid.uuid4()),
            ("naive_store_answer", key, member_id, uuid.uuid4(), _text(answer)),
        ):
            await connection.execute(STATEMENTS[str(name)], *values)
        return orjson.dumps(answer)


def _text(document: object) -> str:
    return orjson.dumps(document).decode()


async def main(port: int, dsn: str) -> None:
    """Serve on a database with naive_schema."""
    async with asyncpg.create_pool(dsn, min_size=POOL_SIZE, max_size=POOL_SIZE) as pool:
        await serve(port, [web.post("/earn", Earn(pool))])


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
