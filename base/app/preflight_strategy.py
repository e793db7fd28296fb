"""The part of `check` that makes the user's strategy: in a process of its own, which may hang, end or leave
threads behind without taking `check` with it.

The process finds modules where this one does, and is ended with everything that it has started.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from base.app.findings import Finding
from base.app.preflight_codes import Code, fail, ok, warn
from base.app.strategy_loading import STRATEGIES, StrategyError, load_strategy
from base.errors import ConfigError

MAKE_S_MAX = 15.0
STOP_S = 2.0
OUTLIVE_S = 10
"""So long after the time-out the process ends by itself, should nobody be there to end it."""
REPORT_BYTES_MAX = 65_536


class Making(StrEnum):
    """What came of making it."""

    ENDED = "ended"
    """The process ended without a word: the constructor has left it, or was killed."""
    SLOW = "slow"
    RAISED = "raised"
    REFUSED = "refused"
    MADE = "made"


@dataclass(frozen=True, slots=True)
class Made:
    """How it went; `why` is for people."""

    making: Making
    why: str = ""


MakeStrategy = Callable[[str, Mapping[str, str]], Made]


def make_strategy(
    name: str,
    settings: Mapping[str, str],
    patience_s: float = MAKE_S_MAX,
    path: Sequence[str] | None = None,
    python: str = sys.executable,
) -> Made:
    """Make it and throw it away; built-in ones are made here, they are this program's own.

    Modules are found on `path`, by default where this process finds them.
    """
    if name in STRATEGIES or not all(name.partition(":")):
        return _make(name, settings)
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    try:
        process = subprocess.Popen(
            [python, "-P", "-m", __name__, str(writer), str(int(patience_s) + OUTLIVE_S)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path or sys.path))},
            pass_fds=(writer,),
            start_new_session=True,
        )
    except OSError as exc:  # as a user who may read the interpreter, and not run it
        os.close(reader)
        return Made(Making.RAISED, f"{python} cannot be run to try it: {exc.strerror or exc}")
    finally:
        os.close(writer)
    try:
        document = json.dumps({"name": name, "settings": dict(settings)}).encode()
        process.communicate(document, patience_s)
        report = json.loads(os.read(reader, REPORT_BYTES_MAX))
        return Made(Making(report["making"]), report["why"])
    except subprocess.TimeoutExpired:
        return Made(Making.SLOW, f"its constructor had not come back after {patience_s:g} s")
    except (BlockingIOError, ValueError):
        how = f"signal {-process.returncode}" if process.returncode < 0 else f"code {process.returncode}"
        return Made(Making.ENDED, f"its constructor ended the whole process ({how})")
    finally:
        os.close(reader)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)


def judge_strategy(name: str, made: Made) -> Finding:
    """What it means for the daemon."""
    what = f"strategy: {name}: {made.why}"
    match made.making:
        case Making.MADE:
            return ok(Code.STRATEGY, f"strategy: {name} can be made")
        case Making.REFUSED:
            remedy = "correct STRATEGY and its STRATEGY_… settings, or set `STRATEGY=guard`"
            return fail(Code.STRATEGY_REFUSED, what, f"{remedy}; run refuses to start")
        case Making.RAISED:
            remedy = "run protects what is held and opens nothing; repair the strategy"
            return warn(Code.STRATEGY_RAISES, what, remedy)
        case Making.SLOW:
            remedy = (
                "run protects what is held and opens nothing until it is made; let it prepare in decide()"
            )
            return warn(Code.STRATEGY_SLOW, what, remedy)
        case Making.ENDED:
            remedy = "run would end with it and protect nothing; repair it, or set `STRATEGY=guard`"
            return fail(Code.STRATEGY_ENDS, what, remedy)


def _make(name: str, settings: Mapping[str, str]) -> Made:
    try:
        load_strategy(name, settings)
    except ConfigError as exc:
        return Made(Making.REFUSED, str(exc))
    except StrategyError as exc:
        return Made(Making.RAISED, str(exc))
    return Made(Making.MADE)


def main() -> None:
    """The process itself: reads what to make, writes how it went to a descriptor of its own."""
    signal.alarm(int(sys.argv[2]))
    document = json.load(sys.stdin)
    made = _make(document["name"], document["settings"])
    report = json.dumps({"making": made.making, "why": made.why})
    os.write(int(sys.argv[1]), report.encode()[:REPORT_BYTES_MAX])
    os._exit(0)  # threads that it has started must not keep this process


if __name__ == "__main__":
    main()
