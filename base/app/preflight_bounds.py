"""Waits that end, for what has no deadline of its own: a disk that hangs, the system's resolver.

What cannot be ended is left behind on a thread that keeps no process from ending.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

from base.app.findings import Finding
from base.app.preflight_codes import Code, fail

NAME_S_MAX = 10.0
STOP_S = 5.0


def bounded(
    what: str, find: Callable[[], Iterator[Finding]], patience_s: float
) -> Generator[Finding, None, None]:
    """The findings of `find`, which runs on a thread of its own; where none comes for so long, that is the
    last one."""
    results: queue.SimpleQueue[Finding | BaseException | None] = queue.SimpleQueue()
    is_over = threading.Event()

    def run() -> None:
        end: BaseException | None = None
        try:
            with closing(_generated(find)) as findings:
                for finding in findings:
                    results.put(finding)
                    if is_over.is_set():
                        break
        except BaseException as exc:  # whatever it is, it is raised where the findings are told
            end = exc
        results.put(end)

    worker = threading.Thread(target=run, name="check", daemon=True)
    worker.start()
    last = ""
    try:
        while True:
            try:
                result = results.get(timeout=patience_s)
            except queue.Empty:
                after = f' after "{last}"' if last else ""
                yield fail(
                    Code.NO_END,
                    f"{what}: nothing more came within {patience_s:g} s{after}",
                    "see whether a disk or the network hangs (`df`, `dmesg`); the rest of it was not checked",
                )
                return
            if result is None:
                return
            if isinstance(result, BaseException):
                raise result
            last = result.what
            yield result
    finally:
        is_over.set()
        if results.empty():  # an interruption: what it has started is stopped first
            worker.join(STOP_S)


def _generated(find: Callable[[], Iterator[Finding]]) -> Generator[Finding, None, None]:
    yield from find()


def resolve(
    host: str,
    patience_s: float = NAME_S_MAX,
    ask: Callable[[str, None], object] = socket.getaddrinfo,
) -> None:
    """Look the host's address up. Raises TimeoutError, or another OSError that says why there is none.

    The system's resolver has no deadline that could be set: a thread that it holds is left behind.
    """
    failures: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            ask(host, None)
        except (OSError, UnicodeError) as exc:
            failures.put(exc if isinstance(exc, OSError) else OSError(str(exc)))
        else:
            failures.put(None)

    threading.Thread(target=look_up, name="check-name", daemon=True).start()
    try:
        failure = failures.get(timeout=patience_s)
    except queue.Empty:
        raise TimeoutError(f"no answer within {patience_s:g} s") from None
    if failure is not None:
        raise failure
