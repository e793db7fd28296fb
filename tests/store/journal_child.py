"""A process that commits numbered records, prints each that is durable, and waits to be killed."""

from __future__ import annotations

import resource
import sys
from itertools import count
from pathlib import Path

from base.clock import SystemClock
from base.store.journal import Journal
from tests.store.journal_rig import ACCOUNT, attempt, episode, transition


def commit_for_ever(path: Path) -> None:
    journal = Journal.open(path, SystemClock(), account=ACCOUNT)
    journal.start()
    journal.commit([episode()])
    for number in count(1):
        if journal.commit([attempt(f"a{number}", number=number), transition(number)]):
            print(number, flush=True)


def commit_within(path: Path, bytes_max: int) -> None:
    """Commit until the limit on the size of a file stops it; print how many, and what it says then."""
    journal = Journal.open(path, SystemClock(), account=ACCOUNT)
    journal.start()
    journal.commit([episode()])
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, bytes_max))
    durable = 0
    while journal.commit([attempt(f"a{durable + 1}", number=durable + 1, why="x" * 2_000)]):
        durable += 1
    print(durable, journal.status().why, flush=True)
    journal.stop()
    journal.join(10.0)


if __name__ == "__main__":
    if sys.argv[1] == "for-ever":
        commit_for_ever(Path(sys.argv[2]))
    else:
        commit_within(Path(sys.argv[2]), int(sys.argv[3]))
