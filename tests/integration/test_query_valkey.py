"""One connection, many questions: each gets its own answer or hears within the time that there is none.

On both event loops, because nodes run on uvloop and the line uses transports in a way few programs do.
"""

import asyncio
import signal
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import hiredis
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as GoneError
from redis.exceptions import RedisError, ResponseError

from query.valkey import ValkeyConnection
from tests.conftest import eventually
from tests.engine import free_port
from tests.query_servers import OwnValkey

TIMEOUT_S = 0.5
PATIENCE_S = 10.0
"""Where no timeout is asked about: the machine may stand still for a while."""
Run = Callable[[Coroutine[Any, Any, None]], Awaitable[None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a scenario on an event loop of its own, in another thread."""
    begin = asyncio.run if request.param == "asyncio" else uvloop.run
    return lambda scenario: asyncio.wait_for(asyncio.to_thread(begin, scenario), 30)


@asynccontextmanager
async def connected_to(url: str, *, timeout_s: float = PATIENCE_S) -> AsyncGenerator[ValkeyConnection]:
    line = ValkeyConnection(url, timeout_s=timeout_s)
    try:
        yield line
    finally:
        await line.close()


@contextmanager
def in_a_hurry(line: ValkeyConnection) -> Generator[None]:
    """Questions of the block have less time."""
    if line._timer:  # set for those who asked before
        line._timer.cancel()
        line._timer = None
    line._timeout_s = TIMEOUT_S
    yield
    line._timeout_s = PATIENCE_S


async def failure_of(answer: Awaitable[Any]) -> type[BaseException]:
    """What an answer failed with."""
    (error,) = await asyncio.gather(answer, return_exceptions=True)
    assert isinstance(error, RedisError | OSError | TimeoutError), error
    return type(error)


@asynccontextmanager
async def scripted(*replies: bytes | None, piece: int = 1) -> AsyncGenerator[str]:
    """A server that greets as Valkey does, then sends its script, a reply per command, in pieces of so many bytes.

    None ends the connection.
    """
    script = iter(replies)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        with suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(4096):
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    reply = b"+OK\r\n" if command[0] == b"CLIENT" else next(script, b"")
                    if reply is None:
                        return writer.close()
                    for at in range(0, len(reply), piece):
                        writer.write(reply[at : at + piece])
                        await asyncio.sleep(0)
        return writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    finally:
        server.close()


async def test_many_questions_at_once_get_each_its_own_answer(run: Run, valkey_url: str) -> None:
    async def scenario() -> None:
        async with connected_to(valkey_url) as line:
            await line.ask([("SET", f"k{n}", n) for n in range(1_000)])
            single = [line.ask_one("GET", f"k{n}") for n in range(1_000)]
            several = [line.ask([("GET", f"k{n}"), ("EXISTS", f"k{n}")]) for n in range(0, 1_000, 7)]
            assert await asyncio.gather(*single) == [b"%d" % n for n in range(1_000)]
            assert await asyncio.gather(*several) == [[b"%d" % n, 1] for n in range(0, 1_000, 7)]
            assert await line.ask_one("MGET", "k1", "none", "k3") == [b"1", None, b"3"]

    await run(scenario())


async def test_one_who_gives_up_takes_nobodys_answer_along(run: Run, valkey_url: str) -> None:
    async def scenario() -> None:
        async with connected_to(valkey_url) as line:
            for connected in (False, True):
                asked = [line.ask_one("ECHO", f"{connected}{n}") for n in range(100)]
                for gone in asked[::3]:
                    gone.cancel()
                replies = await asyncio.gather(*asked, return_exceptions=True)
                kept = [reply for n, reply in enumerate(replies) if n % 3]
                assert kept == [f"{connected}{n}".encode() for n in range(100) if n % 3]

    await run(scenario())


async def test_a_refusal_is_an_error_of_whoever_asked_and_of_nobody_else(run: Run, valkey_url: str) -> None:
    async def scenario() -> None:
        async with connected_to(valkey_url) as line:
            before, wrong = line.ask_one("ECHO", "a"), line.ask_one("NO-SUCH-COMMAND")
            partly, after = line.ask([("ECHO", "b"), ("GET",), ("ECHO", "c")]), line.ask_one("ECHO", "d")
            with pytest.raises(ResponseError):
                await wrong
            first, refused, last = await partly
            assert (first, type(refused), last) == (b"b", ResponseError, b"c")
            assert [await before, await after] == [b"a", b"d"]

    await run(scenario())


async def test_nobody_waits_for_a_server_that_is_not_there(run: Run) -> None:
    async def scenario() -> None:
        async with connected_to(f"redis://127.0.0.1:{free_port()}/0") as line:
            for _ in range(2):
                failures = await asyncio.gather(*(failure_of(line.ask_one("GET", "k")) for _ in range(50)))
                assert set(failures) == {GoneError}  # refused, not waited for: that would be TimeoutError

    await run(scenario())


async def test_a_killed_server_is_heard_of_at_once_and_found_again(killable: OwnValkey) -> None:
    async with connected_to(killable.url) as line:
        await line.ask_one("SET", "k", 1)
        killable.send(signal.SIGSTOP)
        asked = [failure_of(line.ask_one("GET", "k")) for _ in range(50)]
        killable.send(signal.SIGKILL)
        failures = await asyncio.gather(*asked)
        assert set(failures) == {GoneError}
        assert killable.child
        await killable.child.wait()
        assert await failure_of(line.ask_one("GET", "k")) is GoneError
        await killable.start()
        assert await line.ask_one("GET", "k") is None


@pytest.mark.parametrize("connected", [False, True])
async def test_a_frozen_server_costs_the_timeout_and_answers_no_other_question_later(
    run: Run, killable: OwnValkey, *, connected: bool
) -> None:
    async def scenario() -> None:
        async with connected_to(killable.url) as line:
            if connected:
                await line.ask_one("PING")
            killable.send(signal.SIGSTOP)
            with in_a_hurry(line):
                for _ in range(4):  # whoever comes after a failure has all the time again
                    asked = [failure_of(line.ask_one("ECHO", f"old{n}")) for n in range(50)]
                    failures = await asyncio.gather(*asked)
                    assert set(failures) == {TimeoutError}
            killable.send(signal.SIGCONT)
            replies = await asyncio.gather(*(line.ask_one("ECHO", f"new{n}") for n in range(50)))
            assert replies == [f"new{n}".encode() for n in range(50)]

    await run(scenario())


HALF = b"*2\r\n$5\r\nab"


@pytest.mark.parametrize(
    ("replies", "failure"),
    [
        ((HALF,), TimeoutError),
        ((b"",), TimeoutError),
        ((HALF, None), GoneError),
        ((None,), GoneError),
        ((b"what is that?\r\n",), GoneError),
        ((b"*-7\r\n",), GoneError),
        ((b"$99999999999999999999\r\n",), GoneError),
    ],
)
async def test_half_a_reply_or_none_or_nonsense_is_a_failure_in_time(
    run: Run, replies: tuple[bytes | None, ...], failure: type[Exception]
) -> None:
    async def scenario() -> None:
        timeout_s = TIMEOUT_S if failure is TimeoutError else PATIENCE_S
        async with scripted(*replies) as url, connected_to(url, timeout_s=timeout_s) as line:
            asked = [failure_of(line.ask_one("MGET", "a", "b")) for _ in replies]
            failures = await asyncio.gather(*asked)
            assert set(failures) == {failure}

    await run(scenario())


async def test_a_reply_in_pieces_is_put_together(run: Run) -> None:
    async def scenario() -> None:
        whole = b"*2\r\n$5\r\nab\r\nc\r\n$-1\r\n"
        async with scripted(whole, b":7\r\n", whole) as url, connected_to(url) as line:
            assert await line.ask_one("MGET", "a", "b") == [b"ab\r\nc", None]
            assert await line.ask([("EXISTS", "a"), ("MGET", "a", "b")]) == [7, [b"ab\r\nc", None]]

    await run(scenario())


async def test_what_nobody_asked_for_is_never_the_answer_to_the_next_question(run: Run) -> None:
    async def scenario() -> None:
        async with scripted(b"+one\r\n+two\r\n", b"+three\r\n", piece=100) as url, connected_to(url) as line:
            assert [await line.ask_one("GET", "a"), await line.ask_one("GET", "b")] == [b"one", b"three"]

    await run(scenario())


async def test_a_busy_process_does_not_blame_the_server(run: Run, valkey_url: str) -> None:
    async def scenario() -> None:
        async with connected_to(valkey_url) as line:
            await line.ask_one("PING")
            with in_a_hurry(line):
                answer = line.ask_one("PING")
            busy(2 * TIMEOUT_S - 0.1)
            assert await answer == b"PONG"

    await run(scenario())


async def test_a_process_that_is_always_busy_hears_of_a_frozen_server_all_the_same(
    run: Run, killable: OwnValkey
) -> None:
    async def scenario() -> None:
        async with connected_to(killable.url) as line:
            await line.ask_one("PING")
            killable.send(signal.SIGSTOP)
            with in_a_hurry(line):
                failing = asyncio.ensure_future(failure_of(line.ask_one("PING")))
                while not failing.done():
                    busy(0.05)
                    await asyncio.sleep(0)
            assert await failing is TimeoutError

    await run(scenario())


def busy(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


async def test_the_url_names_database_user_and_password(run: Run, killable: OwnValkey) -> None:
    place = killable.url.rpartition("@")[2].removesuffix("/0")
    async with Redis.from_url(killable.url) as client:
        await client.execute_command("ACL", "SETUSER", "reader", "on", ">s3cret@:/", "~*", "+@all")
        await client.execute_command("ACL", "SETUSER", "default", "on", ">pass", "~*", "+@all")

    async def scenario() -> None:
        for login in (":pass@", "reader:s3cret%40%3A%2F@"):
            async with (
                connected_to(f"redis://{login}{place}/3") as third,
                connected_to(f"redis://{login}{place}/0") as first,
            ):
                await third.ask_one("SET", "k", login)
                assert [await third.ask_one("GET", "k"), await first.ask_one("GET", "k")] == [login.encode(), None]
        for login in ("", ":wrong@", "reader:pass@", "nobody:pass@"):
            async with connected_to(f"redis://{login}{place}/0") as refused:
                for _ in range(2):
                    with pytest.raises(RedisError):
                        await refused.ask_one("GET", "k")
        async with connected_to(f"redis://:pass@{place}/99") as nowhere:
            with pytest.raises(RedisError):
                await nowhere.ask_one("GET", "k")

    await run(scenario())


async def test_a_connection_may_be_encrypted(run: Run, killable: OwnValkey, tmp_path: Path) -> None:
    port = int(killable.url.rpartition(":")[2].partition("/")[0])
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate(tmp_path))

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))

    async def scenario() -> None:
        server = await asyncio.start_server(carry, "127.0.0.1", 0, ssl=server_side)
        login = killable.url.removeprefix("redis://").partition("@")[0]
        place = f"{login}@127.0.0.1:{server.sockets[0].getsockname()[1]}/2"
        trusting = f"rediss://{place}?ssl_ca_certs={tmp_path / 'pair.pem'}"
        async with (
            server,
            connected_to(trusting) as line,
            connected_to(f"rediss://{place}") as stranger,
        ):
            assert await failure_of(stranger.ask_one("PING")) is GoneError
            large = "x" * 300_000
            await line.ask([("SET", f"k{n}", f"{n}{large}") for n in range(20)])
            replies = await asyncio.gather(*(line.ask_one("GET", f"k{n}") for n in range(20)))
            assert replies == [f"{n}{large}".encode() for n in range(20)]
            killable.send(signal.SIGSTOP)
            with in_a_hurry(line):
                assert await failure_of(line.ask_one("GET", "k1")) is TimeoutError
            killable.send(signal.SIGCONT)
            assert await line.ask_one("EXISTS", "k1") == 1

    await run(scenario())


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def certificate(folder: Path) -> Path:
    """A key and a certificate for 127.0.0.1 that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "pair.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + made.public_bytes(Encoding.PEM))
    return path


@pytest.mark.parametrize("connected", [False, True])
async def test_hanging_up_leaves_nobody_waiting_and_nothing_open(
    run: Run, killable: OwnValkey, *, connected: bool
) -> None:
    async def scenario() -> None:
        line = ValkeyConnection(killable.url, timeout_s=10)
        if connected:
            await line.ask_one("PING")
        killable.send(signal.SIGSTOP)
        asked = [asyncio.ensure_future(failure_of(line.ask_one("PING"))) for _ in range(20)]
        await asyncio.sleep(0)
        await line.close()
        assert {await one for one in asked} == {GoneError}
        killable.send(signal.SIGCONT)

    before = sockets()
    await run(scenario())

    async def all_closed() -> bool:
        return sockets() <= before

    await eventually(all_closed)


def sockets() -> int:
    links = Path("/proc/self/fd").iterdir()
    return sum(str(link.readlink()).startswith("socket:") for link in links if link.is_symlink())
