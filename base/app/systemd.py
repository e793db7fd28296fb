"""The service manager's side: what the running daemon tells systemd, and the unit that `systemd` prints.

The watchdog is fed by the supervisor after each look of its own, and only while every thread that it
watches has made its pass in time: a timer of its own would go on feeding while the checker is frozen.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import string
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from base.clock import Clock
from base.errors import ConfigError
from base.log import RepeatedWarnings, log_event

logger = logging.getLogger(__name__)

READY_WITHOUT_POSITIONS_S = 20.0
"""An exchange that cannot be reached must not look like a failed start: ready then; the status says why."""
STATUS_EVERY_S = 60.0
STATUS_CHANGED_S = 2.0
FEEDS_PER_WATCHDOG = 10
STATUS_CHARACTERS_MAX = 500

PROGRAM = Path(__file__).resolve().parents[2] / "run_bot.py"
STATE_ROOT = Path("/var/lib")
HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9/._@+-]*", re.ASCII)
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)


# --- what the daemon says -----------------------------------------------------------------------------


class ServiceManager:
    """Tells the service manager that started this process; does nothing when there is none.

    Owned by the supervisor thread. `late_threads` names those whose pass is not done in time,
    `is_loaded` says whether positions have been read completely once, `summary` is the line that
    `systemctl status` shows.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        late_threads: Callable[[], list[str]],
        is_loaded: Callable[[], bool],
        summary: Callable[[], str],
        clock: Clock,
    ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._feed_every_s = _watchdog_s(environ) / FEEDS_PER_WATCHDOG
        self._late_threads = late_threads
        self._is_loaded = is_loaded
        self._summary = summary
        self._clock = clock
        self._warnings = RepeatedWarnings()
        self._running_since: float | None = None
        self._is_ready = False
        self._fed_at: float | None = None
        self._status = ""
        self._status_at = 0.0

    def passed(self) -> None:
        """The supervisor has looked around: say what is true now."""
        if not self._address:
            return
        now = self._clock.monotonic()
        late = self._late_threads()
        if not late:
            self._feed(now)
            if not self._is_ready:
                self._say_ready(now)
        self._say_status(now, late)

    def stopping(self) -> None:
        """The way out has begun."""
        if self._address:
            self._send("STOPPING=1\nSTATUS=stopping")

    def _feed(self, now: float) -> None:
        if self._feed_every_s and (self._fed_at is None or now - self._fed_at >= self._feed_every_s):
            self._fed_at = now
            self._send("WATCHDOG=1")

    def _say_ready(self, now: float) -> None:
        if self._running_since is None:
            self._running_since = now
        if self._is_loaded() or now - self._running_since >= READY_WITHOUT_POSITIONS_S:
            self._is_ready = True
            self._send("READY=1")

    def _say_status(self, now: float, late: list[str]) -> None:
        status = self._summary() if self._is_loaded() else "positions have not been read yet"
        if late and self._is_ready:
            status = f"LATE: {','.join(late)}; {status}"
        age_s = now - self._status_at
        if age_s >= STATUS_EVERY_S or (status != self._status and age_s >= STATUS_CHANGED_S):
            self._status, self._status_at = status, now
            self._send(f"STATUS={' '.join(status.split())[:STATUS_CHARACTERS_MAX]}")

    def _send(self, text: str) -> None:
        # A leading @ stands for the zero byte of an abstract name (sd_notify(3)).
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)  # a service manager that does not read must not hold the supervisor
                sock.sendto(text.encode(), address)
        except OSError as exc:
            held_back = self._warnings.allow("unreachable", self._clock.monotonic())
            if held_back is not None:
                log_event(
                    logger, logging.WARNING, "service_manager_unreachable", why=exc, held_back=held_back
                )


def _watchdog_s(environ: Mapping[str, str]) -> float:
    """The watchdog's seconds, 0 when there is none or it is another process's (sd_watchdog_enabled(3))."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() else 0.0


# --- the unit -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServicePaths:
    """What the unit needs to know of this installation; all paths absolute."""

    user: str
    env_file: Path
    command: tuple[Path, ...]
    """Interpreter and program, or the installed command."""
    state_dir: Path
    key_file: Path | None = None
    log_file: Path | None = None
    rules_file: Path | None = None


def installed_command() -> tuple[Path, ...]:
    """How this very installation is started."""
    python = Path(sys.executable)
    return (python, PROGRAM) if PROGRAM.is_file() else (python.parent / "backstop",)


def render_unit(paths: ServicePaths) -> str:
    """The text of `backstop.service`. Raises ConfigError where systemd could not use the paths."""
    _check(paths)
    state, setup = _state_lines(paths.state_dir, paths.user)
    if paths.log_file is not None:
        state.append(f"ReadWritePaths={paths.log_file.parent}")
    credential = []
    if paths.key_file is not None:
        credential = [
            f"LoadCredential=key.pem:{paths.key_file}",
            "Environment=KALSHI_PRIVATE_KEY_PATH=%d/key.pem",
        ]
    return _UNIT.substitute(
        user=paths.user,
        directory=paths.env_file.parent,
        env_file=paths.env_file,
        command=" ".join(map(str, paths.command)),
        setup="\n".join([*setup, *credential]) or "# no key: the local sandbox",
        state="\n".join(state),
        home="read-only" if _is_in_a_home(paths) else "yes",
    )


def _check(paths: ServicePaths) -> None:
    problems = []
    if not _USER.fullmatch(paths.user):
        problems.append(f"--user {paths.user}: not a user name; write one such as backstop")
    if paths.env_file.name != ".env":
        problems.append(f"--env-file {paths.env_file}: the daemon reads the file .env; write its path")
    named = (
        paths.env_file,
        *paths.command,
        paths.state_dir,
        *(p for p in (paths.key_file, paths.log_file, paths.rules_file) if p is not None),
    )
    problems += [
        f"{path}: systemd needs a plain absolute path; move it to one of letters, digits and . _ @ + -"
        for path in dict.fromkeys(named)
        if not _PLAIN_PATH.fullmatch(str(path))
    ]
    if problems:
        raise ConfigError(problems)


def _state_lines(state_dir: Path, user: str) -> tuple[list[str], list[str]]:
    """How the unit makes STATE_DIR and writes to it, and what runs before the start."""
    if state_dir.is_relative_to(STATE_ROOT) and state_dir != STATE_ROOT:
        return [f"StateDirectory={state_dir.relative_to(STATE_ROOT)}", "StateDirectoryMode=0700"], []
    # systemd mounts it writable before the daemon could make it.
    make = f"ExecStartPre=+/usr/bin/install -d -m 0700 -o {user} {state_dir}"
    return [f"ReadWritePaths=-{state_dir}"], [make]


def _is_in_a_home(paths: ServicePaths) -> bool:
    used = (
        *paths.command,
        Path(sys.base_prefix),
        paths.env_file,
        paths.state_dir,
        *(p for p in (paths.log_file, paths.rules_file) if p is not None),
    )
    return any(path.is_relative_to(home) for path in used for home in HOMES)


_UNIT = string.Template("""\
[Unit]
Description=Backstop: stop-loss for Kalshi positions
Wants=network-online.target
After=network-online.target
# Never give up: a daemon that is not started again protects nothing.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
User=$user
WorkingDirectory=$directory
# Settings are read from $env_file
ExecStart=$command run
ExecReload=/bin/kill -HUP $$MAINPID
$setup

# Fed by completed passes only: a frozen checker lets it starve. The log then has every thread's stack.
WatchdogSec=30
Restart=always
RestartSec=2
# 2: the configuration is wrong. 3: another instance runs with the same key. Starting again mends neither.
RestartPreventExitStatus=2 3
TimeoutStartSec=60
# Stopping finishes exits in flight, within 10 s.
TimeoutStopSec=15
KillMode=mixed
OOMScoreAdjust=-500
MemoryMax=1G
# Up to 48 exit workers when many orders hang, beside the standing threads.
TasksMax=256
LimitNOFILE=4096
LimitCORE=0

$state
UMask=0077
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=$home
PrivateTmp=yes
PrivateDevices=yes
DevicePolicy=closed
PrivateUsers=yes
PrivateMounts=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectProc=invisible
ProcSubset=pid
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
KeyringMode=private
CapabilityBoundingSet=
AmbientCapabilities=
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources @debug @mount @swap @reboot @obsolete
SystemCallFilter=~@clock @cpu-emulation @module @raw-io
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
""")
