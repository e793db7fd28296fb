"""The document is the README's, key for key; every reader sees the same one."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from base.app.ui_coverage import NOT_READ, HeldDoubt, doubt_held
from base.app.ui_metrics import (
    EXIT_S_MAX,
    EXITS_SHOWN,
    UNHEALTHY_AFTER_S,
    Phase,
    StatusBoard,
    StatusSources,
    ThreadHealth,
    log_summary,
)
from base.execution.exits import EpisodeView
from base.kalshi.feed import FeedState
from base.kalshi.rate_limit import RequestCounts
from base.model.market import Market, MarketStatus, OutcomeSide
from base.model.position import Position
from base.model.rules import Evaluation, Exit, ExitReason, Hold, HoldReason, RuleState
from base.risk.coverage import Protection
from base.risk.stop_loss import CheckedPosition, HistoryRow
from base.risk.trading_state import TradingState
from base.store.day_results import Ledger, MarketResult
from tests.fakes.clock import FakeClock
from tests.fakes.feed import FakeFeed

T = "KXHIGHNY-26NOV22-T60"
NOW = 1_790_000_000.0
TEXT, NUMBER, WHOLE, FLAG = str, (int, float), int, bool
MAYBE_TEXT, MAYBE_NUMBER = (str, type(None)), (int, float, type(None))

DOCUMENT: dict[str, Any] = {
    "version": TEXT,
    "env": TEXT,
    "trading_mode": TEXT,
    "trading_state": TEXT,
    "started_at": TEXT,
    "uptime_s": NUMBER,
    "coverage": {
        "open": WHOLE,
        "protected": WHOLE,
        "unprotected": [{"ticker": TEXT, "reason": TEXT}],
        "known": FLAG,
        "unknown_why": TEXT,
    },
    "feed": {
        "state": TEXT,
        "connected_for_s": MAYBE_NUMBER,
        "last_frame_age_s": MAYBE_NUMBER,
        "reconnects": WHOLE,
        "markets_required": WHOLE,
        "markets_confirmed": WHOLE,
        "messages": WHOLE,
    },
    "rest": {
        "reads_last_60s": WHOLE,
        "writes_last_60s": WHOLE,
        "price_reads_last_60s": WHOLE,
        "rate_limited_last_60s": WHOLE,
    },
    "threads": {
        name: {"alive": FLAG, "last_pass_age_s": MAYBE_NUMBER, "state": TEXT}
        for name in ("strategy-loop", "websocket", "stop-loss", "ui-metrics")
    },
    "positions": [
        {
            "ticker": TEXT,
            "outcome_side": TEXT,
            "count": TEXT,
            "entry_price": TEXT,
            "exit_value": MAYBE_TEXT,
            "price_age_s": MAYBE_NUMBER,
            "price_source": TEXT,
            "market_status": TEXT,
            "unrealized_pnl": MAYBE_TEXT,
            "stop_price": MAYBE_TEXT,
            "take_profit_price": MAYBE_TEXT,
            "protected": FLAG,
            "reason": TEXT,
            "strategy": TEXT,
            "event": TEXT,
            "realized_today": TEXT,
            "fees_today": TEXT,
        }
    ],
    "exits": [
        {
            "episode": TEXT,
            "ticker": TEXT,
            "reason": TEXT,
            "state": TEXT,
            "trigger_price": MAYBE_TEXT,
            "filled": TEXT,
            "average_price": MAYBE_TEXT,
            "fees": TEXT,
            "attempts": WHOLE,
            "timeline": {
                "triggered": NUMBER,
                "sent": MAYBE_NUMBER,
                "filled": MAYBE_NUMBER,
                "closed": MAYBE_NUMBER,
            },
        }
    ],
    "pnl": {
        "day": TEXT,
        "timezone": TEXT,
        "realized_today": TEXT,
        "unrealized": TEXT,
        "fees_today": TEXT,
        "by_strategy": {},
        "by_event": {},
        "by_market": {},
    },
}
"""Keys and types of the README's HTTP section."""


def assert_follows(document: object, form: object, at: str = "") -> None:
    if isinstance(form, dict):
        assert isinstance(document, dict), at
        for key, inner in form.items():
            assert key in document, f"{at}.{key} is missing"
            assert_follows(document[key], inner, f"{at}.{key}")
    elif isinstance(form, list):
        assert isinstance(document, list), at
        assert document, f"{at} is empty: the test shows nothing"
        for item in document:
            assert_follows(item, form[0], f"{at}[]")
    else:
        assert isinstance(document, form), f"{at} is {document!r}"  # type: ignore[arg-type]


def evaluation(decision: Hold | Exit, value: str | None = "0.50") -> Evaluation:
    return Evaluation(
        ticker=T,
        decision=decision,
        state=RuleState(),
        exit_value=None if value is None else Decimal(value),
        bid_size=Decimal(7),
        stop_price=Decimal("0.39"),
        take_profit_price=None,
        price_age_s=0.4,
        price_source="ws",
        at=1_790_000_000.0,
    )


PROTECTED = Protection(True, True, "")
UNPROTECTED = Protection(True, False, "no_bid")


def checked(
    protection: Protection = PROTECTED,
    *,
    value: str | None = "0.50",
    source: str = "ws",
    side: OutcomeSide = OutcomeSide.YES,
    ticker: str = T,
) -> CheckedPosition:
    return CheckedPosition(
        Position(ticker, side, Decimal(10), Decimal("0.52")),
        Market(ticker, status=MarketStatus.ACTIVE),
        evaluation(Hold(HoldReason.WITHIN_RULES), value),
        0.4,
        source,
        protection,
    )


EXIT = EpisodeView(
    "e1",
    T,
    "stop_loss",
    "closed",
    Decimal("0.39"),
    Decimal(10),
    Decimal("0.38"),
    Decimal("0.17"),
    1,
    "filled",
    1_790_000_000.0,
    1_790_000_001.0,
)


class Rig:
    def __init__(self, *positions: CheckedPosition) -> None:
        self.clock = FakeClock()
        self.positions = list(positions)
        self.exits = [EXIT]
        self.builds = 0
        self.threads: Mapping[str, ThreadHealth] = {
            name: ThreadHealth(True, 1.0, 7.0)
            for name in ("strategy-loop", "websocket", "stop-loss", "ui-metrics")
        }
        self.strategy: dict[str, Any] = {"name": "guard", "failing": False}
        self.doubts: list[str] = []
        self.held_doubt = HeldDoubt()
        self.feed = FakeFeed()
        self.history: list[HistoryRow] | None = None
        self.events: dict[str, str] = {}
        self.ledger = Ledger("2026-11-22", Decimal("-1.5"), Decimal("0.17"))
        self.board = StatusBoard(
            StatusSources(
                env="sandbox",
                trading_mode="live",
                positions=self._positions,
                exits=lambda: self.exits,
                history=lambda ticker: self.history,
                feed=self.feed.status,
                rest=lambda: RequestCounts(reads=2, writes=0, price_reads=0, rate_limited=0),
                ledger=lambda: self.ledger,
                threads=lambda: self.threads,
                trading_state=lambda: (TradingState.ACTIVE, ""),
                strategy=lambda: self.strategy,
                doubts=lambda: self.doubts,
                held_doubt=lambda: self.held_doubt,
                event_of=lambda ticker: self.events.get(ticker, ""),
            ),
            1.0,
            self.clock,
        )

    def _positions(self) -> list[CheckedPosition]:
        self.builds += 1
        return self.positions

    def document(self) -> dict[str, Any]:
        return self.board.document()


def test_the_document_has_every_key_with_its_type() -> None:
    rig = Rig(checked(), checked(UNPROTECTED, value=None, source="none"))
    document = rig.document()
    assert_follows(document, DOCUMENT)
    assert json.loads(json.dumps(document)) == document, "plain JSON"


def test_an_exit_that_has_sold_nothing_yet_fits_the_form_too() -> None:
    rig = Rig(checked(UNPROTECTED))
    rig.exits = [replace(EXIT, state="sending", trigger_price=None, average_price=None, closed_at=None)]
    rig.feed.state = FeedState.DOWN
    document = rig.document()
    assert_follows(document, DOCUMENT)
    assert document["feed"]["state"] == "down"


@pytest.mark.parametrize(
    ("sent_at", "filled_at", "closed_at"),
    [
        (None, None, None),
        (NOW + 0.25, None, None),
        (NOW + 0.25, NOW + 0.5, None),
        (NOW + 0.25, NOW + 0.5, NOW + 9),
    ],
    ids=["triggered", "sent", "filled in part", "closed"],
)
def test_an_exit_tells_when_each_step_was(
    sent_at: float | None, filled_at: float | None, closed_at: float | None
) -> None:
    """To the millisecond: what a stop is paid by is the time between them."""
    rig = Rig()
    rig.exits = [replace(EXIT, opened_at=NOW, sent_at=sent_at, filled_at=filled_at, closed_at=closed_at)]
    (row,) = json.loads(json.dumps(rig.document()))["exits"]
    assert row["timeline"] == {"triggered": NOW, "sent": sent_at, "filled": filled_at, "closed": closed_at}


def test_prices_and_money_are_written_as_the_exchange_writes_them() -> None:
    rig = Rig(checked())
    (position,) = rig.document()["positions"]
    assert position["count"] == "10.00"
    assert position["entry_price"] == "0.5200"
    assert position["exit_value"] == "0.5000"
    assert position["unrealized_pnl"] == "-0.20"
    assert position["take_profit_price"] is None
    (exit_row,) = rig.document()["exits"]
    assert (exit_row["filled"], exit_row["average_price"], exit_row["fees"]) == ("10.00", "0.3800", "0.17")
    pnl = rig.document()["pnl"]
    assert {name: pnl[name] for name in ("day", "realized_today", "unrealized", "fees_today")} == {
        "day": "2026-11-22",
        "realized_today": "-1.50",
        "unrealized": "-0.20",
        "fees_today": "0.17",
    }


def sums(realized: str, unrealized: str | None, fees: str) -> dict[str, str | None]:
    return {"realized_today": realized, "unrealized": unrealized, "fees_today": fees}


def test_money_is_told_by_strategy_event_and_market_and_adds_up() -> None:
    mine, by_hand = "KXA-26NOV22-T1", "KXA-26NOV22-T2"
    rows = [checked(ticker=mine), checked(ticker=by_hand), checked(ticker="KXB-1-UNPRICED", value=None)]
    rows[0] = replace(rows[0], position=replace(rows[0].position, strategy="value"))
    rig = Rig(*rows)
    rig.ledger = Ledger(
        "2026-11-22",
        Decimal("-1.5"),
        Decimal("0.17"),
        "America/New_York",
        (
            MarketResult(mine, "value", Decimal("0.5"), Decimal("0.1")),
            MarketResult("KXC-1-GONE", "value", Decimal("-1.98765"), Decimal("0.07")),
            MarketResult(by_hand, "", Decimal("-0.01235"), Decimal(0)),
        ),
    )
    document = rig.document()
    pnl = document["pnl"]
    assert (pnl["timezone"], pnl["unrealized"], pnl["positions_without_price"]) == (
        "America/New_York",
        "-0.40",
        1,
    )
    assert pnl["by_strategy"] == {
        "": sums("-0.0124", None, "0.00"),
        "value": sums("-1.4877", "-0.20", "0.17"),
    }
    assert pnl["by_event"] == {
        "KXA-26NOV22": sums("0.4877", "-0.40", "0.10"),
        "KXB-1": sums("0.00", None, "0.00"),
        "KXC-1": sums("-1.9877", "0.00", "0.07"),
    }
    assert pnl["by_market"][mine] == sums("0.50", "-0.20", "0.10")
    assert pnl["by_market"]["KXB-1-UNPRICED"] == sums("0.00", None, "0.00")
    told = [(p["strategy"], p["event"], p["realized_today"], p["fees_today"]) for p in document["positions"]]
    assert told == [
        ("value", "KXA-26NOV22", "0.50", "0.10"),
        ("", "KXA-26NOV22", "-0.0124", "0.00"),
        ("", "KXB-1", "0.00", "0.00"),
    ]
    assert json.loads(json.dumps(document)) == document


def test_an_event_that_the_exchange_names_is_not_read_from_the_ticker() -> None:
    rig = Rig(replace(checked(ticker="KXA-1-B"), market=Market("KXA-1-B", "KXOTHER-9")))
    rig.ledger = replace(rig.ledger, results=(MarketResult("KXB-1-C", "", Decimal(1), Decimal(0)),))
    rig.events["KXB-1-C"] = "KXTHIRD-7"
    assert list(rig.document()["pnl"]["by_event"]) == ["KXOTHER-9", "KXTHIRD-7"]


def test_an_average_keeps_the_decimals_that_it_needs() -> None:
    rig = Rig(checked())
    rig.exits = [replace(EXIT, average_price=Decimal(1) / 3, fees=Decimal("0.0175"))]
    (exit_row,) = rig.document()["exits"]
    assert (exit_row["average_price"], exit_row["fees"]) == ("0.333333", "0.0175")


@pytest.mark.parametrize(("source", "shown"), [("snapshot", "ws"), ("rest", "rest"), ("none", "none")])
def test_the_price_source_is_one_of_three_words(source: str, shown: str) -> None:
    assert Rig(checked(source=source)).document()["positions"][0]["price_source"] == shown


def test_a_position_that_waits_for_settlement_is_listed_and_not_counted() -> None:
    rig = Rig(checked(), checked(Protection(False, False, "determined"), ticker="DONE"))
    document = rig.document()
    coverage = document["coverage"]
    assert (coverage["open"], coverage["protected"], coverage["unprotected"]) == (1, 1, [])
    assert document["positions"][1]["market_status"] == "determined"
    assert document["health"]["ok"]


@pytest.mark.parametrize(
    ("is_loaded", "unseen", "unreadable", "why", "named"),
    [
        pytest.param(True, (), (), "", (), id="all is read"),
        pytest.param(False, (), (), NOT_READ, (), id="nothing read yet"),
        pytest.param(False, (T,), (), NOT_READ, (T,), id="the journal remembers one"),
        pytest.param(
            True,
            (T,),
            (),
            "the exchange does not show 1 position held before the restart yet",
            (T,),
            id="a read without it",
        ),
        pytest.param(True, (), (T, "?"), "2 positions cannot be read", (T,), id="rows, one without a name"),
        pytest.param(
            True,
            ("B", "A"),
            ("A",),
            "the exchange does not show 2 positions held before the restart yet; 1 position cannot be read",
            ("A", "B"),
            id="both",
        ),
    ],
)
def test_coverage_is_known_when_all_that_is_held_was_read(
    is_loaded: bool, unseen: tuple[str, ...], unreadable: tuple[str, ...], why: str, named: tuple[str, ...]
) -> None:
    rig = Rig()
    rig.held_doubt = doubt_held(is_loaded=is_loaded, unseen=unseen, unreadable=unreadable)
    assert rig.document()["coverage"] == {
        "open": 0,
        "protected": 0,
        "unprotected": [],
        "known": not why,
        "unknown_why": why,
        "unknown": list(named),
    }


@pytest.mark.parametrize(("doubt", "told"), [(HeldDoubt(), "1/1"), (HeldDoubt(NOT_READ), "?")])
def test_the_summary_counts_no_positions_that_have_not_been_read(
    doubt: HeldDoubt, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(checked())
    rig.held_doubt = doubt
    with caplog.at_level(logging.INFO):
        log_summary(rig.document())
    (record,) = caplog.records
    assert record.event_fields["protected"] == told  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("phase", "alive", "reasons"),
    [
        (Phase.RUNNING, False, ["thread websocket is dead"]),
        (Phase.RUNNING, True, ["thread websocket is late"]),
        (Phase.STARTING, False, ["thread websocket is starting"]),
        (Phase.STARTING, True, ["thread websocket is starting"]),
        (Phase.STOPPING, False, []),
        (Phase.STOPPING, True, ["thread websocket is late"]),
    ],
)
def test_a_thread_is_dead_only_when_it_should_run(phase: Phase, alive: bool, reasons: list[str]) -> None:
    rig = Rig()
    rig.threads = {"websocket": ThreadHealth(alive, None, 7.0, phase)}
    assert rig.document()["health"]["reasons"] == reasons


def test_the_exits_of_one_position_are_told_oldest_first() -> None:
    rig = Rig()
    rig.exits = [EXIT, replace(EXIT, id="e2", ticker="KX-B"), replace(EXIT, id="e3")]
    assert [row["episode"] for row in rig.board.exits_of(T)] == ["e1", "e3"]
    assert rig.board.exits_of("KX-C") == []


@pytest.mark.parametrize(
    "trouble",
    ["unprotected", "late", "dead", "no pass", "not reconciled", "strategy", "blocked", "unknown"],
)
def test_health_is_lost_for_each_reason(trouble: str) -> None:
    rig = Rig(checked())
    assert rig.document()["health"] == {"ok": True, "reasons": []}
    if trouble == "unprotected":
        rig.positions = [checked(UNPROTECTED)]
    elif trouble == "late":
        rig.threads = {**rig.threads, "stop-loss": ThreadHealth(True, 7.1, 7.0)}
    elif trouble == "dead":
        rig.threads = {**rig.threads, "websocket": ThreadHealth(False, 1.0, 7.0)}
    elif trouble == "no pass":
        rig.threads = {**rig.threads, "ui-metrics": ThreadHealth(True, None, 7.0)}
    elif trouble == "not reconciled":
        rig.doubts = ["positions have not been read for 60 s"]
    elif trouble == "blocked":
        rig.exits = [replace(EXIT, state="blocked", why="no_funds", opened_at=rig.clock.now())]
    elif trouble == "unknown":
        rig.exits = [replace(EXIT, state="unknown", opened_at=rig.clock.now() - EXIT_S_MAX)]
    else:
        rig.doubts = ["strategy value has failed 3 times: ZeroDivisionError"]
    rig.clock.advance(2)
    health = rig.document()["health"]
    assert not health["ok"]
    assert len(health["reasons"]) == 1


def test_an_exit_that_goes_on_is_listed_however_many_came_after_it() -> None:
    rig = Rig(checked())
    later = [replace(EXIT, id=f"e{n}", state="closed") for n in range(EXITS_SHOWN + 5)]
    rig.exits = [replace(EXIT, id="first", state="blocked", why="paused"), *later]
    shown = [e["episode"] for e in rig.document()["exits"]]
    assert shown == ["first", *(e.id for e in later[-EXITS_SHOWN:])]


def test_what_lasts_is_said_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(checked())
    caplog.set_level(logging.INFO)

    def said() -> list[str]:
        told = [getattr(record, "event_fields", {}) for record in caplog.records]
        return [f"{t['event']} {t.get('why', '')}".strip() for t in told if "healthy" in t.get("event", "")]

    rig.doubts = ["strategy value has been deciding for 3 s"]
    rig.board.run_once()
    assert said() == [], "many things are unwell for a second"
    for age_s in (8, 9, 10):
        rig.clock.advance(UNHEALTHY_AFTER_S)
        rig.doubts = [f"strategy value has been deciding for {age_s} s"]
        rig.board.run_once()
    assert said() == ["unhealthy strategy value has been deciding for 8 s"]
    rig.doubts = []
    rig.board.run_once()
    rig.board.run_once()
    assert said()[1:] == ["healthy"]


@pytest.mark.parametrize("why", ["by_choice", "hedged"])
def test_unprotected_on_purpose_is_shown_and_not_alarmed(why: str) -> None:
    rig = Rig(checked(Protection(True, False, why)))
    document = rig.document()
    assert document["coverage"]["unprotected"] == [{"ticker": T, "reason": why}]
    assert document["coverage"]["open"] == 0
    assert document["health"]["ok"]


def test_readers_share_one_document_and_build_it_when_the_thread_is_late() -> None:
    rig = Rig(checked())
    rig.board.run_once()
    assert rig.document() is rig.document()
    assert rig.builds == 1
    rig.clock.advance(1.6)
    rig.document()
    assert rig.builds == 2


def test_explain_tells_the_last_looks() -> None:
    rig = Rig(checked())
    assert rig.board.explain(T) is None
    rig.history = [
        HistoryRow(evaluation(Hold(HoldReason.NO_BID, "nobody bids"), None), 3),
        HistoryRow(evaluation(Exit(ExitReason.STOP_LOSS, Decimal("0.38"), Decimal("0.39"))), 1),
    ]
    rows = rig.board.explain(T)
    assert rows is not None
    assert [(r["decision"], r["why"], r["repeats"]) for r in rows] == [
        ("hold", "no_bid", 3),
        ("exit", "stop_loss", 1),
    ]
    assert rows[0]["exit_value"] is None
    assert ("rule" in rows[0], rows[1]["is_held"]) == (False, True)
    rig.positions = []
    left = rig.board.explain(T)
    assert left is not None
    assert left[-1]["is_held"] is False
