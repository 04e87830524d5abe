"""Ids and cards: golden vectors that must never change, and the errors a check symbol has to find."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_router.card import compose_card, new_card, parse_card
from shard_router.errors import MalformedIdError
from shard_router.member_id import (
    compose_member_id,
    format_member_id,
    format_reference,
    home_shown,
    new_member_id,
    parse_member_id,
    parse_reference,
    region_number_of,
    slot_of,
)

GOLDEN_IDS = [
    # region, slot, unique, id, text
    (1, 0, 0, 144115188075855872, "0400000000000X"),
    (1, 0, 1, 144115188075855873, "0400000000001Z"),
    (2, 4095, 12345, 432310379855491129, "0BZZ000000C1SZ"),
    (3, 2048, 17592186044416, 504420750451539968, "0E00G000000002"),
    (63, 4095, 35184372088831, 9223372036854775807, "7ZZZZZZZZZZZZ6"),
]
GOLDEN_CARDS = [
    (1, 0, 0, "0100000000000000008"),
    (2, 4095, 123456789012, "0240951234567890120"),
    (63, 17, 999999999999, "6300179999999999994"),
]
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

member_ids = st.builds(
    lambda region, slot, unique: compose_member_id(region, slot=slot, unique=unique),
    st.integers(1, 63),
    st.integers(0, 4095),
    st.integers(0, 2**45 - 1),
)


@pytest.mark.parametrize(("region", "slot", "unique", "member_id", "text"), GOLDEN_IDS)
def test_ids_are_what_they_were(region: int, slot: int, unique: int, member_id: int, text: str) -> None:
    assert compose_member_id(region, slot=slot, unique=unique) == member_id
    assert format_member_id(member_id) == text
    assert parse_member_id(text) == parse_member_id(text.lower()) == member_id
    assert (region_number_of(member_id), slot_of(member_id)) == (region, slot)


@pytest.mark.parametrize(("region", "slot", "unique", "card"), GOLDEN_CARDS)
def test_cards_are_what_they_were(region: int, slot: int, unique: int, card: str) -> None:
    assert compose_card(region, slot=slot, unique=unique) == card
    assert parse_card(card) == (region, slot)


@given(member_ids)
def test_an_id_begins_with_its_home(member_id: int) -> None:
    text = format_member_id(member_id)
    for written in (text, text.lower()):
        assert home_shown(written.encode()) == (region_number_of(member_id), slot_of(member_id))


@given(member_ids, st.integers(0, 12), st.sampled_from(ALPHABET))
def test_one_wrong_character_never_passes(member_id: int, position: int, character: str) -> None:
    text = format_member_id(member_id)
    wrong = text[:position] + character + text[position + 1 :]
    if wrong != text:
        with pytest.raises(MalformedIdError):
            parse_member_id(wrong)


@given(member_ids, st.integers(0, 12))
def test_two_neighbours_swapped_never_pass(member_id: int, position: int) -> None:
    text = format_member_id(member_id)
    wrong = text[:position] + text[position + 1] + text[position] + text[position + 2 :]
    if wrong != text:
        with pytest.raises(MalformedIdError):
            parse_member_id(wrong)


@given(st.text(max_size=40))
def test_any_other_text_is_malformed_and_nothing_else_happens(text: str) -> None:
    for parse in (parse_member_id, parse_card, lambda one: parse_reference("pur", one)):
        try:
            parse(text)
        except MalformedIdError:
            continue


@given(member_ids, st.integers(1, 10**9))
def test_a_reference_names_member_and_version_of_its_own_kind_only(member_id: int, version: int) -> None:
    text = format_reference("pur", member_id, version)
    assert parse_reference("pur", text)[1:] == (member_id, version)
    with pytest.raises(MalformedIdError):
        parse_reference("hld", text)


def test_fresh_ids_and_cards_lie_in_their_slot_and_differ() -> None:
    ids = {new_member_id(2, 99) for _ in range(1000)}
    assert len(ids) == 1000
    assert {(region_number_of(one), slot_of(one)) for one in ids} == {(2, 99)}
    assert parse_card(new_card(2, 99)) == (2, 99)
