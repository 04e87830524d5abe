"""Page tokens: where a list goes on, opaque to clients, bound to the list they came from.

A token grants nothing, so it is not signed; one of another list, or damaged, is `malformed`.
"""

import base64
import binascii
from typing import Any, Final

import orjson

from service.problem import malformed_parameter
from shard_router.errors import ProblemError

SIZE_DEFAULT: Final = 50
SIZE_MAX: Final = 200
_DIGITS_SEEN: Final = 4  # so much is over the maximum, whatever follows
_FORM: Final = 1


def encode_page(listing: str, position: Any) -> str:
    """Make the token of a position (JSON) in a listing; `listing` names the list and what it was filtered by."""
    return base64.urlsafe_b64encode(orjson.dumps([_FORM, listing, position])).rstrip(b"=").decode()


def decode_page(listing: str, token: str) -> Any:
    """Read the position in a token of this listing; `malformed` for any other."""
    try:
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        form, named, position = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, TypeError, binascii.Error) as error:
        raise not_of_this_list() from error
    if form != _FORM or named != listing:
        raise not_of_this_list()
    return position


def not_of_this_list() -> ProblemError:
    """Make the problem of a page token that does not fit."""
    return malformed_parameter("page_token", "not a page token of this list; send it as you got it")


def page_size(text: str | None) -> int:
    """Read a page size: 50 unless given, at most 200; `malformed` when it is no positive number."""
    if text is None:
        return SIZE_DEFAULT
    digits = text.lstrip("0")
    if not (digits.isascii() and digits.isdigit()):
        raise malformed_parameter("page_size", "send a positive integer")
    return min(int(digits[:_DIGITS_SEEN]), SIZE_MAX)
