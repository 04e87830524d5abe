"""Which standby has everything that was acknowledged, and whether that can be proved.

A commit is acknowledged when any one standby has it on its disk. WAL comes in order, so of all standbys that may have
acknowledged alone, the one that is furthest has whatever any of them acknowledged: all of these have to be asked. One
that we killed ourselves no longer has to be, once another has a later write than its end: what it acknowledged lies
before that write, and since then it acknowledged nothing.
"""

from collections.abc import Collection, Iterable, Mapping


class Quorum:
    """What is known of the standbys of one primary, by name."""

    def __init__(self, names: Iterable[str]) -> None:
        self.needed = set(names)
        """Those that may have something acknowledged that no other has."""
        self._whole = set(self.needed)
        """Those that have streamed since they were last copied: they may be promoted."""
        self._ended: dict[str, int | None] = {}
        """Those that were killed, with a write of the primary after their end (None: there was none yet)."""

    @property
    def has_whole(self) -> bool:
        """Whether any may take the primary's place."""
        return bool(self._whole)

    @property
    def is_open(self) -> bool:
        """Whether one that was killed is needed, and only until another is known to have a later write."""
        running = self.needed - self._ended.keys()
        return bool(running) and running != self.needed

    def ended(self, name: str, *, lost: bool) -> None:
        """A standby was killed, for certain; its data are gone if lost."""
        self._ended[name] = None
        if lost:
            self._whole.discard(name)

    def begins(self, name: str) -> None:
        """It is about to run: from now on it may acknowledge."""
        self._ended.pop(name, None)
        self.needed.add(name)

    @property
    def gone(self) -> frozenset[str]:
        """Those that have ended by now; a write that begins now comes after all they acknowledged."""
        return frozenset(self._ended)

    def heard(self, written: int, streaming: Mapping[str, int], gone: frozenset[str]) -> None:
        """What a primary told: where a write stands, then how far each standby that streams has come.

        `gone` had ended before that write began.
        """
        for name in streaming:
            self._whole.add(name)
        for name, after in list(self._ended.items()):
            if after is None:
                self._ended[name] = written if name in gone else None
            elif any(flushed >= after for other, flushed in streaming.items() if other not in self._ended):
                self.needed.discard(name)

    def choose(
        self, received: Mapping[str, int | None], unable: Collection[str] = (), lesser: Collection[str] = ()
    ) -> str | None:
        """The standby that provably has all that was acknowledged, given how far those that answer have come.

        `unable` are those that cannot be promoted for another reason, `lesser` those that are only where no other can.
        """
        known = {name: position for name, position in received.items() if position is not None}
        if any(name not in known for name in self.needed):
            return None
        furthest = max((known[name] for name in known), default=0)
        able = [name for name in known if name in self._whole and name not in unable and known[name] == furthest]
        return min(able, key=lambda name: (name in lesser, name), default=None)
