"""A whole day of an idle daemon through the real log: what it writes, and that a disk can bear it.

The threads that speak by themselves are the real ones, passed by hand while the clock is moved on; what a
day with some trading adds is written as the daemon writes it. `tests/benchmarks/log_volume.py` looks at
minutes of the whole process.
"""

from __future__ import annotations

import io
import logging
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

import pytest

from base.app.account import Account, MarketDirectory
from base.app.drift import DriftCanary
from base.app.logging_setup import configure_logging
from base.app.pauses import PauseWatch
from base.app.price_reads import PriceReads
from base.app.ui_metrics import StatusBoard, StatusSources, ThreadHealth
from base.execution.exits import EpisodeView
from base.kalshi.rate_limit import RequestCounts
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.log import log_event
from base.model.market import Market, MarketStatus, OutcomeSide
from base.model.order import Order
from base.model.position import Fill, Position
from base.model.rules import Evaluation, Hold, HoldReason, RuleState
from base.model.schedule import ExchangeSchedule
from base.risk.coverage import Protection
from base.risk.price_needs import Refresh, Why
from base.risk.stop_loss import CheckedPosition
from base.risk.trading_state import TradingState
from base.store.portfolio import HeldRead, Portfolio
from base.store.realized import Payout
from tests.fakes.clock import FakeClock
from tests.fakes.feed import FakeFeed
from tests.fakes.positions import by_ticker
from tests.kalshi.bodies import MARKET, POSITION

DAY_S = 86_400
SWEEP_S = 2
"""The checker asks for what it needs at every sweep."""
POSITIONS = 10
BYTES_A_DAY_MAX = 2_000_000
EXITS_A_DAY = 20
RECONNECTS_A_DAY = 24
_EVENT = re.compile(r'event(?:=|": ")(\w+)')

logger = logging.getLogger("base.app.day")


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.raiseExceptions)
    hooks = (threading.excepthook, sys.unraisablehook)
    yield
    root.handlers[:], logging.raiseExceptions = before[0], before[2]
    root.setLevel(before[1])
    threading.excepthook, sys.unraisablehook = hooks
    logging.captureWarnings(False)


class History:
    """An account in which nothing happens."""

    def read_fills(self, since_s: int | None = None, tickers: Sequence[str] = ()) -> list[Fill]:
        return []

    def read_settlements(self, since_s: int) -> list[Payout]:
        return []

    def read_resting(self) -> list[Order]:
        return []


@dataclass
class Day:
    """Ten positions, and every thread that logs by itself while they are only held."""

    clock: FakeClock
    unprotected: str = ""
    """Why the first position is not protected."""
    needs: Why | None = None
    """Why prices are read through REST at every sweep."""

    def __post_init__(self) -> None:
        clock = self.clock
        self.held = [
            Position(f"KXHIGHNY-26NOV22-T{number}", OutcomeSide.YES, Decimal(10), Decimal("0.52"))
            for number in range(POSITIONS)
        ]
        tickers = [p.ticker for p in self.held]
        self.portfolio = Portfolio(clock)
        self.cache = WebsocketPriceCache(clock, 60.0)
        self.feed = FakeFeed()
        self.reads = PriceReads(len, self.cache, lambda ticker: True, lambda t: None, clock)
        self.account = Account(
            self.portfolio,
            MarketDirectory(self.portfolio, self.cache, self.feed, clock),
            lambda: HeldRead(by_ticker(self.held)),
            self.reads.request,
            30.0,
            clock,
            is_paper=False,
            history=History(),
        )
        self.canary = DriftCanary(
            lambda path, params: (
                {"markets": [MARKET], "cursor": ""}
                if path == "/markets"
                else {"market_positions": [POSITION], "cursor": ""}
            ),
            lambda: (),
            lambda: tickers,
            lambda: 0,
            clock,
        )
        self.pauses = PauseWatch(
            lambda: ExchangeSchedule(), lambda: [(t, Decimal(5)) for t in tickers], clock, has_weekly=True
        )
        self.board = StatusBoard(
            StatusSources(
                env="prod",
                trading_mode="live",
                positions=lambda: [self._checked(p) for p in self.held],
                exits=list[EpisodeView],
                history=lambda ticker: None,
                feed=self.feed.status,
                rest=lambda: RequestCounts(reads=3, writes=0, price_reads=1, rate_limited=0),
                ledger=self.portfolio.ledger,
                threads=lambda: {"stop-loss": ThreadHealth(True, 1.0, 7.0)},
                trading_state=lambda: (TradingState.ACTIVE, ""),
                strategy=lambda: {"name": "guard", "failing": False},
                doubts=list[str],
            ),
            1.0,
            clock,
        )

    def _checked(self, position: Position) -> CheckedPosition:
        reason = self.unprotected if position is self.held[0] else ""
        evaluation = Evaluation(
            ticker=position.ticker,
            decision=Hold(HoldReason.WITHIN_RULES),
            state=RuleState(),
            exit_value=Decimal("0.50"),
            bid_size=Decimal(7),
            stop_price=Decimal("0.39"),
            take_profit_price=None,
            price_age_s=0.4,
            price_source="ws",
            at=self.clock.now(),
        )
        market = Market(position.ticker, status=MarketStatus.ACTIVE)
        return CheckedPosition(position, market, evaluation, 0.4, "ws", Protection(True, not reason, reason))

    def run(self) -> None:
        assert self.account.books is not None
        due = {
            self.board.run_once: 60,
            self.pauses.run_once: 20,
            self.account.reconcile: 40,
            self.canary.run_once: 60,
            self.account.books.run_once: 600,
        }
        for second in range(0, DAY_S, SWEEP_S):
            for run_once, every_s in due.items():
                if second % every_s == 0:
                    run_once()
            if self.needs is not None:
                self.reads.request(Refresh(tuple(p.ticker for p in self.held), self.needs))
                self.reads.run_once()
            if second % (DAY_S // RECONNECTS_A_DAY) == 0:
                tell_reconnect()
            if second % (DAY_S // EXITS_A_DAY) == 0:
                tell_exit(second)
            self.clock.advance(SWEEP_S)


def tell_reconnect() -> None:
    log_event(logger, logging.WARNING, "feed_down", why="[Errno 104] Connection reset by peer", delay_s=0.41)
    log_event(logger, logging.INFO, "feed_live", connected_in_s=0.31)
    log_event(logger, logging.INFO, "subscribed", count=POSITIONS, channels=2)
    log_event(logger, logging.INFO, "rest_fallback", tickers=POSITIONS, why="feed_down")


def tell_exit(number: int) -> None:
    ticker, episode = f"KXHIGHNY-26NOV22-T{number}", f"x{number:08}"
    log_event(logger, logging.WARNING, "exit_triggered", ticker=ticker, reason="stop_loss", price="0.3900",
              episode=episode, detail="bid 0.39 at or below stop 0.39 (25 % under entry 0.52)")  # fmt: skip
    log_event(logger, logging.INFO, "exit_sent", ticker=ticker, episode=episode, count="10.00",
              price="0.3700", attempt=1, client_order_id=f"bs-{episode}-1")  # fmt: skip
    log_event(logger, logging.INFO, "exit_filled", ticker=ticker, episode=episode, count="10.00",
              price="0.3900", fees="0.17")  # fmt: skip
    log_event(logger, logging.INFO, "exit_closed", ticker=ticker, episode=episode, outcome="filled",
              filled="10.00", average_price="0.3900", attempts=1, took_s=0.09)  # fmt: skip
    log_event(
        logger, logging.INFO, "position_changed", ticker=ticker, before="10.00", after="0.00", why="fill"
    )


def events_of(text: str) -> Counter[str]:
    return Counter(found[1] for line in text.splitlines() if (found := _EVENT.search(line)) is not None)


@pytest.mark.parametrize(
    ("form", "unprotected", "needs"),
    [
        ("text", "", None),
        ("text", "", Why.STALE),
        ("text", "no_bid", Why.FEED_DOWN),
        ("json", "no_bid", Why.FEED_DOWN),
    ],
    ids=[
        "all streamed",
        "quiet markets read through REST",
        "no feed and a position without a bid",
        "the same as JSON",
    ],
)
def test_a_day_of_an_idle_daemon_is_less_than_two_megabytes(
    form: str, unprotected: str, needs: Why | None
) -> None:
    stream = io.StringIO()
    day = Day(FakeClock(), unprotected, needs)
    configure_logging("INFO", form, None, stream=stream, queued=False)
    day.run()
    text = stream.getvalue()
    counts = events_of(text)
    print(f"{len(text.encode()):,} bytes a day: {dict(counts.most_common(8))}")
    assert counts["summary"] >= DAY_S / 60 - 1, "it says each minute that it lives"
    assert counts["exit_triggered"] == EXITS_A_DAY
    assert bool(counts["unhealthy"]) == bool(unprotected)
    assert (counts["rest_fallback"] > RECONNECTS_A_DAY) == (needs is not None)
    assert len(text.encode()) < BYTES_A_DAY_MAX, counts.most_common(5)
