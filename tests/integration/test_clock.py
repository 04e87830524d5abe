"""Nodes whose clocks are off from the primary's: within bounds its time counts, beyond them others do the work."""

from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from shard_router.member_id import parse_member_id
from tests.command_node import running_nodes, told


async def test_a_clock_some_seconds_off_is_told_and_what_it_decides_has_the_primarys_time(
    database: str, tmp_path: Path
) -> None:
    server = await asyncpg.connect(database)
    async with running_nodes(database, tmp_path, count=1, ahead_s=[7.0]) as (node,):
        before = await server.fetchval("SELECT clock_timestamp()")
        member = await node.enrol()
        after = await server.fetchval("SELECT clock_timestamp()")
        recorded_at = await server.fetchval("SELECT recorded_at FROM journal")
        assert (before - recorded_at).total_seconds() < 1 > (recorded_at - after).total_seconds()
        status, words = await told(node, "/readyz?verbose")
        assert (status, "[!] clock: +7.0 s from the primary of eu-1" in words) == (200, True)
        line = next(one for one in (await told(node, "/metrics"))[1].splitlines() if "clock_offset_seconds{" in one)
        assert float(line.rpartition(" ")[2]) > 6
        assert (await node.give(member["member_id"], 1)).status == 201
    await server.close()


async def test_a_node_whose_clock_is_far_off_decides_nothing_and_its_members_are_served_by_the_other(
    database: str, tmp_path: Path
) -> None:
    async with running_nodes(database, tmp_path, count=2, ahead_s=[3600.0]) as (wrong, right):
        members = [(await right.enrol())["member_id"] for _ in range(16)]
        # Those of the node that is off were declined by it and done by the other, at once; then it is left alone.
        assert [(await right.give(member, 5)).status for member in members] == [201] * 16
        assert all(right.inner.serves(parse_member_id(member)) for member in members)

        own = next(member for member in members if wrong.inner.serves(parse_member_id(member)))
        refused = await wrong.give(own, 5)
        assert (refused.status, refused.code, refused.json["retryable"]) == (503, "shard_unavailable", True)
        assert (refused.headers["Connection"], "clock" in refused.json["detail"]) == ("close", True)
        now = datetime.now(UTC).isoformat()
        body = {
            "member": {"member_id": own}, "store": "330", "till": "1", "receipt": "r", "occurred_at": now,
            "currency": "EUR", "lines": [{"sku": "a", "quantity": 1, "amount": 100}],
        }  # fmt: skip
        assert (await wrong.post("/v1/purchases", body, key="sale", role="pos")).code == "shard_unavailable"
        assert (await right.post("/v1/purchases", body, key="sale", role="pos")).status == 201
        assert (await told(wrong, "/readyz"))[0] == 503
        assert (await right.give(own, 1)).json["account"]["balance"]["available"] == 7
