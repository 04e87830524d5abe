"""The near cache against a Valkey that changes, whatever comes between a change, its announcement and an answer."""

import random
from dataclasses import dataclass, field

import pytest

from query.near import Kept, NearCache
from query.views import account_key, header, profile_key

ADA, BOB, EVE = 1, 2, 3
MEMBERS = (ADA, BOB, EVE)


def stored(version: int, text: str = "") -> bytes:
    """A view that counts as an account and as a profile."""
    return header(version) + b'{"balance":{},"text":"%b"}' % text.encode()


@dataclass
class Shown:
    """A Valkey, the announcements that are still on their way to a node, and that node's near cache."""

    now: bool = True
    """Whether the node knows that it has heard everything."""
    states: list[dict[int, tuple[bytes, bytes]]] = field(
        default_factory=lambda: [{member: (stored(1), stored(1)) for member in MEMBERS}]
    )
    """All that Valkey has shown: accounts and profiles."""
    announced: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """On their way: the state that each is about, and its words."""
    certain: int = 0
    """The newest state of which the node has heard."""

    def __post_init__(self) -> None:
        self.near = NearCache(is_current=lambda: self.now, members_max=4)
        self.near.listen()

    def change(self, member: int, *, profile: bool) -> None:
        account, before = self.states[-1][member]
        version = int(account[:16]) + 1
        after = (stored(version), stored(version) if profile else before)
        self._show({member: after}, str(member))

    def repair(self, text: str) -> None:
        changed = {
            one: (stored(int(a[:16]), text), stored(int(p[:16]), text)) for one, (a, p) in self.states[-1].items()
        }
        self._show(changed, "*")

    def _show(self, changed: dict[int, tuple[bytes, bytes]], words: str) -> None:
        self.states.append(self.states[-1] | changed)
        self.announced.append((len(self.states) - 1, words))

    def hear(self) -> None:
        if self.announced:
            self.certain, words = self.announced.pop(0)
            if words == "*":
                self.near.clear()
            else:
                self.near.forget(words)

    def lose(self) -> None:
        """The subscription ends, and another begins: what was said between is not heard."""
        self.near.listen(listens=False)
        self.announced.clear()
        self.certain = len(self.states) - 1
        self.near.listen()

    def ask(self, member: int, *, profile: bool) -> tuple[int | None, list[str]]:
        keys = [account_key(member), profile_key(member)]
        return self.near.ticket, keys if profile else keys[:1]

    def shows(self, keys: list[str]) -> list[bytes | None]:
        return [self.states[-1][int(key[2:])]["am".index(key[0])] for key in keys]

    def believes(self, member: int, kept: Kept) -> bool:
        """Whether what is kept was shown together, by a state no older than the newest that was heard of."""
        account = header(kept.account.version) + kept.account.body
        profile = None if kept.profile is None else header(kept.profile.version) + kept.profile.body
        return any(
            account == state[member][0] and profile in (None, state[member][1]) for state in self.states[self.certain :]
        )


@dataclass
class Play:
    """A course of events drawn by chance."""

    chance: random.Random
    shown: Shown = field(default_factory=Shown)
    asked: list[tuple[int, list[str]]] = field(default_factory=list[tuple[int, list[str]]])
    answered: list[tuple[int, list[str], list[bytes | None]]] = field(
        default_factory=list[tuple[int, list[str], list[bytes | None]]]
    )

    def act(self) -> None:
        acts = {self.change: 2, self.shown.hear: 4, self.ask: 12, self.show: 12, self.answer: 12}
        rare = {self.repair: 0.3, self.shown.lose: 0.3}
        (act,) = self.chance.choices([*acts, *rare], [*acts.values(), *rare.values()])
        act()

    def change(self) -> None:
        self.shown.change(self.chance.choice(MEMBERS), profile=self.chance.random() < 0.5)

    def repair(self) -> None:
        self.shown.repair(str(self.chance.random()))

    def ask(self) -> None:
        ticket, keys = self.shown.ask(self.chance.choice(MEMBERS), profile=self.chance.random() < 0.5)
        assert ticket is not None
        if len(self.asked) + len(self.answered) < 3:
            self.asked.append((ticket, keys))

    def show(self) -> None:
        if self.asked:
            ticket, keys = self.asked.pop(0)
            self.answered.append((ticket, keys, self.shown.shows(keys)))

    def answer(self) -> None:
        if self.answered:
            self.shown.near.keep(*self.answered.pop(0))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_kept_is_a_picture_that_was_shown_since_what_was_heard(seed: int) -> None:
    play, together = Play(random.Random(seed)), 0
    for step in range(3_000):
        play.act()
        for one in MEMBERS:
            kept = play.shown.near.get(one)
            assert kept is None or play.shown.believes(one, kept), (step, one, kept)
            together += kept is not None and kept.profile is not None
    assert together > 300


def keep(near: NearCache, member: int, version: int = 1) -> None:
    keys = [account_key(member), profile_key(member)]
    ticket = near.ticket
    assert ticket is not None
    near.keep(ticket, keys, [stored(version)] * 2)


def test_what_is_not_certain_is_not_shown_and_shows_again() -> None:
    shown = Shown()
    keep(shown.near, ADA)
    shown.now = False
    assert shown.near.get(ADA) is None
    shown.now = True
    assert shown.near.get(ADA) is not None


def test_who_hears_nothing_and_who_has_no_room_keeps_nothing() -> None:
    deaf = NearCache(is_current=lambda: True)
    assert deaf.ticket is None
    none = NearCache(is_current=lambda: True, members_max=0)
    none.listen()
    assert none.ticket is None


def test_what_was_asked_before_an_announcement_is_not_kept() -> None:
    shown = Shown()
    ticket, keys = shown.ask(ADA, profile=True)
    assert ticket is not None
    shown.near.forget(str(BOB))
    shown.near.keep(ticket, keys, shown.shows(keys))
    assert len(shown.near) == 0


def test_what_was_read_last_is_what_is_kept() -> None:
    near = NearCache(is_current=lambda: True)
    near.listen()
    for version in (1, 2):
        keep(near, ADA, version)
        kept = near.get(ADA)
        assert kept is not None
        assert kept.account.version == version


def test_what_is_kept_is_bounded_and_whoever_is_asked_for_lately_stays() -> None:
    near = NearCache(is_current=lambda: True, members_max=100)
    near.listen()
    for member in range(10_000):
        keep(near, member)
        assert len(near) <= 100
        assert near.get(member) is not None
    assert near.get(1) is None


def test_nothing_is_kept_for_longer_than_its_life() -> None:
    near = NearCache(is_current=lambda: True, life_s=0.0)
    near.listen()
    keep(near, ADA)
    assert near.get(ADA) is None


@pytest.mark.parametrize("value", [b"", b"no version", header(3) + b"{", header(3) + b"[]"])
def test_what_cannot_be_parsed_and_what_is_not_there_is_not_kept(value: bytes) -> None:
    shown = Shown()
    ticket, keys = shown.ask(ADA, profile=True)
    assert ticket is not None
    shown.near.keep(ticket, keys, [value, stored(1)])
    shown.near.keep(ticket, keys, [None, stored(1)])
    assert len(shown.near) == 0
