"""A till of the campaign: it retries as the documents tell, and keeps a log of what it heard.

It keeps books of its own beside the system's: what each command must do is added up here, and every answer is held
against it. What comes about by itself (a transfer that is settled, thanks for a newcomer) shows in the end.
"""

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from benchmarks.wire import Answer, Client, WireError
from shard_router.token import parse_token

PATIENCE_S: Final = 150.0
PAUSE_FIRST_S, PAUSE_MAX_S = 0.05, 0.5
ATTEMPT_S: Final = 6.0
BUCKETS: Final[tuple[str, ...]] = ("available", "pending", "held", "debt")


@dataclass(slots=True)
class Log:
    """What all tills heard: the campaign is judged by it."""

    acknowledged: dict[str, tuple[str, int]] = field(default_factory=dict[str, tuple[str, int]])
    """Key -> member and version of its entry."""
    refused: dict[str, str] = field(default_factory=dict[str, str])
    """Key -> why."""
    receipts: set[str] = field(default_factory=set[str])
    refused_receipts: set[str] = field(default_factory=set[str])
    balances: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    erased: set[str] = field(default_factory=set[str])
    divergences: list[str] = field(default_factory=list[str])
    attempts: int = 0
    reads: int = 0
    reads_unanswered: int = 0
    acknowledged_at: list[float] = field(default_factory=list[float])
    open: set[str] = field(default_factory=set[str])
    kinds: dict[str, int] = field(default_factory=dict[str, int])
    """How often each kind of command was acknowledged."""

    def diverges(self, words: str) -> None:
        """Note what must not be."""
        self.divergences.append(words)


@dataclass(slots=True)
class Customer:
    """A member and our own books of them."""

    member: str
    books: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BUCKETS, 0))
    version: int = 0
    token: str | None = None
    sent: int = 0
    """Points given away: they are held for as long as they are under way."""
    seen: dict[int, int] = field(default_factory=dict[int, int])
    """The newest version read, by query node."""

    def move(self, change: Mapping[str, int]) -> None:
        """Book a change of buckets."""
        for bucket, points in change.items():
            self.books[bucket] += points


class Till:
    """One till. `guest` is whom it serves, `friend` who gets what guests give away."""

    def __init__(self, name: str, commands: list[Client], queries: list[Client], store: str, log: Log) -> None:
        self.name, self.store, self.log = name, store, log
        self._commands, self._queries = commands, queries
        self.random = random.Random(name)
        self.number = 0
        self.friend = Customer("")
        self.guest = Customer("")

    async def insist(self, kind: str, path: str, body: Any, *, method: str = "POST") -> dict[str, Any]:
        """The final answer to a command under one key, sent again and again as docs/tills.md tells."""
        self.number += 1
        key, pause, until = f"{self.name}-{self.number}", PAUSE_FIRST_S, time.monotonic() + PATIENCE_S
        self.log.open.add(key)
        while time.monotonic() < until:
            self.log.attempts += 1
            node = self._commands[self.log.attempts % len(self._commands)]
            try:
                raw = orjson.dumps(body) if body is not None else b""
                headers = {"Idempotency-Key": key} | ({} if raw else {"Content-Length": "0"})
                answer = await node.send(node.request(method, path, headers, raw), timeout_s=ATTEMPT_S)
            except WireError:
                answer = None
            if answer and not _again(answer):
                return self._final(kind, key, answer)
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_MAX_S)
        self.log.diverges(f"{key}: no final answer to {path} within {PATIENCE_S:.0f} s")
        raise RuntimeError(key)

    def _final(self, kind: str, key: str, answer: Answer) -> dict[str, Any]:
        self.log.open.discard(key)
        self.log.acknowledged_at.append(time.monotonic())
        document: dict[str, Any] = orjson.loads(answer.body)
        if answer.code != "ok":
            self.log.refused[key] = answer.code
            return {"refused": answer.code}
        token = answer.header("Consistency-Token") or ""
        member, version = document.get("member_id"), parse_token(token).version
        account = document.get("account")
        if account:
            member = account["member_id"]
            version = int(document.get("entry_id", "-0").rpartition("-")[2]) or account["version"]
        self.log.acknowledged[key] = (str(member), version)
        self.log.kinds[kind] = self.log.kinds.get(kind, 0) + 1
        if member == self.guest.member:
            if version <= self.guest.version:
                self.log.diverges(f"{key}: acknowledged as version {version} after {self.guest.version}")
            self.guest.version, self.guest.token = version, token
        return document

    def expect(self, reply: dict[str, Any], change: Mapping[str, int]) -> bool:
        """Book what the command must have done, whatever the answer says of it; tells whether it was done."""
        if "refused" in reply:
            return False
        self.guest.move(change)
        self.compare(reply)
        return True

    def book(self, reply: dict[str, Any]) -> bool:
        """Book what the answer says was posted: the rules' own sums are tested elsewhere; tells whether it was done."""
        if "refused" in reply:
            return False
        for posting in reply.get("postings", ()):
            for side, sign in (("from", -1), ("to", 1)):
                if posting[side] in BUCKETS:
                    moved = sign * posting["points"] * (-1 if posting[side] == "debt" else 1)
                    self.guest.move({posting[side]: moved})
        self.compare(reply)
        return True

    def compare(self, reply: dict[str, Any]) -> None:
        """Hold an answer's balance against the books; what was given away may still be held."""
        told = {bucket: int(reply["account"]["balance"][bucket]) for bucket in BUCKETS}
        books = self.guest.books
        under_way = told["held"] - books["held"]
        if told | {"held": 0} != books | {"held": 0} or not 0 <= under_way <= self.guest.sent:
            self.log.diverges(f"{self.name}-{self.number}: balance {told}, by our books {books}")
            self.guest.books = told

    async def read(self) -> None:
        """Ask for the guest's account, with the token as docs/tills.md tells."""
        guest = self.guest
        which = self.number % len(self._queries)
        node, token = self._queries[which], guest.token
        self.log.reads += 1
        try:
            headers = {"Consistency-Token": token} if token else {}
            raw = node.request("GET", f"/v1/members/{guest.member}/account", headers)
            answer = await node.send(raw, timeout_s=ATTEMPT_S)
        except WireError:
            answer = None
        if answer is None or answer.code != "ok":
            self.log.reads_unanswered += 1
            return
        version = int(orjson.loads(answer.body)["version"])
        if token and version < guest.version:
            self.log.diverges(f"{self.name}: read version {version} with the token of {guest.version}")
        if version < guest.seen.get(which, 0):
            self.log.diverges(f"{self.name}: read version {version} after {guest.seen[which]}")
        guest.seen[which] = max(version, guest.seen.get(which, 0))


def points_of(reply: Mapping[str, Any], reason: str) -> int:
    """Points an answer's postings moved for a reason: from the program, less those that went back to it."""
    posted = [one for one in reply.get("postings", ()) if one["reason"] == reason]
    given = sum(one["points"] for one in posted if one["from"] == "program")
    return given - sum(one["points"] for one in posted if one["to"] == "program")


def _again(answer: Answer) -> bool:
    """Whether docs/tills.md says: the same key and body again."""
    return answer.status >= 500 or answer.status == 429 or answer.code == "in_progress"  # noqa: PLR2004
