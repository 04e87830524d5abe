"""Every command block of the documents runs in bash and in zsh as at a prompt, and a second time too."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.long import long
from tests.project import PROJECT

PAGES = ("README.md", "docs/tills.md", "docs/phones.md", "docs/operate.md")
SHELLS = {"bash": ("bash", "--norc", "--noprofile", "-i", "-s"), "zsh": ("zsh", "-f", "-i", "-s")}
NOT_HERE = ("make demo", "make test")  # the tests cannot run themselves
DEADLINE_S = 280


def blocks(page: str) -> list[str]:
    found = re.findall(r"^```sh\n(.*?)^```$", (PROJECT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [block for block in found if not any(words in block for words in NOT_HERE)]


def script(port: int) -> str:
    """The blocks of all pages in their order, spoken to the system of the tests; set-up has been done."""
    text = "\n".join(block for page in PAGES for block in blocks(page))
    text = re.sub(r"127\.0\.0\.1:84(\d\d)", lambda found: f"127.0.0.1:{port + int(found[1]) - 10}", text)
    return text.replace("make setup\n", "").replace("$PWD/.venv", f"{PROJECT}/.venv")


def test_there_are_blocks_to_run() -> None:
    assert all(blocks(page) for page in PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_no_block_has_a_comment_that_a_prompt_would_not_take(page: str) -> None:
    assert not [line for block in blocks(page) for line in block.splitlines() if re.search(r"(^|\s)#", line)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("shell", ["bash", pytest.param("zsh", marks=long)])
def test_the_commands_of_the_documents_can_be_pasted_twice(
    running: tuple[Path, int], tmp_path: Path, shell: str
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    data, port = running
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOYALTY_")}
    environment |= {
        "LOYALTY_DATA": str(data),
        "LOYALTY_PORT": str(port),
        "PYTHONPATH": str(PROJECT),
        "PS1": "",
        "PS2": "",
    }
    commands = script(port)
    done = subprocess.run(  # noqa: PLW1510 - the exit code is looked at
        SHELLS[shell], input=f"set -e\n{commands}\n{commands}\necho all-was-run\n", cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert (done.returncode, "all-was-run" in done.stdout) == (0, True), said[-4000:]
    assert "urn:loyalty:problem" not in said, said[-4000:]
    assert "not found" not in done.stderr, done.stderr
