"""Lanes: a command at an idle lane runs at once; while a batch is being decided the next one gathers.

So latency is that of a single call when quiet and throughput that of a group commit under load,
with no timer. While one batch commits the next is decided. The two share no slot: a member's commands
all pass one lane (by slot), in order, and no batch builds on what another has not committed yet.
A lane's queue is bounded in time waited; a request that gives up never cancels what runs.
"""

import asyncio
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Sequence
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram

from command.deadline import Deadlines
from command.envelope import Answer, Envelope
from command.store import BatchConflictError, Store, UnknownOutcomeError
from service.admission import Gate
from shard_router.errors import ProblemError

BATCH_MAX: Final = 64
"""Beyond 64 commands per batch throughput hardly grows, but everybody in it waits longer (ledger-and-throughput)."""
LINES_MAX: Final = 2_000
"""Lines of the baskets in a batch, two of the longest: they are decided in one go, at about 2 us a line."""
WAIT_MAX_S: Final = 1.0
QUEUE_MAX: Final = 4_096
"""What one lane does in well under WAIT_MAX_S times ten; bounds memory whatever the clock says."""
AT_WORK_MAX: Final = 2
"""One batch is decided while one commits: more would only be smaller."""
CALM: Final = AT_WORK_MAX * BATCH_MAX
"""What a lane has at work at most: so many may be under way when a flood begins."""
ATTEMPTS_MAX: Final = 5
_BACKOFF_S: Final = 0.01


class LaneMetrics:
    """How full batches are, how long commands wait, and what became of them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        sizes = (1, 2, 4, 8, 16, 32, 64)
        self.batch = Histogram("loyalty_batch_commands", "Commands per batch.", buckets=sizes, registry=registry)
        self.waited = Histogram("loyalty_lane_wait_seconds", "Time a command waited in its lane.", registry=registry)
        self.outcomes = Counter(
            "loyalty_commands", "Commands by what became of them.", ["command", "status"], registry=registry
        )
        self.conflicts = Counter(
            "loyalty_conflicts", "Commands of batches that met another node's rows and ran again.", registry=registry
        )

    def note(self, envelopes: Sequence[Envelope], answers: Sequence[Answer]) -> None:
        """Count what became of a batch: a look-up of labels for each kind in it, not for each command."""
        kinds = zip((type(one.command).__name__ for one in envelopes), (one.status for one in answers), strict=True)
        for labels, count in Tally(kinds).items():
            self.outcomes.labels(*labels).inc(count)


class _Waiting:
    """A command in a lane's queue, and where its answer goes. Its key is under way until the lane has done with it."""

    __slots__ = ("answer", "begun", "deadlines", "envelope", "queued_at", "under_way")

    def __init__(self, envelope: Envelope, under_way: set[str], deadlines: Deadlines) -> None:
        self.envelope = envelope
        self.begun = False
        self.queued_at = time.monotonic()
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.under_way, self.deadlines = under_way, deadlines
        if envelope.key is not None:
            under_way.add(envelope.key)
        deadlines.add(self, envelope.deadline)

    def end(self, answer: Answer | ProblemError) -> None:
        """Have done with it; whoever asked may be gone."""
        self.deadlines.remove(self)
        self.under_way.discard(self.envelope.key or "")
        if self.answer.done():
            return
        if isinstance(answer, Answer):
            self.answer.set_result(answer)
        else:
            self.answer.set_exception(answer)

    def give_up(self) -> None:
        """Tell whoever asked that there is no answer by the deadline; what has begun goes on."""
        if not self.answer.done():
            self.answer.set_exception(_no_answer() if self.begun else _not_begun())


class Lane:
    """One queue, and the batches at work."""

    def __init__(self, store: Store, metrics: LaneMetrics, lanes: "Lanes") -> None:
        self._store = store
        self._metrics = metrics
        self._lanes = lanes
        self._queue: deque[_Waiting] = deque()
        self._at_work: set[asyncio.Task[None]] = set()
        self._slots: set[int] = set()
        self._undecided: asyncio.Task[None] | None = None

    def submit(self, envelope: Envelope, under_way: set[str], deadlines: Deadlines) -> asyncio.Future[Answer]:
        """Queue a command; `overloaded` when the oldest in the queue has waited too long already."""
        if self._queue and (len(self._queue) >= QUEUE_MAX or self.oldest_waited_s() > WAIT_MAX_S):
            raise ProblemError("overloaded", "commands of this shard are waiting too long")
        waiting = _Waiting(envelope, under_way, deadlines)
        self._queue.append(waiting)
        if envelope.slot not in self._slots:
            self._begin()
        return waiting.answer

    async def idle(self) -> None:
        """Return when nothing runs or waits any more."""
        while self._at_work:
            await asyncio.wait(self._at_work)

    def oldest_waited_s(self) -> float:
        """How long the oldest in the queue has waited by now."""
        return time.monotonic() - self._queue[0].queued_at if self._queue else 0.0

    def _begin(self) -> None:
        """Begin the next batch, unless one is still to be decided or enough are at work."""
        if self._queue and self._undecided is None and len(self._at_work) < AT_WORK_MAX:
            self._undecided = asyncio.get_running_loop().create_task(self._work())
            self._at_work.add(self._undecided)

    async def _work(self) -> None:
        task, batch = asyncio.current_task(), self._next_batch()
        assert task is not None
        slots = {waiting.envelope.slot for waiting in batch}
        self._slots |= slots
        try:
            if batch:
                await self._run(batch)
        finally:
            self._slots -= slots
            self._at_work.discard(task)
            if self._undecided is task:
                self._undecided = None
            if batch:  # else all that waits is of slots at work: those begin the next when they are done
                self._begin()

    def _decided(self) -> None:
        """The batch of this task is only to be written now."""
        if self._undecided is asyncio.current_task():
            self._undecided = None
            self._begin()

    def _next_batch(self) -> list[_Waiting]:
        """The next commands in order, but for members of a batch at work.

        Without those nobody waits for any more: they have not begun, nothing is lost.
        """
        now = time.monotonic()
        batch: list[_Waiting] = []
        later: list[_Waiting] = []
        lines, batch_max = 0, self._lanes.batch_max()
        while self._queue and len(batch) < batch_max and len(later) < BATCH_MAX:
            waiting = self._queue.popleft()
            if waiting.envelope.slot in self._slots:
                later.append(waiting)
                continue
            lines += waiting.envelope.lines
            if batch and lines > LINES_MAX:
                later.append(waiting)
                break
            self._metrics.waited.observe(now - waiting.queued_at)
            if waiting.envelope.deadline <= now or waiting.envelope.is_left():
                waiting.end(_not_begun())
            else:
                waiting.begun = True
                batch.append(waiting)
        self._queue.extendleft(reversed(later))
        if batch:
            self._lanes.gate.note(now - batch[0].queued_at)
        return batch

    async def _run(self, batch: Sequence[_Waiting]) -> None:
        self._metrics.batch.observe(len(batch))
        try:
            await self._run_once(batch)
        except BatchConflictError as error:
            self._metrics.conflicts.inc(len(batch))
            structlog.get_logger().info("batch_conflicts", requests=_requests(batch), reason=str(error))
            await self._run_locked([waiting for waiting in batch if _in_time(waiting)])

    async def _run_locked(self, batch: Sequence[_Waiting]) -> None:
        """Run what met another node's rows again: locks wait for those. What conflicts then is one command's own."""
        if len(batch) > 1:
            try:
                await self._run_once(batch, locked=True)
            except BatchConflictError as error:
                structlog.get_logger().info("batch_runs_singly", requests=_requests(batch), reason=str(error))
            else:
                return
        for waiting in batch:
            await self._run_singly(waiting)

    async def _run_singly(self, waiting: _Waiting) -> None:
        for attempt in range(ATTEMPTS_MAX):
            if not _in_time(waiting):
                return
            try:
                await self._run_once([waiting], locked=True)
            except BatchConflictError as error:
                structlog.get_logger().warning(
                    "command_conflicts", requests=_requests([waiting]), attempt=attempt, reason=str(error)
                )
                await asyncio.sleep(_BACKOFF_S * 2**attempt)
            else:
                return
        waiting.end(ProblemError("internal"))

    async def _run_once(self, batch: Sequence[_Waiting], *, locked: bool = False) -> None:
        """Answer every command of a batch, whatever happens, but for a conflict."""
        envelopes = [waiting.envelope for waiting in batch]
        try:
            answers = await self._store.run(envelopes, locked=locked, decided=self._decided)
        except BatchConflictError:
            raise
        except ProblemError as error:
            _refuse_all(batch, error)
        except UnknownOutcomeError as error:
            _refuse_all(batch, ProblemError("unknown_outcome", str(error)))
        except Exception:  # noqa: BLE001 - whatever it is, every command must get an answer
            structlog.get_logger().exception("batch_failed", requests=_requests(batch))
            _refuse_all(batch, ProblemError("internal"))
        else:
            for waiting, answer in zip(batch, answers, strict=True):
                waiting.end(answer)
            self._metrics.note(envelopes, answers)


class Lanes:
    """The lanes of one shard, and the keys that are under way in this node."""

    def __init__(self, store: Store, metrics: LaneMetrics, count: int) -> None:
        self.store = store
        self.gate = Gate("shard", QUEUE_MAX)
        """Who may come in; a node shares it with its door."""
        self._lanes = [Lane(store, metrics, self) for _ in range(count)]
        self._under_way: set[str] = set()
        self._deadlines = Deadlines()

    def batch_max(self) -> int:
        """How many a batch may take: where one took all who are let in, nobody would be decided while it commits."""
        return min(BATCH_MAX, max(int(self.gate.limit) // (AT_WORK_MAX * len(self._lanes)), 1))

    def oldest_waited_s(self) -> float:
        """How long the oldest command has waited by now."""
        return max(lane.oldest_waited_s() for lane in self._lanes)

    def begin(self, envelope: Envelope) -> asyncio.Future[Answer]:
        """Take a command to its lane; its answer, or a ProblemError, is there by the deadline.

        `in_progress` while the same key is under way; `unknown_outcome` when the deadline passes while it runs:
        it goes on, and the same key tells later.
        """
        if envelope.key in self._under_way:
            raise ProblemError("in_progress")
        return self._lanes[envelope.slot % len(self._lanes)].submit(envelope, self._under_way, self._deadlines)

    async def run(self, envelope: Envelope) -> Answer:
        """Answer a command by its deadline (see begin)."""
        return await self.begin(envelope)

    async def idle(self) -> None:
        """Return when every lane is empty."""
        await asyncio.gather(*(lane.idle() for lane in self._lanes))


def _requests(batch: Sequence[_Waiting]) -> list[str]:
    """The ids by which those who asked know these commands."""
    return [waiting.envelope.request_id for waiting in batch]


def _refuse_all(batch: Sequence[_Waiting], error: ProblemError) -> None:
    for waiting in batch:
        waiting.end(error)


def _in_time(waiting: _Waiting) -> bool:
    """Refuse a command whose deadline is over: a conflict did nothing, and what was leased for it may be gone soon."""
    if waiting.envelope.deadline > time.monotonic():
        return True
    waiting.end(_not_begun())
    return False


def _no_answer() -> ProblemError:
    """What has begun goes on, and its key tells later."""
    return ProblemError("unknown_outcome", "no answer from the shard in time; send the same key again")


def _not_begun() -> ProblemError:
    """What waited in vain was never begun: it has no effect, and any later attempt is a first one."""
    return ProblemError("shard_unavailable", "the shard did not get to this command in time; nothing was done")
