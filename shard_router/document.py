"""Documents that operators keep and processes read while they run: JSON of one shape.

Whatever is wrong with one (absent, unreadable, no JSON, another shape) is a DocumentError of one line.
"""

from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from shard_router.errors import DocumentError

Model = TypeVar("Model", bound=BaseModel)

Stamp = tuple[int, int, int]

_FAULTS_SHOWN: Final = 5


def read_document(path: Path, model: type[Model]) -> Model:
    """The document of a file; DocumentError names the file and what is wrong."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DocumentError(f"{path}: {error.strerror or error}") from error
    try:
        return parse_document(content, model)
    except DocumentError as error:
        raise DocumentError(f"{path}: {error}") from error


def stamp_of(path: Path) -> Stamp | None:
    """What differs once a file was written anew: of two writes in one tick of the clock its time alone does not.

    None when it cannot be looked at: then reading it tells why.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def parse_document(content: str | bytes, model: type[Model]) -> Model:
    """The document of a JSON text; DocumentError says what is wrong."""
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise DocumentError(describe_faults(error)) from error


def describe_faults(error: ValidationError) -> str:
    """What pydantic found wrong, in one line, without what was given: it may be a secret."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    shown = [": ".join(filter(None, [_place(fault["loc"]), _words(fault["msg"])])) for fault in faults[:_FAULTS_SHOWN]]
    more = [f"and {len(faults) - _FAULTS_SHOWN} more"] if len(faults) > _FAULTS_SHOWN else []
    return "; ".join(shown + more)


def _words(message: str) -> str:
    return message.removeprefix("Value error, ")


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location))
