"""A rebuild measured under load: which commands count, and what is reckoned from them."""

import asyncio
from array import array
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.host import Host, Rebuilt
from benchmarks.load import Run, Samples
from benchmarks.refill import RATES, Refilled, fill_up, measure_refill, sent_before


def test_commands_scheduled_after_the_rebuild_has_ended_do_not_count() -> None:
    run = Run(4.0, zero_ns=1_000_000_000)
    samples = Samples(array("Q", [0, 500_000, 1_500_000]), array("Q", [10, 20, 30]))
    assert list(sent_before(run, samples, 2_000_000_000).latency_us) == [10, 20]
    assert list(sent_before(run, samples, 9_000_000_000).latency_us) == [10, 20, 30]


def test_what_the_report_tells() -> None:
    refilled = Refilled(100, 5_000.0, 30.0, 20.0, {"projector": 0.5, "node": 0.0}, [])
    assert refilled.p99_to_calm == 1.5
    assert refilled.notes()["rebuild: members/s"] == 5_000.0
    assert refilled.notes()["rebuild, of a core: projector"] == 0.5
    assert "rebuild, of a core: node" not in refilled.notes()


async def test_the_same_load_comes_before_meanwhile_and_afterwards() -> None:
    sent, ended = Counter[str](), asyncio.Event()
    when = "before"

    def at_home(_region: str, side: str) -> Any:
        async def shoot(_index: int) -> str:
            sent[f"{when} {side}"] += 1
            if sent["meanwhile command"] == 6:
                ended.set()
            return "ok"

        return shoot

    async def rebuild(region: str) -> Rebuilt:
        nonlocal when
        when = "meanwhile"
        assert region == "eu"
        await ended.wait()
        when = "after"
        return Rebuilt(100, 0.5)

    workload: Any = SimpleNamespace(at_home=at_home)
    refilled = await measure_refill(workload, Host(rebuild=rebuild), "eu", calm_s=0.2, span_s=0.2)
    assert refilled.members_per_s == 200.0
    assert refilled.p99_ms > 0
    assert refilled.calm_p99_ms > 0
    for side, rate in RATES.items():
        assert sent[f"before {side}"] == int(rate * 0.2)
        assert sent[f"after {side}"] >= int(rate * 0.2)


async def test_what_cannot_be_done_elsewhere_is_said() -> None:
    workload: Any = SimpleNamespace()
    with pytest.raises(LookupError, match="on this machine"):
        await fill_up(workload, Host(), "eu", 10)
    with pytest.raises(LookupError, match="on this machine"):
        await measure_refill(workload, Host(), "eu")
