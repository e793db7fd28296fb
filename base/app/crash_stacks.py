"""Where the stack of every thread goes when the process is ended by a crash or by the watchdog's SIGABRT."""

from __future__ import annotations

import faulthandler
import os
import stat
import sys
from pathlib import Path
from typing import TextIO

from base.errors import ConfigError

SUFFIX = ".stacks"


def write_crash_stacks(log_file: Path | None, stderr: TextIO | None = None) -> None:
    """Send them to standard error, which under systemd is the journal; where that leads nowhere, beside
    `log_file`. Raises ConfigError.

    Not into the log file itself: that is renamed when it has grown, and the writer of the dead process
    cannot be told.
    """
    descriptor = _descriptor(sys.stderr if stderr is None else stderr)
    if log_file is not None and (descriptor is None or _leads_nowhere(descriptor)):
        descriptor = _open(log_file.with_name(log_file.name + SUFFIX))
    if descriptor is not None:
        faulthandler.enable(descriptor)


def _descriptor(stream: TextIO | None) -> int | None:
    """None where the stream was closed before the start, or is none of the system's."""
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError):
        return None


def _leads_nowhere(descriptor: int) -> bool:
    status, nowhere = os.fstat(descriptor), Path(os.devnull).stat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == nowhere.st_rdev


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise ConfigError([f"LOG_FILE: {path}: {exc.strerror}; it is for the stacks of a crash"]) from exc
