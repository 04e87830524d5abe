"""A flood from the generator's side: what is due goes out, what cannot is counted, and who is accepted learns of it."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from benchmarks.load import NANOSECONDS, Run
from benchmarks.volley import Shot, Volley
from benchmarks.wire import Client
from tests.raw_server import listening

OK = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}"
NO = b'HTTP/1.1 503 Service Unavailable\r\nContent-Length: 21\r\n\r\n{"code":"overloaded"}'


@asynccontextmanager
async def serving(answer_of: Callable[[int], bytes | None]) -> AsyncGenerator[str]:
    """A server that gives the n-th request this answer, and hangs up where there is none."""
    numbers = itertools.count()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            answer = answer_of(next(numbers))
            if answer is None:
                break
            writer.write(answer)

    async with listening(serve) as url:
        yield url


async def fired(url: str, count: int, learned: list[bytes], *, last_s: float = 0.0) -> Run:
    """What became of so many shots at once and one more so much later."""
    client = Client(url, "key")
    shots = [Shot(client.request("GET", "/", {}), lambda answer: learned.append(answer.body))] * (count + 1)
    schedule = [0] * count + [int(last_s * NANOSECONDS)]
    return await Volley(lambda: client, shots, schedule, "command").fire(duration_s=0.1, processes={}, connections=4)


async def test_every_shot_is_answered_and_the_accepted_are_learned_of() -> None:
    learned: list[bytes] = []
    async with serving(lambda number: OK if number % 3 else NO) as url:
        run = await fired(url, 60, learned, last_s=1.0)
    samples = run.of("command")
    refused = sum(1 for number in range(61) if not number % 3)
    assert dict(samples.errors) == {"overloaded": refused}
    assert len(samples.refused_us) == refused
    assert len(samples.latency_us) == len(learned) == 61 - refused
    assert samples.offered == 61


async def test_a_connection_that_is_lost_is_opened_again() -> None:
    learned: list[bytes] = []
    async with serving(lambda number: None if number == 2 else OK) as url:
        run = await fired(url, 30, learned, last_s=1.0)
    assert dict(run.of("command").errors) == {"disconnected": 1}
    assert len(learned) == 30


async def test_what_finds_no_connection_by_the_end_is_not_sent_and_counted() -> None:
    learned: list[bytes] = []
    async with serving(lambda _: OK) as url:
        run = await fired(url, 30, learned)
    assert run.of("command").errors["unsent"] == 27
    assert len(learned) == run.of("command").offered == 4
