"""Page tokens and page sizes."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from query.page import SIZE_MAX, decode_page, encode_page, page_size
from query.question import VERSION_MAX, decode_activity_page, encode_activity_page
from query.views import activity_item, versions_of
from shard_router.errors import ProblemError
from shard_router.member_id import compose_member_id
from tests.query_world import entry

ADA, BOB = (compose_member_id(1, slot=1, unique=unique) for unique in (1, 2))
POSITIONS = st.one_of(st.integers(0, 2**53), st.lists(st.text(), max_size=3))


@given(st.text(max_size=50), POSITIONS)
def test_a_token_leads_back_to_its_position(listing: str, position: object) -> None:
    assert decode_page(listing, encode_page(listing, position)) == position


@given(st.text(max_size=200))
def test_any_other_text_is_malformed(text: str) -> None:
    with pytest.raises(ProblemError) as caught:
        decode_page("a list", text)
    assert caught.value.code == "malformed"
    assert caught.value.errors[0]["pointer"] == "/page_token"


def test_a_token_of_another_list_is_malformed() -> None:
    with pytest.raises(ProblemError):
        decode_page("stores None None", encode_page("stores eu None", 1))


@pytest.mark.parametrize("top", [0, -1, VERSION_MAX, True, 1.5, "7", None, [7]])
def test_a_forged_position_in_the_activity_is_malformed(top: object) -> None:
    listing = decode_listing(encode_activity_page(ADA, 7).decode())
    with pytest.raises(ProblemError):
        decode_activity_page(ADA, encode_page(listing, top))


def test_activity_tokens_are_bound_to_their_member() -> None:
    token = encode_activity_page(ADA, 7).decode()
    assert decode_activity_page(ADA, token) == 7
    with pytest.raises(ProblemError):
        decode_activity_page(BOB, token)


@pytest.mark.parametrize(("text", "size"), [(None, 50), ("1", 1), ("200", 200), ("201", SIZE_MAX), ("9" * 5000, 200)])
def test_page_sizes(text: str | None, size: int) -> None:
    assert page_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "ten", "\u0661", "9\u0661"])
def test_a_page_size_is_a_positive_number(text: str) -> None:
    with pytest.raises(ProblemError):
        page_size(text)


def decode_listing(token: str) -> str:
    import orjson  # noqa: PLC0415 - to forge a token

    return orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))[1]


@given(st.integers(1, VERSION_MAX - 1))
def test_the_version_of_an_activity_item_is_found(version: int) -> None:
    assert versions_of(ADA, [activity_item(entry(ADA, 1) | {"version": version})]) == [version]
