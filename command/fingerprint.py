"""What tells two bodies apart under one key or one receipt: equal content has one fingerprint, however it is written.

A body is dumped once, without defaults and nulls, each value in its one form. A receipt's fingerprint
is of that content without the member; a key's adds method, path and member.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final

import orjson
from pydantic import BaseModel
from pydantic_core import to_json

from rules.text import composed
from rules.value import value

_DIGEST_BYTES: Final = 16  # enough to tell bodies of one key apart; nobody gains by forging a body of one's own


@value
class Fingerprint:
    """128 bits as hex; `earlier` gives what was stored for the same bytes before contents had one form."""

    text: str
    earlier: Callable[[], str] | None = None

    def matches(self, stored: str) -> bool:
        """Whether a stored fingerprint (hex) is of the same content."""
        return stored == self.text or (self.earlier is not None and stored == self.earlier())


_MEMBER: Final = {"member"}

NO_FINGERPRINT: Final = Fingerprint("")
"""Of commands without a key."""


@value
class Content:
    """What a validated body says; `digest` is of all but the member, `raw` the body as it was sent."""

    body: BaseModel
    digest: bytes
    raw: bytes

    def under_key(self, head: str, head_as_given: str) -> Fingerprint:
        """The fingerprint under an Idempotency-Key; `head` is method and path, with ids in their one form."""
        member = getattr(self.body, "member", None)
        named = _dumped(member) if member is not None else b""
        text = _digest(b"%b\n%b\n%b" % (head.encode(), named, self.digest)).hex()
        return Fingerprint(text, lambda: _digest(f"{head_as_given}\n".encode() + self._as_given()).hex())

    def under_receipt(self, path: str, path_as_given: str) -> Fingerprint:
        """The fingerprint of a till's document, whoever it is for; the path of a purchase is ""."""

        def earlier() -> str:
            return _digest(f"{path_as_given}\n".encode() + self._as_given({"member"})).hex()

        return Fingerprint(_digest(f"{path}\n".encode() + self.digest).hex(), earlier)

    def _as_given(self, exclude: set[str] | None = None) -> bytes:
        """The body with every field that was given and as it was given: zeros, blanks, nulls, defaults."""
        said = self.body.model_dump(exclude=exclude, exclude_unset=True)
        return to_json(_as_written(said, orjson.loads(self.raw or b"{}")))


def read_content(body: BaseModel, raw: bytes = b"") -> Content:
    """The content of a validated body; `raw`, when it has texts that validation composes or trims."""
    return Content(body, _digest(_dumped(body, _MEMBER)), raw)


def _dumped(body: BaseModel, exclude: set[str] | None = None) -> bytes:
    """JSON as `model_dump_json(exclude=exclude, exclude_defaults=True)` gives it, without a text in between."""
    return body.__pydantic_serializer__.to_json(body, exclude=exclude, exclude_defaults=True)


def _as_written(said: Any, given: Any) -> Any:
    """What a body says with its texts as they were sent; other values are kept as sent by their fields."""
    if isinstance(said, dict) and isinstance(given, dict):
        fields: dict[str, Any] = given
        return {name: _as_written(value, fields.get(name)) for name, value in said.items()}
    if isinstance(said, list) and isinstance(given, list):
        return [_as_written(*pair) for pair in zip(said, given, strict=True)]
    if isinstance(given, str) and (said == composed(given) or (said is None and not given)):
        return given
    return said


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=_DIGEST_BYTES).digest()
