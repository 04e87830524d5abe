"""`loyalty edge render`: the configuration of the front door, for Envoy, Cloudflare or AWS.

cluster/cli.py takes it in. What is rendered follows one decision (`edge/decision.py`) from one topology document.
"""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cluster.command_line import Commands, Data, documents_of
from cluster.errors import ClusterError
from cluster.files import write_atomic
from edge.aws import STANDING as AWS_STANDING
from edge.aws import render_aws
from edge.cloudflare import STANDING as CLOUDFLARE_STANDING
from edge.cloudflare import render_cloudflare
from edge.decision import WHOLE, Door, EdgeError, make_door
from edge.envoy import STANDING as ENVOY_STANDING
from edge.envoy import Listening, render_envoy
from edge.geography import Place
from edge.reply import Pages
from service.cors import READABLE
from service.settings import read_origins
from shard_router.topology import read_topology

PORT_LAST = 65_535

app = Commands(help="The front door: one address before all regions.", no_args_is_help=True)


Places = Annotated[
    list[str] | None, typer.Option(help="Where a region is, NAME=LATITUDE,LONGITUDE; may stand several times.")
]
Evacuated = Annotated[
    list[str] | None, typer.Option(help="A region that takes nothing while another can; may stand several times.")
]
Shares = Annotated[
    list[str] | None,
    typer.Option(
        help="Percent of its own traffic that a region takes (the next one the rest), NAME=PERCENT; several times."
    ),
]
Port = Annotated[int, typer.Option(min=1, max=PORT_LAST, help="Envoy: the port to listen on.")]
AdminPort = Annotated[
    int, typer.Option(min=1, max=PORT_LAST, help="Envoy: the port of its admin page, on loopback only.")
]
AccessLog = Annotated[Path | None, typer.Option(help="Envoy: a line for each request, with region and why.")]
Origins = Annotated[
    list[str] | None,
    typer.Option(help="Envoy: whose pages may read what it answers itself, as the nodes' cors_origins; several times."),
]


class Target(StrEnum):
    """What the door is made of."""

    ENVOY = "envoy"
    CLOUDFLARE = "cloudflare"
    AWS = "aws"


@app.callback()
def describe() -> None:
    """The front door: one address before all regions."""


@app.command()
def render(  # noqa: PLR0913 - one parameter per flag
    *,
    target: Annotated[Target, typer.Option("--for", help="What the door is made of.")],
    nearest: Annotated[str | None, typer.Option(help="The region the door stands in (default: the first).")] = None,
    place: Places = None,
    evacuated: Evacuated = None,
    share: Shares = None,
    host: Annotated[str, typer.Option(help="Envoy: the address to listen on.")] = "127.0.0.1",
    port: Port = 8400,
    admin_port: AdminPort = 8401,
    geoip: Annotated[Path | None, typer.Option(help="Envoy: a MaxMind database that knows clients' countries.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="Envoy: certificates for TLS (PEM).")] = None,
    key: Annotated[Path | None, typer.Option(help="Envoy: the key of the certificate (PEM).")] = None,
    access_log: AccessLog = None,
    cors_origin: Origins = None,
    folder: Annotated[
        Path | None, typer.Option(help="Envoy: where it will find its files (default: the output folder).")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the files to this folder instead of printing them.")
    ] = None,
    data: Data = None,
    topology: Annotated[Path | None, typer.Option(help="Topology document instead of a data folder's.")] = None,
) -> None:
    """Render the door's configuration from the topology; how far it was tried is said in it."""
    listening = Listening(
        folder=(folder or output or Path()).absolute(),
        host=host,
        port=port,
        admin_port=admin_port,
        geoip=geoip,
        certificate=certificate,
        key=key,
        access_log=access_log,
        pages=Pages(read_origins(" ".join(cors_origin or ())), READABLE),
    )
    document = read_topology(topology or documents_of(data).topology).document
    try:
        places = dict(map(_place, place or []))
        shares = dict(map(_share, share or []))
        door = make_door(document, nearest=nearest, places=places, evacuated=evacuated or [], shares=shares)
        standing, files = _files(target, door, listening)
    except EdgeError as error:
        raise ClusterError(str(error)) from error
    for name, text in files.items():
        if output is not None:
            write_atomic(output / name, text)
        else:
            sys.stdout.write(f"# {name}\n{text}" if len(files) > 1 else text)
    sys.stderr.write(f"{standing}\n")


def _files(target: Target, door: Door, listening: Listening) -> tuple[str, dict[str, str]]:
    """How far the target was tried, and its files by name."""
    if target is Target.CLOUDFLARE:
        if parted := [region for region in door.topology.regions if door.share(region) not in (0, WHOLE)]:
            raise EdgeError(f"Cloudflare's pools take over from one another: region {parted[0]} takes 0 or 100 percent")
        return CLOUDFLARE_STANDING, {"cloudflare.tf": render_cloudflare(door)}
    if target is Target.AWS:
        return AWS_STANDING, {"aws.tf": render_aws(door)}
    rendered = render_envoy(door, listening)
    return ENVOY_STANDING, {name: json.dumps(document, indent=1) + "\n" for name, document in rendered.items()}


def _place(text: str) -> tuple[str, Place]:
    name, _, where = text.partition("=")
    latitude, _, longitude = where.partition(",")
    try:
        return name, Place(float(latitude), float(longitude))
    except ValueError:
        raise EdgeError(f"write a place as NAME=LATITUDE,LONGITUDE, not {text}") from None


def _share(text: str) -> tuple[str, int]:
    name, _, percent = text.partition("=")
    try:
        return name, int(percent)
    except ValueError:
        raise EdgeError(f"write a share as NAME=PERCENT, not {text}") from None
