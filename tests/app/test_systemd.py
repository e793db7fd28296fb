"""What the service manager is told, over a real datagram socket, and the unit it is given."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from base.app.cli import main
from base.app.config_values import private_file_problem
from base.app.services import PeriodicService
from base.app.supervisor import STALLED_S, Supervisor, Watched
from base.app.systemd import (
    READY_WITHOUT_POSITIONS_S,
    STATUS_EVERY_S,
    ServiceManager,
    ServicePaths,
    installed_command,
    render_unit,
)
from base.errors import ConfigError, ExitCode, TransientError
from base.execution.exits import ExitDesk
from base.kalshi.feed import FeedStatus
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.model.rules import ExitRule
from base.risk.limits import Limits
from base.risk.stop_loss import CheckerSettings, StopLossChecker
from base.store.portfolio import Portfolio
from base.ui.dashboard import dashboard
from tests.fakes.clock import FakeClock
from tests.fakes.feed import FakeFeed
from tests.fakes.gateway import FakeExchange

WATCHDOG_S = 30.0
LATE_S = 7.0
TICK_S = 0.25


class NotifySocket:
    """Where systemd would listen. The kernel queues ten messages: `pump` takes them as systemd does."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._sock.setblocking(False)
        self._messages: list[str] = []

    def pump(self) -> None:
        while True:
            try:
                self._messages.append(self._sock.recv(4096).decode())
            except BlockingIOError:
                return

    def heard(self) -> list[str]:
        """The messages since the last call."""
        self.pump()
        messages, self._messages = self._messages, []
        return messages

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def notify(tmp_path: Path) -> Iterator[NotifySocket]:
    listening = NotifySocket(str(tmp_path / "notify"))
    yield listening
    listening.close()


class Rig:
    """A service manager's client whose facts are the test's."""

    def __init__(self, notify: NotifySocket, **environ: str) -> None:
        self.notify = notify
        self.clock = FakeClock()
        self.late: list[str] = []
        self.is_loaded = True
        self.summary = "protected 3/3"
        self.manager = ServiceManager(
            {"NOTIFY_SOCKET": notify.address, "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))} | environ,
            lambda: self.late,
            lambda: self.is_loaded,
            lambda: self.summary,
            self.clock,
        )

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds / TICK_S)):
            self.clock.advance(TICK_S)
            self.manager.passed()
            self.notify.pump()


# --- what is said -------------------------------------------------------------------------------------


def test_ready_is_said_once_when_positions_have_been_read(notify: NotifySocket) -> None:
    rig = Rig(notify)
    rig.is_loaded = False
    rig.run(5)
    assert "READY=1" not in notify.heard()
    rig.is_loaded = True
    rig.run(60)
    assert notify.heard().count("READY=1") == 1


def test_an_exchange_that_does_not_answer_is_no_failed_start(notify: NotifySocket) -> None:
    rig = Rig(notify)
    rig.is_loaded = False
    rig.run(READY_WITHOUT_POSITIONS_S + 1)
    heard = notify.heard()
    assert "READY=1" in heard
    assert "STATUS=positions have not been read yet" in heard


def test_nothing_is_ready_before_its_threads_run(notify: NotifySocket) -> None:
    rig = Rig(notify)
    rig.late = ["stop-loss"]
    rig.run(READY_WITHOUT_POSITIONS_S * 3)
    assert not {"READY=1", "WATCHDOG=1"} & set(notify.heard())


def test_the_watchdog_is_fed_well_within_its_time(notify: NotifySocket) -> None:
    rig = Rig(notify)
    rig.run(WATCHDOG_S)
    assert notify.heard().count("WATCHDOG=1") == 10


def test_a_late_thread_lets_the_watchdog_starve_and_feeds_it_again(notify: NotifySocket) -> None:
    rig = Rig(notify)
    rig.run(10)
    notify.heard()
    rig.late = ["stop-loss"]
    rig.run(2 * WATCHDOG_S)
    heard = notify.heard()
    assert "WATCHDOG=1" not in heard
    assert "STATUS=LATE: stop-loss; protected 3/3" in heard
    rig.late = []
    rig.run(TICK_S)
    assert "WATCHDOG=1" in notify.heard()


@pytest.mark.parametrize(
    "environ",
    [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": ""}, {"WATCHDOG_USEC": "-5"}, {"WATCHDOG_USEC": "soon"}],
    ids=["it watches another process", "no watchdog", "a negative time", "no number"],
)
def test_no_watchdog_is_fed_that_is_not_ours(notify: NotifySocket, environ: dict[str, str]) -> None:
    rig = Rig(notify, **environ)
    rig.run(WATCHDOG_S)
    heard = notify.heard()
    assert "READY=1" in heard
    assert "WATCHDOG=1" not in heard


def test_a_watchdog_of_this_process_is_fed(notify: NotifySocket) -> None:
    rig = Rig(notify, WATCHDOG_PID=str(os.getpid()))
    rig.run(1)
    assert "WATCHDOG=1" in notify.heard()


def test_coverage_is_told_when_it_changes_and_every_minute(notify: NotifySocket) -> None:
    rig = Rig(notify)
    rig.run(5)
    assert [m for m in notify.heard() if m.startswith("STATUS")] == ["STATUS=protected 3/3"]
    rig.summary = "protected 2/3\nWATCHDOG=1"
    rig.run(5)
    told = [m for m in notify.heard() if m.startswith("STATUS")]
    assert told == ["STATUS=protected 2/3 WATCHDOG=1"], "one line, whatever a summary says"
    rig.run(STATUS_EVERY_S)
    assert len([m for m in notify.heard() if m.startswith("STATUS")]) == 1


def test_an_abstract_address_is_understood() -> None:
    address = f"@backstop-test-{os.getpid()}"
    listening = NotifySocket(address)
    rig = Rig(listening)
    rig.run(1)
    rig.manager.stopping()
    heard = listening.heard()
    listening.close()
    assert "READY=1" in heard
    assert heard[-1].splitlines()[0] == "STOPPING=1"


def test_without_a_service_manager_nothing_is_asked() -> None:
    asked: list[int] = []

    def ask() -> list[str]:
        asked.append(1)
        return []

    manager = ServiceManager({}, ask, lambda: True, str, FakeClock())
    manager.passed()
    manager.stopping()
    assert asked == []


def test_a_service_manager_that_has_gone_or_does_not_read_is_no_trouble(notify: NotifySocket) -> None:
    rig = Rig(notify)
    for _ in range(5_000):  # far more than its queue holds
        rig.manager.stopping()
    assert 0 < len(notify.heard()) < 5_000
    notify.close()
    rig.manager.stopping()  # nobody listens
    Path(notify.address).unlink()
    again = NotifySocket(notify.address)
    rig.manager.stopping()
    assert again.heard() == ["STOPPING=1\nSTATUS=stopping"]
    again.close()


# --- a checker that is frozen -------------------------------------------------------------------------


class BlockingFeed(FakeFeed):
    """A stream that does not answer while it is held: whoever asks is frozen."""

    def __init__(self, free: threading.Event, is_blocked: threading.Event) -> None:
        super().__init__()
        self._free = free
        self._is_blocked = is_blocked

    def status(self) -> FeedStatus:
        if not self._free.is_set():
            self._is_blocked.set()
            assert self._free.wait(30), "the test lets it go"
        return super().status()


class FrozenRig:
    """The real supervisor over a real checker and a real service thread, whose passes the test can block."""

    def __init__(self, notify: NotifySocket) -> None:
        self.notify = notify
        self.clock = FakeClock()
        self.portfolio = Portfolio(self.clock)
        self.portfolio.apply_read({}, self.clock.monotonic())
        self.hold = threading.Event()  # while clear, a sweep does not end
        self.hold.set()
        self.is_blocked = threading.Event()
        self.reads_fail = False
        exchange = FakeExchange(self.clock)
        self.checker = StopLossChecker(
            CheckerSettings(2.0, 60.0, Decimal("0.01")),
            WebsocketPriceCache(self.clock, 60.0),
            self.portfolio,
            BlockingFeed(self.hold, self.is_blocked),
            lambda ticker: ExitRule(),
            ExitDesk(exchange, self.portfolio, exchange.prices.get, lambda: None, self.clock),
            lambda refresh: None,
            lambda: None,
            self.clock,
        )
        self.reconcile = PeriodicService("reconcile", 30.0, self._read, self.clock)
        self.stop = threading.Event()
        self.supervisor = Supervisor(
            [
                Watched("stop-loss", lambda: True, lambda: self.checker.last_pass_at, lambda: None, LATE_S),
                Watched(
                    "reconcile",
                    lambda: True,
                    lambda: self.reconcile.last_pass_at,
                    lambda: None,
                    105.0,
                    lambda: self.reconcile.last_end_at,
                ),
            ],
            queue.SimpleQueue(),
            lambda: True,
            lambda: None,
            self.portfolio,
            Limits(Decimal(50), Decimal(200), Decimal(1_000), Decimal(100)),
            self.stop,
            lambda: True,
            self.clock,
            looked=lambda: self.manager.passed(),
        )
        self.manager = ServiceManager(
            {"NOTIFY_SOCKET": notify.address, "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))},
            self.supervisor.late_threads,
            lambda: self.portfolio.is_loaded,
            lambda: "protected 0/0",
            self.clock,
        )
        self.supervisor.watch_threads()

    def _read(self) -> None:
        if self.reads_fail:
            raise TransientError("the exchange cannot be reached")

    def run(self, seconds: float, *, sweeps: bool = True) -> None:
        """So much time in the supervisor's steps, the checker sweeping and positions being read in time."""
        for step in range(int(seconds / TICK_S)):
            self.clock.advance(TICK_S)
            if sweeps and step % 8 == 0:
                self.checker.sweep()
            if step % 120 == 0:
                self.reconcile.run_guarded()
            self.supervisor.run_once(None)
            self.notify.pump()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        self.hold.clear()
        thread = threading.Thread(target=self.checker.sweep, daemon=True)
        thread.start()
        assert self.is_blocked.wait(5)
        try:
            yield
        finally:
            self.hold.set()
            thread.join(5)


def test_a_frozen_checker_starves_the_watchdog_and_then_ends_the_process_with_code_4(
    notify: NotifySocket,
) -> None:
    rig = FrozenRig(notify)
    rig.run(60)
    assert notify.heard().count("WATCHDOG=1") == 20
    with rig.frozen():
        rig.run(LATE_S + 1, sweeps=False)
        notify.heard()  # what was said before it counted as late
        rig.run(WATCHDOG_S, sweeps=False)
        assert "WATCHDOG=1" not in notify.heard(), "systemd ends it here"
        assert not rig.stop.is_set()
        rig.run(STALLED_S - WATCHDOG_S, sweeps=False)
        assert rig.stop.is_set(), "where no service manager watches, it leaves by itself"
    assert rig.supervisor.wait_for_exit_code() == ExitCode.UNSAFE


def test_a_checker_that_goes_on_feeds_the_watchdog_again(notify: NotifySocket) -> None:
    rig = FrozenRig(notify)
    rig.run(60)
    with rig.frozen():
        rig.run(LATE_S + 4, sweeps=False)
    notify.heard()
    rig.run(10)
    assert "WATCHDOG=1" in notify.heard()
    assert not rig.stop.is_set()


def test_an_exchange_that_is_down_for_an_hour_is_no_reason_to_restart(notify: NotifySocket) -> None:
    rig = FrozenRig(notify)
    rig.run(60)
    notify.heard()
    rig.reads_fail = True
    rig.run(600)
    assert rig.supervisor.thread_health()["reconcile"].is_on_time is False, "and `/healthz` says so"
    assert notify.heard().count("WATCHDOG=1") == 200


# --- the unit -----------------------------------------------------------------------------------------


def paths(**changes: object) -> ServicePaths:
    given: dict[str, object] = {
        "user": "backstop",
        "env_file": Path("/opt/backstop/.env"),
        "command": (Path("/opt/backstop/.venv/bin/python"), Path("/opt/backstop/run_bot.py")),
        "state_dir": Path("/var/lib/backstop"),
    }
    return ServicePaths(**(given | changes))  # type: ignore[arg-type]


def settings_of(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Type", ["notify"]),
        ("User", ["backstop"]),
        ("WorkingDirectory", ["/opt/backstop"]),
        ("ExecStart", ["/opt/backstop/.venv/bin/python /opt/backstop/run_bot.py run"]),
        ("ExecReload", ["/bin/kill -HUP $MAINPID"]),
        ("StateDirectory", ["backstop"]),
        ("StateDirectoryMode", ["0700"]),
        ("Restart", ["always"]),
        ("RestartPreventExitStatus", ["2 3"]),
        ("StartLimitIntervalSec", ["0"]),
        ("UMask", ["0077"]),
    ],
)
def test_the_unit_says(name: str, values: list[str]) -> None:
    assert settings_of(render_unit(paths()))[name] == values


def test_stopping_has_more_time_than_the_daemon_takes() -> None:
    assert int(settings_of(render_unit(paths()))["TimeoutStopSec"][0]) > 10


def test_the_lock_of_a_daemon_started_by_hand_can_be_met() -> None:
    """It is an abstract socket's name: in a network of its own the service would meet nobody's."""
    said = settings_of(render_unit(paths()))
    assert "PrivateNetwork" not in said
    assert "AF_UNIX" in said["RestrictAddressFamilies"][0]


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({"key_file": Path("/etc/backstop/k.pem")}, "LoadCredential", "key.pem:/etc/backstop/k.pem"),
        ({"key_file": Path("/etc/k.pem")}, "Environment", "KALSHI_PRIVATE_KEY_PATH=%d/key.pem"),
        ({"state_dir": Path("/srv/state")}, "ReadWritePaths", "-/srv/state"),
        (
            {"state_dir": Path("/srv/state")},
            "ExecStartPre",
            "+/usr/bin/install -d -m 0700 -o backstop /srv/state",
        ),
        ({"state_dir": Path("/var/lib/a/b")}, "StateDirectory", "a/b"),
        ({"log_file": Path("/var/log/b/b.log")}, "ReadWritePaths", "/var/log/b"),
        ({"env_file": Path("/home/ann/.env")}, "ProtectHome", "read-only"),
        ({"rules_file": Path("/home/ann/rules.toml")}, "ProtectHome", "read-only"),
    ],
    ids=[
        "the key is handed over",
        "and found there",
        "a state directory elsewhere can be written",
        "and is made",
        "one below another",
        "a log file can be written",
        "settings in a home can be read",
        "rules in a home can be read",
    ],
)
def test_the_unit_fits_the_installation(changes: dict[str, object], name: str, value: str) -> None:
    assert value in settings_of(render_unit(paths(**changes)))[name]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"user": "two words"}, "--user"),
        ({"user": "x\nUser=root"}, "--user"),
        ({"env_file": Path("/opt/backstop/prod.env")}, "--env-file"),
        ({"state_dir": Path("/srv/my state")}, "/srv/my state"),
        ({"state_dir": Path("state")}, "state"),
        ({"key_file": Path("/srv/100%/key.pem")}, "/srv/100%/key.pem"),
        ({"command": (Path("/opt/a\nUser=root/python"),)}, "User=root"),
    ],
    ids=[
        "no user name",
        "a second line",
        "another file than .env",
        "a space",
        "a relative path",
        "a percent sign",
        "a line break in a path",
    ],
)
def test_a_path_that_systemd_would_read_otherwise_is_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        render_unit(paths(**changes))
    assert any(told in problem for problem in caught.value.problems)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
@pytest.mark.parametrize("has_key", [True, False])
def test_systemd_itself_accepts_the_unit_and_calls_it_well_hardened(tmp_path: Path, has_key: bool) -> None:
    unit = tmp_path / "backstop.service"
    key_file = Path("/opt/backstop/kalshi.pem") if has_key else None
    unit.write_text(render_unit(paths(command=installed_command(), user="daemon", key_file=key_file)))
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=30)
    assert (verified.returncode, verified.stderr) == (0, "")
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=20", unit],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert rated.returncode == 0, rated.stdout


# --- the key as a credential --------------------------------------------------------------------------


def acl(*entries: tuple[int, int, int]) -> bytes:
    return b"\x02\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + allowed.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, allowed, who in entries
    )


NOBODY = 0xFFFFFFFF
OWNER, USER, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x10, 0x20


@pytest.mark.parametrize(
    ("reader", "group", "other", "is_private"),
    [(0, 0, 0, True), (1, 0, 0, False), (0, 4, 0, False), (0, 0, 4, False)],
    ids=["the service alone", "another user", "a group", "everybody"],
)
def test_a_credential_that_an_access_list_gives_to_the_service_alone_is_private(
    tmp_path: Path, reader: int, group: int, other: int, is_private: bool
) -> None:
    """Where the file system has access lists, systemd hands credentials over by one, with mode 0440."""
    key_file = tmp_path / "key.pem"
    key_file.write_text("key")
    me = os.geteuid()
    access = acl(
        (OWNER, 4, NOBODY), (USER, 4, me + reader), (GROUP, group, NOBODY), (MASK, 4, NOBODY),
        (OTHER, other, NOBODY),
    )  # fmt: skip
    try:
        os.setxattr(key_file, "system.posix_acl_access", access)
    except OSError as exc:
        pytest.skip(f"no access lists here: {exc}")
    assert key_file.stat().st_mode & 0o040, "as systemd's looks"
    assert (private_file_problem(key_file, me) is None) == is_private


# --- the commands -------------------------------------------------------------------------------------


def test_the_command_prints_the_unit_of_the_settings_it_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "bot"
    directory.mkdir()
    key_file = directory / "kalshi.pem"
    key_file.write_text("key")
    key_file.chmod(0o600)
    (directory / ".env").write_text(
        "KALSHI_ENV=demo\nKALSHI_API_KEY_ID=an-id\nKALSHI_PRIVATE_KEY_PATH=kalshi.pem\n"
        "STATE_DIR=/var/lib/bot\n"
    )
    arguments = ["systemd", "--user", "ann", "--env-file", "bot/.env"]
    assert main(arguments, environ={}, directory=tmp_path) == 0
    said = settings_of(capsys.readouterr().out)
    assert said["User"] == ["ann"]
    assert said["WorkingDirectory"] == [str(directory)]
    assert said["StateDirectory"] == ["bot"]
    assert said["LoadCredential"] == [f"key.pem:{key_file}"]
    started = said["ExecStart"][0].split()
    assert all(Path(word).is_absolute() and Path(word).exists() for word in started[:2])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--env-file", "elsewhere/.env"], "elsewhere/.env"),
        (["--user", "Not A User"], "Not A User"),
    ],
)
def test_a_unit_that_could_not_run_is_not_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert main(["systemd", *arguments], environ={}, directory=tmp_path) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert told in printed.err


def test_a_key_that_others_can_read_is_refused_here_already(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "k.pem").write_text("key")
    (tmp_path / "k.pem").chmod(0o644)
    environ = {"KALSHI_ENV": "demo", "KALSHI_API_KEY_ID": "an-id", "KALSHI_PRIVATE_KEY_PATH": "k.pem"}
    assert main(["systemd"], environ=environ, directory=tmp_path) == 2
    assert "chmod 600" in capsys.readouterr().err


def test_the_command_prints_a_dashboard_that_grafana_can_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".env").write_text("STOP_LOS_PCT=20\n")  # no settings are needed for it
    assert main(["dashboard"], environ={}, directory=tmp_path) == 0
    assert json.loads(capsys.readouterr().out) == dashboard()
