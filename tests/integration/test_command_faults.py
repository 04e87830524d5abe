"""What other people's locks, stalls, changes and repetitions must not do to commands: each was a defect once."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from structlog.testing import capture_logs

from command.courier import Errand
from command.deadline import Deadlines
from command.lane import _Waiting
from command.program import apply_program
from command.store import BatchConflictError
from rules.codec import instant_text
from rules.command import CloseMember, ReceiveTransfer, ReturnReferral, SettleAccount
from rules.state import Lot
from shard_router.errors import ProblemError
from shard_router.member_id import parse_member_id
from tests.command_node import REWARDS, RunningNode, basket, envelope, running_command_node, value
from tests.conftest import eventually
from tests.engine import as_superuser

PHONE = "+4930111111"


@pytest.fixture
async def node(database: str, second_database: str, tmp_path: Path) -> AsyncGenerator[RunningNode]:
    async with running_command_node(
        database, tmp_path, program=REWARDS, second=second_database, deadline_ms=3_000
    ) as running:
        yield running


def shard_of(node: RunningNode, member_id: str) -> str:
    return node.inner.topology.current.shard_of(parse_member_id(member_id))


async def test_commands_follow_a_shard_whose_servers_changed(node: RunningNode, tmp_path: Path) -> None:
    ada = await node.enrol()
    path = tmp_path / "topology.json"
    document = json.loads(path.read_text())
    document["epoch"] = 2
    for shard in document["shards"].values():
        shard["servers"] = [server + "?application_name=moved" for server in shard["servers"]]
    path.write_text(json.dumps(document))
    watching = asyncio.create_task(node.inner.topology.watch())

    async def adopted() -> bool:
        return node.inner.topology.current.document.epoch == 2

    await eventually(adopted)
    assert (await node.give(ada["member_id"], 5)).status == 201
    watching.cancel()


async def test_what_waits_behind_a_conflict_until_its_deadline_is_not_begun_any_more(node: RunningNode) -> None:
    ada = await node.enrol()
    lane = node.inner.lanes_for(parse_member_id(ada["member_id"]))._lanes[0]
    late = _Waiting(envelope(ada["member_id"], deadline=time.monotonic() - 1), set(), Deadlines())
    await lane._run_singly(late)
    with pytest.raises(ProblemError, match="nothing was done"):
        late.answer.result()
    assert (await node.give(ada["member_id"], 1)).json["account"]["version"] == 2


async def test_a_receipt_met_again_without_a_key_writes_so_that_its_answer_is_durable(node: RunningNode) -> None:
    ada = await node.enrol()
    lot = Lot(7)
    errand = Errand(parse_member_id(ada["member_id"]), 99, "transfer", {"lots": []})
    receipt = errand.receipt
    receive = envelope(
        ada["member_id"],
        command=ReceiveTransfer(1, 99, (lot,), datetime.now(UTC)),
        receipt=receipt,
        credential="courier",
    )
    store = node.inner.lanes_for(parse_member_id(ada["member_id"])).store
    written = "SELECT max(xmin::text::bigint) FROM receipt"
    await store.run([receive])
    first = max(one or 0 for one in await value(node, written))
    (again,) = await store.run([replace(receive, request_id="again")])
    assert again.replayed
    assert max(one or 0 for one in await value(node, written)) > first


async def test_an_answer_given_again_writes_so_that_it_too_is_durable(node: RunningNode) -> None:
    ada = await node.enrol()
    body = {"member": {"member_id": ada["member_id"]}, "points": 5, "reason": "goodwill"}
    replies = [await node.post("/v1/adjustments", body, key="again") for _ in range(3)]
    assert [reply.headers.get("Idempotent-Replayed") for reply in replies] == [None, "true", "true"]
    assert 2 in await value(node, "SELECT max(replays) FROM idempotency WHERE key = 'again'")


async def test_what_is_as_it_should_be_already_is_counted_as_done_and_not_as_a_conflict(node: RunningNode) -> None:
    ada = await node.enrol()
    number = parse_member_id(ada["member_id"])
    for command in (SettleAccount(datetime.now(UTC)), ReturnReferral(1, 2, 3, datetime.now(UTC))):
        answer = await node.inner.lanes_for(number).run(envelope(ada["member_id"], command=command))
        assert (answer.status, answer.body) == (204, b"")
        async with node.session.get(f"{node.url}/metrics") as metrics:
            name = f'command="{type(command).__name__}"'
            counted = [line for line in (await metrics.text()).splitlines() if name in line and "_total" in line]
        assert counted == [f'loyalty_commands_total{{{name},status="204"}} 1.0']
    assert (await node.give(ada["member_id"], 1)).json["account"]["version"] == 2


async def test_who_is_erased_hears_the_time_of_the_entry(node: RunningNode) -> None:
    """Another command of the member came later and was decided first: the entry is dated as that one is."""
    ada = await node.enrol()
    received_at = datetime.now(UTC)
    assert (await node.give(ada["member_id"], 5)).status == 201
    lanes = node.inner.lanes_for(parse_member_id(ada["member_id"]))
    answer = await lanes.run(envelope(ada["member_id"], command=CloseMember(received_at)))
    connection = await asyncpg.connect(node.dsn)
    recorded_at = await connection.fetchval("SELECT max(recorded_at) FROM journal WHERE kind = 'member_closed'")
    await connection.close()
    assert recorded_at > received_at
    assert json.loads(answer.body)["erased_at"] == instant_text(recorded_at)


async def test_who_is_erased_beside_a_change_of_identifiers_leaves_none(node: RunningNode) -> None:
    ada = await node.enrol()
    path = f"/v1/members/{ada['member_id']}"
    busy = [node.give(ada["member_id"], 1) for _ in range(3)]
    change = node.post(f"{path}/identifiers", {"add": [{"phone": PHONE}]})
    *_, changed, erased = await asyncio.gather(*busy, change, node.delete(path))
    assert erased.status == 200
    assert changed.status in {201, 409}
    await node.run_errands()
    assert await value(node, "SELECT count(*) FROM identifier WHERE value = $1", PHONE) == [0, 0]
    assert PHONE not in str(await value(node, "SELECT string_agg(answer::text, ' ') FROM idempotency"))
    assert (await node.post("/v1/members", {"phone": PHONE})).status == 201


async def test_no_batch_has_more_lines_than_two_of_the_longest_baskets(node: RunningNode) -> None:
    """They are decided in one go: a batch of 64 such baskets would keep everybody else waiting."""
    member_id = (await node.enrol())["member_id"]
    lines = [{"sku": "a", "quantity": 1, "amount": 100}] * 1_000
    baskets = [basket({"member_id": member_id}, f"long-{number}", lines=lines) for number in range(8)]
    replies = await asyncio.gather(*(node.post("/v1/purchases", body) for body in baskets))
    assert {reply.status for reply in replies} == {201}
    async with node.session.get(f"{node.url}/metrics") as answer:
        text = await answer.text()
    counts = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("loyalty_batch_commands_bucket"))
    assert counts['loyalty_batch_commands_bucket{le="2.0"}'] == counts['loyalty_batch_commands_bucket{le="+Inf"}']


async def test_commands_on_identifiers_never_share_a_batch_with_others_of_the_member(node: RunningNode) -> None:
    ada = await node.enrol()
    store = node.inner.lanes_for(parse_member_id(ada["member_id"])).store
    pair = [envelope(ada["member_id"]), envelope(ada["member_id"], command=CloseMember(datetime.now(UTC)))]
    with pytest.raises(BatchConflictError, match="identifiers"):
        await store.run(pair)


async def test_a_late_copy_of_an_addition_does_not_claim_what_was_removed_since(node: RunningNode) -> None:
    ada = await node.enrol()
    path = f"/v1/members/{ada['member_id']}/identifiers"
    added = await node.post(path, {"add": [{"phone": PHONE}]}, key="add-phone")
    await node.post(path, {"remove": [{"phone": PHONE}]})
    await node.run_errands()
    again = await node.post(path, {"add": [{"phone": PHONE}]}, key="add-phone")
    assert (again.status, again.body) == (201, added.body)
    assert set(await value(node, "SELECT count(*) FROM claim")) == {0}
    assert (await node.post("/v1/members", {"phone": PHONE})).status == 201


async def test_an_identifier_that_the_member_has_may_be_added_again(node: RunningNode) -> None:
    ada = await node.enrol(phone=PHONE)
    path = f"/v1/members/{ada['member_id']}/identifiers"
    for _ in range(2):
        assert (await node.post(path, {"add": [{"phone": PHONE}]})).status == 201
    assert sum(await value(node, "SELECT count(*) FROM claim WHERE leased_until IS NULL")) == 1
    assert sum(await value(node, "SELECT count(*) FROM identifier WHERE kind = 'phone'")) == 1
    assert (await node.post(path, {"remove": [{"phone": PHONE}]})).status == 201
    await node.run_errands()
    assert (await node.post("/v1/members", {"phone": PHONE})).status == 201


async def test_an_identifier_that_comes_back_while_it_is_being_freed_keeps_its_claim(node: RunningNode) -> None:
    ada = await node.enrol(phone=PHONE)
    number = parse_member_id(ada["member_id"])
    assert await node.inner.claims.lease([("phone", PHONE)], number, attempt=1, deadline=time.monotonic() + 5) == []
    with pytest.raises(ProblemError) as refused:
        await node.inner.directory.release([("phone", PHONE)], number)
    assert refused.value.code == "in_progress"
    assert sum(await value(node, "SELECT count(*) FROM claim")) == 1
    await node.inner.claims.conclude([("phone", PHONE)], number, attempt=1, deadline=time.monotonic() + 5)
    assert sum(await value(node, "SELECT count(*) FROM claim WHERE leased_until IS NULL")) == 1


async def test_what_the_other_side_cannot_take_now_waits_and_is_neither_ended_nor_given_back(node: RunningNode) -> None:
    full = await node.enrol()
    almost_all = ReceiveTransfer(1, 99, (Lot(2**62 - 60),), datetime.now(UTC))
    lanes = node.inner.lanes_for(parse_member_id(full["member_id"]))
    assert (await lanes.run(envelope(full["member_id"], command=almost_all))).status < 300
    ada = await node.enrol(referred_by=full["member_id"])
    await node.give(ada["member_id"], 100)
    body = {"from": {"member_id": ada["member_id"]}, "to": {"member_id": full["member_id"]}, "points": 61}
    assert (await node.post("/v1/transfers", body)).status == 201
    assert (await node.post("/v1/purchases", basket({"member_id": ada["member_id"]}, "first"))).status == 201
    await node.run_errands()
    assert sum(await value(node, "SELECT count(*) FROM errand WHERE kind IN ('transfer', 'referral')")) == 2
    assert (await node.give(ada["member_id"], 1)).json["account"]["balance"]["held"] == 61


async def test_a_stalled_shard_of_claims_costs_an_enrolment_its_deadline_and_no_more(
    database: str, tmp_path: Path
) -> None:
    async with running_command_node(database, tmp_path, deadline_ms=500) as node:
        blocker = await asyncpg.connect(database)
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("LOCK TABLE claim IN ACCESS EXCLUSIVE MODE")
        replies = await asyncio.gather(*(node.post("/v1/members", {"phone": f"{PHONE}{n}"}) for n in range(12)))
        assert {(reply.status, reply.code) for reply in replies} == {(503, "shard_unavailable")}
        assert (await node.post("/v1/members")).status == 201
        await transaction.rollback()
        await blocker.close()
        assert (await node.post("/v1/members", {"phone": PHONE})).status == 201


async def test_a_locked_account_costs_only_its_own_member_an_answer(node: RunningNode) -> None:
    members = [(await node.enrol())["member_id"] for _ in range(8)]
    locked = members[0]
    servers = node.inner.topology.current.document.shards[shard_of(node, locked)].servers
    blocker = await asyncpg.connect(servers[0])
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("SELECT FROM account WHERE member_id = $1 FOR UPDATE", parse_member_id(locked))
    replies = await asyncio.gather(*(node.give(member, 1) for member in members))
    assert replies[0].status == 503, replies[0].body
    assert {reply.status for reply in replies[1:]} == {201}
    await transaction.rollback()
    await blocker.close()
    assert (await node.give(locked, 1)).status == 201


async def test_a_redemption_made_before_there_was_a_stock_gives_none_back(node: RunningNode) -> None:
    ada = await node.enrol()
    await node.give(ada["member_id"], 100)
    mug = await node.post("/v1/redemptions", {"member": {"member_id": ada["member_id"]}, "reward": "mug"})
    assert mug.status == 201
    dsns = [as_superuser(shard.servers[0]) for shard in node.inner.topology.current.document.shards.values()]
    await apply_program(dsns, REWARDS.replace("per_member = 2", "per_member = 2\nstock = 10"))
    cancelled = await node.post(f"/v1/redemptions/{mug.json['redemption_id']}/cancel")
    assert (cancelled.status, cancelled.json["account"]["balance"]["available"]) == (200, 100)
    assert sum(await value(node, "SELECT redeemed FROM reward_stock WHERE reward = 'mug'")) == 0
    again = await node.post("/v1/redemptions", {"member": {"member_id": ada["member_id"]}, "reward": "mug"})
    await node.post(f"/v1/redemptions/{again.json['redemption_id']}/cancel")
    assert sum(await value(node, "SELECT redeemed FROM reward_stock WHERE reward = 'mug'")) == 0


async def test_no_log_quotes_what_a_member_is_found_by(node: RunningNode) -> None:
    card = "4000123412341234"
    await node.enrol(card=card)
    with capture_logs() as logs:
        for shard in node.inner.shards():
            store = node.inner.lanes_of(shard).store
            async with store._servers.primary() as connection:
                exists = await connection.fetchval("SELECT count(*) FROM identifier WHERE value = $1", card)
            if exists:
                replies = await asyncio.gather(*(node.post("/v1/members", {"card": card}) for _ in range(4)))
                assert {reply.status for reply in replies} <= {409}
    assert card not in str(logs)


async def test_another_members_hold_does_not_exist_for_who_is_named_by_card(node: RunningNode) -> None:
    ada, bob = await node.enrol(), await node.enrol()
    holds: list[str] = []
    for member in (ada, bob):
        await node.give(member["member_id"], 100)
        held = await node.post("/v1/holds", {"member": {"member_id": member["member_id"]}, "points": 10})
        holds.append(held.json["hold_id"])
    bought = await node.post("/v1/purchases", basket({"card": ada["card"]}, "1", capture_holds=[holds[1]]))
    assert (bought.status, bought.code) == (404, "hold_not_found")
    bought = await node.post("/v1/purchases", basket({"card": ada["card"]}, "2", capture_holds=[holds[0]]))
    assert bought.status == 201, bought.body


async def test_a_bound_till_enrols_for_its_own_store_only(node: RunningNode) -> None:
    assert (await node.post("/v1/members", {"store": "331"}, role="till330")).status == 403
    assert (await node.post("/v1/members", {"store": "330"}, role="till330")).status == 201
