"""The Consistency-Token."""

import pytest

from shard_router.errors import MalformedIdError
from shard_router.member_id import compose_member_id, format_member_id
from shard_router.token import format_token, parse_token

MEMBER = compose_member_id(1, slot=77, unique=12345)


def test_a_token_says_which_member_and_version() -> None:
    assert parse_token(format_token(MEMBER, 42)) == (MEMBER, 42)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v1",
        "v2." + format_member_id(MEMBER) + ".1",
        "v1." + format_member_id(MEMBER),
        "v1." + format_member_id(MEMBER) + ".",
        "v1." + format_member_id(MEMBER) + ".-1",
        "v1." + format_member_id(MEMBER) + ".1.1",
        "v1." + format_member_id(MEMBER) + ".\u0661",
        "v1." + format_member_id(MEMBER) + "." + "9" * 16,
        "v1.nobody.1",
    ],
)
def test_anything_else_is_no_token(text: str) -> None:
    with pytest.raises(MalformedIdError):
        parse_token(text)
