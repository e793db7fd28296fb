"""A process that is ended by SIGABRT leaves its stacks where somebody finds them."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from base.app.crash_stacks import SUFFIX, write_crash_stacks
from base.errors import ConfigError

PROJECT = Path(__file__).parents[2]
FROZEN = """
import os, sys
from pathlib import Path
from base.app.crash_stacks import write_crash_stacks
write_crash_stacks(Path(sys.argv[1]) if sys.argv[1] else None)
def frozen_checker():
    os.abort()
frozen_checker()
"""


def end_of(log_file: Path | str, stderr: str) -> tuple[int, str]:
    """The exit code of a process that is aborted, and what it left on standard error."""
    closing = {"closed": "exec 2>&-; ", "to nowhere": "exec 2>/dev/null; ", "to a pipe": ""}[stderr]
    done = subprocess.run(
        ["/bin/sh", "-c", f'{closing}exec "$@"', "sh", sys.executable, "-c", FROZEN, str(log_file)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("has_file", [True, False], ids=["with a log file", "without one"])
def test_a_readable_standard_error_takes_them(tmp_path: Path, has_file: bool) -> None:
    log_file = tmp_path / "backstop.log"
    code, told = end_of(log_file if has_file else "", "to a pipe")
    assert (code, "frozen_checker" in told) == (-signal.SIGABRT, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stderr", ["closed", "to nowhere"])
def test_where_standard_error_leads_nowhere_they_lie_beside_the_log_file(tmp_path: Path, stderr: str) -> None:
    log_file = tmp_path / "backstop.log"
    for run in (1, 2):
        code, _ = end_of(log_file, stderr)
        assert code == -signal.SIGABRT
        beside = log_file.with_name(log_file.name + SUFFIX)
        assert beside.read_text().count("in frozen_checker") == run, "those of the last crash are kept"
    assert stat.S_IMODE(beside.stat().st_mode) == 0o600


@pytest.mark.parametrize("stderr", ["closed", "to nowhere"])
def test_with_nowhere_to_write_it_starts_all_the_same(stderr: str) -> None:
    assert end_of("", stderr)[0] == -signal.SIGABRT


def test_a_place_that_cannot_be_written_is_an_error_of_configuration(tmp_path: Path) -> None:
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        pytest.raises(ConfigError, match="LOG_FILE"),
    ):
        write_crash_stacks(tmp_path / "no" / "backstop.log", stderr=nowhere)
