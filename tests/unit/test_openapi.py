"""The OpenAPI document: valid, and its examples keep to its own schemas."""

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from aiohttp import web
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from pydantic import BaseModel, ValidationError

import command.operation
import service.body
from benchmarks.demo import program_stores
from cluster.system import DEFAULT_PROGRAM
from command import body
from query.http import HANDLERS
from query.operation import ABOUT, OPERATIONS
from query.shape import EntryKind
from service.openapi import About, Operation, Parameter, add_operations, describe
from service.resource import METHODS
from shard_router.errors import PROBLEMS

DOCUMENT = describe(OPERATIONS, ABOUT)
DOCUMENTS = (describe(command.operation.OPERATIONS, command.operation.ABOUT), DOCUMENT)
NEW_YEAR = "2028-01-01T00:00:00Z"
WORDS_OF_JSON_SCHEMA = {
    "$ref", "additionalProperties", "anyOf", "const", "dependentSchemas", "description", "enum", "examples",
    "exclusiveMaximum", "exclusiveMinimum", "format", "items", "maxItems", "maxLength", "maximum", "minItems",
    "minLength", "minimum", "multipleOf", "not", "oneOf", "pattern", "properties", "required", "type", "uniqueItems",
}  # fmt: skip
"""Those that may stand there; `default` is none of them: generators take it for "always there"."""


def test_every_resource_of_both_sides_is_known_to_each_with_its_methods() -> None:
    methods: dict[str, set[str]] = {}
    for operation in (*command.operation.OPERATIONS, *OPERATIONS):
        methods.setdefault(operation.path, set()).update(
            {"GET": ("GET", "HEAD")}.get(operation.method, (operation.method,))
        )
    assert {path: ",".join(sorted(names)) for path, names in methods.items()} == METHODS


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


@pytest.mark.parametrize("document", DOCUMENTS, ids=["command", "query"])
def test_schemas_speak_json_schema_and_say_what_each_property_means(document: dict[str, Any]) -> None:
    for where, schema in schemas_in(document["components"]["schemas"], ""):
        assert set(schema) <= WORDS_OF_JSON_SCHEMA, where
        for name, part in schema.get("properties", {}).items():
            assert "description" in part or "/dependentSchemas/" in where, f"{where}.{name}"


def schemas_in(value: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema among some by name, with those within."""
    for name, schema in value.items():
        yield f"{where}/{name}", schema
        for part in ("properties", "dependentSchemas"):
            inner = ((f"{where}/{name}/{part}", one) for one in [schema.get(part, {})])
            for at, named in inner:
                yield from schemas_in(named, at)
        several = [*schema.get("anyOf", []), *schema.get("oneOf", [])]
        for one in (*several, *(schema[key] for key in ("items", "not", "additionalProperties") if key in schema)):
            if isinstance(one, dict):
                yield from schemas_in({name: one}, where)


def test_kinds_of_entries_are_those_that_the_rules_write() -> None:
    written: set[str] = set()
    for file in Path("rules").glob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "entry":
                written |= constants(call.args[0])
            elif (
                isinstance(call, ast.Assign) and isinstance(call.targets[0], ast.Name) and call.targets[0].id == "kind"
            ):
                written |= constants(call.value)  # which of two it is stands in a name before the call
    assert set(get_args(EntryKind)) == written


def constants(expression: ast.expr) -> set[str]:
    return {node.value for node in ast.walk(expression) if isinstance(node, ast.Constant)}


def test_one_resource_has_one_name_in_both_documents() -> None:
    first_segments = [{path.split("{")[0]: path for path in document["paths"] if "{" in path} for document in DOCUMENTS]
    for start in first_segments[0].keys() & first_segments[1].keys():
        names = {documents[start].split("{")[1].split("}")[0] for documents in first_segments}
        assert len(names) == 1, start


@pytest.mark.parametrize(
    ("model", "given", "right"),
    [
        ("MemberReference", {"card": "1234"}, True),
        ("MemberReference", {"card": "1234", "phone": "+4930123456"}, False),
        ("MemberReference", {}, False),
        ("IdentifiersBody", {}, False),
        ("IdentifiersBody", {"add": []}, False),
        ("IdentifiersBody", {"new_card": False}, False),
        ("IdentifiersBody", {"new_card": True, "remove": [{"card": "1234"}]}, True),
        ("AdjustmentBody", {"member": {"card": "1234"}, "points": 0, "reason": "x"}, False),
        ("AdjustmentBody", {"member": {"card": "1234"}, "points": -1, "reason": "x"}, True),
        ("AdjustmentBody", {"member": {"card": "1234"}, "points": -1, "reason": "x", "expires_at": NEW_YEAR}, False),
        ("ReturnedLineBody", {"line": 1, "quantity": -5}, False),
        ("ReturnedLineBody", {"line": 1, "quantity": "abc"}, False),
        ("ReturnedLineBody", {"line": 1, "quantity": "0.375"}, True),
    ],
)
def test_the_schema_of_a_body_is_as_strict_as_the_node(model: str, given: Any, right: Any) -> None:
    schema = {"$ref": f"#/components/schemas/{model}", "components": DOCUMENTS[0]["components"]}
    assert Draft202012Validator(schema).is_valid(given) is right
    try:
        (getattr(body, model, None) or getattr(service.body, model)).model_validate(given)
    except ValidationError:
        assert not right
    else:
        assert right


EVERY_BODY = {one.request_model for one in (*command.operation.OPERATIONS, *OPERATIONS) if one.request_model}
NULLS = [
    pytest.param(model, name, id=f"{model.__name__}.{name}")
    for model in sorted(EVERY_BODY, key=lambda model: model.__name__)
    for name in (field.alias or name for name, field in model.model_fields.items())
]


@pytest.mark.parametrize(("model", "name"), NULLS)
def test_a_field_that_takes_null_says_so(model: type[BaseModel], name: str) -> None:
    """Null says the same as leaving it out; whoever reads the schema, or what is made of it, is to know."""
    component = next(one for one in DOCUMENTS if model.__name__ in one["components"]["schemas"])["components"]
    schema = {"$ref": f"#/components/schemas/{model.__name__}", "components": component}
    example = component["schemas"][model.__name__].get("examples", [{}])[0]
    others = {"new_card": True} if name == "add" else {"add": [{"card": "1234"}]} if name == "new_card" else {}
    given = example | others | {name: None}
    try:
        model.model_validate(given)
        taken = True
    except ValidationError:
        taken = False
    assert Draft202012Validator(schema).is_valid(given) is taken


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


def test_examples_name_the_member_that_the_first_example_enrols_and_a_store_of_the_default_program() -> None:
    """So that all of them work when they are sent as they stand, one after the other."""
    operations = (*command.operation.OPERATIONS, *OPERATIONS)
    models = [one.request_model for one in operations if one.request_model]
    bodies = [model.model_config.get("json_schema_extra") for model in models]
    examples = [example for extra in bodies if isinstance(extra, dict) for example in extra.get("examples", [])]
    enrolled = examples[0]["phone"]
    named = [example[name] for example in examples for name in ("member", "from") if name in example]
    assert (len(named) > 4, {*map(str, named)}) == (True, {str({"phone": enrolled})})
    stores = program_stores(DEFAULT_PROGRAM.read_text(encoding="utf-8"))
    assert {example["store"] for example in examples if "store" in example} <= stores.keys()


def test_summaries_are_plain_text_which_is_how_they_are_shown() -> None:
    assert not [one.summary for one in (*command.operation.OPERATIONS, *OPERATIONS) if "`" in one.summary]


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
        "get_system",
    }


def test_a_call_that_a_bound_till_may_not_make_says_so() -> None:
    assert "403" in DOCUMENTS[0]["paths"]["/v1/transfers"]["post"]["responses"]
