"""A till of the campaign: it retries as the documents tell, and keeps a log of what it heard.

It keeps books of its own beside the system's: what each answer says was posted is added up here.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from benchmarks.wire import Answer, Client, WireError

PATIENCE_S: Final = 120.0
PAUSE_FIRST_S, PAUSE_MAX_S = 0.05, 0.5
ATTEMPT_S: Final = 6.0
BUCKETS: Final[tuple[str, ...]] = ("available", "pending", "held", "debt")


@dataclass(slots=True)
class Log:
    """What all tills heard: the campaign is judged by it."""

    acknowledged: dict[str, tuple[str, int]] = field(default_factory=dict[str, tuple[str, int]])
    """Key -> member and version of its entry."""
    receipts: set[str] = field(default_factory=set[str])
    refused_receipts: set[str] = field(default_factory=set[str])
    balances: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    divergences: list[str] = field(default_factory=list[str])
    attempts: int = 0
    reads: int = 0
    reads_unanswered: int = 0
    acknowledged_at: list[float] = field(default_factory=list[float])
    open: set[str] = field(default_factory=set[str])

    def diverges(self, words: str) -> None:
        """Note what must not be."""
        self.divergences.append(words)


class Till:
    """One till with a member of its own."""

    def __init__(self, name: str, commands: list[Client], queries: list[Client], store: str, log: Log) -> None:
        self._name, self._commands, self._queries, self._store, self._log = name, commands, queries, store, log
        self._random = random.Random(name)
        self._number = 0
        self._member = ""
        self._books: dict[str, int] = dict.fromkeys(BUCKETS, 0)
        self._version = 0
        self._token: str | None = None
        self._seen = [0] * len(queries)

    async def work(self, stop: asyncio.Event) -> None:
        """Send until told to stop; what was begun is finished."""
        reply = await self._insist("/v1/members", {"name": self._name, "store": self._store})
        self._member = str(reply["member_id"])
        while not stop.is_set():
            await self._random.choice((self._buy, self._buy, self._adjust, self._hold, self._redeem, self._overspend))()
            await self._read()
        self._log.balances[self._member] = self._books

    async def _insist(self, path: str, body: Any) -> dict[str, Any]:
        """The final answer to a command under one key, sent again and again as docs/tills.md tells."""
        self._number += 1
        key, pause, until = f"{self._name}-{self._number}", PAUSE_FIRST_S, time.monotonic() + PATIENCE_S
        self._log.open.add(key)
        while time.monotonic() < until:
            self._log.attempts += 1
            node = self._commands[self._log.attempts % len(self._commands)]
            try:
                raw = orjson.dumps(body) if body is not None else b""
                headers = {"Idempotency-Key": key} | ({} if raw else {"Content-Length": "0"})
                answer = await node.send(node.request("POST", path, headers, raw), timeout_s=ATTEMPT_S)
            except WireError:
                answer = None
            if answer and not _again(answer):
                return self._final(key, answer)
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_MAX_S)
        self._log.diverges(f"{key}: no final answer to {path} within {PATIENCE_S:.0f} s")
        raise RuntimeError(key)

    def _final(self, key: str, answer: Answer) -> dict[str, Any]:
        self._log.open.discard(key)
        self._log.acknowledged_at.append(time.monotonic())
        document: dict[str, Any] = orjson.loads(answer.body)
        if answer.code != "ok":
            return {"refused": answer.code}
        account = document["account"]
        member, version = (
            account["member_id"],
            int(document.get("entry_id", "-0").rpartition("-")[2]) or account["version"],
        )
        self._log.acknowledged[key] = (member, version)
        if version <= self._version:
            self._log.diverges(f"{key}: acknowledged as version {version} after {self._version}")
        self._version = version
        self._token = answer.header("Consistency-Token")
        return document

    async def _buy(self) -> None:
        receipt = f"{self._name}-r{self._number + 1}"
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = {
            "member": {"member_id": self._member}, "store": self._store, "till": "1", "receipt": receipt,
            "occurred_at": now, "currency": "EUR", "lines": [{"sku": "a", "quantity": 1, "amount": 1000}],
        }  # fmt: skip
        reply = await self._insist("/v1/purchases", body)
        (self._log.refused_receipts if "refused" in reply else self._log.receipts).add(receipt)
        self._book(reply)
        if "purchase_id" in reply and self._random.random() < 0.3:  # noqa: PLR2004
            lines = [{"line": 1, "quantity": 1}]
            back = {"store": self._store, "till": "1", "receipt": receipt + "b", "occurred_at": now, "lines": lines}
            self._book(await self._insist(f"/v1/purchases/{reply['purchase_id']}/returns", back))

    async def _adjust(self) -> None:
        points = self._random.randint(1, 400)
        body = {"member": {"member_id": self._member}, "points": points, "reason": "goodwill"}
        self._expect(await self._insist("/v1/adjustments", body), {"available": points})

    async def _hold(self) -> None:
        points = self._random.randint(1, 50)
        body = {"member": {"member_id": self._member}, "points": points, "expires_in_s": 3600}
        reply = await self._insist("/v1/holds", body)
        self._expect(reply, {"available": -points, "held": points})
        if "hold_id" not in reply:
            return
        if self._random.random() < 0.5:  # noqa: PLR2004
            self._expect(
                await self._insist(f"/v1/holds/{reply['hold_id']}/capture", {"points": points}), {"held": -points}
            )
        else:
            reply = await self._insist(f"/v1/holds/{reply['hold_id']}/void", None)
            self._expect(reply, {"held": -points, "available": points})

    async def _redeem(self) -> None:
        reply = await self._insist("/v1/redemptions", {"member": {"member_id": self._member}, "reward": "coffee"})
        points = int(reply.get("points", 0))
        self._expect(reply, {"available": -points})
        if points and self._random.random() < 0.5:  # noqa: PLR2004
            reply = await self._insist(f"/v1/redemptions/{reply['redemption_id']}/cancel", None)
            self._expect(reply, {"available": points})

    async def _overspend(self) -> None:
        body = {"member": {"member_id": self._member}, "points": 10_000_000, "expires_in_s": 60}
        reply = await self._insist("/v1/holds", body)
        if "refused" not in reply:
            self._log.diverges(f"{self._name}: a hold of ten million points was taken")

    def _expect(self, reply: dict[str, Any], change: dict[str, int]) -> None:
        """Book what the command must have done, whatever the answer says of it."""
        if "refused" in reply:
            return
        for bucket, points in change.items():
            self._books[bucket] += points
        self._compare(reply)

    def _book(self, reply: dict[str, Any]) -> None:
        """Book what the answer says was posted: the rules' own sums are tested elsewhere."""
        for posting in reply.get("postings", ()):
            for side, sign in (("from", -1), ("to", 1)):
                if posting[side] in self._books:
                    self._books[posting[side]] += sign * posting["points"] * (-1 if posting[side] == "debt" else 1)
        if "refused" not in reply:
            self._compare(reply)

    def _compare(self, reply: dict[str, Any]) -> None:
        told = {bucket: reply["account"]["balance"][bucket] for bucket in BUCKETS}
        if told != self._books:
            self._log.diverges(f"{self._name}-{self._number}: balance {told}, by our books {self._books}")
            self._books = told

    async def _read(self) -> None:
        which = self._number % len(self._queries)
        node = self._queries[which]
        token = self._token  # always, as docs/tills.md tells: without it a read may show less than one before
        self._log.reads += 1
        try:
            headers = {"Consistency-Token": token} if token else {}
            raw = node.request("GET", f"/v1/members/{self._member}/account", headers)
            answer = await node.send(raw, timeout_s=ATTEMPT_S)
        except WireError:
            answer = None
        if answer is None or answer.code != "ok":
            self._log.reads_unanswered += 1
            return
        version = int(orjson.loads(answer.body)["version"])
        if token and version < self._version:
            self._log.diverges(f"{self._name}: read version {version} with the token of {self._version}")
        if version < self._seen[which]:
            self._log.diverges(f"{self._name}: read version {version} after {self._seen[which]}")
        self._seen[which] = max(version, self._seen[which])


def _again(answer: Answer) -> bool:
    """Whether docs/tills.md says: the same key and body again."""
    return answer.status >= 500 or answer.status == 429 or answer.code == "in_progress"  # noqa: PLR2004
