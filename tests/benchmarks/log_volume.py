"""How much an idle day logs: the daemon with ten positions and nothing to do, against the sandbox.

    .venv/bin/python -m tests.benchmarks.log_volume [--minutes 5] [--positions 10] [--mode quiet|ticking]
        [--format text|json] [--level INFO]

The lines of the start are counted by themselves; those of the minutes after it are carried forward to a day.
Beside each event: how often it came, and what it would fill in a day.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import threading
from collections import Counter
from pathlib import Path

from base.sandbox.scenario import parse_scenario
from base.sandbox.server import SandboxServer
from tests.integration.rig import Daemon

DAY_MINUTES = 24 * 60
BYTES_A_DAY_MAX = 2_000_000
_EVENT = re.compile(r'event(?:=|": ")(\w+)')


def name_of(line: str) -> str:
    found = _EVENT.search(line)
    return found[1] if found is not None else "(no event)"


def size_of(lines: list[str]) -> int:
    return sum(len(line.encode()) + 1 for line in lines)


def main() -> int:
    """0 when a day stays below the limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--positions", type=int, default=10)
    parser.add_argument("--mode", choices=("quiet", "ticking"), default="ticking")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--level", default="INFO")
    options = parser.parse_args()
    fleet = f'[[fleet]]\ncount = {options.positions}\nmode = "{options.mode}"\nside = "mixed"'
    with (
        tempfile.TemporaryDirectory() as directory,
        SandboxServer(parse_scenario(fleet, "idle.toml")) as server,
        Daemon(Path(directory), server, LOG_FORMAT=options.format, LOG_LEVEL=options.level) as daemon,
    ):
        daemon.until(lambda: daemon.is_covered(options.positions), "all protected", 30)
        threading.Event().wait(10.0)  # what belongs to the start
        start = daemon.lines()
        threading.Event().wait(options.minutes * 60)
        idle = daemon.lines()[len(start) :]
        daemon.terminate()
    days = options.minutes / DAY_MINUTES
    print(f"start                {len(start):>7} lines {size_of(start):>10,} bytes")
    counts = Counter(map(name_of, idle))
    for name, count in counts.most_common():
        size = size_of([line for line in idle if name_of(line) == name])
        print(f"{name:<20} {count:>7} lines {size / days:>10,.0f} bytes a day")
    total = size_of(idle) / days
    print(f"a day                        {total:>16,.0f} bytes, at most {BYTES_A_DAY_MAX:,}")
    return 0 if total <= BYTES_A_DAY_MAX else 1


if __name__ == "__main__":
    raise SystemExit(main())
