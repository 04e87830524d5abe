"""Values: objects whose fields never change after they are made.

The type checker holds that. At run time nothing does: a frozen dataclass sets each field by a call of its own, and a
purchase makes some thirty values.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar, dataclass_transform

Kind = TypeVar("Kind")

_make: Final[Callable[[type], type]] = dataclass(slots=True, unsafe_hash=True)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(kind: type[Kind]) -> type[Kind]:
    """Make a class one of values: equal by their fields, and hashed by them."""
    return _make(kind)
