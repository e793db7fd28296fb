"""One event, one line; a repeated warning, one line a window."""

from __future__ import annotations

import ast
import logging
from decimal import Decimal
from enum import StrEnum
from pathlib import Path

import pytest

from base.log import FIELDS_ATTRIBUTE, KEYS_MAX, RepeatedWarnings, format_fields, format_value, log_event


class Reason(StrEnum):
    STOP = "stop_loss"


class Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def collected() -> tuple[logging.Logger, list[logging.LogRecord]]:
    logger = logging.Logger("test", level=logging.INFO)
    collector = Collector()
    logger.addHandler(collector)
    return logger, collector.records


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(None, "-", id="nothing is a dash"),
        pytest.param("-", '"-"', id="a real dash is not nothing"),
        pytest.param("", '""', id="an empty string shows"),
        pytest.param("KXHIGHNY-26NOV22-T50", "KXHIGHNY-26NOV22-T50", id="a ticker stays bare"),
        pytest.param("no bid", '"no bid"', id="a space needs quotes"),
        pytest.param("a=b", '"a=b"', id="an equals sign cannot start another field"),
        pytest.param('say "x y"', '"say \\"x y\\""', id="quotes inside quotes"),
        pytest.param("a\nevent=started", '"a\\nevent=started"', id="a newline cannot forge a line"),
        pytest.param("\x1b[31mred", "\\x1b[31mred", id="a terminal escape is written out"),
        pytest.param("a\u2028b", "a\\u2028b", id="a unicode line separator is written out"),
        pytest.param("\ud800", "\\ud800", id="a lone surrogate cannot break the stream's encoding"),
        pytest.param(Decimal("0.3900"), "0.39", id="a price without idle zeros"),
        pytest.param(Decimal("0.3850"), "0.385", id="a price with every digit that counts"),
        pytest.param(Decimal("0.5"), "0.50", id="a price with cents"),
        pytest.param(Decimal("10.00"), "10.00", id="a count as it came"),
        pytest.param(Decimal("10"), "10", id="a whole number"),
        pytest.param(Decimal("1E+3"), "1000.00", id="never an exponent"),
        pytest.param(Decimal("NaN"), "NaN", id="not a number"),
        pytest.param(True, "true", id="a flag"),
        pytest.param(Reason.STOP, "stop_loss", id="an enum by its value"),
        pytest.param(["A", "B"], "A,B", id="a list"),
        pytest.param({"B", "A"}, "A,B", id="a set, sorted"),
        pytest.param(1.0, "1", id="a whole float"),
        pytest.param(0.123456, "0.123", id="a short float"),
        pytest.param(0.0000123, "1.23e-05", id="a tiny float is not zero"),
        pytest.param(1_790_000_000.25, "1790000000.25", id="a large float is not rounded"),
        pytest.param(float("inf"), "inf", id="an infinite float"),
        pytest.param(100.0, "100", id="zeros before the point stay"),
    ],
)
def test_value_as_text(value: object, text: str) -> None:
    assert format_value(value) == text


def test_long_value_is_cut() -> None:
    assert len(format_value("x" * 100_000)) < 2_100


def test_fields_keep_their_order() -> None:
    assert format_fields({"event": "started", "b": 1, "a": None}) == "event=started b=1 a=-"


def test_event_carries_its_fields(collected: tuple[logging.Logger, list[logging.LogRecord]]) -> None:
    logger, records = collected
    log_event(logger, logging.INFO, "exit_triggered", ticker="T", price=Decimal("0.39"), level="a field")
    (record,) = records
    assert record.getMessage() == 'event=exit_triggered ticker=T price=0.39 level="a field"'
    assert getattr(record, FIELDS_ATTRIBUTE) == {
        "event": "exit_triggered",
        "ticker": "T",
        "price": Decimal("0.39"),
        "level": "a field",
    }


@pytest.mark.parametrize(("held_back", "text"), [(0, "event=no_bid"), (3, "event=no_bid also_since_last=3")])
def test_what_was_held_back_is_said_when_there_is_any(
    collected: tuple[logging.Logger, list[logging.LogRecord]], held_back: int, text: str
) -> None:
    logger, records = collected
    log_event(logger, logging.WARNING, "no_bid", also_since_last=held_back)
    assert [r.getMessage() for r in records] == [text]


class Unshowable:
    def __str__(self) -> str:
        raise RuntimeError


def test_a_value_that_cannot_be_shown_costs_neither_the_line_nor_its_writer(
    collected: tuple[logging.Logger, list[logging.LogRecord]],
) -> None:
    logger, records = collected
    log_event(logger, logging.WARNING, "intent_refused", intent=Unshowable(), why="no ticker")
    assert [r.getMessage() for r in records] == [
        'event=intent_refused intent="(Unshowable that cannot be shown)" why="no ticker"'
    ]


def test_an_exception_is_handed_in_from_elsewhere(
    collected: tuple[logging.Logger, list[logging.LogRecord]],
) -> None:
    logger, records = collected
    failure = ValueError("bad")
    log_event(logger, logging.ERROR, "strategy_traceback", exc_info=failure)
    (record,) = records
    assert record.exc_info is not None
    assert record.exc_info[1] is failure


def calls_past_log_event(tree: ast.Module) -> list[int]:
    """Lines that log without naming an event."""
    names = {"debug", "info", "warning", "error", "exception", "critical", "log"}
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in names
        and ast.unparse(node.func.value) in ("logger", "logging", "log")
    ]


MODULES = [p for p in sorted((Path(__file__).parents[1] / "base").rglob("*.py")) if "sandbox" not in p.parts]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_whatever_is_logged_is_an_event(path: Path) -> None:
    assert calls_past_log_event(ast.parse(path.read_text())) == []


def test_a_log_line_without_an_event_is_found() -> None:
    assert calls_past_log_event(ast.parse('logger.exception("event=failed ticker=%s", ticker)')) == [1]


def test_percent_sign_in_a_value_is_harmless(
    collected: tuple[logging.Logger, list[logging.LogRecord]],
) -> None:
    logger, records = collected
    log_event(logger, logging.WARNING, "rejected", why="100%s of it")
    assert records[0].getMessage() == 'event=rejected why="100%s of it"'


def test_event_below_the_level_is_not_built(
    collected: tuple[logging.Logger, list[logging.LogRecord]],
) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise AssertionError("formatted although nobody listens")

    logger, records = collected
    log_event(logger, logging.DEBUG, "noise", value=Unprintable())
    assert records == []


def test_traceback_only_when_asked(collected: tuple[logging.Logger, list[logging.LogRecord]]) -> None:
    logger, records = collected
    try:
        raise ValueError("broken")
    except ValueError:
        log_event(logger, logging.ERROR, "plain")
        log_event(logger, logging.ERROR, "full", exc_info=True)
    assert not records[0].exc_info
    assert records[1].exc_info


class TestRepeatedWarnings:
    def test_first_passes_repeats_wait_and_are_counted(self) -> None:
        brake = RepeatedWarnings(window_s=60.0)
        assert brake.allow("no_bid T", now=0.0) == 0
        assert [brake.allow("no_bid T", now=float(t)) for t in (1, 30, 59)] == [None, None, None]
        assert brake.allow("no_bid T", now=60.0) == 3
        assert brake.allow("no_bid T", now=61.0) is None
        assert brake.allow("no_bid T", now=120.0) == 1

    def test_keys_do_not_share_a_window(self) -> None:
        brake = RepeatedWarnings()
        assert brake.allow("no_bid A", now=5.0) == 0
        assert brake.allow("no_bid B", now=5.0) == 0

    def test_memory_is_bounded_and_keeps_the_latest(self) -> None:
        brake = RepeatedWarnings()
        for i in range(KEYS_MAX + 1):
            brake.allow(str(i), now=float(i) / 1_000_000)
        assert brake.allow(str(KEYS_MAX), now=1.0) is None
        assert brake.allow("0", now=1.0) == 0, "the oldest key was forgotten"

    def test_a_key_let_through_again_counts_as_new(self) -> None:
        brake = RepeatedWarnings(window_s=1.0)
        brake.allow("old", now=0.0)
        for i in range(KEYS_MAX - 1):
            brake.allow(str(i), now=0.0)
        brake.allow("old", now=1.0)
        brake.allow("one more", now=1.0)
        assert brake.allow("old", now=1.5) is None
