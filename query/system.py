"""The whole system as one document: each region as it says it is, and how old that is.

A node looks at its own region itself and asks one node of each other region for theirs. What was seen counts for two
seconds and is shared by all who ask meanwhile, so that asking often costs nothing. A region that does not answer is
shown as it was heard last, with the reason: no part of the system makes the rest unknown.
"""

import asyncio
import math
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import aiohttp
import orjson
from aiohttp import web
from yarl import URL

from query.look import ASKED_AT_ONCE_MAX, Look, unseen
from query.node import NODE, QueryNode
from query.share import read_shares
from query.system_shape import System, SystemNode, SystemRegion, SystemShard
from service.problem import malformed_parameter
from service.web import render_json
from shard_router.ending import end
from shard_router.errors import ProblemError

PATH: Final = "/v1/system"
FRESH_S: Final = 2.0
"""How long a look counts. However often it is asked for, a region is looked at no more than twice in four seconds."""
PATIENCE_S: Final = 3.0
"""For all regions together."""
ASK_REGION_S: Final = 2.5
"""For another region: an ask of a second, there and back, and another node when the first one dies."""
_UNHEARD: Final = "not heard yet"
_WHOLE_SHARE: Final = 100


@dataclass(slots=True)
class Heard:
    """What was heard last of one region, and why nothing was since."""

    nodes: list[SystemNode] = field(default_factory=list[SystemNode])
    shards: dict[str, SystemShard] = field(default_factory=dict[str, SystemShard])
    as_of: datetime | None = None
    seen_at: float = -math.inf
    """Monotonic: when it was so."""
    asked_at: float = -math.inf
    why: str | None = _UNHEARD
    task: asyncio.Task[None] | None = None

    def note(self, nodes: list[SystemNode], shards: dict[str, SystemShard], as_of: datetime, age_s: float) -> None:
        """It was like this so long ago."""
        self.nodes, self.shards, self.as_of, self.why = nodes, shards, as_of, None
        self.seen_at = time.monotonic() - age_s


class SystemView:
    """What one query node knows of the system. `close` at the end."""

    def __init__(self, node: QueryNode) -> None:
        self._node = node
        self._heard: dict[str, Heard] = {}
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Stop looking, and close the connections."""
        await end(*(heard.task for heard in self._heard.values() if heard.task))
        if self._session:
            await self._session.close()

    async def see(self, request: web.Request, only: str | None) -> System:
        """All regions, or one; returns within PATIENCE_S, and sooner by the request's own deadline."""
        topology = self._node.topology.current
        names = [only] if only else list(topology.document.regions)
        for gone in self._heard.keys() - topology.document.regions.keys():
            self._heard.pop(gone)
        until = min(self._node.deadline_of(request), time.monotonic() + PATIENCE_S)
        await asyncio.gather(*(self._hear(name, request, until) for name in names))
        shares = read_shares(self._node.settings.door_state)
        shown = {name: self._shown(name, shares) for name in names}
        return System(region=self._node.settings.region, epoch=topology.epoch, regions=shown)

    async def _hear(self, name: str, request: web.Request, until: float) -> None:
        """Look anew unless the last look is fresh; whoever asks meanwhile waits for the same one."""
        heard = self._heard.setdefault(name, Heard())
        if heard.task is None:
            if time.monotonic() - heard.asked_at < FRESH_S:
                return
            heard.asked_at = time.monotonic()
            own = name == self._node.settings.region
            work = self._look(heard, request) if own else self._ask(heard, name, request)
            heard.task = asyncio.get_running_loop().create_task(_noting(heard, work))
        done, _ = await asyncio.wait((heard.task,), timeout=max(0.0, until - time.monotonic()))
        if not done:
            heard.why = "no answer in time"

    async def _look(self, heard: Heard, request: web.Request) -> None:
        """See the own region."""
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=ASKED_AT_ONCE_MAX))
        node, authorization = self._node, request.headers.get("Authorization", "")
        look = Look(node.topology.current, node.settings.region, self._session, authorization)
        as_of = datetime.now(UTC)
        nodes, shards = await look.see()
        heard.note(nodes, shards, as_of, 0.0)

    async def _ask(self, heard: Heard, name: str, request: web.Request) -> None:
        """Hear another region from one of its nodes."""
        headers = request.headers.copy()
        headers["Accept-Encoding"] = "identity"
        asking = request.clone(method="GET", rel_url=URL(f"{PATH}?region={name}"), headers=headers)
        answer = await self._node.forwarder.forward(asking, name, deadline=time.monotonic() + ASK_REGION_S)
        if answer.status != web.HTTPOk.status_code or not isinstance(answer.body, bytes):
            raise ProblemError("shard_unavailable", f"region {name} answers {answer.status}")
        told = System.model_validate(orjson.loads(answer.body)).regions[name]
        if told.as_of is None or told.why is not None:
            raise ProblemError("shard_unavailable", told.why or _UNHEARD)
        heard.note(told.nodes, told.shards, told.as_of, (told.age_ms or 0) / 1000)

    def _shown(self, name: str, shares: dict[str, int] | None) -> SystemRegion:
        topology, heard = self._node.topology.current, self._heard[name]
        nodes, shards = heard.nodes, heard.shards
        if heard.as_of is None:
            nodes, shards = unseen(topology, name, heard.why or _UNHEARD)
        return SystemRegion(
            state=topology.document.regions[name].state,
            reachable=heard.why is None,
            why=heard.why,
            as_of=heard.as_of,
            age_ms=None if heard.as_of is None else round((time.monotonic() - heard.seen_at) * 1000),
            share=None if shares is None else shares.get(name, _WHOLE_SHARE),
            nodes=nodes,
            shards=shards,
        )


async def _noting(heard: Heard, work: Awaitable[None]) -> None:
    """Do the work; what goes wrong is the reason that is shown."""
    try:
        await work
    except ProblemError as error:
        heard.why = error.detail or error.code
    except Exception as error:  # noqa: BLE001 - whatever it is, it hides no other region
        heard.why = f"an answer that cannot be read ({type(error).__name__})"
    finally:
        heard.task = None


SYSTEM: Final = web.AppKey("system", SystemView)


async def get_system(request: web.Request) -> web.StreamResponse:
    """Answer the system, or what one region says of itself."""
    only = request.query.get("region")
    if only is not None and only not in request.app[NODE].topology.current.document.regions:
        raise malformed_parameter("region", "there is no such region")
    shown = await request.app[SYSTEM].see(request, only)
    headers = {"Cache-Control": "private, no-store", "Loyalty-Source": "cache"}
    return render_json(shown.model_dump_json().encode(), headers=headers)
