"""The JSON Schemas of bodies and answers, in the words of JSON Schema and no more.

Clients are generated from them. So an optional field has no `default` (which generators take for "always there")
and every property has a description. What the models' checks know beyond their fields they say themselves.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import models_json_schema

from service.glossary import WORDS

Mode = Literal["validation", "serialization"]
REFERENCE: Final = "#/components/schemas/{model}"


def schemas_of(models: Iterable[tuple[type[BaseModel], Mode]]) -> tuple[Mapping[Any, Any], dict[str, Any]]:
    """References by model and mode, and the schemas they refer to by name."""
    references, definitions = models_json_schema(list(models), ref_template=REFERENCE)
    schemas = {name: _schema(name, schema) for name, schema in definitions.get("$defs", {}).items()}
    return references, schemas


def exactly_one(example: dict[str, Any]) -> ConfigDict:
    """Make the configuration of a model that demands exactly one of its fields: an object for each is one choice."""

    def rewrite(schema: dict[str, Any]) -> None:
        choices = [_choice(name, value) for name, value in schema["properties"].items()]
        description = schema["description"]
        schema.clear()
        schema |= {"description": description, "oneOf": choices, "examples": [example]}

    return ConfigDict(json_schema_extra=rewrite)


def at_least_one(example: dict[str, Any], **filled: dict[str, Any]) -> ConfigDict:
    """Make the configuration of a model one of whose fields must be `filled`: in the way that is given for each."""

    def rewrite(schema: dict[str, Any]) -> None:
        whole = {key: schema[key] for key in ("type", "properties", "additionalProperties")}
        description, properties = schema["description"], schema["properties"]
        schema.clear()
        choices = [
            whole | {"properties": properties | {name: _present(properties[name]) | way}, "required": [name]}
            for name, way in filled.items()
        ]
        schema |= {"description": description, "anyOf": choices, "examples": [example]}

    return ConfigDict(json_schema_extra=rewrite)


def _choice(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """An object with one property. Nulls of the others are taken too; told, they would hide the choice from clients."""
    present = {"properties": {name: _present(schema)}, "required": [name]}
    return {"type": "object", **present, "additionalProperties": False}


def _present(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a property that is there, and not as null."""
    told = {key: value for key, value in schema.items() if key == "description"}
    return told | next(one for one in schema["anyOf"] if one != {"type": "null"})


def _schema(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    shown = {key: value for key, value in schema.items() if key != "title"}
    if "properties" in schema:
        shown["properties"] = {key: _property(name, key, value) for key, value in schema["properties"].items()}
    for choices in schema.keys() & {"oneOf", "anyOf"}:
        shown[choices] = [_schema(name, choice) for choice in schema[choices]]
    return shown


def _property(model: str, name: str, schema: dict[str, Any]) -> dict[str, Any]:
    shown = {key: value for key, value in schema.items() if key not in ("title", "default")}
    words = WORDS.get(f"{model}.{name}") or WORDS.get(name)
    return shown if "description" in shown or words is None else shown | {"description": words}
