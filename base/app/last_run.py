"""How the run before this one ended, by a mark beside its journal.

Only an orderly end leaves the mark, and a start takes it away, on the disk itself, before it goes on. So a
kill, a power cut and a full disk leave none, and none of them can pass for an end as asked. A mark that is
there while it runs would have it the other way round: where it could not be written, a crash would look
like an order.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from enum import StrEnum
from pathlib import Path

from base.errors import ExitCode
from base.log import log_event

logger = logging.getLogger(__name__)

WRITE_S_MAX = 1.0
BYTES_MAX = 16


class LastRun(StrEnum):
    """How the run before ended, in the words of the log; "" where there is nothing to tell of."""

    BROKEN = "the run before did not end as asked (crash, kill or power cut)"
    UNSAFE = "the run before ended itself: it could not keep running safely"
    CONFIG = "the run before ended because its configuration was wrong"
    AS_ASKED = "the run before ended as asked"
    NONE = ""

    @property
    def is_unexpected(self) -> bool:
        return self in (LastRun.BROKEN, LastRun.UNSAFE)


_BY_CODE = {
    str(ExitCode.OK.value): LastRun.AS_ASKED,
    str(ExitCode.CONFIG.value): LastRun.CONFIG,
    str(ExitCode.UNSAFE.value): LastRun.UNSAFE,
}


class EndMark:
    """The mark of one account; `had_run` says whether there was a run before at all."""

    def __init__(self, path: Path, *, had_run: bool) -> None:
        self._path = path
        self._had_run = had_run

    def take(self) -> LastRun:
        """How the run before ended; the mark is gone from the disk when this returns. One that cannot be
        taken away is not believed either: the next start would find it."""
        try:
            text = self._path.read_bytes()[:BYTES_MAX].decode("ascii", "replace").strip()
            self._path.unlink()
            _sync_directory(self._path.parent)
        except FileNotFoundError:
            return LastRun.BROKEN if self._had_run else LastRun.NONE
        except OSError as exc:
            why = f"{exc.strerror or exc}"
            remedy = "remove it: the next start could take a crash for an end as asked"
            log_event(logger, logging.WARNING, "end_mark_stays", path=self._path, why=why, remedy=remedy)
            return LastRun.BROKEN
        return _BY_CODE.get(text, LastRun.BROKEN)

    def leave(self, code: int) -> None:
        """The run has ended in order, with this exit code. A disk that hangs is not waited for."""
        thread = threading.Thread(target=self._write, args=(code,), name="end-mark", daemon=True)
        thread.start()
        thread.join(WRITE_S_MAX)

    def _write(self, code: int) -> None:
        try:
            with self._path.open("wb") as file:
                file.write(b"%d\n" % code)
                file.flush()
                os.fsync(file.fileno())
            _sync_directory(self._path.parent)
        except OSError as exc:
            with contextlib.suppress(OSError):
                self._path.unlink()
            why = f"{exc.strerror or exc}"
            remedy = "nothing to do: the next start will call this end unexpected"
            log_event(logger, logging.WARNING, "end_mark_unwritten", path=self._path, why=why, remedy=remedy)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
