"""From the bytes of a body to its model, at a cost that the sizes in the model bound, whatever the bytes say.

Counted first: a body with more values than its model can hold is refused unparsed. Lists fail at their first bad item.
And every name stands once: JSON leaves open what a second one means, so a body with one is refused (RFC 8259, 4).
"""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from shard_router.errors import ProblemError

ERRORS_MAX: Final = 20
NAME_MAX: Final = 100
SMALL_BYTES: Final = 4_096
"""A body as small is not counted: it cannot hold much."""
_SLACK: Final = 1.25  # so that a list a little too long is told by its name

_WORDS: Final = {
    "missing": "is missing",
    "extra_forbidden": "there is no such field",
    "string_pattern_mismatch": "is not in the form that /openapi.json shows",
    "model_type": "send an object",
    "list_type": "send a list",
    "too_short": "send at least {min_length}",
    "too_long": "send at most {max_length}",
}

_Body = TypeVar("_Body", bound=BaseModel)


def parse_body(model: type[_Body], raw: bytes) -> _Body:
    """The validated body; `malformed` with a JSON pointer for what is wrong."""
    if len(raw) > SMALL_BYTES and _separators(raw, at_most=separators_max(model)) > separators_max(model):
        raise ProblemError("malformed", "the body has more values than this call can take")
    try:
        body = model.model_validate_json(raw)
    except ValidationError as error:
        raise _malformed(error) from error
    if raw.count(b",") != _commas(body):
        _refuse_second_names(raw)
    return body


@cache
def separators_max(model: type[BaseModel]) -> int:
    """How many commas, braces and brackets a body can have that this model takes; the values in it are no more."""
    schema = model.model_json_schema(mode="validation")
    return int(_separators_of(schema, schema.get("$defs", {})) * _SLACK) + ERRORS_MAX


def _separators_of(schema: dict[str, Any], definitions: dict[str, Any]) -> int:
    if "$ref" in schema:
        return _separators_of(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "properties" in schema:
        return 1 + sum(1 + _separators_of(one, definitions) for one in schema["properties"].values())
    if schema.get("type") == "array":
        return 1 + schema["maxItems"] * (1 + _separators_of(schema["items"], definitions))
    choices = (*schema.get("anyOf", ()), *schema.get("oneOf", ()))
    return max((_separators_of(one, definitions) for one in choices), default=0)


def _separators(raw: bytes, *, at_most: int) -> int:
    """How many commas, braces and brackets stand outside of texts; any number over `at_most` when there are more."""
    count = raw.count(b",") + raw.count(b"{") + raw.count(b"[")
    if count <= at_most:
        return count
    # Some may stand in texts. In what is left after escapes are gone, every quote begins or ends one.
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in raw else raw
    # Each value has a separator or is the first of its container, each name has a value: texts are twice as many.
    if plain.count(b'"') > 4 * (at_most + 1):
        return at_most + 1
    outside = b"".join(plain.split(b'"')[::2])
    return outside.count(b",") + outside.count(b"{") + outside.count(b"[")


def _commas(body: BaseModel) -> int:
    """How many commas it takes to write what a body was read from, each name once."""
    given = body.model_fields_set
    count = len(given) - 1 if given else 0
    for name in _composite(type(body)):
        part = getattr(body, name) if name in given else None
        if part and _is_model(type(part)):
            count += _commas(part)
        elif part:
            count += len(part) - 1
            if _is_model(type(part[0])):
                leaf = not _composite(type(part[0]))
                count += sum([len(one.model_fields_set) - 1 if leaf else _commas(one) for one in part])
    return count


@cache
def _is_model(kind: type) -> bool:
    """Whether a part is a model. Kept, for to ask pydantic takes longer than to count the part."""
    return issubclass(kind, BaseModel)


@cache
def _composite(model: type[BaseModel]) -> tuple[str, ...]:
    """The fields of a model that hold models or lists."""
    return tuple(
        name for name, field in model.model_fields.items() if any(map(_is_composite, _types(field.annotation)))
    )


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from _types(argument)


def _is_composite(kind: Any) -> bool:
    return (
        kind is list
        or getattr(kind, "__origin__", None) is list
        or (isinstance(kind, type) and issubclass(kind, BaseModel))
    )


def _refuse_second_names(raw: bytes) -> None:
    pointer = _second_name(json.loads(raw, object_pairs_hook=_Pairs), ())
    if pointer is not None:
        detail = "there is a second one in the same object"
        raise ProblemError("malformed", f"{pointer}: {detail}", [{"pointer": pointer, "detail": detail}])


class _Pairs(list[tuple[str, Any]]):
    """Names and values of a JSON object, all there are."""


def _second_name(value: Any, path: tuple[int | str, ...]) -> str | None:
    """The pointer of the first name that stands in its object already."""
    if not isinstance(value, list):
        return None
    seen = set[int | str]()
    for name, part in value if isinstance(value, _Pairs) else enumerate(value):
        if name in seen:
            return _pointer((*path, name))
        seen.add(name)
        if found := _second_name(part, (*path, name)):
            return found
    return None


def _malformed(error: ValidationError) -> ProblemError:
    wrong = error.errors(include_url=False, include_input=False)
    errors = [{"pointer": _pointer(one["loc"]), "detail": _words(dict(one))} for one in wrong[:ERRORS_MAX]]
    return ProblemError("malformed", f"{errors[0]['pointer'] or 'body'}: {errors[0]['detail']}", errors)


def _words(error: dict[str, Any]) -> str:
    """What is wrong, in our words where the validator's own would show what it is made of."""
    if words := _WORDS.get(error["type"]):
        return words.format_map(error.get("ctx", {}))
    return str(error["msg"]).removeprefix("Value error, ")


def _pointer(location: tuple[int | str, ...]) -> str:
    """RFC 6901. A name longer than any of ours is cut: it is only to be recognised."""
    return "".join("/" + str(part)[:NAME_MAX].replace("~", "~0").replace("/", "~1") for part in location)
