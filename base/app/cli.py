"""The commands, and what their ends mean to the shell.

Exit codes: 0 as asked, 2 configuration, 3 another instance runs, 4 could not keep running safely,
5 a check or an action failed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from base.app.config import Config, load_config
from base.app.logging_setup import configure_logging, redact, register_secret
from base.app.status_client import read_evaluations, read_status
from base.clock import Clock, SystemClock
from base.errors import AlreadyRunningError, BotError, ConfigError, ExitCode
from base.log import escape

DESCRIPTION = """\
Backstop watches the positions of a Kalshi account and gets out when a rule says so: once, for exactly
what is held. Without a command it runs the daemon; without any configuration it does so against a local
sandbox exchange that it starts itself, and no order leaves this machine.
"""
EPILOG = """\
Configuration comes from the environment and from .env in the working directory; .env.example lists every
variable. Exit codes: 0 as asked, 2 configuration is wrong, 3 another instance runs with the same key,
4 could not keep running safely, 5 a check or an action failed.
"""


def _run_daemon(config: Config) -> int:
    from base.app.loop import run_daemon

    return run_daemon(config)


def _run_checks(config: Config, out: TextIO) -> int:
    from base.app.preflight import run_checks

    return run_checks(config, out)


def _run_alerts(config: Config, is_test: bool, out: TextIO) -> int:
    from base.app.alert_trial import run_alerts

    return run_alerts(config, is_test, out)


def _run_flatten(config: Config, ticker: str | None, yes: bool) -> int:
    from base.app.flatten import main as flatten

    return flatten(config, ticker, yes)


def _run_sandbox(arguments: list[str]) -> int:
    from base.sandbox.cli import main as sandbox

    return sandbox(arguments)


def _run_replay(arguments: list[str]) -> int:
    from base.app.replay import main as replay

    return replay(arguments)


@dataclass(frozen=True)
class EntryPoints:
    """What the commands start. Each imports its part only when called: `status` needs no trading code."""

    daemon: Callable[[Config], int] = _run_daemon
    checks: Callable[[Config, TextIO], int] = _run_checks
    alerts: Callable[[Config, bool, TextIO], int] = _run_alerts
    flatten: Callable[[Config, str | None, bool], int] = _run_flatten
    sandbox: Callable[[list[str]], int] = _run_sandbox
    replay: Callable[[list[str]], int] = _run_replay


def main(
    argv: list[str] | None = None,
    *,
    entry_points: EntryPoints | None = None,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
    clock: Clock | None = None,
) -> int:
    """Run one command and return the exit code; what is not given is the process's own."""
    arguments = sys.argv[1:] if argv is None else argv
    invocation = _Invocation(
        entry_points or EntryPoints(),
        os.environ if environ is None else environ,
        directory or Path.cwd(),
        clock or SystemClock(),
    )
    _accept_any_character(sys.stdout)
    try:
        code = _dispatch(arguments, invocation)
        if sys.stdout is not None:  # started with it closed
            sys.stdout.flush()  # here, so that a reader that has gone is noticed inside the try
        return code
    except ConfigError as exc:
        _complain(*exc.problems)
        return ExitCode.CONFIG
    except AlreadyRunningError as exc:
        _complain(str(exc))
        return ExitCode.ALREADY_RUNNING
    except BrokenPipeError:
        _leave_closed_pipe()
        return ExitCode.OK
    except BotError as exc:
        _complain(str(exc))
    except ModuleNotFoundError as exc:
        _complain(f"the package {exc.name} is missing; install this program again as its README says")
    except KeyboardInterrupt:  # of the daemon only before its own signal handlers were in place
        _complain("interrupted")
        if arguments[:1] in ([], ["run"]):
            return ExitCode.OK
    except Exception:  # safety net: an exit code that means something, and a traceback without secrets
        print(redact(traceback.format_exc()), file=sys.stderr)
    return ExitCode.FAILED


@dataclass(frozen=True)
class _Invocation:
    entry_points: EntryPoints
    environ: Mapping[str, str]
    directory: Path
    clock: Clock

    def config(self) -> Config:
        """The configuration; from here on its secrets stay out of everything that is logged."""
        config = load_config(self.environ, self.directory)
        for secret in (config.ui_token, config.api_key_id, config.deadman_url, *config.alert_urls):
            register_secret(secret)
        return config


def _dispatch(arguments: list[str], invocation: _Invocation) -> int:
    # These two have options of their own, which argparse would try to understand here.
    if arguments[:1] == ["sandbox"]:
        return invocation.entry_points.sandbox(arguments[1:])
    if arguments[:1] == ["replay"]:
        return invocation.entry_points.replay(arguments[1:])
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as exc:  # argparse ends the process after --help, --version and usage errors
        return exc.code if isinstance(exc.code, int) else ExitCode.CONFIG
    if options.command == "dashboard":
        return _show_dashboard()
    if options.command == "systemd":
        return _show_unit(invocation, options.user, options.env_file)
    config = invocation.config()
    if options.command in (None, "run"):
        return _run_or_say_unsafe(invocation.entry_points.daemon, config)
    # Standard output is the command's own.
    configure_logging("WARNING", "text", None, stream=sys.stderr, queued=False)
    match options.command:
        case "check":
            return invocation.entry_points.checks(config, sys.stdout)
        case "alerts":
            return invocation.entry_points.alerts(config, options.test, sys.stdout)
        case "status":
            return _show_status(config, invocation.clock, as_json=options.json, watch=options.watch)
        case "explain":
            return _show_evaluations(config, options.ticker)
        case _:
            return invocation.entry_points.flatten(config, options.ticker, options.yes)


def _run_or_say_unsafe(daemon: Callable[[Config], int], config: Config) -> int:
    """Run the daemon; whatever ends it unexpectedly is code 4, so that a supervisor starts a clean one."""
    try:
        return daemon(config)
    except (ConfigError, AlreadyRunningError):
        raise
    except Exception:  # safety net: see above
        print(redact(traceback.format_exc()), file=sys.stderr)
        return ExitCode.UNSAFE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_bot.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"backstop {version()}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")

    def add(name: str, summary: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
        )

    add("run", "run the daemon in the foreground until SIGTERM or Ctrl-C (the default)")
    add("check", "check configuration, key, clock, connection, limits, positions and their rules")
    alerts = add("alerts", "show where alerts go")
    alerts.add_argument(
        "--test", action="store_true", help="send one message to each channel, and one dead-man call"
    )
    status = add("status", "show what the running daemon protects, and what it does not")
    status.add_argument("--json", action="store_true", help="print the raw document")
    status.add_argument("--watch", action="store_true", help="keep refreshing until Ctrl-C")
    explain = add("explain", "show the last evaluations of one position's rules")
    explain.add_argument("ticker", metavar="TICKER", help="the market's ticker")
    flatten = add("flatten", "close all positions, or one, with reduce-only orders and block entries")
    flatten.add_argument("--ticker", metavar="T", help="only this market")
    flatten.add_argument("--yes", action="store_true", help="do not ask first")
    systemd = add("systemd", "print a hardened systemd unit for this installation")
    systemd.add_argument("--user", metavar="NAME", default="backstop", help="who it runs as (backstop)")
    systemd.add_argument("--env-file", metavar="F", type=Path, help="its .env (the one in this directory)")
    add("dashboard", "print a Grafana dashboard of the daemon's metrics as JSON")
    add("sandbox", "run the local exchange alone (sandbox --help for its options)")
    add("replay", "run the exit rules over a recorded tape (replay --help for its options)")
    return parser


def version() -> str:
    """The installed version."""
    try:
        return metadata.version("backstop")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _show_status(config: Config, clock: Clock, *, as_json: bool, watch: bool) -> int:
    def print_once(document: Mapping[str, Any]) -> None:
        if as_json:
            print(json.dumps(document, indent=None if watch else 2), flush=True)
        else:
            from base.ui.terminal import print_status

            print_status(document, sys.stdout, color=_use_color())
            sys.stdout.flush()

    if not watch:
        print_once(read_status(config))
        return ExitCode.OK
    from base.app.status_watch import Screen, watch_status

    show: Callable[[Mapping[str, Any]], None] = print_once
    show_outage: Callable[[str], None] = _complain
    if sys.stdout.isatty() and not as_json:
        screen = Screen(sys.stdout, color=_use_color())
        show, show_outage = screen.show, screen.show_outage
    watch_status(lambda: read_status(config), show, show_outage, clock)
    return ExitCode.OK


def _show_evaluations(config: Config, ticker: str) -> int:
    told = read_evaluations(config, ticker)
    from base.ui.terminal import print_explain

    print_explain(
        ticker,
        told.rows,
        sys.stdout,
        color=_use_color(),
        trading_mode=told.trading_mode,
        exits=told.exits,
    )
    return ExitCode.OK


def _show_dashboard() -> int:
    from base.ui.dashboard import dashboard

    print(json.dumps(dashboard(), indent=2))
    return ExitCode.OK


def _show_unit(invocation: _Invocation, user: str, env_file: Path | None) -> int:
    from base.app.systemd import ServicePaths, installed_command, render_unit

    directory = invocation.directory.absolute()
    path = directory / ".env" if env_file is None else directory / env_file
    if env_file is not None and not path.is_file():
        raise ConfigError([f"--env-file {env_file}: no such file; write the path of the daemon's .env"])
    config = load_config(invocation.environ, path.parent)
    paths = ServicePaths(
        user=user,
        env_file=path,
        command=installed_command(),
        state_dir=config.state_dir,
        key_file=None if config.runs_embedded_sandbox else config.private_key_path,
        log_file=config.log_file,
        rules_file=config.rules_file,
    )
    print(render_unit(paths), end="")
    return ExitCode.OK


def _use_color() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _accept_any_character(stream: TextIO) -> None:
    """Let a terminal or log that cannot show a character get its escape, not an error in mid-line."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def _complain(*problems: str) -> None:
    for problem in problems:
        print(escape(problem), file=sys.stderr)


def _leave_closed_pipe() -> None:
    """End quietly after `| head`: the interpreter flushes standard output once more at its exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)
