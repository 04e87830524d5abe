"""What is not in its form is told which form that is: the integrator at the till reads it, and not a schema."""

from typing import Any

import orjson
import pytest

from command.body import EnrolBody, HoldBody
from service.body import PurchaseBody
from service.parse import parse_body
from shard_router.errors import ProblemError

SALE = {"store": "330", "till": "1", "receipt": "1", "occurred_at": "2026-11-22T10:00:00Z"}
LINES = {"lines": [{"sku": "a", "quantity": 1, "amount": 1}]}
WRONG = {
    "a phone as people say it": (EnrolBody, {"phone": "030 123456"}, "/phone", "+4930123456"),
    "a phone that is a number": (EnrolBody, {"phone": 4930123456}, "/phone", "+4930123456"),
    "a phone of no plan": (EnrolBody, {"phone": "+999123456789"}, "/phone", "no such phone number"),
    "no e-mail": (EnrolBody, {"email": "ada"}, "/email", "ada@example.com"),
    "a card with blanks": (EnrolBody, {"card": "12 34 56"}, "/card", "4 to 64 letters, digits and hyphens"),
    "a language in words": (EnrolBody, {"locale": "english"}, "/locale", "de-DE"),
    "a member's phone": (HoldBody, {"member": {"phone": "123"}, "points": 1}, "/member/phone", "+4930123456"),
    "a currency by its sign": (
        PurchaseBody,
        SALE | LINES | {"member": {"card": "1234"}, "currency": "€"},
        "/currency",
        "EUR",
    ),
    "an empty basket": (
        PurchaseBody,
        SALE | {"member": {"card": "1234"}, "currency": "EUR", "lines": []},
        "/lines",
        "send at least 1",
    ),
    "a member as a text": (HoldBody, {"member": "042D00BPF7P9MS", "points": 1}, "/member", "send an object"),
}


@pytest.mark.parametrize(("model", "body", "pointer", "words"), WRONG.values(), ids=WRONG)
def test_what_is_not_in_its_form_is_told_which_form_that_is(
    model: Any, body: dict[str, Any], pointer: str, words: str
) -> None:
    with pytest.raises(ProblemError) as refused:
        parse_body(model, orjson.dumps(body))
    assert [one["pointer"] for one in refused.value.errors] == [pointer]
    assert words in refused.value.errors[0]["detail"]
