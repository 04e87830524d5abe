"""The OpenAPI document: valid, and its examples keep to its own schemas."""

import asyncio
from typing import Any

import pytest
from aiohttp import web
from openapi_spec_validator import validate
from pydantic import BaseModel

from query.http import HANDLERS
from query.operation import ABOUT, OPERATIONS
from service.openapi import About, Operation, Parameter, add_operations, describe
from shard_router.errors import PROBLEMS

DOCUMENT = describe(OPERATIONS, ABOUT)


class Wish(BaseModel):
    """What somebody wants."""

    points: int


WISH = Operation(
    "POST",
    "/v1/wishes/{wish_id}",
    "make_wish",
    "Wish for points",
    Wish,
    roles=("service",),
    request_model=Wish,
    status=201,
    problems=("insufficient_points",),
    parameters=(Parameter("wish_id", "path", "Which.", {"type": "string"}),),
    idempotent=True,
)


async def make_wish(_request: web.Request) -> web.Response:
    await asyncio.sleep(0)
    return web.Response()


def test_the_query_document_is_valid() -> None:
    validate(DOCUMENT)


def test_a_command_names_its_key_body_roles_and_problems() -> None:
    document = describe([WISH], About("Wishes", ""))
    validate(document)
    call = document["paths"]["/v1/wishes/{wish_id}"]["post"]
    assert [parameter["name"] for parameter in call["parameters"]] == ["wish_id", "Idempotency-Key"]
    assert call["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Wish"}
    assert call["security"] == [{"apiKey": []}]
    assert set(call["responses"]) == {"201", "400", "401", "403", "422", "429", "500", "503"}


def test_every_path_parameter_is_described() -> None:
    for operation in OPERATIONS:
        in_path = {part.strip("{}") for part in operation.path.split("/") if part.startswith("{")}
        assert in_path == {parameter.name for parameter in operation.parameters if parameter.place == "path"}


def test_every_problem_has_a_row() -> None:
    assert {code for operation in OPERATIONS for code in operation.problems} <= set(PROBLEMS)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.operation_id)
def test_examples_keep_to_their_models(operation: Operation) -> None:
    if operation.answer_model:
        call: dict[str, Any] = DOCUMENT["paths"][operation.path][operation.method.lower()]
        content = call["responses"]["200"]["content"]["application/json"]
        operation.answer_model.model_validate(content["example"])


def test_an_operation_without_handler_is_refused() -> None:
    with pytest.raises(ValueError, match="make_wish"):
        add_operations(web.Application(), [WISH], {}, about=About("Wishes", ""))
    with pytest.raises(ValueError, match="another"):
        add_operations(web.Application(), [WISH], {"make_wish": make_wish, "another": make_wish}, about=About("", ""))


def test_handlers_and_operations_of_the_query_node_match() -> None:
    assert {operation.operation_id for operation in OPERATIONS} == {
        *HANDLERS,
        "stream_account",
        "issue_stream_ticket",
        "evaluate_purchase",
    }
