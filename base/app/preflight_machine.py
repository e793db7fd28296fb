"""The part of `check` that asks nobody else: this machine's disk, clock data, locks and ports."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

from base.app import preflight_probe
from base.app.alerts import open_notifiers
from base.app.config import Config, Environment
from base.app.findings import Finding
from base.app.flatten import ENTRIES_BLOCKED_FILE
from base.app.instance_lock import InstanceLock
from base.app.loop import HALTED_FILE, journal_path
from base.app.preflight_codes import Code, fail, ok, warn
from base.app.preflight_strategy import MakeStrategy, judge_strategy, make_strategy
from base.errors import AlreadyRunningError, ConfigError
from base.risk.schedule import eastern

FREE_BYTES_WARN = 200 * 1024 * 1024
WRITE_BYTES = 65_536
"""The write test takes as much as the journal may take in one transaction."""
DISK_S_MAX = 10.0
STOP_S = 0.5


@dataclass(frozen=True, slots=True)
class DiskLook:
    """What came of writing there: what is free, or the error's number and text; neither when it hung."""

    free_bytes: int | None = None
    errno: int | None = None
    why: str = ""


def look_at_disk(directory: Path, patience_s: float = DISK_S_MAX, python: str = sys.executable) -> DiskLook:
    """Write there, in a process of its own: one that a disk holds fast is left behind."""
    command = [python, "-I", "-S", preflight_probe.__file__, str(directory), str(WRITE_BYTES)]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError as exc:  # as a user who may read the interpreter, and not run it
        return DiskLook(errno=exc.errno or 0, why=f"{python} cannot be run: {exc.strerror or exc}")
    try:
        out, _ = process.communicate(timeout=patience_s)
        return DiskLook(**json.loads(out))
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # it goes when the disk lets it
            process.wait(STOP_S)
        return DiskLook()
    except ValueError:
        return DiskLook(errno=0, why=f"the write test ended with {process.returncode}")
    finally:
        if process.stdout is not None:
            process.stdout.close()


@dataclass(frozen=True)
class Machine:
    """What of this machine is asked; handed in so that every finding can be provoked."""

    lock: Callable[[str], InstanceLock] = InstanceLock
    load_zone: Callable[[str], tzinfo] = ZoneInfo
    look_at_disk: Callable[[Path], DiskLook] = look_at_disk
    make_strategy: MakeStrategy = make_strategy


def check_machine(config: Config, machine: Machine) -> Iterator[Finding]:
    """Disk, marks, zone data, another instance, the page's port, the strategy, alerts."""
    yield from _check_state_dir(config, machine)
    yield from _check_marks(config)
    yield _check_zone(machine)
    is_running, instance = _check_instance(config, machine)
    yield instance
    yield _check_page(config, is_running=is_running)
    made = machine.make_strategy(config.strategy, config.strategy_settings)
    yield judge_strategy(config.strategy, made)
    yield from _check_alerts(config)


def _check_state_dir(config: Config, machine: Machine) -> Iterator[Finding]:
    path = config.state_dir
    directory = next((d for d in (path, *path.parents) if d.exists()), path)
    what = f"disk: STATE_DIR={path}"
    look = machine.look_at_disk(directory)
    if look.free_bytes is None:
        yield _judge_no_write(what, look, directory)
    elif look.free_bytes < FREE_BYTES_WARN:
        yield warn(
            Code.DISK_LOW,
            f"{what} can be written; {look.free_bytes / 1024**2:.0f} MB are free",
            f"free disk space (`df -h {directory}`): without a record nothing is opened",
        )
    else:
        yield ok(Code.DISK, f"{what} can be written; {look.free_bytes / 1024**2:.0f} MB are free")
    if path.is_dir() and path.stat().st_mode & 0o077:
        yield warn(Code.DISK_OPEN, f"disk: other users can read {path}", f"run: `chmod 700 {path}`")
    if config.api_key_id:
        journal = journal_path(config)
        if journal.exists() and not (journal.is_file() and os.access(journal, os.R_OK | os.W_OK)):
            yield fail(
                Code.RECORD_UNUSABLE,
                f"disk: the record {journal} cannot be opened by this user",
                f"run as the user who owns it, or `sudo chown {os.geteuid()} {journal}`; "
                "run refuses to start",
            )
    log = config.log_file
    if log is not None and not (log.parent.is_dir() and os.access(log.parent, os.W_OK)):
        yield fail(
            Code.LOG_FILE_UNWRITABLE,
            f"disk: LOG_FILE={log} cannot be written",
            f"`mkdir -p {log.parent}`, or write another path; run refuses to start",
        )


def _judge_no_write(what: str, look: DiskLook, directory: Path) -> Finding:
    if look.errno is None:
        remedy = f"see what holds it (`df {directory}`, `dmesg`), or name another disk"
        return fail(
            Code.DISK_SLOW, f"{what} hangs: a small write had not ended after {DISK_S_MAX:g} s", remedy
        )
    what = f"{what} cannot be written ({look.why})"
    if look.errno in (errno.ENOSPC, errno.EDQUOT):
        return fail(Code.DISK_FULL, what, f"free disk space (`df -h {directory}`); run refuses to start")
    return fail(
        Code.DISK_UNWRITABLE,
        what,
        f"`sudo chown {os.geteuid()} {directory}`, or name another directory; run refuses to start",
    )


def _check_marks(config: Config) -> Iterator[Finding]:
    """Files by which somebody has told the daemon to hold still."""
    halted = config.state_dir / HALTED_FILE
    blocked = config.state_dir / ENTRIES_BLOCKED_FILE
    if halted.exists():
        yield fail(
            Code.HALTED, "kill switch: it is on: run sends nothing, exits neither", f"`rm {halted}` ends it"
        )
    if blocked.exists():
        yield warn(
            Code.ENTRIES_BLOCKED,
            "entries: they are blocked (flatten, or somebody, left a mark)",
            f"`rm {blocked}` lets them go on",
        )


def _check_zone(machine: Machine) -> Finding:
    _, has_data = eastern(machine.load_zone)
    if has_data:
        return ok(Code.ZONES, "time zones: America/New_York is known to this machine")
    return warn(
        Code.ZONES_MISSING,
        "time zones: no zone data: US Eastern is reckoned by the rule of 2007",
        "`sudo apt-get install tzdata`",
    )


def _check_instance(config: Config, machine: Machine) -> tuple[bool, Finding]:
    """Whether another instance holds the key's lock; it is taken for an instant."""
    is_sandbox = config.runs_embedded_sandbox
    try:
        with machine.lock(f"sandbox:{config.state_dir.resolve()}" if is_sandbox else config.api_key_id):
            return False, ok(Code.INSTANCE, "instance: no other one runs with this key on this machine")
    except AlreadyRunningError as exc:
        what, _, _ = str(exc).partition("; ")
        remedy = "if it is meant to run, there is nothing to do; run would refuse to start beside it"
        return True, warn(Code.INSTANCE_RUNNING, f"instance: {what}", remedy)
    except ConfigError as exc:
        problem, _, remedy = str(exc).partition("; ")
        remedy = f"{remedy}; run refuses to start" if remedy else "run refuses to start"
        return False, fail(Code.INSTANCE_LOCK, f"instance: {problem}", remedy)


def _check_page(config: Config, *, is_running: bool) -> Finding:
    what = f"page: {config.ui_host}:{config.ui_port}"
    family = socket.AF_INET6 if ":" in config.ui_host else socket.AF_INET
    try:
        socket.create_server((config.ui_host.strip("[]"), config.ui_port), family=family).close()
    except OSError as exc:
        if is_running and exc.errno == errno.EADDRINUSE:
            return ok(Code.PAGE_IN_USE, f"{what} is in use, as expected beside a running instance")
        return fail(
            Code.PAGE_UNUSABLE,
            f"{what} cannot be used ({os.strerror(exc.errno) if exc.errno else exc})",
            f"see who has it (`ss -ltnp sport = :{config.ui_port}`), or set UI_PORT to a free port and "
            "UI_HOST to an address of this machine; run refuses to start",
        )
    return ok(Code.PAGE, f"{what} is free")


def _check_alerts(config: Config) -> Iterator[Finding]:
    """What would be used; nothing is sent."""
    dead_man = f"called every {config.deadman_interval_s:g} s" if config.deadman_url else "none configured"
    yield ok(Code.DEAD_MAN, f"dead man's switch: {dead_man}")
    try:
        names = [notifier.name for notifier in open_notifiers(config.alert_urls)]
    except ConfigError as exc:
        for problem in exc.problems:
            what, _, remedy = problem.partition("; ")
            yield fail(Code.ALERTS_REFUSED, f"alerts: {what}", f"{remedy}; run refuses to start")
        return
    if names:
        yield ok(
            Code.ALERTS,
            f"alerts: {len(names)} service{'s' if len(names) > 1 else ''} configured: {', '.join(names)}; "
            "`run_bot.py alerts --test` sends a message to each",
        )
    elif config.env is Environment.SANDBOX:
        yield ok(Code.ALERTS_NOT_NEEDED, "alerts: none configured, and none needed on a local exchange")
    else:
        yield warn(
            Code.ALERTS_NONE,
            "alerts: none configured: nobody is told when a position is unprotected",
            "set ALERT_URLS, for instance `ALERT_URLS=ntfy://` and a long name of your own",
        )
