"""When a stream counts as dead: committed heartbeats that do not come back, and nothing that explains it."""

from typing import NamedTuple

import pytest

from cdc.heartbeat import START_FACTOR, Sender, Silence

MAX = 5
IDLE = Sender(active=True, sent=100, waits=True, held_up=False, heartbeat=90)
FROZEN = IDLE._replace(heartbeat=10**6)
GONE = Sender(active=False, sent=None, waits=False, held_up=False, heartbeat=90)


class Case(NamedTuple):
    name: str
    sender: Sender
    dead: bool
    sent_grows: bool = False
    applied_grows: bool = False
    occupied: bool = False


CASES = (
    Case("heartbeats come back", IDLE, dead=False, applied_grows=True),
    Case("the walsender is frozen", FROZEN, dead=True),
    Case("its host is gone and another is primary", GONE, dead=True),
    Case("the heartbeat was sent and the source never yields it", IDLE, dead=True, sent_grows=True),
    Case("Valkey is away, or applies a large batch", FROZEN, dead=False, occupied=True),
    Case("a standby must confirm first", FROZEN._replace(held_up=True), dead=False),
    Case("the walsender reads a long stretch of WAL", FROZEN, dead=False, sent_grows=True),
    Case("it decodes one large transaction", FROZEN._replace(waits=False), dead=False),
    Case("nobody may tell us what it does", FROZEN._replace(sent=None), dead=False),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_stream_is_dead_when_nothing_explains_its_silence(case: Case) -> None:
    silence = Silence(MAX)
    silence.is_too_long(IDLE, applied=1, occupied=False)
    told: list[bool] = []
    for beat in range(1, 4 * MAX):
        sent = case.sender.sent and case.sender.sent + beat * case.sent_grows
        sender = case.sender._replace(sent=sent)
        applied = 1 + beat * case.applied_grows
        told.append(silence.is_too_long(sender, applied=applied, occupied=case.occupied))
    assert any(told) == case.dead


def test_until_the_first_batch_there_is_more_patience() -> None:
    silence = Silence(MAX)
    told = [silence.is_too_long(GONE, applied=0, occupied=False) for _ in range(MAX * START_FACTOR + 1)]
    assert told == [False] * MAX * START_FACTOR + [True]


def test_whatever_explains_the_silence_for_a_moment_begins_the_count_anew() -> None:
    silence = Silence(MAX)
    silence.is_too_long(IDLE, applied=1, occupied=False)
    for _ in range(3):
        assert not any(silence.is_too_long(FROZEN, applied=1, occupied=False) for _ in range(MAX))
        silence.is_too_long(FROZEN._replace(held_up=True), applied=1, occupied=False)
