"""The `loyalty` program as a process: what its first second does."""

import sys
from types import ModuleType

import pytest

import cluster.__main__ as program


class _Interrupted(ModuleType):
    """A module whose import is cut short by Ctrl-C."""

    def __getattr__(self, name: str) -> None:
        raise KeyboardInterrupt


def test_an_interrupt_while_it_is_imported_ends_it_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cluster.cli", _Interrupted("cluster.cli"))
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == program.INTERRUPTED
