"""What a supervisor before has begun is gone on with until it is done, whatever was in the way at first."""

import asyncio
import shutil
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from cluster import door, growth, question
from cluster.document import Documents, write_states
from cluster.door import DoorState, forget_region, hide_region, read_state, share_traffic
from cluster.errors import ClusterError
from cluster.files import alone, write_json
from cluster.growth import Growth
from cluster.growth_request import TOPIC
from cluster.shard_leaving import ShardLeaving
from tests.conftest import eventually
from tests.project import PROJECT


@pytest.mark.parametrize("first", ["claims", "shard"])
async def test_what_could_not_be_gone_on_with_is_tried_again_and_hinders_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Newcomers wait for a shard that had given its slots."""
    done: list[str] = []
    both = asyncio.Event()

    def step(name: str) -> Any:
        tries = iter([ClusterError("not now"), None])

        async def go_on(_: object) -> None:
            if name == first and (error := next(tries)):
                raise error
            done.append(name)
            if len(done) == 2:
                both.set()

        return go_on

    monkeypatch.setattr(growth, "finish_moves", step("claims"))
    monkeypatch.setattr(ShardLeaving, "finish", step("shard"))
    monkeypatch.setattr(growth, "GO_ON_S", 0.0)
    system: Any = SimpleNamespace(plan=SimpleNamespace(data=tmp_path))
    running = asyncio.create_task(Growth(system).run())
    await asyncio.wait_for(both.wait(), 10)
    running.cancel()
    assert done[-1] == first


@pytest.fixture
async def heeding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Path]:
    """A data folder on which questions are heard, and nothing was begun before."""

    async def done(_: object) -> None:
        pass

    with_door(tmp_path)
    monkeypatch.setattr(growth, "finish_moves", done)
    monkeypatch.setattr(ShardLeaving, "finish", done)
    system: Any = SimpleNamespace(plan=SimpleNamespace(data=tmp_path))
    running = asyncio.create_task(Growth(system).run())
    yield tmp_path
    running.cancel()


async def test_what_it_does_not_know_is_refused_and_the_next_question_is_heard(heeding: Path) -> None:
    """The command line of a later release may ask for it."""
    for action, why in (("split shard", "another version"), ("drain", "there is no region mars")):
        asked = {"action": action, "name": "mars"}
        with pytest.raises(ClusterError, match=why):
            await asyncio.to_thread(question.ask, heeding, TOPIC, asked, deadline_s=5.0, late="no outcome")


def asked_of_mars(data: Path) -> Any:
    asked = {"action": "drain", "name": "mars"}
    return asyncio.to_thread(question.ask, data, TOPIC, asked, deadline_s=5.0, late="no outcome")


async def test_an_outcome_that_cannot_be_written_down_is_told_later_and_the_next_question_is_heard(
    heeding: Path,
) -> None:
    """The disk is full for a while."""
    told = heeding / f"{TOPIC}.1-x.told"
    (told / "in the way").mkdir(parents=True)
    until = time.time() + 60
    write_json(told.with_suffix(".asked"), {"until": until, "content": {"action": "drain", "name": "mars"}})
    await eventually(lambda: asyncio.to_thread(told.with_suffix(".taken").exists))
    shutil.rmtree(told)
    await eventually(lambda: asyncio.to_thread(told.is_file))
    assert "there is no region mars" in told.read_text()
    with pytest.raises(ClusterError, match="no region mars"):
        await asked_of_mars(heeding)


async def test_who_asks_for_what_fails_as_nobody_thought_of_hears_so_and_the_next_question_is_heard(
    heeding: Path,
) -> None:
    asked = {"action": "add shard", "name": "eu-2"}
    with pytest.raises(ClusterError, match="AttributeError"):
        await asyncio.to_thread(question.ask, heeding, TOPIC, asked, deadline_s=5.0, late="no outcome")
    with pytest.raises(ClusterError, match="no region mars"):
        await asked_of_mars(heeding)


def with_door(data: Path, **shares: int) -> None:
    """What a running system of three regions has written down."""
    shutil.copy(PROJECT / "deploy" / "topology.json", Documents(data).topology)
    write_json(Documents(data).door_state, DoorState(url="http://door", admin_port=1, shares=shares).model_dump())


@pytest.mark.parametrize(("share", "given"), [(0, [1, 10, 100]), (1, [10, 100]), (10, [100]), (100, None)])
async def test_a_region_whose_dialling_was_cut_short_goes_on_when_it_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: int, given: list[int] | None
) -> None:
    with_door(tmp_path, us=share)
    dialled: list[int] = []

    async def share_traffic(data: Path, region: str, percent: int) -> None:
        assert (data, region) == (tmp_path, "us")
        dialled.append(percent)

    monkeypatch.setattr(growth, "share_traffic", share_traffic)
    monkeypatch.setattr(growth, "DIAL_PAUSE_S", 0.0)
    system: Any = SimpleNamespace(plan=SimpleNamespace(data=tmp_path))
    outcome = await Growth(system)._outcome({"action": "add", "name": "us"})
    assert (outcome.done, dialled) == (given is not None, given or [])
    assert ("there already" in outcome.words) == (given is None)


async def test_shares_at_the_door_are_changed_by_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator evacuates a region while another joins or goes: who is second is told, and undoes nothing."""
    with_door(tmp_path, us=100)

    async def taken(_: int) -> dict[str, int]:
        raise AssertionError("the door is not asked")

    monkeypatch.setattr(door, "_taken", taken)
    with alone(Documents(tmp_path).door_state.with_suffix(".lock")):
        with pytest.raises(ClusterError, match="try again"):
            hide_region(tmp_path, "sa")
        with pytest.raises(ClusterError, match="try again"):
            await forget_region(tmp_path, "us")
    state = read_state(tmp_path)
    assert state is not None
    assert state.shares == {"us": 100}
    hide_region(tmp_path, "sa")
    state = read_state(tmp_path)
    assert state is not None
    assert state.shares == {"us": 100, "sa": 0}


@pytest.mark.parametrize("state", ["draining", "joining"])
async def test_a_region_that_takes_no_new_members_is_not_given_traffic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: Literal["draining", "joining"]
) -> None:
    """`restore` is not what undoes `drain`: whoever enrolled there would be refused, and nobody had been told."""
    with_door(tmp_path, us=0)
    write_states(Documents(tmp_path), {"us": state})

    async def taken(_: int) -> dict[str, int]:
        raise AssertionError("the door is not asked")

    monkeypatch.setattr(door, "_taken", taken)
    with pytest.raises(ClusterError, match="`loyalty region add us`"):
        await share_traffic(tmp_path, "us", 100)
    with pytest.raises(AssertionError, match="the door"):  # it may be given less at any time
        await share_traffic(tmp_path, "us", 0)
