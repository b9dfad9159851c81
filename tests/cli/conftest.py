"""Command lines as a user types them, in this process."""

import logging
import sys
from collections.abc import Callable, Iterator

import pytest

from zeropoint import cli


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[[str], tuple[int, str, str]]]:
    """Runs a command line; gives the exit status, stdout and stderr. Logging is as it was afterwards."""

    def run(line: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["zeropoint", *line.split()])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        out, err = capsys.readouterr()
        return int(exit_.value.code or 0), out, err

    yield run
    logging.disable(logging.NOTSET)
