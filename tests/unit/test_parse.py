"""What a body may cost: it is counted before it is validated, and refused at its first fault."""

import json
import re
from functools import cache
from typing import Annotated, Any

import pytest
from pydantic import FailFast, Field, ValidationError, model_validator

from command.body import AdjustmentBody, EnrolBody, IdentifiersBody, TransferBody
from query.evaluation import EvaluationBody
from service.body import LINES_MAX, LineBody, StrictModel
from service.parse import ERRORS_MAX, SMALL_BYTES, parse_body, separators_max
from shard_router.errors import ProblemError

MEBIBYTE = 1_048_576
BASKET = {
    "member": {"card": "0100000000000000008"},
    "store": "330",
    "till": "1",
    "receipt": "r",
    "occurred_at": "2026-11-22T10:00:00Z",
    "currency": "EUR",
    "lines": [{"sku": "1095275", "quantity": 1, "amount": 1299, "category": "GROCERY"}],
}
LINE = json.dumps(BASKET["lines"])[1:-1].encode()
validated: list[int] = []


class CountedLine(LineBody):
    """A line that tells when it is validated."""

    @model_validator(mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        validated.append(1)
        return value


class Basket(EvaluationBody):
    """What members may ask, with counted lines."""

    lines: Annotated[list[CountedLine], FailFast(), Field(min_length=1, max_length=LINES_MAX)]  # pyright: ignore[reportIncompatibleVariableOverride]


def basket(**changes: Any) -> bytes:
    return json.dumps(BASKET | changes).encode()


def filled(before: bytes, piece: bytes, after: bytes) -> bytes:
    """A body of just below a mebibyte."""
    return before + piece * ((MEBIBYTE - len(before) - len(after)) // len(piece)) + after


@cache
def nasty() -> dict[str, bytes]:
    return {
        "lines that are empty": filled(b'{"lines":[', b"{},", b"{}]}"),
        "lines that are good": filled(b'{"lines":[', LINE + b",", LINE + b"]}"),
        "lines that are all wrong": basket(lines=[{"a": 1, "b": 2, "c": 3, "d": 4}] * 1_000),
        "names that nobody knows": json.dumps({f"f{number}": 0 for number in range(70_000)}).encode(),
        "as many as just pass": json.dumps({f"f{number}": 0 for number in range(7_000)}).encode(),
        "one name again and again": filled(b"{", b'"till":1,', b'"till":1}'),
        "a name of a mebibyte": filled(b'{"', b"x", b'":1}'),
        "empty lists": filled(b'{"x":[', b"[],", b"[]]}"),
        "deep lists": filled(b'{"x":[', b"[" * 150 + b"]" * 150 + b",", b"1]}"),
        "empty texts": filled(b'{"coupons":[', b'"",', b'""]}'),
        "numbers": filled(b'{"capture_holds":[', b"1,", b"1]}"),
        "separators in a text": filled(b'{"store":"', b'\\",{[', b'"}'),
        "nothing but quotes": filled(b"{", b'"', b"}"),
        "a number of a mebibyte": filled(b'{"pay_with_points":', b"9", b"}"),
        "a text of a mebibyte": filled(b'{"store":"', b"e\xcc\x80", b'"}'),
    }


@pytest.mark.parametrize("name", nasty())
@pytest.mark.parametrize("model", [Basket, TransferBody, EnrolBody])
def test_the_work_of_a_refusal_is_bounded_by_the_sizes_of_the_model(name: str, model: type[StrictModel]) -> None:
    raw = nasty()[name]
    assert len(raw) <= MEBIBYTE
    validated.clear()
    with pytest.raises(ProblemError) as refused:
        parse_body(model, raw)
    assert refused.value.code == "malformed"
    assert len(validated) <= LINES_MAX + 1
    assert len(refused.value.errors) <= ERRORS_MAX
    assert len(str(refused.value.errors)) < 20_000
    # Whatever was handed to the validator has no more values than the model can hold, or is small.
    if isinstance(wrong := refused.value.__cause__, ValidationError):
        outside = re.sub(rb'"(?:[^"\\]|\\.)*"', b"", raw)
        values = outside.count(b",") + outside.count(b"{") + outside.count(b"[")
        assert values <= separators_max(model)
        assert wrong.error_count() <= separators_max(model)


def test_the_largest_basket_with_the_longest_texts_is_taken() -> None:
    line = {"sku": "\N{PILE OF POO}" * 64, "quantity": "999999999.999", "amount": 1, "category": "a,{[" * 32}
    raw = json.dumps(BASKET | {"lines": [line] * LINES_MAX}, ensure_ascii=False).encode()
    assert len(raw) < MEBIBYTE
    assert len(parse_body(EvaluationBody, raw).lines) == LINES_MAX


def test_an_adjustment_of_nothing_is_told_by_its_field() -> None:
    raw = json.dumps({"member": {"card": "0100000000000000008"}, "points": 0, "reason": "goodwill"}).encode()
    with pytest.raises(ProblemError) as refused:
        parse_body(AdjustmentBody, raw)
    assert refused.value.errors == [{"pointer": "/points", "detail": "must not be 0"}]


def test_a_list_a_little_too_long_is_told_by_its_name() -> None:
    with pytest.raises(ProblemError) as refused:
        parse_body(EvaluationBody, basket(lines=BASKET["lines"] * (LINES_MAX + 1)))
    assert refused.value.errors[0]["pointer"] == "/lines"


def test_separators_within_texts_are_no_values() -> None:
    """Longer than what is never counted."""
    names = [{"email": f"{'a,{[' * 10}{number}@b.cc"} for number in range(20)]
    raw = json.dumps({"remove": names, "add": names[:0], "new_card": True}).encode()
    assert len(raw) < SMALL_BYTES
    padded = raw.replace(b'{"remove"', b"{" + b" " * SMALL_BYTES + b'"remove"')
    assert len(parse_body(IdentifiersBody, padded).remove) == 20


TWICE = {
    "at the top": (b'{"card":"1234","card":"1234"}', "/card"),
    "the second is null": (b'{"card":"1234","card":null}', "/card"),
    "written with an escape": (b'{"card":"1234","c\\u0061rd":"12345"}', "/card"),
    "with blanks": (b'{"card" : "1234" , "card" : "1234"}', "/card"),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_name_stands_once(name: str) -> None:
    raw, pointer = TWICE[name]
    with pytest.raises(ProblemError) as refused:
        parse_body(EnrolBody, raw)
    assert (refused.value.code, refused.value.errors[0]["pointer"]) == ("malformed", pointer)


@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        (b'"store": "330"', "/store"),
        (b'"member": {"card": "0100000000000000008"}', "/member"),
        (b'"card": "0100000000000000008"', "/member/card"),
        (b'"sku": "1095275"', "/lines/0/sku"),
    ],
)
def test_a_name_stands_once_wherever_it_is(path: bytes, pointer: str) -> None:
    raw = basket().replace(path, path + b", " + path)
    with pytest.raises(ProblemError) as refused:
        parse_body(EvaluationBody, raw)
    assert refused.value.errors[0]["pointer"] == pointer


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"coupons": [], "capture_holds": []},
        {"coupons": ["A", "B", "C"], "at": None},
        {"store": "Doe, Jane", "lines": [{"sku": "a,b", "quantity": 1, "amount": 2}]},
        {"lines": [{"sku": "a", "quantity": 1, "amount": 2}, *BASKET["lines"]]},
    ],
)
def test_commas_alone_make_no_name_a_second_one(changes: dict[str, Any]) -> None:
    assert parse_body(EvaluationBody, basket(**changes))
