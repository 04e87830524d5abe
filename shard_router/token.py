"""The Consistency-Token: "I have seen version v of member m", written `v1.<member text>.<version>`.

A command's answer carries it; a query that sends it back never sees less. It holds no secret and grants nothing.
"""

from typing import Final, NamedTuple

from shard_router.errors import MalformedIdError
from shard_router.member_id import format_member_id, parse_member_id, parse_version

TOKEN_HEADER: Final = "Consistency-Token"  # noqa: S105 - a header's name
_SCHEME: Final = "v1"


class ConsistencyToken(NamedTuple):
    """A member and the version of it that must be seen."""

    member_id: int
    version: int


def format_token(member_id: int, version: int) -> str:
    """Write the token of a member's version."""
    return f"{_SCHEME}.{format_member_id(member_id)}.{version}"


def parse_token(text: str) -> ConsistencyToken:
    """Read a token; MalformedIdError when it is none of ours."""
    scheme, _, rest = text.partition(".")
    member, _, version = rest.partition(".")
    if scheme != _SCHEME:
        raise MalformedIdError(text)
    return ConsistencyToken(parse_member_id(member), parse_version(version))
