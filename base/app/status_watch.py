"""`status --watch`: the status again and again, through restarts of the daemon, until Ctrl-C.

The screen is redrawn in one write and in place: no other screen, no hidden cursor, so that however it ends
there is nothing to restore.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from base.app.status_client import NoAnswerError
from base.clock import Clock
from base.ui.phrases import plain
from base.ui.terminal import print_status

INTERVAL_S = 2.0
HOME, ERASE_LINE, ERASE_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
SIZE_UNKNOWN = os.terminal_size((80, 24))


def watch_status(
    read: Callable[[], Mapping[str, Any]],
    show: Callable[[Mapping[str, Any]], None],
    show_outage: Callable[[str], None],
    clock: Clock,
) -> None:
    """Show until Ctrl-C. Raises NoAnswerError when not even the first read is answered."""
    never = threading.Event()  # nobody sets it
    was_answered = False
    since = 0.0
    is_out = False
    try:
        while True:
            try:
                document = read()
            except NoAnswerError as exc:
                if not was_answered:
                    raise
                since = since if is_out else clock.now()
                is_out = True
                show_outage(f"no answer since {_time_text(since)}: {exc}")
            else:
                was_answered, is_out = True, False
                show(document)
            clock.wait(never, INTERVAL_S)
    except KeyboardInterrupt:
        return


class Screen:
    """The terminal that is redrawn; its size is asked for anew each time."""

    def __init__(self, out: TextIO, *, color: bool) -> None:
        self._out = out
        self._color = color

    def show(self, document: Mapping[str, Any]) -> None:
        size = self._size()
        told = io.StringIO()
        print_status(document, told, color=self._color, width=size.columns)
        self._draw(told.getvalue().splitlines(), size)

    def show_outage(self, why: str) -> None:
        """In place of the last status, which may be true no more."""
        heading = "COVERAGE NOT KNOWN: count on no position being protected"
        heading = f"\x1b[1;31m{heading}\x1b[0m" if self._color else heading
        size = self._size()
        words = f"{plain(why)}. Asking again every {INTERVAL_S:.0f} s until Ctrl-C."
        lines = [words[at : at + size.columns] for at in range(0, len(words), size.columns)]
        self._draw([heading, *lines], size)

    def _draw(self, lines: list[str], size: os.terminal_size) -> None:
        # What is most important is on top: a screen that scrolls would lose just that.
        room = max(2, size.lines - 1)
        if len(lines) > room:
            hidden = len(lines) - room + 1
            lines = [*lines[: room - 1], f"… {hidden} more lines: a larger window shows them"[: size.columns]]
        self._out.write(HOME + "".join(f"{line}{ERASE_LINE}\n" for line in lines) + ERASE_BELOW)
        self._out.flush()

    def _size(self) -> os.terminal_size:
        # Not `shutil`'s: COLUMNS, where it is exported, does not follow the window.
        try:
            size = os.get_terminal_size(self._out.fileno())
        except (OSError, ValueError):
            return SIZE_UNKNOWN
        return size if size.columns > 0 and size.lines > 0 else SIZE_UNKNOWN


def _time_text(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).astimezone().strftime("%H:%M:%S")
