"""Start Backstop: `python run_bot.py [COMMAND]`, see `python run_bot.py --help`."""

import signal
import sys
from types import FrameType

RUNS_THE_DAEMON: tuple[list[str], ...] = ([], ["run"])


def interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a command like Ctrl-C does; the daemon takes both over as soon as it can act on them."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    try:
        from base.app.cli import main  # takes half a second, in which a signal may already come
    except KeyboardInterrupt:
        sys.exit(0 if sys.argv[1:2] in RUNS_THE_DAEMON else 5)  # nothing has begun
    sys.exit(main())
