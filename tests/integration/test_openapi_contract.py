"""Malformed input is answered 4xx by every operation, never 5xx: requests made from the published document itself.

The document's own schemas tell which bodies and parameters are wrong, so what it promises and what the node
refuses are held to each other.
"""

import asyncio
import copy
import io
import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from jsonschema import Draft202012Validator
from yarl import URL

from service.shape import MEMBER_EXAMPLE
from tests.command_node import RunningNode, running_command_node
from tests.query_world import ShardPlace, World, open_world

WHO_EXAMPLE = '{"phone":"+4930123456"}'
AT_ONCE = 16
PATIENCE_MS = 60_000  # a 503 would be that of a busy machine
DEEP = 5_000
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 2**63, 10**30, "", " ", "\0", "1e999", "\x7f\u2028", "x" * 5_000, [], [[]], {}, {"a": 1},
)  # fmt: skip
BODIES = (
    b"null", b"[]", b'"text"', b"7", b"{", b'{"a":1}', b"{'a':1}", b"\xff\xfe{}", b'{"a":"\xed\xa0\x80"}', b"NaN",
    b"\x00", b"[" * DEEP, b'{"a":' * DEEP, b'{"a":1e400}', b'{"a":' + b"9" * DEEP + b"}", b'{"\\ud800":"\\udfff"}',
)  # fmt: skip
PATHS = (
    "x", "-1", "%00", "%20", "%ED%A0%80", "%F0%9F%92%A9", "..%2F..", "%25", "pur_-1", "hld_x-0", "red_%C3%A4-1",
    "pur_042D00BFXR71NV-99999999999999999999", "Z" * 14, "a" * 2_000,
)  # fmt: skip
TEXTS = ("", "x", "-1", "0", "1e3", "9" * 400, "\0", "ä", "'\"", "%", ",", "nan,nan", "1,2,3", "=" * 50)
HEADERS = ("", "x", '"', "W/", "a b", "ä", "-1", "9" * 400, "v1", "v1..", f"v1.{MEMBER_EXAMPLE}.", "*,*", "x" * 300)


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `wrong`: the document says that it cannot be answered with success."""

    method: str
    path: str
    about: str = "as it should be"
    wrong: bool = False
    query: dict[str, str] = field(default_factory=dict[str, str])
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Nodes:
    """Both nodes on one database, and a member who exists."""

    command: RunningNode
    query: World
    member: dict[str, Any]


@pytest.fixture
async def nodes(tmp_path: Path, database: str, valkey_url: str) -> AsyncGenerator[Nodes]:
    folders = [tmp_path / "command", tmp_path / "query"]
    for folder in folders:
        folder.mkdir()
    async with (
        running_command_node(database, folders[0], deadline_ms=PATIENCE_MS) as command,
        open_world(folders[1], {"eu-1": ShardPlace([database], valkey_url)}, deadline_ms=PATIENCE_MS) as query,
    ):
        yield Nodes(command, query, await command.enrol())


async def test_a_command_node_refuses_what_is_malformed(nodes: Nodes) -> None:
    await check_node(nodes.command.url, nodes.command.keys["service"], nodes.member)


async def test_a_query_node_refuses_what_is_malformed(nodes: Nodes) -> None:
    await check_node(nodes.query.nodes["eu"], nodes.query.keys["service"], nodes.member)


WRONG_METHODS = (
    ("PUT", "/v1/members/{member_id}/account", "GET,HEAD"),
    ("POST", "/v1/tiers", "GET,HEAD"),
    ("GET", "/v1/purchases", "POST"),
    ("DELETE", "/v1/holds/x/void", "POST"),
)


@pytest.mark.parametrize(("method", "path", "allow"), WRONG_METHODS)
async def test_a_method_that_neither_side_has_is_told_by_both_which_there_are(
    nodes: Nodes, method: str, path: str, allow: str
) -> None:
    sides = ((nodes.command.url, nodes.command.keys), (nodes.query.nodes["eu"], nodes.query.keys))
    target = path.format(member_id=nodes.member["member_id"])
    async with aiohttp.ClientSession() as session:
        for url, keys in sides:
            headers = {"Authorization": f"Bearer {keys['service']}"}
            async with session.request(method, url + target, headers=headers) as answer:
                assert (answer.status, (await answer.json())["code"]) == (405, "method_not_allowed")
                assert answer.headers["Allow"] == allow


async def check_node(url: str, credential: str, member: dict[str, Any]) -> None:
    """Send what can be wrong with each operation and collect every answer that breaks the contract."""
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {credential}"}) as session:
        async with session.get(f"{url}/openapi.json") as answer:
            text = await answer.text()
        document = json.loads(
            text.replace(MEMBER_EXAMPLE, member["member_id"]).replace(WHO_EXAMPLE, f'{{"card":"{member["card"]}"}}')
        )
        operations = [(path, method) for path, methods in document["paths"].items() for method in methods]
        calls = [call for path, method in operations for call in mutations(document, path, method)]
        calls.sort(key=lambda call: call.method == "DELETE")  # the member is needed until then
        gate = asyncio.Semaphore(AT_ONCE)

        async def send(call: Call) -> str | None:
            async with gate:
                return await broken(session, url, call)

        found = await asyncio.gather(*(send(call) for call in calls))
    assert len(calls) > 24 * len(operations)
    assert not [one for one in found if one]


async def broken(session: aiohttp.ClientSession, url: str, call: Call) -> str | None:
    """What is wrong with the answer to a call; None when it keeps the contract. A node that is busy is asked again."""
    target = URL(url + call.path, encoded=True).with_query(call.query)
    told = f"{call.method} {call.path[:60]} {call.about}"
    while True:
        async with session.request(
            call.method, target, data=io.BytesIO(call.body) if call.body else None, headers=call.headers
        ) as answer:
            if answer.status < 400:
                return f"{told}: answered {answer.status}" if call.wrong else None
            content = await answer.read()
        if answer.status != 503 or b'"code":"overloaded"' not in content:
            break
    if answer.status >= 500 or answer.content_type != "application/problem+json":
        return f"{told}: {answer.status} {content[:200]!r}"
    problem = json.loads(content)
    complete = {"type", "title", "status", "detail", "code", "retryable", "request_id"} <= problem.keys()
    return None if complete and problem["status"] == answer.status else f"{told}: {problem}"


def mutations(document: dict[str, Any], path: str, method: str) -> Iterator[Call]:
    """Everything that is tried with one operation."""
    operation = document["paths"][path][method]
    parameters = operation["parameters"]
    examples = {one["name"]: str(one["schema"].get("examples", ["1"])[0]) for one in parameters if one["in"] == "path"}
    headers = {"Idempotency-Key": f"{operation['operationId']}-{method}"} if keyed(parameters) else {}
    good = Call(method.upper(), path.format(**examples), headers=headers)
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]["application/json"]
        good = replace(
            good, headers=headers | {"Content-Type": "application/json"}, body=dump(content.get("example", {}))
        )
        yield from of_body(good, document, content)
    yield good
    yield replace(good, about="PATCH", method="PATCH", wrong=True)
    yield replace(good, about="unknown parameter", query={"surprise": "1"}, wrong=True)
    yield replace(good, about="no credential", headers=good.headers | {"Authorization": "Bearer nobody"}, wrong=True)
    for text in PATHS if examples else ():
        # Only an operation that knows a 404 can tell that there is nothing of that name.
        wrong, about = "404" in operation["responses"], f"path {text[:40]}"
        yield replace(good, about=about, path=path.format(**dict.fromkeys(examples, text)), wrong=wrong)
    for one in parameters:
        yield from of_parameter(good, one)


def keyed(parameters: list[dict[str, Any]]) -> bool:
    return any(one["name"] == "Idempotency-Key" for one in parameters)


def of_parameter(good: Call, parameter: dict[str, Any]) -> Iterator[Call]:
    """One query parameter or header, wrong in many ways."""
    name, schema = parameter["name"], parameter["schema"]
    if parameter["in"] == "query":
        for text in TEXTS:
            value: Any = int(text) if text.lstrip("-").isdigit() else text
            wrong = schema["type"] == "integer" and not Draft202012Validator(schema).is_valid(value)
            yield replace(good, about=f"{name}={text[:20]!r}", query={name: text}, wrong=wrong)
    if parameter["in"] == "header":
        for text in HEADERS:
            yield replace(good, about=f"{name}: {text[:20]!r}", headers=good.headers | {name: text})
        if parameter["required"]:
            without = {key: text for key, text in good.headers.items() if key != name}
            yield replace(good, about=f"no {name}", headers=without, wrong=True)


def of_body(good: Call, document: dict[str, Any], content: dict[str, Any]) -> Iterator[Call]:
    """The body, wrong as a whole, and wrong in each of its places; every attempt under a key of its own."""
    schema = content["schema"] | {"components": document["components"]}
    validator = Draft202012Validator(schema)
    tried = [(f"body {raw[:20]!r}", raw) for raw in BODIES]
    for place, value in places(document, content["schema"], content.get("example", {})):
        tried.append(
            (f"{'/'.join(map(str, place))} = {str(value)[:20]!r}", dump(changed(good.body or b"{}", place, value)))
        )
    for number, (about, raw) in enumerate(tried):
        yield replace(unique(good, number), about=about, body=raw, wrong=not valid(validator, raw))
    yield replace(unique(good, -1), about="a large body", body=b'{"a":"' + b"x" * 1_100_000 + b'"}', wrong=True)
    plain = good.headers | {"Content-Type": "text/plain"}
    yield replace(good, about="text/plain", headers=plain, body=b"hello", wrong=True)


def unique(good: Call, number: int) -> Call:
    if "Idempotency-Key" not in good.headers:
        return good
    return replace(good, headers=good.headers | {"Idempotency-Key": f"{good.headers['Idempotency-Key']}{number}"})


def valid(validator: Any, raw: bytes) -> bool:
    try:
        return validator.is_valid(without_nulls(json.loads(raw)))
    except (ValueError, RecursionError):
        return False


def without_nulls(value: Any) -> Any:
    """What a body says: a null is an absent field."""
    if isinstance(value, dict):
        return {name: without_nulls(part) for name, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value


def places(document: dict[str, Any], schema: dict[str, Any], example: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every place of a body with every value to put there; `...` means: leave it out."""
    whole = resolved(document, schema)
    choices = [whole, *whole.get("oneOf", []), *whole.get("anyOf", [])]
    for name, part in {key: one for choice in choices for key, one in choice.get("properties", {}).items()}.items():
        for value in (..., *VALUES):
            yield (name,), value
        inner = resolved(document, part)
        if isinstance(example, dict) and isinstance(example.get(name), dict):
            yield from (((name, *rest), value) for rest, value in places(document, inner, example[name]))
        if isinstance(example, dict) and isinstance(example.get(name), list) and "items" in inner:
            for rest, value in places(document, inner["items"], example[name][0]):
                yield (name, 0, *rest), value
    yield ("surprise",), 1


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]


def changed(body: bytes, place: tuple[Any, ...], value: Any) -> Any:
    """A body with another value in one place."""
    whole = copy.deepcopy(json.loads(body))
    part = whole
    for step in place[:-1]:
        part = part[step]
    if value is ...:
        part.pop(place[-1], None)
    else:
        part[place[-1]] = value
    return whole


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()
