"""Equal content has one fingerprint however it is written; other content has another; what is stored stays valid."""

import json
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, TypeAdapter

from command.body import AdjustmentBody, EnrolBody, IdentifiersBody, RedemptionBody, ReturnBody, TransferBody
from command.fingerprint import Content, read_content
from query.evaluation import EvaluationBody
from service.body import PurchaseBody, StrictModel

MEMBER = "04G00000000002"
PURCHASE: dict[str, Any] = {
    "member": {"member_id": MEMBER},
    "store": "330",
    "till": "1",
    "receipt": "7",
    "occurred_at": "2026-11-22T10:00:00Z",
    "currency": "EUR",
    "lines": [{"sku": "a", "quantity": 1, "amount": 100}, {"sku": "b", "quantity": "0.5", "amount": 5}],
    "capture_holds": [f"hld_{MEMBER}-3"],
}
PLAIN = {name: value for name, value in PURCHASE.items() if name != "capture_holds"}
RETURN = {name: PURCHASE[name] for name in ("store", "till", "receipt", "occurred_at")} | {
    "lines": [{"line": 1, "quantity": 1}]
}
NOBODY = {"card": None, "phone": None, "email": None, "member_id": None}
REDEMPTION = {"member": {"member_id": MEMBER}, "reward": "coffee"}
POINTS = {"member": {"member_id": MEMBER}, "points": 5, "reason": "x"}


MODELS = [*StrictModel.__subclasses__(), EvaluationBody]
OPTIONAL = [(model, name) for model in MODELS for name, one in model.model_fields.items() if not one.is_required()]


@pytest.mark.parametrize(("model", "name"), OPTIONAL)
def test_null_in_an_optional_field_says_as_much_as_nothing(model: type[StrictModel], name: str) -> None:
    field = model.model_fields[name]
    checked: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, name, *field.metadata])
    assert checked.validate_json("null") == field.get_default(call_default_factory=True)


def content(model: type[BaseModel], body: Any) -> Content:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_content(model.model_validate_json(raw), raw)


def fingerprints(model: type[BaseModel], body: Any) -> tuple[str, str]:
    said = content(model, body)
    return said.under_key("POST /v1/x", "POST /v1/x").text, said.under_receipt("", "").text


def lines(first: Any, second: Any, **more: Any) -> dict[str, Any]:
    return {
        "lines": [
            {"sku": "a", "quantity": first, "amount": 100} | more,
            {"sku": "b", "quantity": second, "amount": 5} | more,
        ]
    }


@pytest.mark.parametrize(
    ("model", "one", "other"),
    [
        (PurchaseBody, PURCHASE, PURCHASE | lines(1.0, 0.5)),
        (PurchaseBody, PURCHASE, PURCHASE | lines("1.000", "0.500")),
        (PurchaseBody, PURCHASE, PURCHASE | lines(1, "0.5", category=None)),
        (PurchaseBody, PURCHASE | lines(100, "0.5"), PURCHASE | lines("100.0", "0.5")),
        (PurchaseBody, PURCHASE, PURCHASE | {"coupons": [], "pay_with_points": 0}),
        (PurchaseBody, PLAIN, PLAIN | {"capture_holds": []}),
        (PurchaseBody, PLAIN, PLAIN | {"capture_holds": None, "coupons": None, "pay_with_points": None}),
        (RedemptionBody, REDEMPTION, REDEMPTION | {"quantity": None}),
        (IdentifiersBody, {"new_card": True}, {"new_card": True, "add": None, "remove": None}),
        (PurchaseBody, PURCHASE, PURCHASE | {"occurred_at": "2026-11-22T11:00:00.000+01:00"}),
        (PurchaseBody, PURCHASE, PURCHASE | {"member": {"member_id": MEMBER.lower()}}),
        (PurchaseBody, PURCHASE, PURCHASE | {"member": NOBODY | {"member_id": MEMBER}}),
        (PurchaseBody, PURCHASE, PURCHASE | {"capture_holds": [f"hld_{MEMBER.lower()}-3"]}),
        (PurchaseBody, PURCHASE, dict(reversed(PURCHASE.items()))),
        (ReturnBody, RETURN, RETURN | {"lines": [{"line": 1, "quantity": "1.0"}]}),
        (AdjustmentBody, POINTS, POINTS | {"pending_until": None, "expires_at": None}),
        (
            RedemptionBody,
            {"member": {"card": "1234"}, "reward": "coffee"},
            {"member": {"card": "1234"}, "reward": "coffee", "quantity": 1, "store": None},
        ),
        (
            TransferBody,
            {"from": {"member_id": MEMBER}, "to": {"member_id": MEMBER}, "points": 1},
            {"from": {"member_id": MEMBER.lower()}, "to": NOBODY | {"member_id": MEMBER.lower()}, "points": 1},
        ),
        (EnrolBody, {"referred_by": MEMBER}, {"referred_by": MEMBER.lower(), "name": None}),
    ],
)
def test_content_that_is_written_otherwise_is_the_same_content(model: type[BaseModel], one: Any, other: Any) -> None:
    assert fingerprints(model, one) == fingerprints(model, other)


@pytest.mark.parametrize(
    "change",
    [
        lines(1, "0.51"),
        lines(10, "0.5"),
        {"coupons": ["A"]},
        {"pay_with_points": 1},
        {"occurred_at": "2026-11-22T10:00:00.001Z"},
        {"capture_holds": []},
        {"receipt": "8"},
    ],
)
def test_other_content_has_another_fingerprint(change: Any) -> None:
    one, other = fingerprints(PurchaseBody, PURCHASE), fingerprints(PurchaseBody, PURCHASE | change)
    assert one[0] != other[0]
    assert one[1] != other[1]


def test_the_member_counts_under_a_key_and_not_under_a_receipt() -> None:
    one, other = (fingerprints(PurchaseBody, PURCHASE | {"member": member}) for member in ({"card": "1234"}, NAMED))
    assert one[0] != other[0]
    assert one[1] == other[1]


NAMED = {"phone": "+4930123456"}


@pytest.mark.parametrize(
    ("model", "head", "raw", "under_key", "under_receipt"),
    [
        (
            PurchaseBody,
            "POST /v1/purchases",
            (
                b'{"member":{"member_id":"04g00000000002"},"store":"330","till":"1","receipt":"7",'
                b'"occurred_at":"2026-11-22T11:00:00+01:00","currency":"EUR",'
                b'"lines":[{"sku":"a","quantity":1.0,"amount":100,"category":null},'
                b'{"sku":"b","quantity":"0.500","amount":5}],"coupons":[]}'
            ),
            "6a8960c981fcd2caac0a49acb3a816cb",
            "f9b3c04d85561dbf5a129dacf1974919",
        ),
        (
            PurchaseBody,
            "POST /v1/purchases",
            (
                '{"member":{"email":"Bjo\u0308rn@Example.com"},"store":"330","till":"1 ","receipt":"Bon-A\u03081",'
                '"occurred_at":"2026-11-22T10:00:00Z","currency":"EUR","lines":[{"sku":" a","quantity":"1.0",'
                '"amount":100,"category":""}],"coupons":["hello50"]}'
            ).encode(),
            "f03003da91c66bc7c8bf964190dc4042",
            "e7a1502df4fe776e59a88429c355b7bd",
        ),
        (
            ReturnBody,
            "POST /v1/purchases/pur_04g00000000002-7/returns",
            (
                b'{"store":"330","till":"1","receipt":"8","occurred_at":"2026-11-22T10:00:00Z",'
                b'"lines":[{"line":1,"quantity":"1.0"}]}'
            ),
            "d8666627a64ee61a93a2603901b2136b",
            "d05bffd29617281fd47532a7902407f5",
        ),
        (
            TransferBody,
            "POST /v1/transfers",
            b'{"from":{"card":"0100000000000000008"},"to":{"phone":"+4930123456"},"points":50}',
            "bce4a0d234fb0f088b7e8b039920cdb7",
            None,
        ),
        (
            EnrolBody,
            "POST /v1/members",
            b'{"phone":"+4930123456","birth_date":"1990-05-01","email":null}',
            "e89c44b0be6309eeb9154d06712e45a1",
            None,
        ),
    ],
)
def test_fingerprints_of_bodies_as_they_were_given_stay_valid(
    model: type[BaseModel], head: str, raw: bytes, under_key: str, under_receipt: str | None
) -> None:
    """As the first release stored them."""
    said, path = content(model, raw), head.partition(" ")[2] if model is ReturnBody else ""
    assert said.under_key(head.upper(), head).matches(under_key)
    assert under_receipt is None or said.under_receipt(path.upper(), path).matches(under_receipt)
    assert not said.under_key(head, head).matches("0" * 32)
