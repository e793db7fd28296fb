"""The sandbox's command line: arguments in, four lines and `ready` out, serve until stopped."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from base.clock import SystemClock
from base.errors import ConfigError, ExitCode
from base.model.market import OutcomeSide
from base.sandbox.scenario import Scenario, default_scenario, load_scenario
from base.sandbox.server import DEFAULT_SEED, rest_url, serve, ws_url
from base.sandbox.signatures import KeyPair, open_key_dir
from base.sandbox.tape import Tape, TapePlayer, open_tape
from base.sandbox.venue import Venue

SPEED_MAX = 10_000.0
PROGRESS_EVERY_S = 0.5
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line, checked."""

    port: int
    seed: int
    tape: Path | None
    tape_side: str
    speed: float
    pause_max_s: float | None
    scenario: Path | None
    key_dir: Path
    exits_with_stdin: bool


def main(argv: list[str] | None = None) -> int:
    """Run the sandbox; the return value is the process's exit code."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    try:
        options = parse_options(argv)
        keys = open_key_dir(options.key_dir)
        progress = TapeProgress(sys.stderr)
        venue = build_venue(options, progress)
    except SystemExit as exc:  # argparse has said what is wrong
        return ExitCode.OK if exc.code in (0, None) else ExitCode.CONFIG
    except ConfigError as exc:
        for problem in exc.problems:
            sys.stderr.write(f"{problem}\n")
        return ExitCode.CONFIG
    try:
        asyncio.run(_serve(options, venue, keys, progress))
    except OSError as exc:
        sys.stderr.write(f"cannot listen on port {options.port}: {exc}; choose another --port\n")
        return ExitCode.CONFIG
    finally:
        progress.close()
    return ExitCode.OK


class TapeProgress:
    """Shows how far a tape has been played and the time on it, where somebody sees it; steps as a player."""

    def __init__(self, stream: TextIO) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._bar = Progress(
            *columns,
            console=Console(file=stream),
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not stream.isatty(),
        )
        self._player: TapePlayer | None = None
        self._start = self._length_s = self._due_at = 0.0

    def follow(self, player: TapePlayer, tape: Tape, start: float) -> None:
        self._player, self._start = player, start
        last_at = max(market.last_at for market in tape.markets.values())
        self._length_s = max(player.wall_time(last_at) - start, 0.001)
        self._task = self._bar.add_task("", total=self._length_s)

    def step(self, now: float) -> None:
        """Draw it when it is time to."""
        if self._player is None or (now < self._due_at and not self._player.is_finished):
            return
        self._due_at = now + PROGRESS_EVERY_S
        at = self._player.next_at
        if at is None:
            self._bar.update(self._task, description="tape played", completed=self._length_s)
        else:
            # The tape's own next frame, not the clock: it may wait in a silence, or be behind.
            played_s = min(now, self._player.wall_time(at)) - self._start
            moment = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            self._bar.update(self._task, description=f"tape at {moment}", completed=played_s)
        self._bar.start()
        self._bar.refresh()
        if at is None:
            self.close()

    def close(self) -> None:
        """Leave the terminal as it was, the last state on it."""
        self._player = None
        self._bar.stop()


def parse_options(argv: list[str] | None = None) -> Options:
    """Check the command line. Raises SystemExit (argparse) or ConfigError."""
    state_dir = Path(os.environ.get("STATE_DIR") or "state")
    parser = argparse.ArgumentParser(prog="sandbox", description="A local Kalshi exchange on loopback.")
    parser.add_argument("--port", type=int, default=0, help="TCP port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="seed of the simulated participants")
    parser.add_argument("--tape", type=Path, help="play a recorded tape (.jsonl or .jsonl.gz)")
    parser.add_argument("--tape-side", choices=("yes", "no", "none"), default="yes", help="side to hold")
    parser.add_argument("--speed", type=float, default=1.0, help="tape seconds per second")
    parser.add_argument(
        "--pause-max", type=float, help="shorten the tape's pauses to this many tape seconds (at least 60)"
    )
    parser.add_argument("--scenario", type=Path, help="TOML file; see base/sandbox/README.md")
    parser.add_argument("--key-dir", type=Path, default=state_dir / "sandbox", help="API key pair")
    parser.add_argument(
        "--exit-with-stdin", action="store_true", help="stop when standard input reaches its end"
    )
    args = parser.parse_args(argv)
    problems = []
    if not 0 <= args.port <= 65_535:
        problems.append("--port must lie between 0 and 65535")
    if args.pause_max is not None and not args.pause_max > 0:
        problems.append("--pause-max must be seconds above 0")
    if not 0 < args.speed <= SPEED_MAX:
        problems.append(f"--speed must lie above 0 and at most at {SPEED_MAX:.0f}")
    if problems:
        raise ConfigError(problems)
    return Options(
        port=args.port,
        seed=args.seed,
        tape=args.tape,
        tape_side=args.tape_side,
        speed=args.speed,
        pause_max_s=args.pause_max,
        scenario=args.scenario,
        key_dir=args.key_dir,
        exits_with_stdin=args.exit_with_stdin,
    )


def build_venue(options: Options, progress: TapeProgress) -> Venue:
    """Markets from the scenario or the tape; a tape without a scenario stands alone. Raises ConfigError."""
    if options.scenario is not None:
        scenario = load_scenario(options.scenario)
    else:
        scenario = default_scenario() if options.tape is None else Scenario(())
    venue = Venue(scenario, clock=SystemClock(), seed=options.seed)
    if options.tape is not None:
        tape = open_tape(options.tape)
        side = None if options.tape_side == "none" else OutcomeSide(options.tape_side)
        start = venue.clock.now()
        player = TapePlayer(
            venue.exchange,
            tape,
            start=start,
            speed=options.speed,
            side=side,
            pause_max_s=options.pause_max_s,
        )
        venue.add_player(player)
        progress.follow(player, tape, start)
        venue.add_player(progress)
    return venue


async def _serve(options: Options, venue: Venue, keys: KeyPair, progress: TapeProgress) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if options.exits_with_stdin:
        threading.Thread(target=_watch_stdin, args=(loop, stop), name="stdin", daemon=True).start()
    await serve(venue, keys, stop, lambda port: _announce(port, keys), port=options.port)
    progress.close()  # the line below would be written into it
    _log.info("event=stopped")


def _announce(port: int, keys: KeyPair) -> None:
    sys.stdout.write(
        f"REST {rest_url(port)}\nWS {ws_url(port)}\nKEY_ID {keys.key_id}\nKEY_FILE {keys.key_file}\nready\n"
    )
    sys.stdout.flush()


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Set `stop` at the end of standard input: a parent that was killed leaves no orphan.

    Reads the descriptor itself: a thread inside the buffered reader would break the interpreter's exit.
    """
    try:
        while os.read(0, 65_536):
            continue
    except OSError as exc:
        _log.warning("event=stdin_lost error=%s; stopping", exc)
    try:
        loop.call_soon_threadsafe(stop.set)
    except RuntimeError:
        _log.debug("event=already_stopped")
