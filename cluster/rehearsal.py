"""What every node does first, done once and thrown away before there is a process to fork nodes from.

CPython notes in code what it has met there, and completes classes and dictionaries when they are first used. A node
that does so writes to pages that it would go on sharing, and each node would. Nothing is opened, drawn or begun here
that a node could find: it does all of it again, and writes less.
"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import command.__main__ as command
import query.__main__ as query
from cdc.settings import CdcSettings
from cluster.document import Documents, write_documents
from cluster.key import ensure_keys
from cluster.password import ensure_passwords
from cluster.plan import ClusterPlan
from cluster.system import DEFAULT_PROGRAM
from command.settings import CommandSettings
from query.settings import QuerySettings
from rules.program import parse_program


def rehearse(plan: ClusterPlan) -> None:
    """Build nodes of the plan's first region, from documents in a folder made for it, and read a program."""
    with TemporaryDirectory() as folder:
        alone = replace(plan, data=Path(folder), regions=plan.regions[:1])
        documents, (region,) = Documents(alone.data), alone.regions
        ensure_passwords(documents.secrets, documents.superuser_before)
        ensure_keys(documents)
        write_documents(alone)
        command.build(CommandSettings.load(documents.node(region.command[0].name)))
        query.build(QuerySettings.load(documents.node(region.query[0].name)))
        CdcSettings.load(documents.node(region.shards[0].projector.name))
    parse_program(DEFAULT_PROGRAM.read_text(encoding="utf-8"))
