"""The system under load as a client sees it: the nodes of each region, and credentials."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import orjson

from benchmarks.turns import Turns
from benchmarks.wire import Client, WireError

_PURCHASES: Final = "/v1/purchases"
_ACCOUNT: Final = "/v1/members/{member_id}/account"
_STORES_PAGE: Final = 200


class DeploymentError(Exception):
    """A deployment that cannot be put under load; the text says why."""


class RegionClients:
    """Clients of one region's nodes. A request goes to the next node of its side that is well."""

    def __init__(self, commands: Sequence[Client], queries: Sequence[Client]) -> None:
        self._commands, self._queries = Turns(commands), Turns(queries)

    @property
    def command(self) -> Client:
        """The next command node's."""
        return self._commands.next

    @property
    def query(self) -> Client:
        """The next query node's."""
        return self._queries.next

    @property
    def sent_again(self) -> int:
        """How many requests met a connection that the node had closed, and were sent once more."""
        return self._commands.sent_again + self._queries.sent_again

    def close(self) -> None:
        """Close the connections."""
        self._commands.close()
        self._queries.close()


@dataclass(frozen=True, slots=True)
class Deployment:
    """Clients by region name. One object per event loop."""

    regions: Mapping[str, RegionClients]

    @classmethod
    def of_status(cls, status: Mapping[str, Any]) -> Self:
        """From what `loyalty status --json` prints."""
        key = status["keys"]["admin"]  # any other credential has a quarter of a node's places at most
        rows: dict[str, Any] = status["regions"]
        return cls(
            {
                name: RegionClients(
                    [Client(url, key) for url in row["command_nodes"]], [Client(url, key) for url in row["query_nodes"]]
                )
                for name, row in rows.items()
            }
        )

    @classmethod
    async def of_urls(cls, urls: Iterable[str], key: str) -> Self:
        """From node addresses in any order: each is asked which region it serves and which side it is."""
        found = await asyncio.gather(*(_ask(Client(url.rstrip("/"), key)) for url in urls))
        commands, queries = dict[str, list[Client]](), dict[str, list[Client]]()
        for client, region, paths in found:
            if "post" in paths.get(_PURCHASES, ()):
                commands.setdefault(region, []).append(client)
            if "get" in paths.get(_ACCOUNT, ()):
                queries.setdefault(region, []).append(client)
        regions = {name: RegionClients(clients, queries[name]) for name, clients in commands.items() if name in queries}
        if not regions:
            raise DeploymentError("--target needs a command node and a query node of at least one region")
        return cls(regions)

    async def stores(self) -> dict[str, str]:
        """Store -> region, as the program in force says; stores of regions that are not here are left out."""
        query = next(iter(self.regions.values())).query
        stores: dict[str, str] = {}
        page = ""
        while True:
            answer = await query.get(f"/v1/stores?page_size={_STORES_PAGE}{page}")
            if answer.code != "ok":
                raise DeploymentError(f"{query.base_url}/v1/stores answers {answer.code}")
            document = orjson.loads(answer.body)
            stores |= {item["store"]: item["region"] for item in document["items"] if item["region"] in self.regions}
            if "next_page_token" not in document:
                return stores
            page = f"&page_token={document['next_page_token']}"

    def close(self) -> None:
        """Close the connections."""
        for region in self.regions.values():
            region.close()


async def _ask(client: Client) -> tuple[Client, str, dict[str, Any]]:
    try:
        answer = await client.get("/openapi.json")
        return client, answer.header("Loyalty-Region") or "", orjson.loads(answer.body)["paths"]
    except (WireError, ValueError, KeyError) as error:
        raise DeploymentError(f"{client.base_url} is no node of this system: {error}") from error
