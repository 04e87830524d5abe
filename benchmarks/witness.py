"""An independent model in the client: what it was told about each member must fit together, while the load runs.

It knows no rules but two: an account is the one before it plus the postings of the entry between them, and base points
are one per whole unit of money. Whatever is answered about one version of a member, by whoever, must be the same. A
read never shows less than its token demands, nor less than an earlier one by the same node had shown, whoever told it:
Valkey, a standby, the primary. (Of what was forwarded the node is not known; there a source is held to itself.)
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

VERSIONS_KEPT: Final = 64
"""Versions of one member held against each other; older ones are forgotten, so that memory is bounded."""
EXAMPLES_MAX: Final = 10
TOKEN: Final = "token violations"  # noqa: S105 - a heading
BACKWARDS: Final = "versions that went backwards"
BALANCE: Final = "wrong balances"
TWICE: Final = "duplicates answered otherwise"
KINDS: Final = (TOKEN, BACKWARDS, BALANCE, TWICE)
_PURCHASES_PER_DAY: Final = 50  # of rules/main_street.toml: later ones of a day earn nothing
_BUCKETS: Final = ("available", "pending", "held", "debt")

Balance = tuple[int, ...]


@dataclass(slots=True)
class _Known:
    """What is known of one member."""

    balances: dict[int, Balance] = field(default_factory=dict[int, Balance])
    changes: dict[int, Balance] = field(default_factory=dict[int, Balance])
    shown: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(slots=True)
class Witness:
    """Counts what cannot be right, with a few examples in words."""

    violations: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(KINDS, 0)))
    checked: int = 0
    unread: int = 0
    """Members that could not be read again in the end."""
    examples: list[str] = field(default_factory=list[str])
    _members: dict[str, _Known] = field(default_factory=dict[str, _Known])

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.violations.total() and not self.unread

    def commanded(self, account: Mapping[str, Any], change: Balance | None) -> None:
        """A command that should do `change` to the buckets answered with this account."""
        if change is not None:
            self._of(account["member_id"]).changes[int(account["version"])] = change
        self.account(account)

    def purchased(self, answer: Mapping[str, Any], money: int) -> None:
        """A purchase, paid with so many minor units of money, was answered."""
        base = sum(posting["points"] for posting in answer["postings"] if posting["reason"] == "base")
        limited = base == 0 and answer["account"]["version"] > _PURCHASES_PER_DAY
        if base != money // 100 and not limited:
            self._found(BALANCE, f"{answer['entry_id']}: {base} base points for {money} minor units")

    def repeated(self, first: bytes, second: bytes) -> None:
        """One command was sent twice and answered twice."""
        self.checked += 1
        if first != second:
            self._found(TWICE, f"{first[:80]!r} and {second[:80]!r}")

    def shown(self, member_id: str) -> dict[str, int]:
        """What reads of a member that are done had shown, by node or source: take it before the next one leaves."""
        return dict(self._of(member_id).shown)

    def read(self, member_id: str, version: int, *, source: str, before: Mapping[str, int], token: int = 0) -> None:
        """A read that left with this token (its version) when `before` was known answered this version."""
        self.checked += 1
        known = self._of(member_id)
        if version < token:
            self._found(TOKEN, f"{member_id}: version {version} from {source}, the token demanded {token}")
        if version < before.get(source, 0):
            self._found(BACKWARDS, f"{member_id}: version {version} from {source} after {before[source]}")
        known.shown[source] = max(version, known.shown.get(source, 0))

    def account(self, account: Mapping[str, Any]) -> None:
        """Somebody showed this account."""
        self.checked += 1
        member, version = self._of(account["member_id"]), int(account["version"])
        balance = tuple(int(account["balance"][bucket]) for bucket in _BUCKETS)
        known = member.balances.setdefault(version, balance)
        if known != balance:
            self._found(BALANCE, f"{account['member_id']} version {version}: {balance} and {known} ({_BUCKETS})")
        for later in (version, version + 1):
            self._fits(account["member_id"], member, later)
        while len(member.balances) > VERSIONS_KEPT:
            oldest = min(member.balances)
            del member.balances[oldest]
            member.changes.pop(oldest, None)

    def document(self) -> dict[str, Any]:
        """For run.json."""
        return {
            "checked": self.checked,
            "unread": self.unread,
            "violations": dict(self.violations),
            "examples": self.examples,
        }

    def _fits(self, member_id: str, member: _Known, version: int) -> None:
        """Whether a version is the one before it and its postings, where all three are known."""
        before, change = member.balances.get(version - 1), member.changes.get(version)
        after = member.balances.get(version)
        if before is None or change is None or after is None:
            return
        expected = tuple(was + moved for was, moved in zip(before, change, strict=True))
        if after != expected:
            self._found(BALANCE, f"{member_id} version {version}: {after}, but {before} and {change} make {expected}")

    def _of(self, member_id: str) -> _Known:
        if (known := self._members.get(member_id)) is None:
            known = self._members[member_id] = _Known()
        return known

    def _found(self, kind: str, example: str) -> None:
        self.violations[kind] += 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(f"{kind}: {example}")


def change_of(postings: Sequence[Mapping[str, Any]]) -> Balance:
    """What an entry's postings do to each bucket; points that go to the debt lower it."""
    moved: Counter[str] = Counter()
    for posting in postings:
        moved[posting["to"]] += posting["points"]
        moved[posting["from"]] -= posting["points"]
    moved["debt"] = -moved["debt"]
    return tuple(moved[bucket] for bucket in _BUCKETS)
