"""Who logs never waits; who reads late gets everything, or is told what is missing and where."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from base.app.log_writer import DescriptorSink, QueuedHandler, RotatingFile
from base.clock import SystemClock
from base.log import log_event
from tests.fakes.clock import FakeClock

SECOND_S = 1.0


class ScriptedSink:
    """Takes lines while its gate is open; `errors` are raised first, one a write. `waits` is set when the
    writer has come to a closed gate."""

    name = "scripted"

    def __init__(self, *errors: OSError, bytes_a_write: int = 1_000_000, is_open: bool = True) -> None:
        self.gate = threading.Event()
        if is_open:
            self.gate.set()
        self.waits = threading.Event()
        self._errors = list(errors)
        self._bytes_a_write = bytes_a_write
        self._written = b""

    def begin_line(self, size: int) -> None:
        assert not self._written or self._written.endswith(b"\n"), "a line began inside another"

    def write(self, data: bytes) -> int:
        if not self.gate.is_set():
            self.waits.set()
            self.gate.wait(0.005)
            raise BlockingIOError("nobody reads it")
        if self._errors:
            raise self._errors.pop(0)
        taken = data[: self._bytes_a_write]
        self._written += taken
        return len(taken)

    def lines(self) -> list[str]:
        return self._written.decode().splitlines()

    def close(self) -> None:
        self.gate.set()


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    found = logging.Logger("test", level=logging.DEBUG)
    yield found
    for handler in found.handlers:
        handler.close()


def attach(logger: logging.Logger, sink: ScriptedSink | DescriptorSink, lines_max: int = 8) -> QueuedHandler:
    handler = QueuedHandler(sink, SystemClock(), lines_max)
    logger.addHandler(handler)
    return handler


def block(logger: logging.Logger, sink: ScriptedSink) -> None:
    """Have the writer wait with one line in its hands."""
    sink.gate.clear()
    logger.critical("first")
    assert sink.waits.wait(SECOND_S)


@pytest.mark.parametrize("bytes_a_write", [1, 3, 1_000_000])
def test_lines_come_out_whole_and_in_order(logger: logging.Logger, bytes_a_write: int) -> None:
    sink = ScriptedSink(bytes_a_write=bytes_a_write)
    handler = attach(logger, sink)
    for number in range(5):
        logger.info("line %d", number)
    handler.flush()
    assert sink.lines() == [f"line {number}" for number in range(5)]


def test_who_logs_does_not_wait_for_who_reads(logger: logging.Logger) -> None:
    sink = ScriptedSink()
    handler = attach(logger, sink)
    block(logger, sink)
    worker = threading.Thread(target=logger.critical, args=("a stop has triggered",))
    worker.start()
    worker.join(SECOND_S)
    assert not worker.is_alive()
    assert sink.lines() == []
    sink.gate.set()
    handler.flush()
    assert sink.lines() == ["first", "a stop has triggered"]


@pytest.mark.parametrize(
    ("levels", "kept"),
    [
        pytest.param([logging.DEBUG] * 10, 4, id="details have half the room"),
        pytest.param([logging.INFO] * 10, 6, id="what is ordinary has three quarters"),
        pytest.param([logging.CRITICAL] * 10, 8, id="what matters has all of it"),
        pytest.param([logging.INFO] * 10 + [logging.ERROR], 7, id="and comes after the rest is dropped"),
    ],
)
def test_the_least_important_is_dropped_first(logger: logging.Logger, levels: list[int], kept: int) -> None:
    sink = ScriptedSink()
    handler = attach(logger, sink)
    block(logger, sink)
    for level in levels:
        logger.log(level, "line")
    assert handler.waiting <= 8
    sink.gate.set()
    handler.flush()
    assert sink.lines().count("line") == kept
    assert handler.dropped == len(levels) - kept


def test_a_gap_is_said_where_it_is(logger: logging.Logger) -> None:
    sink = ScriptedSink()
    handler = attach(logger, sink)
    block(logger, sink)
    for _ in range(8):
        logger.info("ordinary")
    sink.gate.set()
    handler.flush()
    logger.info("after it")
    handler.flush()
    *before, gap, after = sink.lines()
    assert before == ["first"] + ["ordinary"] * 6
    assert gap == "event=log_lines_dropped count=2 sink=scripted info=2"
    assert after == "after it"


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(OSError(errno.ENOSPC, "No space left on device"), id="the disk is full"),
        pytest.param(BrokenPipeError(errno.EPIPE, "Broken pipe"), id="the reader has gone"),
        pytest.param(OSError(errno.EIO, "Input/output error"), id="the terminal has gone"),
    ],
)
def test_what_a_sink_refuses_is_written_when_it_works_again(logger: logging.Logger, error: OSError) -> None:
    sink = ScriptedSink(error, error)
    handler = QueuedHandler(sink, FakeClock())  # its waits take no time
    logger.addHandler(handler)
    logger.info("kept")
    handler_idle(handler, sink, 1)
    assert sink.lines() == ["kept"]
    assert handler.dropped == 0


def handler_idle(handler: QueuedHandler, sink: ScriptedSink, lines: int) -> None:
    give_up = SystemClock().monotonic() + SECOND_S
    while len(sink.lines()) < lines and SystemClock().monotonic() < give_up:
        threading.Event().wait(0.002)


def test_the_other_log_is_told_at_once_and_both_when_it_works_again(
    caplog: pytest.LogCaptureFixture, logger: logging.Logger
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    sink = ScriptedSink(full, full)
    handler = QueuedHandler(sink, FakeClock())
    logger.addHandler(handler)
    logger.info("kept")
    handler_idle(handler, sink, 1)
    handler.close()
    told = [r.event_fields for r in caplog.records if r.name == "base.app.log_writer"]
    assert [(t["event"], t["sink"], t.get("why")) for t in told] == [
        ("log_blocked", "scripted", "No space left on device"),
        ("log_works_again", "scripted", None),
    ]


def test_a_value_is_logged_as_it_was_then(logger: logging.Logger) -> None:
    sink = ScriptedSink()
    handler = attach(logger, sink)
    block(logger, sink)
    tickers = ["A"]
    log_event(logger, logging.INFO, "subscribed", tickers=tickers)
    logger.info("%s", tickers)
    tickers.append("B")
    sink.gate.set()
    handler.flush()
    assert sink.lines() == ["first", "event=subscribed tickers=A", "['A']"]


def test_a_traceback_keeps_no_frame_alive(logger: logging.Logger) -> None:
    sink = ScriptedSink()
    handler = attach(logger, sink)
    try:
        raise ValueError("bad")
    except ValueError:
        log_event(logger, logging.ERROR, "pass_failed", exc_info=True)
    handler.flush()
    assert sink.lines()[0] == "event=pass_failed"
    assert sink.lines()[-1] == "ValueError: bad"


class Failing(logging.Formatter):
    """Fails at its first line."""

    has_failed = False

    def format(self, record: logging.LogRecord) -> str:
        if not self.has_failed:
            self.has_failed = True
            raise RuntimeError
        return super().format(record)


def test_a_line_that_cannot_be_shown_costs_only_itself(logger: logging.Logger) -> None:
    sink = ScriptedSink()
    handler = attach(logger, sink)
    handler.setFormatter(Failing())
    logger.info("one")
    logger.info("two")
    handler.flush()
    assert sink.lines() == ["event=log_line_unprintable why=RuntimeError", "two"]


class TestEnd:
    def test_writes_what_can_be_written(self, logger: logging.Logger) -> None:
        sink = ScriptedSink()
        handler = attach(logger, sink)
        for number in range(5):
            logger.info("line %d", number)
        handler.close()
        assert len(sink.lines()) == 5

    def test_does_not_wait_for_a_reader_that_hangs(self, logger: logging.Logger) -> None:
        sink = ScriptedSink()
        handler = attach(logger, sink)
        block(logger, sink)
        logger.info("second")
        started = SystemClock().monotonic()
        logger.removeHandler(handler)
        handler.flush()
        handler.close()
        assert SystemClock().monotonic() - started < 2.5
        assert handler.dropped == 2

    def test_what_comes_later_is_counted(self, logger: logging.Logger) -> None:
        sink = ScriptedSink()
        handler = attach(logger, sink)
        handler.close()
        logger.info("too late")
        assert (sink.lines(), handler.dropped) == ([], 1)


class TestPipe:
    def test_that_is_full_blocks_nobody_and_loses_nothing(self, logger: logging.Logger) -> None:
        reading, writing = os.pipe()
        handler = attach(logger, DescriptorSink("stdout", writing), lines_max=1_000)
        line = "x" * 999
        for _ in range(200):  # three times what a pipe takes
            logger.critical(line)
        assert handler.waiting > 0
        got = b""
        while len(got) < 200_000:
            got += os.read(reading, 65_536)
        handler.flush()
        assert got.decode().splitlines() == [line] * 200
        assert handler.dropped == 0
        os.close(reading)
        os.close(writing)


class TestFile:
    def write(self, sink: RotatingFile, line: str) -> None:
        data = f"{line}\n".encode()
        sink.begin_line(len(data))
        while data:
            data = data[sink.write(data) :]

    def test_rotates_at_its_size_and_keeps_so_many(self, tmp_path: Path) -> None:
        path = tmp_path / "backstop.log"
        sink = RotatingFile(path, bytes_max=100, files_kept=3)
        for number in range(40):
            self.write(sink, f"line number {number:02}")
        sink.close()
        files = [path, tmp_path / "backstop.log.1", tmp_path / "backstop.log.2"]
        assert sorted(tmp_path.iterdir()) == files
        assert all(file.stat().st_size <= 100 for file in files)
        lines = [line for file in reversed(files) for line in file.read_text().splitlines()]
        assert lines == [f"line number {number:02}" for number in range(40)][-len(lines) :]

    def test_goes_on_where_it_ended(self, tmp_path: Path) -> None:
        path = tmp_path / "backstop.log"
        path.write_text("x" * 95 + "\n")
        sink = RotatingFile(path, bytes_max=100, files_kept=2)
        self.write(sink, "a new line")
        sink.close()
        assert path.read_text() == "a new line\n"
        assert (tmp_path / "backstop.log.1").read_text() == "x" * 95 + "\n"

    def test_is_opened_anew_where_logrotate_has_moved_it(self, tmp_path: Path) -> None:
        path = tmp_path / "backstop.log"
        sink = RotatingFile(path, bytes_max=1_000, files_kept=3)
        self.write(sink, "before")
        path.rename(tmp_path / "moved")
        self.write(sink, "after")
        sink.close()
        assert ((tmp_path / "moved").read_text(), path.read_text()) == ("before\n", "after\n")

    def test_that_cannot_be_rotated_grows_on(self, tmp_path: Path) -> None:
        path = tmp_path / "backstop.log"
        (tmp_path / "backstop.log.1").mkdir()
        (tmp_path / "backstop.log.1" / "occupied").touch()
        sink = RotatingFile(path, bytes_max=20, files_kept=2)
        for number in range(5):
            self.write(sink, f"line number {number}")
        sink.close()
        assert path.read_text().count("line number") == 5

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
    def test_on_a_full_disk_says_so_to_its_writer(self) -> None:
        sink = DescriptorSink("stdout", os.open("/dev/full", os.O_WRONLY))
        with pytest.raises(OSError, match="No space"):
            sink.write(b"line\n")
