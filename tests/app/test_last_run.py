"""How the run before ended: what leaves a mark, and what must never pass for an end as asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from base.app.last_run import EndMark, LastRun
from base.errors import ExitCode


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        (ExitCode.OK, LastRun.AS_ASKED),
        (ExitCode.CONFIG, LastRun.CONFIG),
        (ExitCode.UNSAFE, LastRun.UNSAFE),
        (ExitCode.FAILED, LastRun.BROKEN),
    ],
)
def test_an_end_in_order_is_known_by_its_code_and_told_once(
    tmp_path: Path, code: ExitCode, ended: LastRun
) -> None:
    mark = EndMark(tmp_path / "j.ended", had_run=True)
    mark.leave(code)
    assert mark.take() is ended
    assert mark.take() is LastRun.BROKEN, "this run has left none yet"


@pytest.mark.parametrize(
    ("had_run", "ended"), [(True, LastRun.BROKEN), (False, LastRun.NONE)], ids=["killed", "a first start"]
)
def test_without_a_mark_a_run_before_was_broken_off(tmp_path: Path, had_run: bool, ended: LastRun) -> None:
    assert EndMark(tmp_path / "j.ended", had_run=had_run).take() is ended


@pytest.mark.parametrize(
    "text", [b"", b"\0\0", b"00", b"0x", b"\xff" * 99], ids=["empty", "zeros", "longer", "text", "garbage"]
)
def test_a_mark_that_was_half_written_is_none(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "j.ended"
    path.write_bytes(text)
    assert EndMark(path, had_run=True).take() is LastRun.BROKEN
    assert not path.exists()


def test_a_mark_that_cannot_be_taken_away_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "j.ended"
    (path / "inside").mkdir(parents=True)
    assert EndMark(path, had_run=True).take() is LastRun.BROKEN


def test_a_disk_that_takes_no_mark_makes_the_end_unexpected_and_raises_nothing(tmp_path: Path) -> None:
    full = Path("/dev/full")  # opens, and takes no byte
    path = tmp_path / "j.ended"
    path.symlink_to(full)
    mark = EndMark(path, had_run=True)
    mark.leave(ExitCode.OK)
    assert not path.is_symlink(), "not even an empty one is left"
    assert mark.take() is LastRun.BROKEN
