"""Progress bars of long commands: on standard error, and only when that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class ProgressBar:
    """One bar that counts to `total`; it does nothing where nobody would see it.

    It is drawn when told to, by the thread that tells it, so that nothing moves while something else is
    printed with `aside`.
    """

    def __init__(self, label: str, total: int, stream: TextIO | None = None) -> None:
        target = sys.stderr if stream is None else stream
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(
            *columns,
            console=Console(file=target),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=target is None or not target.isatty(),
        )
        self._task = self._bar.add_task(label.replace("[", "("), total=total)

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.stop()

    def show(self, done: int) -> None:
        """Draw it with `done` of its total."""
        self._bar.update(self._task, completed=done)
        self._bar.refresh()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bar away while something else is printed on the same terminal."""
        is_shown = self._bar.live.is_started
        self._bar.stop()
        try:
            yield
        finally:
            if is_shown:
                self._bar.start()
