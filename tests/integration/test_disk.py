"""The daemon while its disk fails: exits go on and happen once, entries stop, and it says so.

A full disk is a small tmpfs filled to the last byte, where this may be mounted. A disk that refuses every
write to a daemon that already runs is a file size limit of 0 put on its process: files that are open for
writing cannot be made read-only under it.
"""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from io import RawIOBase
from pathlib import Path

import pytest

from base.model.market import OutcomeSide
from base.sandbox.scenario import Scenario
from base.sandbox.server import SandboxServer
from tests.benchmarks import judge
from tests.benchmarks.judge import CRASHED, Holding
from tests.integration.rig import Daemon

YES = Holding("KXDISK-YES", OutcomeSide.YES, Decimal("10.50"))
NO = Holding("KXDISK-NO", OutcomeSide.NO, Decimal("7.25"))
CALM = Holding("KXDISK-CALM", OutcomeSide.YES, Decimal(5))
DISK_BYTES = 1_500_000
RECOVERED_WITHIN_S = 10.0

Breaker = Callable[[Daemon], object]


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    with SandboxServer(Scenario(tuple(judge.plan(h) for h in (YES, NO, CALM)))) as running:
        yield running


def mount(directory: Path, *options: str) -> None:
    """A tmpfs of its own; skips where that is not allowed."""
    directory.mkdir()
    wanted = ",".join([f"size={DISK_BYTES}", "mode=0700", *options])
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", wanted, "tmpfs", str(directory)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small file system here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a small disk of its own."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    directory = tmp_path / "disk"
    mount(directory)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def fill(disk: Path) -> Path:
    """Take the last byte of the disk; return the file to delete for having it back."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (4096, 1):
            while takes(file, size):
                assert file.tell() < 2 * DISK_BYTES, "the disk is larger than it should be"
    return ballast


def takes(file: RawIOBase, size: int) -> bool:
    """Whether the disk took at least a part of it."""
    try:
        return bool(file.write(b"x" * size))
    except OSError as exc:
        if exc.errno == errno.ENOSPC:
            return False
        raise


def set_file_size_limit(daemon: Daemon, limit_bytes: int) -> None:
    """Let the daemon's files grow no further than this; 0 refuses every write."""
    _, hard = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (limit_bytes, hard))


def is_flat(server: SandboxServer, holding: Holding) -> bool:
    return judge.left(server, holding) == 0


def assert_sold_once(server: SandboxServer, *gone: Holding) -> None:
    ledger = judge.read_ledger(server)
    for holding in (YES, NO, CALM):
        course = ledger.course(holding)
        must_go = holding in gone
        assert course.crimes(must_be_flat=must_go, may_be_sold=must_go) == []
        assert course.sold == (holding.count if must_go else 0)
    assert ledger.resting() == []


def sells_without_a_journal(
    server: SandboxServer, daemon: Daemon, break_it: Breaker, mend_it: Breaker
) -> None:
    """The same story for every way in which a disk can fail."""
    daemon.until(lambda: daemon.is_covered(3), "3 protected")
    daemon.until(lambda: daemon.health()[0] == 200, "healthy")
    daemon.until(lambda: daemon.status()["trading_state"] == "active", "entries are on", 10)
    break_it(daemon)
    judge.quote(server, [YES], CRASHED)
    daemon.until(lambda: is_flat(server, YES), "flat without a journal", 10)
    daemon.wait_for("exit_closed", timeout_s=5, ticker=YES.ticker)
    daemon.wait_for("journal_down", timeout_s=5)
    daemon.until(lambda: daemon.health()[0] == 503, "unhealthy", 5)
    assert any("journal" in reason for reason in daemon.health()[1]["reasons"])
    daemon.until(lambda: daemon.status()["trading_state"] == "reducing", "no entries", 5)
    judge.quote(server, [NO], CRASHED)
    daemon.until(lambda: is_flat(server, NO), "and a second one, with the journal known to be down", 10)
    assert not daemon.events("journal_recovered")
    mend_it(daemon)
    daemon.wait_for("journal_recovered", timeout_s=RECOVERED_WITHIN_S)
    daemon.until(lambda: daemon.health()[0] == 200, "healthy again", 5)
    daemon.until(lambda: daemon.status()["trading_state"] == "active", "entries again", 5)
    assert_sold_once(server, YES, NO)


def knows_after_a_kill(server: SandboxServer, daemon: Daemon) -> None:
    """What happened while the disk was full is in the journal, and a new start does nothing twice."""
    episodes = {e["ticker"]: e["episode"] for e in daemon.events("exit_triggered")}
    realized = daemon.status()["pnl"]["realized_today"]
    assert Decimal(realized) < 0
    daemon.kill()
    told = journal_text(daemon.state_dir)
    assert all(episode in told for episode in episodes.values())
    daemon.restart()
    daemon.until(lambda: daemon.is_covered(1), "the calm one is protected")
    daemon.until(lambda: daemon.status()["pnl"]["realized_today"] == realized, "the day's result is kept", 5)
    assert_sold_once(server, YES, NO)


def journal_files(state_dir: Path) -> list[Path]:
    return sorted(state_dir.glob("journal-*.sqlite"))


def journal_text(state_dir: Path) -> str:
    """Everything that the journal says, whatever its tables are."""
    (file,) = journal_files(state_dir)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return "\n".join(connection.iterdump())


def test_with_a_full_disk_stops_are_sold_once_and_the_journal_catches_up(
    server: SandboxServer, tmp_path: Path, disk: Path
) -> None:
    with Daemon(tmp_path, server, STATE_DIR=str(disk / "state")) as daemon:
        sells_without_a_journal(
            server, daemon, lambda daemon: fill(disk), lambda daemon: (disk / "ballast").unlink()
        )
        knows_after_a_kill(server, daemon)


def test_with_a_disk_that_refuses_writes_stops_are_sold_once_and_the_journal_catches_up(
    server: SandboxServer, tmp_path: Path
) -> None:
    with Daemon(tmp_path, server) as daemon:
        sells_without_a_journal(
            server,
            daemon,
            lambda daemon: set_file_size_limit(daemon, 0),
            lambda daemon: set_file_size_limit(daemon, resource.RLIM_INFINITY),
        )
        knows_after_a_kill(server, daemon)


def test_a_kill_while_the_disk_is_full_sells_nothing_twice(
    server: SandboxServer, tmp_path: Path, disk: Path
) -> None:
    with Daemon(tmp_path, server, STATE_DIR=str(disk / "state")) as daemon:
        daemon.until(lambda: daemon.is_covered(3), "3 protected")
        fill(disk)
        server.set_faults(max_fill_per_order="4.00")
        judge.quote(server, [YES], CRASHED)
        daemon.until(lambda: judge.left(server, YES) != YES.count, "partly sold", 10)
        daemon.kill()
        (disk / "ballast").unlink()
        daemon.restart()
        daemon.until(lambda: is_flat(server, YES), "flat", 15)
        daemon.until(lambda: daemon.is_covered(2), "2 protected", 15)
        assert_sold_once(server, YES)


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_a_state_directory_that_takes_no_journal_stops_the_start(
    server: SandboxServer, tmp_path: Path, disk: Path, state: str
) -> None:
    (disk / "state").mkdir(mode=0o700)
    if state == "full":
        fill(disk)
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with Daemon(tmp_path, server, STATE_DIR=str(disk / "state")) as daemon:
        assert daemon.wait() == 2
        plain = [line for line in daemon.lines() if "event=" not in line]
        assert len(plain) == 1, plain
        assert "STATE_DIR" in plain[0] or str(disk / "state") in plain[0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b"\x5a" * max(8192, file.stat().st_size)),
        lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    ],
    ids=["garbage", "cut in half"],  # more ways to break it: tests/store/test_journal.py
)
def test_a_damaged_journal_is_set_aside_and_everything_is_protected(
    server: SandboxServer, tmp_path: Path, damage: Callable[[Path], int]
) -> None:
    with Daemon(tmp_path, server) as daemon:
        daemon.until(lambda: daemon.is_covered(3), "3 protected")
        judge.quote(server, [YES], CRASHED)
        daemon.wait_for("exit_closed", ticker=YES.ticker)
        daemon.terminate()
        (file,) = journal_files(daemon.state_dir)
        damage(file)
        broken = file.read_bytes()
        for rest in daemon.state_dir.glob("journal-*.sqlite-*"):
            rest.unlink()
        daemon.restart()
        if broken:
            daemon.wait_for("journal_damaged")
            kept = [p for p in daemon.state_dir.rglob("*") if p.is_file() and p.read_bytes() == broken]
            assert kept, "the damaged file is kept for a look at it"
        daemon.until(lambda: daemon.is_covered(2), "2 protected")
        judge.quote(server, [NO], CRASHED)
        daemon.wait_for("exit_closed", ticker=NO.ticker, outcome="filled")
        daemon.until(lambda: daemon.health()[0] == 200, "healthy")
        assert_sold_once(server, YES, NO)
