"""The model of balances in the benchmark's client finds what cannot be right, and nothing else."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from benchmarks.deployment import Deployment, RegionClients
from benchmarks.order import BenchMember
from benchmarks.scenario import Traffic
from benchmarks.wire import Client
from benchmarks.witness import BACKWARDS, BALANCE, TOKEN, TWICE, VERSIONS_KEPT, Witness, change_of
from benchmarks.workload import Workload

EARNED = [{"points": 5, "from": "program", "to": "available", "reason": "base"}]


def account(version: int, available: int, *, held: int = 0, debt: int = 0) -> dict[str, Any]:
    balance = {"available": available, "pending": 0, "held": held, "debt": debt}
    return {"member_id": "m", "version": version, "balance": balance}


def purchase(version: int, points: int) -> dict[str, Any]:
    postings = [{"points": points, "from": "program", "to": "available", "reason": "base"}] if points else []
    return {"entry_id": "e", "postings": postings, "account": account(version, points)}


def told(witness: Witness) -> dict[str, int]:
    return {kind: count for kind, count in witness.violations.items() if count}


def test_entries_that_fit_are_right_in_whatever_order_they_are_heard() -> None:
    accounts = [account(version, 5 * version) for version in range(1, 6)]
    for order in (accounts, accounts[::-1], [accounts[2], *accounts]):
        witness = Witness()
        for one in order:
            witness.commanded(one, change_of(EARNED))
        assert told(witness) == {}


def test_points_that_go_to_a_debt_lower_it() -> None:
    witness = Witness()
    witness.account(account(1, 0, debt=8))
    witness.commanded(
        account(2, 0, debt=3), change_of([{"points": 5, "from": "program", "to": "debt", "reason": "base"}])
    )
    assert told(witness) == {}


def wrong_sum(witness: Witness) -> None:
    witness.account(account(1, 10))
    witness.commanded(account(2, 16), change_of(EARNED))


def wrong_sum_heard_late(witness: Witness) -> None:
    witness.commanded(account(2, 16), change_of(EARNED))
    witness.account(account(1, 10))


def two_balances_of_one_version(witness: Witness) -> None:
    witness.account(account(1, 10))
    witness.account(account(1, 11))


def points_for_nothing(witness: Witness) -> None:
    witness.purchased(purchase(2, 13), money=1299)


def no_points_for_money(witness: Witness) -> None:
    witness.purchased(purchase(2, 0), money=1299)


@pytest.mark.parametrize(
    "happens",
    [wrong_sum, wrong_sum_heard_late, two_balances_of_one_version, points_for_nothing, no_points_for_money],
    ids=lambda happens: happens.__name__,
)
def test_a_balance_that_cannot_be_is_found(happens: Callable[[Witness], None]) -> None:
    witness = Witness()
    happens(witness)
    assert told(witness) == {BALANCE: 1}
    assert witness.examples
    assert not witness.ok


def test_base_points_are_one_per_whole_unit_and_none_beyond_the_limit_of_a_day() -> None:
    witness = Witness()
    witness.purchased(purchase(2, 12), money=1299)
    witness.purchased(purchase(60, 0), money=1299)
    assert witness.ok


def test_less_than_the_token_or_than_before_is_found() -> None:
    witness = Witness()
    witness.read("m", 4, source="cache account", before={}, token=5)
    assert told(witness) == {TOKEN: 1}
    before = witness.shown("m")
    witness.read("m", 3, source="cache account", before=before)
    assert told(witness) == {TOKEN: 1, BACKWARDS: 1}


def test_a_read_that_left_before_another_was_answered_may_show_less_than_it() -> None:
    witness = Witness()
    before = witness.shown("m")
    witness.read("m", 4, source="cache account", before=before)
    witness.read("m", 3, source="cache account", before=before)
    witness.read("m", 2, source="replica account", before=witness.shown("m"))
    assert witness.ok


def test_a_command_sent_twice_has_one_answer() -> None:
    witness = Witness()
    witness.repeated(b"1", b"1")
    assert witness.ok
    witness.repeated(b"1", b"2")
    assert told(witness) == {TWICE: 1}


def test_what_is_kept_of_a_member_is_bounded() -> None:
    witness = Witness()
    for version in range(1, 1000):
        witness.commanded(account(version, 5 * version), change_of(EARNED))
    known = witness._members["m"]
    assert len(known.balances) == len(known.changes) == VERSIONS_KEPT
    assert witness.ok


def test_two_workloads_of_the_same_members_never_send_the_same_receipt() -> None:
    member = BenchMember("m", "eu")
    first = Workload(Deployment({}), [member], {"eu": ["s"]}, Traffic(), seed=1)
    second = first.another(Traffic())
    bodies = [workload._till.order("purchase", member, "s").body for workload in (first, second)]
    assert bodies[0]["receipt"] == bodies[1]["receipt"] == "1"
    assert bodies[0]["till"] != bodies[1]["till"]
    assert first.witness is second.witness
    assert first.visible is not second.visible


@pytest.mark.parametrize(("region", "wrong"), [("eu", {BACKWARDS: 1}), ("us", {})])
async def test_a_node_is_held_to_what_it_has_shown_whoever_tells_it(region: str, wrong: dict[str, int]) -> None:
    """Which node of another region answered is not known."""
    shown = iter([(4, "cache"), (3, "replica")])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for version, source in shown:
            await reader.readuntil(b"\r\n\r\n")
            body = orjson.dumps(account(version, 5 * version))
            head = f'ETag: W/"{version}"\r\nLoyalty-Source: {source}\r\nLoyalty-Region: {region}'
            writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "key")
    deployment = Deployment({"eu": RegionClients([client], [client])})
    workload = Workload(deployment, [BenchMember("m", "eu")], {"eu": ["s"]}, Traffic(), seed=1)
    assert [await workload.query(0, "account") for _ in range(2)] == ["ok", "ok"]
    assert told(workload.witness) == wrong
    client.close()
    server.close()
