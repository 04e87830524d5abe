"""Tills of one program in three currencies and zones, over HTTP; and what `verify` says of what they left."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import orjson
from redis.asyncio import Redis

from command.program import apply_program, learn_program
from query.shape import Purchase
from query.views import purchase_view
from tests.command_node import PROGRAM, RunningNode, running_command_node
from tests.engine import ValkeyServer, as_superuser
from tests.verify_world import Shard, done
from verify.verify import verify

TIERS = '[[tiers]]\ncode = "basic"\n[[tiers]]\ncode = "silver"\nthreshold = 3000\n[tier_policy]\nmetric = "amount"\n'
WORLDWIDE = (
    PROGRAM.replace("[points]\n", "[points]\nworth = { points = 100, amount = 100 }\n")
    + TIERS
    + '[[currencies]]\ncode = "USD"\nper_unit = "0.9"\nworth = { points = 100, amount = 110 }\n'
    + '[[currencies]]\ncode = "JPY"\nper_unit = "0.006"\nworth = { points = 100, amount = 160 }\n'
    + '[[stores]]\ncode = "ohio"\nname = "Ohio"\nregion = "eu"\ntime_zone = "America/New_York"\n'
    + '[[stores]]\ncode = "ginza"\nname = "Ginza"\nregion = "eu"\ntime_zone = "Asia/Tokyo"\n'
)
CHEAPER = WORLDWIDE.replace('per_unit = "0.9"', 'per_unit = "0.5"')


def new_year(zone: str) -> str:
    """Half an hour before the new year where the store is."""
    moment = datetime(datetime.now(UTC).year - 1, 12, 31, 23, 30, tzinfo=ZoneInfo(zone))
    return moment.isoformat()


def recent() -> str:
    return (datetime.now(UTC) - timedelta(minutes=1)).isoformat(timespec="seconds")


def sale(member: str, store: str, currency: str, amount: int, **more: Any) -> dict[str, Any]:
    return {
        "member": {"member_id": member}, "store": store, "till": "1", "receipt": f"{store}-{currency}-{amount}",
        "occurred_at": recent(), "currency": currency, "lines": [{"sku": "a", "quantity": 2, "amount": amount}],
    } | more  # fmt: skip


async def shop(node: RunningNode, member: str) -> dict[str, Any]:
    """A sale for dollars, one for yen and one at home, the first back in part; a currency nobody counts in."""
    dollars = await done(node, "/v1/purchases", sale(member, "ohio", "USD", 2002))
    assert (dollars.json["points_earned"], dollars.json["account"]["tier"]["qualifying_points"]) == (18, 1801)
    yen = await done(node, "/v1/purchases", sale(member, "ginza", "JPY", 4000, pay_with_points=10))
    assert (yen.json["points_earned"], yen.json["account"]["tier"]["code"]) == (23, "silver")  # 3984 yen in money
    assert (await done(node, "/v1/purchases", sale(member, "330", "EUR", 1299))).json["points_earned"] == 12
    refused = await node.post("/v1/purchases", sale(member, "330", "CHF", 1299))
    assert (refused.status, refused.code, refused.json["errors"][0]["pointer"]) == (400, "malformed", "/currency")
    assert "EUR, USD, JPY" in refused.json["detail"]
    inside = sale(member, "ohio", "USD", 5)
    inside["lines"][0]["currency"] = "EUR"
    unknown = await node.post("/v1/purchases", inside)
    assert (unknown.code, unknown.json["errors"][0]["pointer"]) == ("malformed", "/lines/0/currency")
    return dollars.json


async def test_tills_post_their_own_currency_and_verify_finds_nothing(
    database: str, valkey_server: ValkeyServer, tmp_path: Path
) -> None:
    async with running_command_node(database, tmp_path, program=WORLDWIDE) as node:
        member = (await node.enrol())["member_id"]
        bought = await shop(node, member)
        back = {"store": "ohio", "till": "1", "receipt": "back", "occurred_at": recent()}
        path = f"/v1/purchases/{bought['purchase_id']}/returns"
        half = await done(node, path, back | {"lines": [{"line": 1, "quantity": 1}]})
        assert half.json["points_reversed"] == 9
        await apply_program([database], CHEAPER)
        await learn_program(node.inner.pools["eu-1"], node.inner.programs)
        whole = await done(node, path, back | {"receipt": "back-2", "lines": [{"line": 1, "quantity": 1}]})
        counted = [one.json["account"]["tier"]["qualifying_points"] for one in (half, whole)]
        assert (whole.json["points_reversed"], counted) == (9, [2390 + 1299 + 901, 2390 + 1299])
        now = sale(member, "ohio", "USD", 2000, occurred_at=datetime.now(UTC).isoformat())
        assert (await done(node, "/v1/purchases", now)).json["points_earned"] == 10
        old = await done(node, "/v1/purchases", sale(member, "ginza", "JPY", 500, occurred_at=new_year("Asia/Tokyo")))
        assert old.status == 201
        document = json.loads((tmp_path / "topology.json").read_text())
        (place,) = document["shards"].values()
        place["valkey"] = await valkey_server.fresh_url()
        shard = Shard(await asyncpg.connect(as_superuser(database)), Redis.from_url(place["valkey"]))
        (tmp_path / "verified.json").write_text(json.dumps(document))
        await shard.fill_views()
        findings = await verify(tmp_path / "verified.json")
        assert [(one.check, one.examples) for one in findings if not one.ok] == []
        rows = await shard.connection.fetch("SELECT * FROM purchase ORDER BY version")
        await shard.connection.close()
        await shard.valkey.aclose()
    shown = [Purchase.model_validate(orjson.loads(purchase_view(row))) for row in rows]
    told = {(one.currency, one.amount): one.home and (one.home.currency, one.home.amount) for one in shown}
    assert told == {("USD", 2002): ("EUR", 1801), ("JPY", 4000): ("EUR", 2390), ("EUR", 1299): None,
                    ("JPY", 500): ("EUR", 300), ("USD", 2000): ("EUR", 1000)}  # fmt: skip
    (old_one,) = (one for one in shown if one.amount == 500)
    assert old_one.expires_at
    assert old_one.expires_at.astimezone(ZoneInfo("Asia/Tokyo")).strftime("%m-%d %H:%M") == "12-31 23:59"
    assert (old_one.business_date.month, old_one.business_date.day) == (12, 31)
