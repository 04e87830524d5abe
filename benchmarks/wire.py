"""A lean HTTP/1.1 client, so that the load generator spends its core on load and not on a library.

It speaks what the nodes speak: keep-alive, Content-Length, one request at a time per connection, no redirects. An
answer keeps its head as bytes; a header is looked up only when somebody asks. Measured: about 60 us of CPU per
request under uvloop, an aiohttp client takes about 300 us.
"""

import asyncio
import errno
import ssl
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

import orjson

CONNECTIONS_MAX: Final = 1024  # a stalled node must not exhaust file descriptors here and sockets there
TIMEOUT_S: Final = 10.0  # twice the longest time a node takes (NodeSettings.deadline_ms)
_HEAD_END: Final = b"\r\n\r\n"
Protocol = TypeVar("Protocol", bound=asyncio.Protocol)


class WireError(Exception):
    """No answer: `kind` names why in one word (`connect`, `disconnected`, `timeout`, `protocol`).

    `reason` says more where there is more to count: which error of the system kept a connection from being made.
    """

    def __init__(self, kind: str, detail: str = "", *, reason: str | None = None) -> None:
        self.kind = kind
        self.reason = reason or kind
        super().__init__(f"{kind}: {detail}" if detail else kind)


class Answer(NamedTuple):
    """A status, the raw head and the body."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header, None when it is absent."""
        start = self.head.lower().find(b"\r\n" + name.lower().encode() + b":")
        if start < 0:
            return None
        end = self.head.find(b"\r\n", start + 2)
        return self.head[start + len(name) + 3 : end if end >= 0 else None].strip().decode("latin-1")

    @property
    def code(self) -> str:
        """`ok`, or what went wrong: the problem's stable code, else `http_<status>`."""
        if self.status < 400:  # noqa: PLR2004 - where HTTP errors begin
            return "ok"
        try:
            return str(orjson.loads(self.body)["code"])
        except (ValueError, KeyError, TypeError):
            return f"http_{self.status}"


class Client:
    """Requests to one node with one credential, over as many connections as are needed at once.

    They come from the address `source`, where one is given.
    """

    def __init__(
        self, base_url: str, credential: str, *, connections_max: int = CONNECTIONS_MAX, source: str | None = None
    ) -> None:
        url = urlsplit(base_url)
        self.base_url = base_url
        self._credential = credential
        self._source = (source, 0) if source else None
        self.host = url.hostname or "127.0.0.1"
        self.port = url.port or (443 if url.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._prefix = url.path.rstrip("/")
        self._common = f" HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {credential}\r\n"
        self._idle: list[_Connection] = []
        self._places = asyncio.Semaphore(connections_max)
        self.sent_again = 0
        """How many requests met a kept connection that the node had closed, and were sent once more over a new one."""

    def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
        """The bytes of a request; a body is sent as JSON."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        if body:
            lines += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return f"{method} {self._prefix}{path}{self._common}{lines}\r\n".encode("latin-1") + body

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """The answer to a GET; WireError when there is none."""
        return await self.send(self.request("GET", path, headers or {}))

    def command(self, path: str, document: object, *, key: str) -> bytes:
        """The bytes of a command with this Idempotency-Key."""
        return self.request("POST", path, {"Idempotency-Key": key}, orjson.dumps(document))

    async def post(self, path: str, document: object, *, key: str) -> Answer:
        """The answer to a command with this Idempotency-Key; WireError when there is none (its outcome is unknown)."""
        return await self.send(self.command(path, document, key=key))

    async def send(self, request: bytes, *, timeout_s: float = TIMEOUT_S) -> Answer:
        """The answer to a rendered request; WireError when there is none."""
        try:
            async with asyncio.timeout(timeout_s), self._places:
                return await self._exchange(request)
        except TimeoutError as error:
            raise WireError("timeout", f"{timeout_s:g} s") from error

    async def _exchange(self, request: bytes) -> Answer:
        connection = self._usable()
        if connection is not None:
            try:
                return await self._ask(connection, request)
            except WireError as error:
                if error.kind != "disconnected" or connection.has_begun_to_answer:
                    raise
                self.sent_again += 1
        return await self._ask(await self.open(lambda: _Connection(self._idle)), request)

    def _usable(self) -> "_Connection | None":
        """An idle connection that nobody has closed as far as we know."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def _ask(self, connection: "_Connection", request: bytes) -> Answer:
        try:
            answer = await connection.exchange(request)
        except BaseException:
            connection.close()
            raise
        if connection.usable:
            self._idle.append(connection)
        return answer

    async def open(self, protocol: Callable[[], Protocol]) -> Protocol:
        """A new connection to the node; WireError when there is none."""
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                protocol, self.host, self.port, ssl=self._tls, local_addr=self._source
            )
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, type(error).__name__)
            raise WireError("connect", f"{self.base_url}: {error}", reason=f"connect {name}") from error
        return connection

    def at(self, source: str) -> "Client":
        """The same from another address."""
        return Client(self.base_url, self._credential, source=source)

    @property
    def is_tls(self) -> bool:
        """Whether it speaks HTTPS."""
        return self._tls is not None

    def wrk_script(self) -> bytes:
        """What wrk is told in a file, so that the credential stands in no list of processes."""
        return f'wrk.headers["Authorization"] = "Bearer {self._credential}"\n'.encode()

    def close(self) -> None:
        """Close the idle connections."""
        for connection in list(self._idle):
            connection.close()


async def exchange(client: Client, request: bytes) -> tuple[Answer | None, str]:
    """The answer, and `ok` or what went wrong."""
    try:
        answer = await client.send(request)
    except WireError as error:
        return None, error.reason
    return answer, answer.code


def read_answer(data: bytes) -> Answer | None:
    """The answer that these bytes are, None while it is not whole; WireError when nobody can tell."""
    head_end = data.find(_HEAD_END)
    if head_end < 0:
        return None
    start = head_end + len(_HEAD_END)
    head = data[:start]
    end = start + _body_length(head.lower())
    return Answer(int(head[9:12]), head, data[start:end]) if len(data) >= end else None


def _body_length(head: bytes) -> int:
    """How long the body is, of the head in lower case."""
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        return int(head[at + 17 : head.find(b"\r\n", at + 2)])
    if head[9:12] in {b"304", b"204"}:
        return 0
    raise WireError("protocol", "an answer without Content-Length")


class _Connection(asyncio.Protocol):
    """One connection; `idle` is the list to leave when the server hangs up."""

    def __init__(self, idle: "list[_Connection]") -> None:
        self.usable = False
        self._idle = idle
        self._buffer = b""
        self._waiter: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None

    @property
    def has_begun_to_answer(self) -> bool:
        """Whether bytes of an answer came that is not whole."""
        return bool(self._buffer)

    async def exchange(self, request: bytes) -> Answer:
        """Send and wait for the answer."""
        if self._transport is None or self._transport.is_closing():
            raise WireError("disconnected", "before the request")
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiter

    def close(self) -> None:
        """Hang up."""
        self.usable = False
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class is no subclass
        self.usable = True

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        try:
            answer = read_answer(self._buffer)
        except (WireError, ValueError) as error:
            self._fail(WireError("protocol", str(error)))
            self.close()
            return
        if answer is None:
            return
        self._buffer = b""
        self.usable = b"\r\nconnection: close" not in answer.head.lower()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if self in self._idle:
            self._idle.remove(self)
        self._fail(WireError("disconnected", str(exc or "")))

    def _fail(self, error: WireError) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
