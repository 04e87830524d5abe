"""The `loyalty` command line: brings the system up and down and looks at it.

Errors of the world are one message without a traceback and exit code 1; exit code 2 means wrong usage.
"""

import asyncio
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from cluster import document
from cluster.cli_backup import app as backup_app
from cluster.cli_chaos import app as chaos_app
from cluster.cli_edge import app as edge_app
from cluster.cli_key import app as key_app
from cluster.cli_key import token_app
from cluster.cli_load import app as load_app
from cluster.cli_program import app as program_app
from cluster.cli_region import app as region_app
from cluster.cli_shard import app as shard_app
from cluster.command_line import Commands, Data, Json, running_folder, say, screen, words_of
from cluster.document import Documents
from cluster.errors import ClusterError, in_words
from cluster.plan import ClusterPlan
from cluster.progress import Progress
from cluster.switchover import ask
from service.vital import running_version
from shard_router.errors import LoyaltyError

app = Commands(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(token_app, name="token")
app.add_typer(load_app)
app.add_typer(chaos_app)
app.add_typer(backup_app)
app.add_typer(key_app)
app.add_typer(program_app, name="program")
app.add_typer(edge_app, name="edge")
app.add_typer(region_app, name="region")
app.add_typer(shard_app, name="shard")


def main() -> None:
    """Entry point of the `loyalty` program."""
    try:
        app()
    except Exception as error:
        from shard_router.server import SERVER_ERRORS  # noqa: PLC0415 - most commands start faster without it

        if not isinstance(error, (ClusterError, LoyaltyError, *SERVER_ERRORS)):
            raise
        place = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        words = place + in_words(error)
        Console(stderr=True).print(words, style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(1) from None


def _show_version(*, wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"loyalty {running_version()}\n")
        raise typer.Exit


@app.callback()
def describe(
    *,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """A loyalty backend on this machine: bring it up, look at it, load it."""


def _plan(**flags: Any) -> ClusterPlan:
    return document.plan_of(flags)


@app.command()
def up(  # noqa: PLR0913 - one parameter per flag
    *,
    regions: Annotated[str | None, typer.Option(help="Comma-separated region names.")] = None,
    cdc: Annotated[str | None, typer.Option(help="Change source: debezium or pgoutput.")] = None,
    nodes: Annotated[int | None, typer.Option(help="Command nodes, and query nodes, per region.")] = None,
    standbys: Annotated[int | None, typer.Option(help="Standbys per shard, 1 or 2 (in two data centres).")] = None,
    data: Data = None,
    port: Annotated[int | None, typer.Option(help="First port; each region takes ten.")] = None,
    program: Annotated[Path | None, typer.Option(help="Program file (TOML) to apply.")] = None,
    archive: Annotated[Path | None, typer.Option(help="Folder to archive all WAL in, for restores.")] = None,
    door: Annotated[
        bool | None, typer.Option("--door/--no-door", help="One address before all regions (where Envoy is installed).")
    ] = None,
    tls: Annotated[
        bool | None, typer.Option("--tls/--no-tls", help="Door: TLS with a certificate for development.")
    ] = None,
    geoip: Annotated[Path | None, typer.Option(help="Door: MaxMind database that knows clients' countries.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background.")] = False,
) -> None:
    """Bring the whole system up; Ctrl-C stops it cleanly."""
    from cluster import run  # noqa: PLC0415 - the other commands start faster without it

    began_at = time.monotonic()
    flags = {"regions": regions, "cdc": cdc, "nodes": nodes, "standbys": standbys, "data": data, "port": port}
    flags |= {"program": program, "archive": archive, "door": door, "tls": tls, "geoip": geoip}
    plan = _plan(**flags)
    console = Console()
    if detach:
        arguments = words_of(flags)
        with console.status("starting in the background …"):
            run.detach(plan, arguments)
        _print_ready(console, plan, time.monotonic() - began_at)
        where = f" --data {shlex.quote(str(data))}" if data else ""
        console.print(f"Stop it with [bold]loyalty down{escape(where)}[/].", soft_wrap=True, highlight=False)
        return
    forks = run.begin_forks(plan)
    with Progress(console) as progress:

        def on_ready(version: int) -> None:
            progress.finish()
            _print_ready(console, plan, time.monotonic() - began_at, version)
            console.print("Ctrl-C stops it.")

        run.run_system(plan, forks, on_change=progress.note, on_ready=on_ready)
    console.print("Stopped.")


def _print_ready(console: Console, plan: ClusterPlan, took_s: float, version: int | None = None) -> None:
    program = f", program version {version}" if version is not None else ""
    console.print(f"[green]Ready[/] in {took_s:.1f} s{program}.", highlight=False)
    if plan.door:
        console.print(f"  [bold]{plan.door.url}[/]  everything, at one address", highlight=False)
    for region in plan.regions:
        more = f"  (and {len(region.nodes) - 2} more nodes)" if len(region.nodes) > 2 else ""  # noqa: PLR2004
        urls = f"commands {region.command[0].url}  queries {region.query[0].url}"
        console.print(f"  {region.name}: {urls}{more}", highlight=False)
    documents = Documents(plan.data)
    console.print(
        f"API keys: {documents.keys} (or `loyalty status --json`), logs: {plan.data / 'logs'}", soft_wrap=True
    )


@app.command()
def down(*, data: Data = None) -> None:
    """Stop the system on a data folder, and whatever a killed supervisor left there."""
    from cluster import run  # noqa: PLC0415

    say(run.stop_system(_plan(data=data).data))


@app.command()
def status(*, data: Data = None, as_json: Json = False) -> None:
    """Show the health of each process; exit 1 when the system is not ready."""
    from cluster.status import read_status, render_status  # noqa: PLC0415

    report = asyncio.run(read_status(_plan(data=data).data))
    if as_json:
        sys.stdout.write(json.dumps(report.document(), indent=2) + "\n")
    else:
        for part in render_status(report).renderables:
            screen().print(part, soft_wrap=isinstance(part, Text))  # a path broken in two cannot be copied
    if not report.ready:
        raise typer.Exit(1)


@app.command()
def verify(
    *,
    every: Annotated[
        bool, typer.Option("--all", help="Fold every member again, not only those who changed since a clean run.")
    ] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Check the promises on the data at rest; exit 1 when one is broken, 3 when not all could be looked at."""
    from cluster.running import running_topology  # noqa: PLC0415
    from cluster.verdict import exit_code, render_verdict, verdict_document  # noqa: PLC0415
    from verify.parallel import verify_side_by_side  # noqa: PLC0415

    documents = Documents(_plan(data=data).data)
    asyncio.run(running_topology(documents.topology))
    findings = asyncio.run(
        verify_side_by_side(documents.topology, documents.logins(), documents.verified(), every=every)
    )
    if as_json:
        sys.stdout.write(json.dumps(verdict_document(findings), indent=2) + "\n")
    else:
        screen().print(render_verdict(findings))
    raise typer.Exit(exit_code(findings))


@app.command()
def respell(*, data: Data = None) -> None:
    """Bring stored phones and e-mails to the one form they have now; exit 1 when two members have the same."""
    from cluster.respell import lines_of, respell_system  # noqa: PLC0415
    from cluster.running import running_topology  # noqa: PLC0415

    path = Documents(_plan(data=data).data).topology
    asyncio.run(running_topology(path))
    told = asyncio.run(respell_system(path))
    for line in lines_of(told) if told else ():
        say(line)
    if told and told.collisions:
        raise typer.Exit(1)


@app.command()
def rebuild(
    *,
    data: Data = None,
    region: Annotated[str | None, typer.Option(help="Only this region.")] = None,
    duty: Annotated[
        float | None, typer.Option(min=0.01, max=1.0, help="Share of the time it works (default: the projectors' 0.5).")
    ] = None,
) -> None:
    """Rebuild the views from Postgres while serving."""
    from cluster.rebuild import rebuild as rebuild_views  # noqa: PLC0415

    async def run() -> None:
        async for done in rebuild_views(_plan(data=data).data, region, duty=duty):
            say(str(done))

    asyncio.run(run())


@app.command()
def reconcile(
    *,
    data: Data = None,
    region: Annotated[str | None, typer.Option(help="Its shards were restored, whatever they say.")] = None,
) -> None:
    """After a restore: bring what shards hold about each other back to what their journals say."""
    from cluster.rebuild import rebuild as rebuild_views  # noqa: PLC0415
    from cluster.reconcile import lines_of, reconcile_system, regions_to_rebuild  # noqa: PLC0415
    from cluster.respell import respell_system  # noqa: PLC0415
    from cluster.running import running_topology  # noqa: PLC0415

    folder = _plan(data=data).data
    path = Documents(folder).topology

    async def run() -> None:
        document = await running_topology(path)
        work = await reconcile_system(path, region)
        for line in lines_of(work):
            say(line)
        await respell_system(path, once=True)  # of a backup from before a release it was left undone
        for name in regions_to_rebuild(document, work, region):
            async for done in rebuild_views(folder, name):
                say(str(done))

    asyncio.run(run())


@token_app.command("member")
def token_member(member: str, *, data: Data = None) -> None:
    """Print a token for one member's own data (valid for an hour)."""
    from cluster.key import signing_key  # noqa: PLC0415
    from service.credential import mint_member_token  # noqa: PLC0415
    from shard_router.errors import MalformedIdError  # noqa: PLC0415
    from shard_router.member_id import parse_member_id  # noqa: PLC0415

    private = signing_key(Documents(_plan(data=data).data))
    try:
        sys.stdout.write(mint_member_token(private, parse_member_id(member)) + "\n")
    except MalformedIdError as error:
        raise ClusterError(f"{member!r} is no member id") from error


@app.command()
def switchover(shard: Annotated[str, typer.Argument(help="For example eu-1.")], *, data: Data = None) -> None:
    """Make a shard's standby the primary, cleanly, and its primary the standby."""
    running_folder(data)
    plan = _plan(data=data)
    if shard not in {one.name for one in plan.shards}:
        raise ClusterError(f"no shard {shard!r}: choose one of {', '.join(one.name for one in plan.shards)}")
    sys.stdout.write(ask(plan.data, shard) + "\n")
