"""What people paste from the documents leaves nothing behind that they would find months later."""

import re
from pathlib import Path

import pytest

from tests.project import PROJECT

PAGES = sorted(path for folder in (PROJECT, PROJECT / "docs") for path in folder.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_to_paste_leaves_a_program_to_come_behind(page: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert not [block for block in blocks if "program apply" in block and "--at" in block]
