"""`loyalty program` as a person runs it, against the databases of two shards."""

import asyncio
import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

import command.program
from cluster.errors import ClusterError
from cluster.program import apply_everywhere, look_at
from command.program import ProgramCache, apply_program, learn_program
from service.credential import Credentials
from shard_router.statement import load_statements
from tests.command_node import PROGRAM, basket, running_command_node, topology_of_operator
from tests.engine import PostgresServer
from tests.project import PROJECT
from tests.sql import fetch

DOUBLED = PROGRAM.replace('per_unit = "1"', 'per_unit = "2"')
STATEMENTS = load_statements(Path(command.program.__file__).with_name("program.sql"))


@dataclass(frozen=True, slots=True)
class System:
    """Two shards, their topology document, and files."""

    folder: Path
    dsns: list[str]

    async def program(self, *words: str, file: str | None = None) -> tuple[int, str]:
        """What `loyalty program` does."""
        if file is not None:
            (self.folder / "program.toml").write_text(file)
            words = (words[0], "program.toml", *words[1:])
        return await self.loyalty("program", *words, "--topology", str(self.folder / "topology.json"))

    async def loyalty(self, *words: str) -> tuple[int, str]:
        """Exit code and everything that was printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cluster", *words,
            cwd=self.folder, env={"PYTHONPATH": str(PROJECT), "COLUMNS": "200"},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        printed, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, printed.decode()

    async def versions(self) -> list[list[int]]:
        held: list[list[int]] = []
        for dsn in self.dsns:
            connection = await asyncpg.connect(dsn)
            held.append([row[0] for row in await connection.fetch("SELECT version FROM program ORDER BY version")])
            await connection.close()
        return held


@pytest.fixture
def system(tmp_path: Path, database: str, second_database: str) -> System:
    system = System(tmp_path, [database, second_database])
    regions = {name: {"number": number, "command": [], "query": []} for number, name in enumerate(("eu", "us"), 1)}
    shards = {
        f"{region}-1": {"region": region, "slots": [[0, 4095]], "servers": [dsn], "valkey": "redis://none"}
        for region, dsn in zip(regions, system.dsns, strict=True)
    }
    (tmp_path / "topology.json").write_text(json.dumps({"epoch": 1, "regions": regions, "shards": shards}))
    return system


async def test_check_says_what_would_change_and_apply_does_it_on_every_shard(system: System) -> None:
    code, printed = await system.program("show")
    assert (code, "apply FILE" in printed) == (1, True)
    await apply_program(system.dsns, PROGRAM)
    assert await system.program("check", file=PROGRAM) == (
        0,
        "program.toml is valid.\nIt is the same as the running version 1.\n",
    )
    code, printed = await system.program("check", file=DOUBLED)
    assert (code, printed.splitlines()[1:]) == (0, ["Against the running version 1:", "  points.per_unit: 1 -> 2"])
    assert await system.versions() == [[1], [1]]
    code, printed = await system.program("apply", file=DOUBLED)
    assert code == 0, printed
    assert "Version 2 is on 2 shards, in force since 20" in printed
    code, printed = await system.program("apply", file=DOUBLED)
    assert (code, "same as the running version 2" in printed) == (0, True)
    assert await system.versions() == [[1, 2], [1, 2]]
    code, printed = await system.program("show")
    assert (code, printed.startswith("# program version 2, in force since 20")) == (0, True)
    assert printed.partition("\n")[2].strip() == DOUBLED.strip()


async def test_what_is_shown_can_be_applied_again_and_again_without_growing(system: System) -> None:
    """Files that an earlier version made begin with the header it printed; the text stored is without it."""
    old = "# program version 7, in force since 2026-01-01T00:00:00Z\n# version 8 is in force from 2027-01-01 on\n"
    assert (await system.program("apply", file=old * 2 + PROGRAM.lstrip()))[0] == 0
    output = system.folder / "shown.toml"
    assert (await system.program("show", "--output", str(output)))[0] == 0
    assert output.read_text().strip() == PROGRAM.strip()
    code, printed = await system.program("check", file=output.read_text())
    assert (code, "same as the running version 1" in printed) == (0, True), printed


async def test_another_notation_is_no_change_for_check_and_for_apply(system: System) -> None:
    await apply_program(system.dsns, PROGRAM)
    same = PROGRAM.replace('per_unit = "1"', 'per_unit = "1.00"  # as before')
    for word in ("check", "apply"):
        code, printed = await system.program(word, file=same)
        assert (code, "same as the running version 1" in printed) == (0, True), printed
    assert await system.versions() == [[1], [1]]


async def test_a_wrong_file_is_told_by_line_and_changes_nothing(system: System) -> None:
    await apply_program(system.dsns, PROGRAM)
    wrong = PROGRAM.replace("per_unit", "per_unti").replace('region = "eu"', "", 1)
    line = wrong[: wrong.index("per_unti")].count("\n") + 1
    for word in ("check", "apply"):
        code, printed = await system.program(word, file=wrong)
        assert code == 1
        assert f"program.toml: line {line}: points.per_unti: unknown key; did you mean 'per_unit'?" in printed
        assert "stores.1.region: is missing" in printed
        assert "Traceback" not in printed
    assert await system.versions() == [[1], [1]]


async def test_a_version_may_be_for_later_but_not_for_the_past(system: System) -> None:
    await apply_program(system.dsns, PROGRAM)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    for wrong in ("2020-01-01T00:00:00Z", tomorrow.strftime("%Y-%m-%dT%H:%M:%S"), "soon"):
        assert (await system.program("apply", "--at", wrong, file=DOUBLED))[0] == 2
    code, printed = await system.program("apply", "--at", tomorrow.isoformat(), file=DOUBLED)
    assert (code, f"Version 2 is on 2 shards, in force from {tomorrow:%Y-%m-%d}" in printed) == (0, True), printed
    code, printed = await system.program("show")
    assert (code, printed.startswith("# program version 1, "), "# version 2 is in force from" in printed) == (0, 1, 1)
    code, printed = await system.program("apply", file=DOUBLED)
    assert (code, "Version 3 is on 2 shards, in force since" in printed) == (0, True), printed
    assert "Version 2 will never start" in printed


async def test_an_apply_that_was_cut_short_shows_and_is_completed(system: System) -> None:
    await apply_program(system.dsns, PROGRAM)
    await apply_program(system.dsns[:1], DOUBLED)
    code, printed = await system.program("check", file=DOUBLED)
    assert (code, "cut short; not everything is on us-1" in printed) == (0, True), printed
    assert (await system.program("apply", file=DOUBLED))[0] == 0
    assert await system.versions() == [[1, 2], [1, 2]]


async def test_a_key_is_bound_to_a_store_that_the_program_has(system: System) -> None:
    await apply_program(system.dsns, PROGRAM)
    (system.folder / "credentials.json").write_text(json.dumps({"keys": [], "jwt_public_keys": []}))
    made: list[str] = []
    for words, told in (
        (("pos", "--store", "3300"), "the program has no store '3300': did you mean '330'?"),
        (("service", "--store", "330"), "--store binds a pos key"),
        (("pos", "--desk"), "--desk is a right of a key that is bound"),
        (("pos", "--store", "330"), None),
        (("pos", "--store", "330", "--desk"), None),
    ):
        code, printed = await system.loyalty("key", *words, "--data", str(system.folder))
        assert (code, (told or "loy_") in printed) == (1 if told else 0, True), printed
        made += [] if told else [printed.strip()]
    credentials = Credentials(system.folder / "credentials.json")
    principals = [credentials.principal(f"Bearer {key}") for key in made]
    assert [(one.role, one.store, one.desk) for one in principals] == [("pos", "330", False), ("pos", "330", True)]


async def test_without_a_system_a_file_is_checked_alone(system: System) -> None:
    (system.folder / "topology.json").unlink()
    code, printed = await system.program("apply", file=PROGRAM)
    assert (code, "nothing was ever started in " in printed) == (1, True), printed


async def test_a_command_node_decides_by_the_new_version_at_once(tmp_path: Path, database: str) -> None:
    async with running_command_node(database, tmp_path) as node:
        card = {"card": (await node.enrol())["card"]}
        assert (await node.post("/v1/purchases", basket(card, "1"))).json["points_earned"] == 13
        (tmp_path / "operator").mkdir()
        topology_of_operator(tmp_path).rename(tmp_path / "operator" / "topology.json")
        code, printed = await System(tmp_path / "operator", [database]).program("apply", file=DOUBLED)
        assert code == 0, printed
        now = datetime.now(UTC).isoformat()
        late, new = [
            await node.post("/v1/purchases", body)
            for body in (basket(card, "2"), basket(card, "3", occurred_at=now))  # of a minute ago, and of now
        ]
        assert (late.json["points_earned"], new.json["points_earned"]) == (13, 26)


async def test_of_two_who_apply_at_once_each_makes_a_version_of_its_own_the_same_on_every_shard(
    postgres_server: PostgresServer,
) -> None:
    for _ in range(5):
        dsns = [await postgres_server.create_database() for _ in range(2)]
        await apply_program(dsns, PROGRAM)
        texts = [PROGRAM.replace('per_unit = "1"', f'per_unit = "{number}"') for number in (2, 3)]
        assert sorted(await asyncio.gather(*(apply_program(dsns, text) for text in texts))) == [2, 3]
        held = [await fetch(dsn, "SELECT version, source FROM program ORDER BY version") for dsn in dsns]
        assert held[0] == held[1]
        assert sorted(row["source"] for row in held[0][1:]) == texts
        for dsn in dsns:
            await postgres_server.drop_database(dsn)


async def test_who_applies_while_somebody_else_does_not_come_to_an_end_is_told_and_changes_nothing(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("command.program.APPLY_WAIT_S", 0.2)
    await apply_program(system.dsns, PROGRAM)
    other = await asyncpg.connect(system.dsns[0])
    await other.execute(STATEMENTS["lock_apply"])
    with pytest.raises(ClusterError, match="somebody else has been applying a program"):
        await apply_everywhere(await look_at(system.folder / "topology.json"), DOUBLED, None)
    assert await system.versions() == [[1], [1]]
    await other.close()
    assert await apply_everywhere(await look_at(system.folder / "topology.json"), DOUBLED, None) == 2


async def test_a_version_to_come_does_not_date_receipts_yet(tmp_path: Path, database: str) -> None:
    behind, ahead = (PROGRAM.replace("Europe/Berlin", zone) for zone in ("Etc/GMT+12", "Pacific/Kiritimati"))
    async with running_command_node(database, tmp_path, program=behind) as node:
        await apply_program([database], ahead, datetime.now(UTC) + timedelta(days=1))
        node.inner.programs = ProgramCache()  # as a node that starts now
        await learn_program(node.inner.pools["eu-1"], node.inner.programs)
        assert node.inner.program.version == 1
        card = {"card": (await node.enrol())["card"]}
        body = basket(card, "1")
        assert (await node.post("/v1/purchases", body)).status == 201
        (row,) = await fetch(database, "SELECT business_date FROM receipt")
        assert row["business_date"] == (datetime.fromisoformat(body["occurred_at"]) - timedelta(hours=12)).date()
