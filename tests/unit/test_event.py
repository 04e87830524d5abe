"""What befell the servers of a shard: a few of it are kept, and the failover of the night is among them."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.event import KEPT_MAX, Event, Kind, note_event
from cluster.history import History
from cluster.run_file import Identity, RunRecord, begin_run, read_run
from cluster.status import ShardHealth, StatusReport, render_status
from cluster.supervisor import Supervisor
from shard_router.topology import Region, Shard, TopologyDocument

FROZEN = Event("2026-11-28T03:12:07Z", "failover", "eu-1-postgres-1", "it is frozen", "eu-1-postgres-2", 0.4)
TOPOLOGY = TopologyDocument(
    epoch=1,
    regions={"eu": Region(number=1, command=["http://127.0.0.1:1"], query=["http://127.0.0.1:2"])},
    shards={"eu-1": Shard(region="eu", slots=[(0, 4095)], servers=["postgresql://127.0.0.1:3"], valkey="redis://x:4")},
)


def report_of(folder: Path, run: RunRecord) -> StatusReport:
    return StatusReport(folder, bool(run.events), run, TOPOLOGY, {}, {"eu-1": ShardHealth()}, {}, [], None, None, [])


def shown(report: StatusReport) -> str:
    with (console := Console(width=200)).capture() as screen:
        console.print(render_status(report))
    return screen.get()


def test_a_failover_is_told_after_the_next_start_by_status_for_people_and_for_programs(tmp_path: Path) -> None:
    night = RunRecord(Identity(1, 1.0))
    told: list[tuple[str, str]] = []
    history = History(Supervisor(tmp_path, night, lambda name, state: told.append((name, state))), "eu-1")
    history.begin("failover", "eu-1-postgres-1", "it is frozen", ": a standby takes its place")
    before = read_run(tmp_path)
    assert before is not None
    assert before.events["eu-1"][0].words == "failover from eu-1-postgres-1 to nobody yet: it is frozen"
    history.ended("eu-1-postgres-2")
    begin_run(tmp_path, "pgoutput").save(tmp_path)
    morning = begin_run(tmp_path, "pgoutput")
    (event,) = morning.events["eu-1"]
    assert (event.why, event.primary, event.times) == ("it is frozen", "eu-1-postgres-2", 1)
    assert told[-1] == ("eu-1", f"eu-1-postgres-2 is the primary (after {event.took_s:.1f} s)")
    report = report_of(tmp_path, morning)
    line = (
        f"{event.at}  eu-1: failover from eu-1-postgres-1 to eu-1-postgres-2 after {event.took_s:.1f} s: it is frozen"
    )
    assert line in shown(report)
    document: Any = report.document()["regions"]["eu"]["shards"]["eu-1"]
    assert document["events"] == [
        {
            "at": event.at, "kind": "failover", "server": "eu-1-postgres-1", "why": "it is frozen",
            "primary": "eu-1-postgres-2", "took_s": event.took_s, "times": 1,
        }
    ]  # fmt: skip


def test_what_happens_all_night_does_not_drive_out_the_failover_before_it() -> None:
    events = [FROZEN]
    for minute in range(50):
        note_event(events, Event(f"2026-11-28T04:{minute:02}:00Z", "restart", "eu-1-postgres-2", "it is frozen"))
    assert [(event.kind, event.times) for event in events] == [("failover", 1), ("restart", 50)]
    assert events[1].at == "2026-11-28T04:49:00Z"
    assert events[1].words == "restart of eu-1-postgres-2 (50 times): it is frozen"


@pytest.mark.parametrize("kind", ["failover", "trouble"])
def test_of_many_events_the_newest_are_kept(kind: Kind) -> None:
    events: list[Event] = []
    for number in range(3 * KEPT_MAX):
        primary = "eu-1-postgres-2" if kind == "failover" else None
        why = "it is frozen" if kind == "failover" else f"trouble {number}"
        note_event(events, Event(f"2026-11-28T03:{number:02}:00Z", kind, "eu-1-postgres-1", why, primary))
    assert [event.at[14:16] for event in events] == [f"{number:02}" for number in range(2 * KEPT_MAX, 3 * KEPT_MAX)]


def test_a_failover_is_no_repetition_of_one_that_came_to_its_end() -> None:
    events = [FROZEN]
    again = note_event(events, Event("2026-11-28T05:00:00Z", "failover", "eu-1-postgres-1", "it is frozen"))
    assert events == [FROZEN, again]


def test_a_run_file_of_an_earlier_version_has_no_events(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"supervisor": {"pid": 1, "started_at_s": 1.0}}')
    assert begin_run(tmp_path, "pgoutput").events == {}
