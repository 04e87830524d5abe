"""The Valkey function: newest wins, twice is once, and whoever lost the mark or the epoch is refused."""

import random
from collections.abc import Generator
from typing import Any, NamedTuple

import pytest
from redis import Redis

from cdc.project import Operations, project
from cdc.sink import OPERATIONS_PER_CALL, Emptied, Fenced, Position, Progress, Session, Sink
from cdc.source import Change
from query.views import RECENT_ENTRIES, header
from tests.change import ALICE, BOB, identifier, journal, member

MARK = "projector:eu-1"
HERE = Position("system-1", 100)
KEY = "i:phone:+49:1"


@pytest.fixture
def valkey(valkey_url: str) -> Generator[Redis]:
    with Redis.from_url(valkey_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def session(valkey_url: str) -> Generator[Session]:
    opened = Session(valkey_url, MARK).open(HERE)
    yield opened
    opened.close()


def apply(session: Session, *changes: Change, watermark: int = 100) -> list[str]:
    return session.apply(project(changes), Progress(watermark, 1))


def test_views_entries_and_notice_appear_together(session: Session, valkey: Redis) -> None:
    with valkey.pubsub() as listener:
        listener.subscribe("visible")
        listener.get_message(timeout=5)
        assert apply(session, journal(ALICE, 1), journal(ALICE, 2), member(ALICE, 1)) == []
        message = listener.get_message(timeout=5)
    assert message is not None
    assert message["data"] == f"{ALICE}:2"
    assert valkey.get(f"a:{ALICE}").startswith(header(2).decode())
    assert valkey.zcard(f"e:{ALICE}") == 2
    assert valkey.hget(MARK, "watermark") == "100"


def test_an_older_version_changes_nothing(session: Session, valkey: Redis) -> None:
    apply(session, member(ALICE, 5))
    apply(session, member(ALICE, 4))
    assert valkey.get(f"m:{ALICE}").startswith(header(5).decode())


def test_only_the_newest_entries_are_kept_also_when_they_come_late(session: Session, valkey: Redis) -> None:
    entries = [journal(ALICE, version) for version in range(1, RECENT_ENTRIES + 11)]
    apply(session, *entries[20:])
    apply(session, *entries[:20])
    scores = [score for _, score in valkey.zrange(f"e:{ALICE}", 0, -1, withscores=True)]
    assert scores == list(range(11, RECENT_ENTRIES + 11))


def test_any_replay_in_any_batches_comes_to_the_same_views(session: Session, valkey: Redis) -> None:
    changes = [change for n in range(1, 30) for change in (journal(ALICE, n), member(ALICE, n))]
    changes += [identifier(10), identifier(20, "delete"), identifier(30)]
    apply(session, *changes)
    wanted = contents(valkey)
    for seed in range(20):
        picked = random.Random(seed)
        at = picked.randrange(len(changes))
        while at < len(changes):
            size = picked.randint(1, 9)
            apply(session, *changes[at : at + size])
            at += size
        assert contents(valkey) == wanted, seed


def contents(valkey: Redis) -> dict[str, object]:
    keys = [key for key in valkey.scan_iter() if not key.startswith("projector:")]
    return {key: valkey.zrange(key, 0, -1) if key.startswith("e:") else valkey.get(key) for key in keys}


def test_a_row_read_before_its_removal_cannot_bring_it_back(session: Session, valkey: Redis) -> None:
    apply(session, identifier(20), identifier(30, "delete"))
    session.refill(project([identifier(25)]))
    assert not valkey.exists(KEY)
    apply(session, identifier(40))
    assert valkey.exists(KEY)


def test_a_sweep_removes_what_is_older_than_its_reading_only(session: Session, valkey: Redis) -> None:
    apply(session, identifier(20))
    session.refill(Operations(identifiers={KEY: header(10)}))
    assert valkey.exists(KEY)
    session.refill(Operations(identifiers={KEY: header(25)}))
    assert not valkey.exists(KEY)


def test_a_refill_repairs_a_wrong_view_of_the_same_version(session: Session, valkey: Redis) -> None:
    valkey.set(f"m:{ALICE}", header(5).decode() + "wrong")
    apply(session, member(ALICE, 5))
    assert "wrong" in valkey.get(f"m:{ALICE}")
    session.refill(project([member(ALICE, 5)]))
    assert "wrong" not in valkey.get(f"m:{ALICE}")


def test_a_refill_tells_which_views_show_more_than_the_row(session: Session, valkey: Redis) -> None:
    apply(session, journal(ALICE, 5), member(ALICE, 5), identifier(20), identifier(30, "delete"))
    outcome = session.refill(project([journal(ALICE, 5), member(ALICE, 4), identifier(25)]))
    assert outcome.higher == {f"m:{ALICE}": valkey.get(f"m:{ALICE}").encode(), KEY: header(30)}
    assert session.refill(project([journal(ALICE, 5), member(ALICE, 5)])).higher == {}


def test_an_identifier_of_equal_content_shows_no_more(session: Session) -> None:
    apply(session, identifier(30))
    assert session.refill(project([identifier(25)])).higher == {}
    assert list(session.refill(project([identifier(25, member_id=BOB)])).higher) == [KEY]


def test_lowering_leaves_alone_what_has_changed_since_it_was_seen(session: Session, valkey: Redis) -> None:
    apply(session, journal(ALICE, 9), member(ALICE, 9))
    session.complete()
    seen = session.stored([f"a:{ALICE}", f"m:{ALICE}", f"a:{BOB}"])
    assert list(seen) == [f"a:{ALICE}", f"m:{ALICE}"]
    apply(session, member(ALICE, 10))
    lower = {f"a:{ALICE}": b"", f"m:{ALICE}": header(1) + b"{}"}
    assert session.lower(lower, seen) == [f"a:{ALICE}"]
    assert not valkey.exists(f"a:{ALICE}", f"e:{ALICE}")
    assert valkey.get(f"m:{ALICE}").startswith(header(10).decode())
    assert valkey.hget(MARK, "complete") == "0"


def test_an_identifier_can_be_lowered_beneath_its_tombstone_and_removed_with_one(
    session: Session, valkey: Redis
) -> None:
    apply(session, identifier(20), identifier(30, "delete"))
    there = project([identifier(10)]).identifiers
    assert session.lower(there, {KEY: header(30)}) == [KEY]
    assert valkey.get(KEY).startswith(header(10).decode())
    assert session.lower({KEY: header(11)}, there) == [KEY]
    session.refill(project([identifier(10)]))
    assert not valkey.exists(KEY)
    apply(session, identifier(12))
    assert valkey.exists(KEY)


def test_between_two_calls_an_account_has_everything_else_of_its_version(
    session: Session, valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc.sink.OPERATIONS_PER_CALL", 2)
    left: list[bool] = []
    calls = session._apply

    def look(part: Operations, **others: Any) -> Any:
        outcome = calls(part, **others)
        everything = (f"m:{ALICE}", f"m:{BOB}", f"e:{ALICE}", f"e:{BOB}", KEY)
        if valkey.exists(f"a:{ALICE}", f"a:{BOB}"):
            left.append(valkey.exists(*everything) == len(everything))
        return outcome

    monkeypatch.setattr(session, "_apply", look)
    apply(session, journal(ALICE, 1), journal(BOB, 1), member(ALICE, 1), member(BOB, 1), identifier(1))
    assert left
    assert all(left)


def test_a_large_batch_travels_in_parts_and_the_watermark_with_the_last(
    session: Session, valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, calls = 2 * OPERATIONS_PER_CALL, session._apply
    marks: list[bool] = []

    def look(part: Operations, **others: Any) -> Any:
        outcome = calls(part, **others)
        marks.append(valkey.hget(MARK, "watermark") == "777")
        return outcome

    monkeypatch.setattr(session, "_apply", look)
    apply(session, *(member(ALICE + n, 1) for n in range(count)), watermark=777)
    assert marks == [False, False, True]
    assert (len(list(valkey.scan_iter("m:*", count=1000))), valkey.hget(MARK, "watermark")) == (count, "777")


def test_what_is_of_another_type_gives_way_to_the_view(session: Session, valkey: Redis) -> None:
    valkey.sadd(f"a:{ALICE}", "rubbish")
    valkey.set(f"e:{ALICE}", "rubbish")
    assert apply(session, journal(ALICE, 1), member(ALICE, 1)) == []
    assert [valkey.type(f"{kind}:{ALICE}") for kind in "aem"] == ["string", "zset", "string"]


def test_what_cannot_be_written_is_reported_and_the_rest_applied(session: Session, valkey: Redis) -> None:
    entries: Any = {(f"e:{ALICE}", "no number"): b"x"}
    rubbish = Operations(entries=entries, views={f"m:{ALICE}": header(1) + b"{}"})
    (failure,) = session.apply(rubbish, Progress(1, 1))
    assert failure.startswith(f"e:{ALICE}: ")
    assert valkey.exists(f"m:{ALICE}")


def test_what_is_told_of_an_identifier_that_cannot_be_written_names_nobody(session: Session, valkey: Redis) -> None:
    valkey.sadd("gone:i:phone:+49:1", "rubbish")
    (failure,) = apply(session, identifier(7))
    assert failure.startswith("i:phone: ")
    assert "+49" not in failure


def test_a_zombie_is_fenced(session: Session, valkey_url: str, valkey: Redis) -> None:
    apply(session, member(ALICE, 1))
    Session(valkey_url, MARK).open(HERE).close()
    for write in (lambda: apply(session, member(ALICE, 2)), session.complete, lambda: session.open(HERE)):
        with pytest.raises(Fenced):
            write()
    assert valkey.get(f"m:{ALICE}").startswith(header(1).decode())


def test_nothing_is_written_into_an_emptied_valkey(session: Session, valkey: Redis) -> None:
    valkey.flushdb()
    with pytest.raises(Emptied):
        apply(session, member(ALICE, 1))
    assert valkey.dbsize() == 0


def test_an_emptied_valkey_never_gives_an_epoch_twice(session: Session, valkey_url: str, valkey: Redis) -> None:
    valkey.flushdb()
    other = Session(valkey_url, MARK).open(HERE)
    assert int(other.epoch) > int(session.epoch)
    with pytest.raises(Fenced):
        session.complete()
    other.close()


def test_a_broken_connection_alone_keeps_epoch_and_completeness(session: Session) -> None:
    session.complete()
    epoch = session.epoch
    session.open(Position("system-1", None))
    assert (session.epoch, session.incomplete) == (epoch, "")


class Case(NamedTuple):
    name: str
    slot: Position
    run_id: str | None
    says: str


CASES = (
    Case("follows on", Position("system-1", 100), None, ""),
    Case("the primary has all that is shown", Position("system-1", 90, 100), None, ""),
    Case("the primary has less than is shown", Position("system-1", 90, 99), None, "lost"),
    Case("slot ahead of the views", Position("system-1", 101), None, "missing"),
    Case("slot missing", Position("system-1", 2**53 - 1), None, "missing"),
    Case("Valkey restarted", Position("system-1", 100), "of yesterday", "restarted"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_new_projector_sees_whether_views_follow_on(
    session: Session, valkey_url: str, valkey: Redis, case: Case
) -> None:
    apply(session, watermark=100)
    session.complete()
    if case.run_id:
        valkey.hset(MARK, "run_id", case.run_id)
    successor = Session(valkey_url, MARK).open(case.slot)
    successor.close()
    assert case.says in successor.incomplete
    assert bool(case.says) == bool(successor.incomplete)
    assert valkey.hget(MARK, "complete") == ("0" if case.says else "1")


def test_views_of_another_database_are_removed(session: Session, valkey_url: str, valkey: Redis) -> None:
    apply(session, journal(ALICE, 9), member(ALICE, 9), identifier(10), identifier(20, "delete"), watermark=10**15)
    session.complete()
    successor = Session(valkey_url, MARK).open(Position("system-2", 5))
    successor.close()
    assert (successor.incomplete, valkey.keys("*")) == ("no mark: Valkey is empty", [MARK])


def test_the_sink_goes_on_in_an_emptied_valkey_under_a_new_epoch(valkey_url: str, valkey: Redis) -> None:
    told: list[str] = []
    sink = Sink(valkey_url, MARK, on_epoch=told.append)
    first = sink.open(HERE).epoch
    valkey.flushdb()
    assert sink.apply(project([member(ALICE, 1)]), Progress(200, 1)) == []
    assert valkey.exists(f"m:{ALICE}")
    assert int(sink.epoch) > int(first)
    assert told == ["no mark: Valkey is empty"] * 2
