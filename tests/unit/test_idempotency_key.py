"""What is an Idempotency-Key: the node and its published pattern say the same."""

import re

import pytest

from service.idempotency import KEY, parse_key


@pytest.mark.parametrize(("text", "key"), [("a", "a"), ('"a"', "a"), ('"', '"'), ('"a', '"a'), ('""a', '""a')])
def test_a_key_is_bare_or_quoted(text: str, key: str) -> None:
    assert parse_key(text) == key
    assert re.search(KEY, text)


@pytest.mark.parametrize("text", ["", '""', "a b", "a" * 256, f'"{"a" * 256}"', "\x7f", "é"])
def test_an_empty_key_is_none_in_quotes_too(text: str) -> None:
    assert parse_key(text) is None
    assert not re.search(KEY, text)
