"""The part of `check` that asks nobody else: this machine's disk, clock data, locks and ports."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

from base.app.alerts import open_notifiers
from base.app.config import Config, Environment
from base.app.findings import Finding, fail, ok, warn
from base.app.flatten import ENTRIES_BLOCKED_FILE
from base.app.instance_lock import InstanceLock
from base.app.loop import HALTED_FILE, journal_path
from base.app.strategy_loading import StrategyError, load_strategy
from base.errors import AlreadyRunningError, ConfigError
from base.risk.schedule import eastern

FREE_BYTES_WARN = 200 * 1024 * 1024
WRITE_BYTES = 65_536
"""The write test takes as much as the journal may take in one transaction."""


def free_bytes(directory: Path) -> int:
    """What an ordinary user may still write there."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


@dataclass(frozen=True)
class Machine:
    """What of this machine is asked; handed in so that every finding can be provoked."""

    lock: Callable[[str], InstanceLock] = InstanceLock
    load_zone: Callable[[str], tzinfo] = ZoneInfo
    free_bytes: Callable[[Path], int] = free_bytes


def check_machine(config: Config, machine: Machine) -> Iterator[Finding]:
    """Disk, marks, zone data, another instance, the page's port, the strategy, alerts."""
    yield from _check_state_dir(config, machine)
    yield from _check_marks(config)
    yield _check_zone(machine)
    is_running, instance = _check_instance(config, machine)
    yield instance
    yield _check_page(config, is_running=is_running)
    yield _check_strategy(config)
    yield from _check_alerts(config)


def _check_state_dir(config: Config, machine: Machine) -> Iterator[Finding]:
    path = config.state_dir
    directory = next((d for d in (path, *path.parents) if d.exists()), path)
    what = f"disk: STATE_DIR={path}"
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".backstop-check-") as file:
            file.write(b"\0" * WRITE_BYTES)
            file.flush()
            os.fsync(file.fileno())
        free_mb = machine.free_bytes(directory) / 1024**2
    except OSError as exc:
        is_full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free disk space" if is_full else "give its owner's rights to this user, or name another"
        yield fail(f"{what} cannot be written ({exc.strerror or exc})", f"{remedy}; run refuses to start")
        return
    if free_mb * 1024**2 < FREE_BYTES_WARN:
        yield warn(
            f"{what} is written, {free_mb:.0f} MB are free",
            "free disk space: without a record nothing is opened",
        )
    else:
        yield ok(f"{what} is written, {free_mb:.0f} MB are free")
    if path.is_dir() and path.stat().st_mode & 0o077:
        yield warn(f"disk: other users can read {path}", f"run: chmod 700 {path}")
    if config.api_key_id:
        journal = journal_path(config)
        if journal.exists() and not (journal.is_file() and os.access(journal, os.R_OK | os.W_OK)):
            yield fail(
                f"disk: the record {journal} cannot be opened by this user",
                "run as the user who owns it, or give it to this one (chown); run refuses to start",
            )
    log = config.log_file
    if log is not None and not (log.parent.is_dir() and os.access(log.parent, os.W_OK)):
        yield fail(f"disk: LOG_FILE={log} cannot be written", "make its directory, or write another path")


def _check_marks(config: Config) -> Iterator[Finding]:
    """Files by which somebody has told the daemon to hold still."""
    halted = config.state_dir / HALTED_FILE
    blocked = config.state_dir / ENTRIES_BLOCKED_FILE
    if halted.exists():
        yield warn("kill switch: it is on: run sends nothing, exits neither", f"remove {halted}")
    if blocked.exists():
        yield warn("entries: they are blocked (flatten, or somebody, left a mark)", f"remove {blocked}")


def _check_zone(machine: Machine) -> Finding:
    _, has_data = eastern(machine.load_zone)
    if has_data:
        return ok("time zones: America/New_York is known to this machine")
    return warn(
        "time zones: no zone data: US Eastern is reckoned by the rule of 2007",
        "install the tzdata package (apt install tzdata, or pip install tzdata)",
    )


def _check_instance(config: Config, machine: Machine) -> tuple[bool, Finding]:
    """Whether another instance holds the key's lock; it is taken for an instant."""
    is_sandbox = config.runs_embedded_sandbox
    try:
        with machine.lock(f"sandbox:{config.state_dir.resolve()}" if is_sandbox else config.api_key_id):
            return False, ok("instance: no other one runs with this key on this machine")
    except AlreadyRunningError as exc:
        remedy = "it protects what is held; stop it before starting a second one with run"
        return True, warn(f"instance: {exc}", remedy)
    except ConfigError as exc:
        return False, fail(f"instance: {exc}", "run refuses to start")


def _check_page(config: Config, *, is_running: bool) -> Finding:
    what = f"page: {config.ui_host}:{config.ui_port}"
    family = socket.AF_INET6 if ":" in config.ui_host else socket.AF_INET
    try:
        socket.create_server((config.ui_host.strip("[]"), config.ui_port), family=family).close()
    except OSError as exc:
        if is_running and exc.errno == errno.EADDRINUSE:
            return ok(f"{what} is in use, as expected beside a running instance")
        return fail(
            f"{what} cannot be used ({exc.strerror or exc})",
            "set UI_PORT to a free port (and UI_HOST to an address of this machine); run refuses to start",
        )
    return ok(f"{what} is free")


def _check_strategy(config: Config) -> Finding:
    what = f"strategy: {config.strategy}"
    try:
        load_strategy(config.strategy, config.strategy_settings)
    except ConfigError as exc:
        return fail(f"{what}: {exc}", "correct STRATEGY and its STRATEGY_* settings; run refuses to start")
    except StrategyError as exc:
        return warn(f"{what}: {exc}", "run protects what is held and opens nothing; repair the strategy")
    return ok(f"{what} can be made")


def _check_alerts(config: Config) -> Iterator[Finding]:
    """What would be used; nothing is sent."""
    dead_man = f"called every {config.deadman_interval_s:g} s" if config.deadman_url else "none configured"
    yield ok(f"dead man's switch: {dead_man}")
    try:
        names = [notifier.name for notifier in open_notifiers(config.alert_urls)]
    except ConfigError as exc:
        for problem in exc.problems:
            what, _, remedy = problem.partition("; ")
            yield fail(f"alerts: {what}", remedy)
        return
    if names:
        yield ok(
            f"alerts: {len(names)} service{'s' if len(names) > 1 else ''} configured: {', '.join(names)}"
        )
    elif config.env is Environment.SANDBOX:
        yield ok("alerts: none configured")
    else:
        yield warn("alerts: none configured: nobody is told when a position is unprotected", "set ALERT_URLS")
