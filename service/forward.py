"""Hands a foreign member's request to a node of the home region: once, and signed by a node of ours.

A request that arrives so and still does not belong here is refused, never passed on: two nodes
with different topologies must not play ping-pong. The same Idempotency-Key goes along, so a
client may send a forwarded command again wherever it likes, and so may we: a command with a key, or a
read, that met a dying node is asked of the next. Within a region a command for a member whose slot
belongs to another node is handed over likewise, or else served here. An endless answer (an event
stream) is handed on piece by piece. Where no node of a region answers, whoever asked for a read is told: it can read
itself.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache, partial
from itertools import chain
from typing import Final, Literal

import aiohttp
from aiohttp import web
from prometheus_client import Counter
from yarl import URL

from service.bulkhead import Bulkhead, Crossing
from service.carry import Carried, Outcome, in_time
from service.handed import (
    DEADLINE_HEADER,
    has_left,
    is_forwarded,
    marked,
    method_of,
    passed_on,
    refuse_twice,
    target_of,
)
from service.link import LinkError, Links, StaleLinkError, UnreadableError
from service.peer import SUSPECT_S, Peers, SilentPeerError, ranked, stops
from service.problem import REQUEST_ID
from service.relay import hand_on
from service.retry import RetryBudget
from service.settings import SETTINGS
from service.trial import NOT_ASKED, PASSED_BACK, NodeAnswer, Trial, Unanswered
from service.web import CREDENTIALS, FORWARDED, sign
from shard_router.ending import end
from shard_router.errors import ProblemError
from shard_router.topology import TopologyWatch

_CONNECT_TIMEOUT_S: Final = 0.5  # between regions of this world 0.15 s is far
_NOTHING_SENT: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_ANSWER_LOST: Final = (aiohttp.ClientError, asyncio.IncompleteReadError, LinkError, SilentPeerError)
_ANSWER_MARGIN_S: Final = 0.25  # so that the home node's own deadline answer arrives before ours is over
_SILENCE_MAX_S: Final = 60.0  # of a stream, four missed comments of 15 s: the home node is gone


class Forwarder:
    """A client to the other regions' nodes."""

    def __init__(
        self, region: str, topology: TopologyWatch, side: Literal["command", "query"], own: str | None = None
    ) -> None:
        """`own` is what the topology calls this node."""
        self._region = region
        self._own = own
        self._topology = topology
        self._side: Literal["command", "query"] = side
        self._bulkhead = Bulkhead()
        self._retries = defaultdict[str, RetryBudget](RetryBudget)
        self._peers = Peers(self._client, self._all_listed)
        self._links = Links(late_s=SUSPECT_S)
        self._going_on = set[asyncio.Task[None]]()
        self._session: aiohttp.ClientSession | None = None

    async def forward(
        self, request: web.Request, region: str, *, deadline: float, slot: int = 0, body: bytes | None = None
    ) -> web.Response:
        """The home region's answer about a member of a slot. `deadline` is a monotonic instant.

        `shard_unavailable` when no node there takes it, or the region holds enough of this node already;
        `unknown_outcome` when a command was sent and no answer came.
        """
        refuse_twice(request)
        trial = self._trial(request, region, deadline, body, is_command=self._side == "command")
        with self._through(request, region):
            answer = await self._ask(trial, self._nodes(region, slot)) or trial.declined
            if answer is None:
                raise trial.failure(f"no node of region {region} can be reached")
            return answer.response()

    async def read(
        self, request: web.Request, region: str, *, deadline: float, slot: int = 0, body: bytes | None = None
    ) -> web.Response | None:
        """As `forward`, of a read; None when no node there answers in time, and somebody else is to."""
        refuse_twice(request)
        if self.is_away(region):
            return None
        trial = self._trial(request, region, deadline, body, is_command=False, has_other=True)
        with suppress(ProblemError), self._through(request, region):
            answer = await self._ask(trial, self._nodes(region, slot))
            return answer and answer.response()
        return None

    async def forward_or_serve(
        self, request: web.Request, region: str, *, deadline: float, slot: int = 0, body: bytes | None = None
    ) -> web.Response | Unanswered:
        """As `forward`, of a command; when no node there gives an answer, this node is to serve it."""
        refuse_twice(request)
        if self.is_away(region):
            return NOT_ASKED
        trial = self._trial(request, region, deadline, body, is_command=True, has_other=True)
        with self._through(request, region):
            answer = await self._ask(trial, self._nodes(region, slot))
            return answer.response() if answer else Unanswered(may_be_done=trial.sent)

    def carry(self, trial: Trial, slot: int, *, places: int, done: Callable[[Outcome], None]) -> bool:
        """Hand on what `read` or `forward_or_serve` would, without a task, on a connection that stands.

        False when there is none, or no room or time: the usual way is to do it. Else `done` is told once, in a later
        turn; what goes wrong until then is dealt with as on the usual way.
        """
        left_s = trial.deadline - time.monotonic()
        present = self._peers.present(ranked(self._listed(trial.region), slot))
        link = self._links.take(present[0]) if present and left_s > 2 * SUSPECT_S else None
        if link is None:
            return False
        try:
            crossing = self._bulkhead.through(trial.region, places=places)
        except ProblemError:
            link.let_go()
            return False
        _forwarded(trial.region).inc()
        others = self._nodes(trial.region, slot)
        one = Carried(trial, next(others), others, crossing, link, done)
        link.ask(trial.method, trial.target, _timed(trial, left_s), trial.body, told=partial(self._told, one))
        return True

    def _told(self, one: Carried, came: NodeAnswer | LinkError | None) -> None:
        """Take what came on a link; None: nothing yet, and it is time to ask whether its node lives."""
        if one.rest is not None:
            one.give(came)
        elif isinstance(came, NodeAnswer) and self._takes(one.trial, one.node, came):
            one.crossing.answered()
            one.done(came)
        else:
            if came is None:
                one.wait()  # now: it may come before the task begins
            task = asyncio.get_running_loop().create_task(self._go_on(one, came))
            self._going_on.add(task)
            task.add_done_callback(self._going_on.discard)

    async def _go_on(self, one: Carried, came: NodeAnswer | LinkError | None) -> None:
        """Go on as the usual way does, from where the link has left it."""
        outcome: Outcome = ProblemError("internal")
        try:
            with one.crossing:
                outcome = await self._ask(one.trial, self._remaining(one, came), one)
        except ProblemError as error:
            outcome = error
        finally:
            one.done(outcome)

    def _remaining(self, one: Carried, came: NodeAnswer | LinkError | None) -> Iterable[str]:
        """The nodes to ask, first that which has the request and is silent, or whose connection was no good."""
        if came is None:
            return chain((one.node,), one.others)
        if isinstance(came, LinkError):
            one.trial.sent = True
            # A command may still run there: the key would only hear so.
            is_stale = isinstance(came, StaleLinkError) and not one.trial.is_command
            if is_stale or isinstance(came, UnreadableError):
                return chain((one.node,), one.others) if self._retries[one.trial.region].take() else ()
            self._peers.put_away(one.node, str(came))
        return one.others

    def _through(self, request: web.Request, region: str) -> Crossing:
        """Let a request through to its region, and count it; `shard_unavailable` as the bulkhead says."""
        crossing = self._bulkhead.through(region, places=request.app[SETTINGS].in_flight_max)
        _forwarded(region).inc()
        return crossing

    def is_away(self, region: str) -> bool:
        """Whether no node of a region takes requests. Probes go on, and the first that is answered ends it."""
        return not self._peers.present(self._listed(region))

    def serves(self, slot: int) -> bool:
        """Whether a slot of the own region is this node's, as long as the nodes before it are away."""
        return not self._before(slot)

    async def hand_over(
        self, request: web.Request, slot: int, *, deadline: float, body: bytes
    ) -> web.Response | Unanswered:
        """The answer of the node of the own region that serves a slot, or that this node is to serve it now."""
        before = self._before(slot)
        if not before or is_forwarded(request):
            return NOT_ASKED
        _forwarded(self._region).inc()
        trial = self._trial(request, self._region, deadline, body, is_command=True, has_other=True)
        answer = await self._ask(trial, before)
        return answer.response() if answer else Unanswered(may_be_done=trial.sent)

    async def relay(
        self, request: web.Request, region: str, slot: int = 0, *, goes_on: Callable[[], bool], last_words: bytes
    ) -> web.StreamResponse | None:
        """Answer with the home region's stream; None when all nodes there are away.

        `shard_unavailable` when one is there and begins none in time. There is no deadline once it has begun, and an
        end at one side ends the other. When `goes_on`, asked each second, says no, this node ends it with last words.
        """
        refuse_twice(request)
        opened = None if self.is_away(region) else await self._open(request, region, slot)
        if opened is None:
            return None
        _forwarded(region).inc()
        async with opened as answer:
            kept = _kept(answer)
            if answer.status != web.HTTPOk.status_code:
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)
            response = web.StreamResponse(headers=kept)
            sign(request.app, request, response)
            with suppress(ConnectionError, aiohttp.ClientError, TimeoutError):  # the client comes back with its last id
                await response.prepare(request)
                await hand_on(answer.content, response, goes_on, last_words, has_left=partial(has_left, request))
            return response

    async def close(self) -> None:
        """Close the connections."""
        self._links.close()
        await end(*self._going_on)
        await self._peers.close()
        if self._session:
            await self._session.close()

    def _nodes(self, region: str, slot: int) -> Iterator[str]:
        """The nodes to ask, first whose the slot is; further ones only while the budget of retries lasts."""
        budget = self._retries[region]
        budget.note_request()
        nodes = ranked(self._listed(region), slot)
        for number, node in enumerate(self._peers.present(nodes) or nodes):
            if number and not budget.take():
                return
            yield node

    def _listed(self, region: str) -> tuple[str, ...]:
        return tuple(getattr(self._topology.current.document.regions[region], self._side))

    def _before(self, slot: int) -> tuple[str, ...]:
        """The nodes of the own region that serve a slot before this one does."""
        nodes = self._listed(self._region)
        if len(nodes) == 1 or self._own not in nodes:
            return ()
        ordered = ranked(nodes, slot)
        return self._peers.present(ordered[: ordered.index(self._own)])

    def _all_listed(self) -> list[str]:
        return [node for region in self._topology.current.document.regions for node in self._listed(region)]

    async def _ask(self, trial: Trial, nodes: Iterable[str], begun: Carried | None = None) -> NodeAnswer | None:
        """The first answer; None when no node gave one. ProblemError when it may not be asked again, or not in time.

        `begun`: the first of the nodes may have it already.
        """
        for node in nodes:
            try:
                if answer := await self._send(trial, node, begun.rest if begun else None):
                    return trial.checked(answer)
            except _NOTHING_SENT:
                self._peers.put_away(node, "takes no connection")
            except _ANSWER_LOST as error:
                self._peers.put_away(node, type(error).__name__)
                trial.sent = True
                if not trial.may_be_sent_again:
                    raise trial.failure(f"no answer from region {trial.region}") from error
            except TimeoutError as error:
                trial.sent = True
                raise trial.failure(f"no answer from region {trial.region} in time") from error
            begun = None
        return None

    async def _send(self, trial: Trial, node: str, rest: "asyncio.Future[NodeAnswer] | None") -> NodeAnswer | None:
        """The answer of a node, or the rest of what it has begun with; None when it declines."""
        left_s = trial.deadline - time.monotonic()
        if left_s <= 0 and rest is None:
            raise trial.failure("the deadline is over")
        exchange = self._exchange(trial, node, left_s) if rest is None else in_time(rest, left_s + _ANSWER_MARGIN_S)
        others = trial.has_other or len(self._peers.present(self._listed(trial.region))) > 1
        if trial.may_be_sent_again and others:
            answer = await self._peers.attend(node, exchange, suspect_s=SUSPECT_S if rest is None else 0)
        else:
            answer = await exchange
        return answer if self._takes(trial, node, answer) else None

    async def _exchange(self, trial: Trial, node: str, left_s: float) -> NodeAnswer:
        # To connect must never take until the total: that one cannot tell whether anything was sent.
        timeout = aiohttp.ClientTimeout(total=left_s + _ANSWER_MARGIN_S, sock_connect=min(_CONNECT_TIMEOUT_S, left_s))
        url, headers = URL(node + trial.target, encoded=True), _timed(trial, left_s)
        async with self._client().request(
            trial.method, url, data=trial.body, headers=headers, timeout=timeout
        ) as answer:
            return NodeAnswer(answer.status, _kept(answer), await answer.read(), stops(answer))

    def _takes(self, trial: Trial, node: str, answer: NodeAnswer) -> bool:
        """Whether that is the answer; a node that stops gets no more, and may leave this one to others."""
        if answer.stops:
            self._peers.put_away(node, "stops")
        return not trial.declines(answer)

    async def _open(self, request: web.Request, region: str, slot: int) -> aiohttp.ClientResponse | None:
        """Find a node that begins a stream or answers a problem; the nodes share the time a request has."""
        share_s = request.app[SETTINGS].deadline_ms / 1000 / max(len(self._listed(region)), 1)
        headers = self._headers(request, request.method)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_SILENCE_MAX_S)

        async def begin(node: str) -> aiohttp.ClientResponse:
            answer = await self._client().request(request.method, _url(request, node), headers=headers, timeout=timeout)
            if answer.status != web.HTTPOk.status_code:
                await answer.read()  # a problem is short; from now on it is kept there
            return answer

        for node in self._nodes(region, slot):
            try:  # nothing was passed on yet: the next node may try
                async with asyncio.timeout(share_s):
                    return await self._peers.attend(node, begin(node))
            except _ANSWER_LOST as error:
                self._peers.put_away(node, type(error).__name__)
            except TimeoutError:
                continue
        if self.is_away(region):
            return None
        raise ProblemError("shard_unavailable", f"no node of region {region} begins a stream")

    def _trial(  # noqa: PLR0913 - what a trial consists of
        self,
        request: web.Request,
        region: str,
        deadline: float,
        body: bytes | None,
        *,
        is_command: bool,
        has_other: bool = False,
    ) -> Trial:
        method, target = method_of(request), target_of(request)
        headers = self._headers(request, method)
        return Trial(region, method, target, headers, body, deadline, is_command, has_other)

    def _headers(self, request: web.Request, method: str) -> dict[str, str]:
        mark = marked(request.app[CREDENTIALS], self._region, method, target_of(request), request[REQUEST_ID])
        return passed_on(request) | mark

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)  # the bulkhead bounds it, region by region
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self._session


@lru_cache(maxsize=64)  # looking labels up costs more than counting
def _forwarded(region: str) -> Counter:
    return FORWARDED.labels(region)


def _timed(trial: Trial, left_s: float) -> dict[str, str]:
    return {**trial.headers, DEADLINE_HEADER: str(int(left_s * 1000))}


def _url(request: web.Request, node: str) -> URL:
    return URL(node + target_of(request), encoded=True)


def _kept(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {name: answer.headers[name] for name in PASSED_BACK if name in answer.headers}
