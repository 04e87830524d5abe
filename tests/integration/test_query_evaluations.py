"""Evaluations on a query node against what the command node then does, on one database; and what erasure leaves."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from command.program import apply_program
from query import views
from query.shape import Evaluation, Purchase
from shard_router.member_id import format_member_id, parse_member_id
from tests.command_node import PROGRAM, Reply, RunningNode, running_command_node
from tests.command_node import basket as basket_for
from tests.conftest import DatabasePair, eventually
from tests.engine import ValkeyServer
from tests.query_world import ShardPlace, World, member, open_world, project, put_view, write_member, write_row

RULES = (
    PROGRAM.replace("[points]\n", "[points]\nworth = { points = 100, amount = 100 }\n")
    + """
[[tiers]]
code = "basic"
[[tiers]]
code = "gold"
threshold = 30
multiplier = "2"
[[campaigns]]
code = "birthday"
when = { birthday_within_days = 2 }
effect = { fixed = 50 }
[[campaigns]]
code = "advent"
starts_at = "2031-12-01T00:00:00Z"
effect = { multiply = "3" }
[[coupons]]
code = "TEN"
effect = { fixed = 10 }
[[coupons]]
code = "BIG"
when = { min_amount = 90000 }
effect = { fixed = 10 }
"""
)


@dataclass(frozen=True, slots=True)
class Both:
    """A command node and a query node on one database."""

    command: RunningNode
    query: World

    async def evaluate(self, body: dict[str, Any], **rest: Any) -> Any:
        return await self.query.post("/v1/evaluations", body, **rest)


@pytest.fixture
async def both(tmp_path: Path, database_pair: DatabasePair, valkey_url: str) -> AsyncGenerator[Both]:
    folders = [tmp_path / "command", tmp_path / "query"]
    for folder in folders:
        folder.mkdir()
    place = ShardPlace([database_pair.primary, database_pair.standby], valkey_url)
    async with (
        running_command_node(database_pair.primary, folders[0], program=RULES) as command,
        open_world(folders[1], {"eu-1": place}) as query,
    ):
        yield Both(command, query)


def basket(member: dict[str, Any], receipt: str = "1") -> dict[str, Any]:
    return basket_for({"card": member["card"]}, receipt)


def seen(reply: Reply) -> dict[str, str]:
    return {"Consistency-Token": reply.headers["Consistency-Token"]}


async def test_buying_what_was_evaluated_gives_what_it_said(both: Both) -> None:
    today = datetime.now(UTC).date()
    ada = await both.command.enrol(birth_date=f"1990-{today:%m-%d}", phone="+4930123456")
    await both.command.give(ada["member_id"], 500)
    hold = await both.command.post("/v1/holds", {"member": {"member_id": ada["member_id"]}, "points": 40})
    rich = {"capture_holds": [hold.json["hold_id"]], "coupons": ["TEN"], "pay_with_points": 100}
    more = await both.command.post("/v1/holds", {"member": {"member_id": ada["member_id"]}, "points": 60})
    small: dict[str, Any] = {"capture_holds": [more.json["hold_id"]], "coupons": ["BIG"]}
    small["lines"] = [{"sku": "a", "quantity": 1, "amount": 45}]
    headers, shown = seen(more), list[Any]()
    for body in (basket(ada, receipt="0") | small, basket(ada, receipt="1") | rich, basket(ada, receipt="2")):
        evaluated = await both.evaluate(body, headers=headers)
        assert evaluated.status == 200, evaluated.body
        Evaluation.model_validate_json(evaluated.body)
        bought = await both.command.post("/v1/purchases", body)
        assert bought.status == 201, bought.body
        headers = seen(bought)
        said = evaluated.json
        assert said["points"] == bought.json["points_earned"]
        assert said["postings"] == bought.json["postings"]
        missed = [one["campaign"].removeprefix("coupon:") for one in said["explanation"][1:] if not one["applied"]]
        assert [one["code"] for one in said["not_applied"]] == [code for code in missed if code != "advent"]
        for name in ("captured", "released", "not_applied"):
            assert said.get(name) == bought.json.get(name)
        now = bought.json["account"]["tier"]
        assert said["tier_after"] | {"since": None, "until": None} == now | {"since": None, "until": None}
        last = await both.query.get(f"/v1/purchases/{bought.json['purchase_id']}", headers=headers)
        Purchase.model_validate_json(last.body)
        shown.append(last.json)
    _, paid, unpaid = shown
    holds = [{"hold_id": hold.json["hold_id"], "points": 40}]
    assert (paid["payment"], "payment" in unpaid) == ({"points": 140, "amount": 140, "holds": holds}, False)
    explained = [one for one in said["explanation"] if not one["why"].startswith("not_started")]
    assert unpaid["explanation"] == explained
    assert {one["campaign"]: one["applied"] for one in said["explanation"]} == {
        "base": True,
        "tier:gold": True,
        "birthday": True,
        "advent": False,
    }


async def test_a_standby_answers_and_nothing_changes(both: Both) -> None:
    ada = await both.command.enrol()
    body = basket(ada)

    async def from_standby() -> bool:
        reply = await both.evaluate(body)
        return reply.status == 200 and reply.headers["Loyalty-Source"] == "replica"

    await eventually(from_standby)
    reply = await both.command.give(ada["member_id"], 1)
    assert reply.json["account"]["version"] == 2


async def test_each_instant_has_its_program(both: Both, database_pair: DatabasePair) -> None:
    ada = await both.command.enrol()
    doubled, tripled = (RULES.replace('per_unit = "1"', f'per_unit = "{factor}"') for factor in (2, 3))
    before = datetime.now(UTC)
    tomorrow = before + timedelta(days=1)
    await apply_program([database_pair.primary], doubled)
    given = await both.command.give(ada["member_id"], 1)
    await apply_program([database_pair.primary], tripled, tomorrow)

    def just_now() -> dict[str, Any]:
        return basket(ada) | {"occurred_at": datetime.now(UTC).isoformat()}

    async def points(at: datetime | None) -> int:
        body = just_now() | ({"at": at.isoformat()} if at else {})
        reply = await both.evaluate(body, headers=seen(given))
        assert reply.status == 200, reply.body
        return reply.json["points"]

    base = 13
    instants = (datetime(1970, 1, 1, tzinfo=UTC), before, None, tomorrow - timedelta(hours=1), tomorrow)
    factors = [1, 1, 2, 2, 3]

    async def visible() -> bool:
        return [await points(at) // base for at in instants] == factors

    await eventually(visible)
    assert await points(datetime(2031, 12, 24, tzinfo=UTC)) > 3 * 3 * base
    assert (await both.command.post("/v1/purchases", just_now())).json["points_earned"] // base == 2


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"store": "nowhere"}, 422, "unknown_store"),
        ({"currency": "USD"}, 400, "malformed"),
        ({"coupons": ["NONE"]}, 422, "unknown_coupon"),
        ({"pay_with_points": 100}, 422, "insufficient_points"),
        ({"capture_holds": ["hld_x-1"]}, 404, "hold_not_found"),
        ({"member": {"phone": "+4930999999"}}, 404, "member_not_found"),
        ({"member": {"member_id": "042D00BFXR71NV"}}, 404, "member_not_found"),
        ({"lines": []}, 400, "malformed"),
        ({"at": "yesterday"}, 400, "malformed"),
        ({"later": True}, 400, "malformed"),
    ],
)
async def test_a_refusal_is_the_one_the_purchase_would_get(both: Both, change: Any, status: int, code: str) -> None:
    reply = await both.command.post("/v1/members", {})
    body = basket(reply.json) | change
    evaluated = await both.evaluate(body, headers={} if "member" in change else seen(reply))
    assert (evaluated.status, evaluated.json["code"]) == (status, code)
    if "at" not in change:
        bought = await both.command.post("/v1/purchases", body)
        told = ("code", "status", "errors")
        assert [evaluated.json.get(name) for name in told] == [bought.json.get(name) for name in told]


async def test_a_member_evaluates_for_himself_only(both: Both) -> None:
    ada, bob = await both.command.enrol(), await both.command.enrol(phone="+4930123456")
    given = await both.command.give(ada["member_id"], 1)
    token = both.query.member_token(parse_member_id(ada["member_id"]))
    for named in ({"member_id": ada["member_id"]}, {"card": ada["card"]}):
        reply = await both.evaluate(basket(ada) | {"member": named}, credential=token, headers=seen(given))
        assert reply.status == 200, reply.body
    for named in ({"member_id": bob["member_id"]}, {"card": bob["card"]}, {"phone": "+4930123456"}):
        reply = await both.evaluate(basket(ada) | {"member": named}, credential=token)
        assert (reply.status, reply.json["code"]) == (404, "member_not_found")


async def test_a_member_names_himself_by_whatever_is_his(both: Both, database_pair: DatabasePair) -> None:
    ada = await both.command.enrol()
    row = {"kind": "card", "value": "SECOND-1", "member_id": parse_member_id(ada["member_id"]), "version": 1}
    await write_row(database_pair.primary, "identifier", row)
    token = both.query.member_token(parse_member_id(ada["member_id"]))

    async def found() -> bool:
        return (await both.evaluate(basket(ada) | {"member": {"card": "SECOND-1"}}, credential=token)).status == 200

    await eventually(found)


async def test_what_a_member_asks_about_others_tells_him_nothing(
    tmp_path: Path, database: str, valkey_server: ValkeyServer
) -> None:
    """Whoever has a phone number, in a view, in a row or nowhere: one answer, though a region cannot be asked."""
    ada, bob = member(1), member(2)
    nowhere = ["postgresql://nobody:x@127.0.0.1:1/none"]
    shards = {
        "eu-1": ShardPlace([database], await valkey_server.fresh_url()),
        "us-1": ShardPlace(nowhere, await valkey_server.fresh_url()),
    }
    for one in (ada, bob):
        await write_member(database, one)
    for phone, holder in (("+4910000000", bob), ("+4920000000", bob), ("+4930000000", ada)):
        row = {"kind": "phone", "value": phone, "member_id": holder, "version": 1}
        await write_row(database, "identifier", row)
    view = views.identifier_view({"member_id": bob})
    await put_view(shards["eu-1"].valkey, views.identifier_key("phone", "+4910000000"), 1, view)
    async with open_world(tmp_path, shards) as world:
        body = basket_for({"phone": ""}, "1")
        for region in ("eu", "us"):
            replies = [
                await world.post(
                    "/v1/evaluations",
                    body | {"member": {"phone": phone}},
                    credential=world.member_token(ada),
                    region=region,
                )
                for phone in ("+4910000000", "+4920000000", "+4990000000", "+4930000000")
            ]
            told = [(reply.status, reply.json["code"], reply.json["detail"]) for reply in replies]
            assert told[:3] == [(404, "member_not_found", "No such member")] * 3
            assert told[3][2] == "no program is applied", "his own number is found"


async def test_the_view_of_an_erased_profile_hides_the_account_view(both: Both, valkey_url: str) -> None:
    member_id = member(1)
    account = f"/v1/members/{format_member_id(member_id)}/account"
    token = both.query.member_token(member_id)
    await project(valkey_url, member_id, 3)
    assert (await both.query.get(account, credential=token)).headers["Loyalty-Source"] == "cache"
    await put_view(valkey_url, views.profile_key(member_id), 3, b'{"erased": true}')
    assert (await both.query.get(account, credential=token)).json["code"] == "member_not_found"
    assert (await both.query.get(account)).status == 200


async def test_nothing_is_left_of_an_erased_member_but_what_staff_must_see(both: Both, valkey_url: str) -> None:
    ada = await both.command.enrol(phone="+4930123456", name="Ada")
    bought = await both.command.post("/v1/purchases", basket(ada))
    gone = await both.command.delete(f"/v1/members/{ada['member_id']}")
    assert gone.status == 200, gone.body
    member_id, headers = parse_member_id(ada["member_id"]), seen(gone)
    # The projector may be behind: a look-up by an identifier that is still there finds nobody.
    stale = views.identifier_view({"member_id": member_id})
    await put_view(valkey_url, views.identifier_key("phone", "+4930123456"), 1, stale)
    own = f"/v1/members/{ada['member_id']}"
    purchase = f"/v1/purchases/{bought.json['purchase_id']}"
    token = both.query.member_token(member_id)
    for path in (own, f"{own}/account", f"{own}/activity", f"{own}/rewards", f"{own}/events", purchase):
        sent = {} if path.endswith("events") else headers

        async def hidden(path: str = path, sent: dict[str, str] = sent) -> bool:
            return (await both.query.get(path, credential=token, headers=sent)).status == 404

        await eventually(hidden)
    for path in (own, "/v1/lookup?phone=%2B4930123456", f"/v1/lookup?card={ada['card']}"):
        assert (await both.query.get(path, headers=headers)).json["code"] == "member_not_found"
    for path in (f"{own}/account", f"{own}/activity", purchase):
        reply = await both.query.get(path, headers=headers)
        assert reply.status == 200
        assert b"Ada" not in reply.body
    Purchase.model_validate_json(reply.body)
    for credential, code in ((None, "member_closed"), (token, "member_not_found")):
        reply = await both.evaluate(
            basket(ada) | {"member": {"member_id": ada["member_id"]}}, headers=headers, credential=credential
        )
        assert reply.json["code"] == code


async def test_a_till_bound_to_a_store_evaluates_with_the_holds_of_its_store_only(both: Both) -> None:
    ada = await both.command.enrol()
    await both.command.give(ada["member_id"], 500)
    place = {"member": {"member_id": ada["member_id"]}, "points": 10}
    there = await both.command.post("/v1/holds", place | {"store": "331"})
    here = await both.command.post("/v1/holds", place | {"store": "330"})
    till = both.query.keys["till330"]
    for hold, expected in ((there, 404), (here, 200)):
        body = basket(ada) | {"capture_holds": [hold.json["hold_id"]]}
        assert (await both.evaluate(body, headers=seen(here))).status == 200
        assert (await both.evaluate(body, headers=seen(here), credential=till)).status == expected
    assert (await both.evaluate(basket(ada) | {"store": "331"}, credential=till)).json["code"] == "forbidden"


async def test_a_basket_of_a_version_long_gone_is_evaluated_as_it_is_then_recorded(
    both: Both, database_pair: DatabasePair
) -> None:
    ada = await both.command.enrol()
    connection = await asyncpg.connect(database_pair.primary)
    insert = "INSERT INTO program (version, effective_at, source) VALUES ($1, now() - $2::interval, $3)"
    await connection.execute("UPDATE program SET effective_at = now() - interval '99 days'")
    for version in range(2, 70):
        source = RULES.replace('per_unit = "1"', f'per_unit = "{version}"')
        await connection.execute(insert, version, timedelta(days=70 - version), source)
    await connection.close()
    for days, version in ((80, 1), (66.5, 3), (0.5, 69)):
        at = (datetime.now(UTC) - timedelta(days=days)).isoformat()
        body = basket(ada, receipt=f"r-{days}") | {
            "occurred_at": at,
            "lines": [{"sku": "a", "quantity": 1, "amount": 100}],
        }
        evaluated = await both.evaluate(body)
        bought = await both.command.post("/v1/purchases", body)
        assert evaluated.json["points"] == bought.json["points_earned"]
        base = next(one["points"] for one in evaluated.json["explanation"] if one["campaign"] == "base")
        assert base == version
