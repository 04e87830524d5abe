"""Arrays of the types that our statements use, told to a session when it begins.

asyncpg knows only `text[]` and `oid[]`, and asks for others where it first meets one: in each session, with a statement
that takes a server 10 ms and leaves 2.6 MiB in its backend. The numbers are PostgreSQL's own and never change
(`pg_type.dat`).
"""

from typing import Any, Final

_ARRAYS: Final = {  # name of the element: number of the array, number of the element
    "bool": (1000, 16),
    "int4": (1007, 23),
    "int8": (1016, 20),
    "date": (1182, 1082),
    "timestamptz": (1185, 1184),
    "uuid": (2951, 2950),
}
_PLAIN: Final[dict[str, Any]] = {"ns": "pg_catalog", "kind": b"b", "elemdelim": ","} | dict.fromkeys(
    ("basetype", "range_subtype", "attrtypoids", "attrnames")
)
_TYPES: Final = tuple(
    {**_PLAIN, "name": f"_{name}", "oid": oid, "elemtype": element} for name, (oid, element) in _ARRAYS.items()
)


async def know_arrays(connection: Any) -> None:
    """Have a connection of asyncpg know these types, as if it had asked for them."""
    connection.get_settings().register_data_types(_TYPES)
