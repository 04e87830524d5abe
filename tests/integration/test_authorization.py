"""Who may do what: every operation of both nodes, asked by everybody there is. A new operation needs its row."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import ClientSession

import command.operation
import query.operation
from command.http import CALLS
from service.openapi import Operation
from shard_router.member_id import parse_member_id
from tests.command_node import PROGRAM, RunningNode, basket, recent, running_command_node
from tests.engine import PostgresServer, ValkeyServer
from tests.query_world import ShardPlace, World, open_world

REWARDS = PROGRAM + '\n[[rewards]]\ncode = "coffee"\nname = "Coffee"\npoints = 10\n'
ASKERS = ("anonymous", "member", "other", "erased", "pos", "till330", "till331", "desk330", "service", "admin")
"""Nobody; the member it is about, another member, the member once erased; a till of no store, of the store it is about,
of another one, a desk; staff."""
COMMANDS = {operation.operation_id: operation for operation in command.operation.OPERATIONS}
QUERIES = {operation.operation_id: operation for operation in query.operation.OPERATIONS}

ROWS: dict[str, tuple[int, ...]] = {
    #                       nobody member other erased pos  330  331  desk service admin
    "enrol_member":        (401, 403, 403, 403, 201, 201, 403, 201, 201, 201),
    "record_purchase":     (401, 403, 403, 403, 201, 201, 403, 201, 201, 201),
    "return_purchase":     (401, 403, 403, 403, 201, 201, 403, 201, 201, 201),
    "adjust_points":       (401, 403, 403, 403, 403, 403, 403, 403, 201, 201),
    "place_hold":          (401, 403, 403, 403, 201, 201, 403, 201, 201, 201),
    "capture_hold":        (401, 403, 403, 403, 200, 200, 404, 200, 200, 200),
    "void_hold":           (401, 403, 403, 403, 200, 200, 404, 200, 200, 200),
    "erase_member":        (401, 200, 404, 409, 403, 403, 403, 403, 200, 200),
    "change_identifiers":  (401, 403, 403, 403, 201, 403, 403, 201, 201, 201),
    "send_transfer":       (401, 201, 404, 409, 201, 403, 403, 201, 201, 201),
    "redeem_reward":       (401, 403, 403, 403, 201, 201, 403, 201, 201, 201),
    "use_redemption":      (401, 403, 403, 403, 200, 200, 403, 200, 200, 200),
    "cancel_redemption":   (401, 403, 403, 403, 200, 200, 403, 200, 200, 200),
    "get_member":          (401, 200, 404, 404, 200, 200, 200, 200, 200, 200),
    "get_account":         (401, 200, 404, 404, 200, 200, 200, 200, 200, 200),
    "list_activity":       (401, 200, 404, 404, 200, 200, 200, 200, 200, 200),
    "list_member_rewards": (401, 200, 404, 404, 200, 200, 200, 200, 200, 200),
    "stream_account":      (401, 200, 404, 404, 200, 200, 200, 200, 200, 200),
    "issue_stream_ticket": (401, 200, 200, 200, 403, 403, 403, 403, 403, 403),
    "look_up_member":      (401, 403, 403, 403, 200, 200, 200, 200, 200, 403),
    "get_purchase":        (401, 200, 404, 404, 200, 200, 200, 200, 200, 200),
    "evaluate_purchase":   (401, 200, 404, 404, 200, 200, 403, 200, 200, 200),
    "get_command":         (401, 200, 200, 200, 200, 200, 200, 200, 200, 200),
    "list_rewards":        (401, 200, 200, 200, 200, 200, 200, 200, 200, 200),
    "list_tiers":          (401, 200, 200, 200, 200, 200, 200, 200, 200, 200),
    "list_stores":         (401, 200, 200, 200, 200, 200, 200, 200, 200, 200),
    "get_system":          (401, 403, 403, 403, 403, 403, 403, 403, 403, 200),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Nodes:
    """Both nodes on one database, and two members with points."""

    command: RunningNode
    query: World
    session: ClientSession

    async def member(self) -> dict[str, str]:
        member = await self.command.enrol()
        await self.command.give(member["member_id"], 1_000)
        return member

    async def made(self, path: str, body: dict[str, Any], name: str) -> str:
        """What a service makes at store 330 beforehand."""
        reply = await self.command.post(path, body | {"store": "330"})
        assert reply.status == 201, reply.body
        return reply.json[name]


@pytest.fixture(scope="module")
async def nodes(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer, valkey_server: ValkeyServer
) -> AsyncGenerator[Nodes]:
    database = await postgres_server.create_database()
    place = ShardPlace([database], await valkey_server.fresh_url())
    folders = [tmp_path_factory.mktemp(name) for name in ("command", "query")]
    async with (
        running_command_node(database, folders[0], program=REWARDS) as command_node,
        open_world(folders[1], {"eu-1": place}) as world,
        ClientSession() as session,
    ):
        yield Nodes(command_node, world, session)
    await postgres_server.drop_database(database)


Asked = tuple[str, dict[str, Any] | None]
"""What stands for the path's parameter (or after the path), and the body."""


async def _member(_nodes: Nodes, member: dict[str, str]) -> Asked:
    return member["member_id"], None


async def _nothing(_nodes: Nodes, _member: dict[str, str]) -> Asked:
    return "", None


def _body(**fields: Any) -> Callable[[Nodes, dict[str, str]], Awaitable[Asked]]:
    async def prepare(_nodes: Nodes, member: dict[str, str]) -> Asked:
        return "", {"member": {"member_id": member["member_id"]}} | fields

    return prepare


async def _enrolment(_nodes: Nodes, _member: dict[str, str]) -> Asked:
    return "", {"store": "330"}


async def _basket(_nodes: Nodes, member: dict[str, str]) -> Asked:
    return "", basket({"member_id": member["member_id"]}, member["member_id"])


async def _purchase(nodes: Nodes, member: dict[str, str]) -> Asked:
    body = basket({"member_id": member["member_id"]}, member["member_id"])
    return await nodes.made("/v1/purchases", body, "purchase_id"), None


async def _return(nodes: Nodes, member: dict[str, str]) -> Asked:
    purchase_id, _ = await _purchase(nodes, member)
    lines = [{"line": 1, "quantity": 1}]
    receipt = {"store": "330", "till": "1", "receipt": f"back-{member['member_id']}", "occurred_at": recent()}
    return purchase_id, receipt | {"lines": lines}


async def _hold(nodes: Nodes, member: dict[str, str]) -> Asked:
    body = {"member": {"member_id": member["member_id"]}, "points": 10}
    return await nodes.made("/v1/holds", body, "hold_id"), {}


async def _cancellation(nodes: Nodes, member: dict[str, str]) -> Asked:
    body = {"member": {"member_id": member["member_id"]}, "reward": "coffee"}
    return await nodes.made("/v1/redemptions", body, "redemption_id"), {"store": "330"}


async def _use(nodes: Nodes, member: dict[str, str]) -> Asked:
    body = {"member": {"member_id": member["member_id"]}, "reward": "coffee", "store": "330"}
    redeemed = (await nodes.command.post("/v1/redemptions", body)).json
    return redeemed["redemption_id"], {"store": "330", "code": redeemed["code"]}


async def _identifiers(_nodes: Nodes, member: dict[str, str]) -> Asked:
    return member["member_id"], {"new_card": True}


async def _transfer(nodes: Nodes, member: dict[str, str]) -> Asked:
    receiver = await nodes.command.enrol()
    names = {"from": {"member_id": member["member_id"]}, "to": {"member_id": receiver["member_id"]}}
    return "", names | {"points": 1}


async def _card(_nodes: Nodes, member: dict[str, str]) -> Asked:
    return f"?card={member['card']}", None


async def _key(_nodes: Nodes, _member: dict[str, str]) -> Asked:
    return "some-key", None


PREPARED: dict[str, Callable[[Nodes, dict[str, str]], Awaitable[Asked]]] = {
    "enrol_member": _enrolment,
    "record_purchase": _basket,
    "return_purchase": _return,
    "adjust_points": _body(points=1, reason="test"),
    "place_hold": _body(points=1, store="330"),
    "capture_hold": _hold,
    "void_hold": _hold,
    "erase_member": _member,
    "change_identifiers": _identifiers,
    "send_transfer": _transfer,
    "redeem_reward": _body(reward="coffee", store="330"),
    "use_redemption": _use,
    "cancel_redemption": _cancellation,
    **dict.fromkeys(("get_member", "get_account", "list_activity", "list_member_rewards", "stream_account"), _member),
    "look_up_member": _card,
    "get_purchase": _purchase,
    "evaluate_purchase": _basket,
    "get_command": _key,
    **dict.fromkeys(("issue_stream_ticket", "list_rewards", "list_tiers", "list_stores", "get_system"), _nothing),
}


def test_every_operation_has_its_row() -> None:
    assert set(ROWS) == set(PREPARED) == set(COMMANDS) | set(QUERIES)
    assert {len(row) for row in ROWS.values()} == {len(ASKERS)}


def test_the_table_of_calls_takes_the_bodies_that_are_published() -> None:
    assert {name: call.body for name, call in CALLS.items()} == {
        name: operation.request_model for name, operation in COMMANDS.items()
    }


@pytest.mark.parametrize("operation", [*COMMANDS.values(), *QUERIES.values()], ids=lambda one: one.operation_id)
async def test_an_operation_is_for_whom_its_row_says(nodes: Nodes, operation: Operation) -> None:
    answered = {asker: await ask(nodes, operation, asker) for asker in ASKERS}
    assert answered == dict(zip(ASKERS, ROWS[operation.operation_id], strict=True))


async def test_a_bound_key_that_names_no_store_is_told_to(nodes: Nodes) -> None:
    headers = {"Idempotency-Key": "no-store", "Authorization": f"Bearer {nodes.command.keys['till330']}"}
    async with nodes.session.post(f"{nodes.command.url}/v1/members", json={}, headers=headers) as answer:
        told = await answer.json()
    assert (answer.status, told["detail"]) == (403, "this key acts for store 330 alone: name it as `store`")


async def ask(nodes: Nodes, operation: Operation, asker: str) -> int:
    """The status for one asker, about a member of their own."""
    member = await nodes.member()
    named, body = await PREPARED[operation.operation_id](nodes, member)
    if asker == "erased":
        assert (await nodes.command.delete(f"/v1/members/{member['member_id']}")).status == 200
    token_of = (await nodes.member() if asker == "other" else member)["member_id"]
    head, brace, tail = operation.path.partition("{")
    path = head + named + (tail.partition("}")[2] if brace else "")
    of_commands = operation.operation_id in COMMANDS
    url = nodes.command.url if of_commands else nodes.query.nodes["eu"]
    headers = {"Idempotency-Key": f"{operation.operation_id}-{asker}"} if operation.idempotent else {}
    if asker in {"member", "other", "erased"}:
        own = nodes.command.as_member(token_of)
        token = nodes.command.keys[own] if of_commands else nodes.query.member_token(parse_member_id(own))
        headers["Authorization"] = f"Bearer {token}"
    elif asker != "anonymous":
        keys = nodes.command.keys if of_commands else nodes.query.keys
        headers["Authorization"] = f"Bearer {keys[asker]}"
    async with nodes.session.request(operation.method, url + path, json=body, headers=headers) as answer:
        return answer.status
