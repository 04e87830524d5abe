"""What tells two bodies apart under one key or one receipt: equal content has one fingerprint, however it is written.

A body is dumped once, without defaults and nulls, each value in its one form. A receipt's fingerprint
is of that content without the member; a key's adds method, path and member.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from pydantic import BaseModel
from pydantic_core import to_json

_DIGEST_BYTES: Final = 16  # enough to tell bodies of one key apart; nobody gains by forging a body of one's own


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """128 bits as hex; `earlier` gives what was stored for the same bytes before contents had one form."""

    text: str
    earlier: Callable[[], str] | None = None

    def matches(self, stored: str) -> bool:
        """Whether a stored fingerprint (hex) is of the same content."""
        return stored == self.text or (self.earlier is not None and stored == self.earlier())


NO_FINGERPRINT: Final = Fingerprint("")
"""Of commands without a key."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a validated body says; `digest` is of all but the member."""

    body: BaseModel
    digest: bytes

    def under_key(self, head: str, head_as_given: str) -> Fingerprint:
        """The fingerprint under an Idempotency-Key; `head` is method and path, with ids in their one form."""
        member = getattr(self.body, "member", None)
        named = member.model_dump_json(exclude_defaults=True) if isinstance(member, BaseModel) else ""
        text = _digest(f"{head}\n{named}\n".encode() + self.digest).hex()
        return Fingerprint(text, lambda: _digest(f"{head_as_given}\n".encode() + _as_given(self.body)).hex())

    def under_receipt(self, path: str, path_as_given: str) -> Fingerprint:
        """The fingerprint of a till's document, whoever it is for; the path of a purchase is ""."""

        def earlier() -> str:
            return _digest(f"{path_as_given}\n".encode() + _as_given(self.body, {"member"})).hex()

        return Fingerprint(_digest(f"{path}\n".encode() + self.digest).hex(), earlier)


def read_content(body: BaseModel) -> Content:
    """The content of a validated body."""
    return Content(body, _digest(body.model_dump_json(exclude={"member"}, exclude_defaults=True).encode()))


def _as_given(body: BaseModel, exclude: set[str] | None = None) -> bytes:
    """The body with every field that was given and as it was given: quantities with their zeros, nulls, defaults."""
    return to_json(body.model_dump(exclude=exclude, exclude_unset=True))


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=_DIGEST_BYTES).digest()
