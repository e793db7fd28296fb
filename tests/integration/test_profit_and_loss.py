"""Profit and loss against the exchange's own ledger, to the hundredth of a cent."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from base.model.market import ZERO, OutcomeSide
from base.model.trading_day import day_end_s, day_start_s, trading_day
from base.sandbox.scenario import parse_scenario
from base.sandbox.server import SandboxServer
from tests.integration.rig import Daemon, held_market
from tests.integration.trading_day_rig import (
    ALPHA,
    BETA,
    BY_HAND,
    ENDING,
    MARKETS,
    MIXED,
    STRATEGIES,
    Money,
    TradingDay,
    by_market,
)

HUNDREDTH_OF_A_CENT = Decimal("0.0001")
NEW_YORK = ZoneInfo("America/New_York")


def assert_same(booked: Money, truth: Money) -> None:
    for ticker in {*booked, *truth}:
        ours, theirs = booked.get(ticker, (ZERO, ZERO)), truth.get(ticker, (ZERO, ZERO))
        for name, mine, right in zip(("realized", "fees"), ours, theirs, strict=True):
            assert abs(mine - right) < HUNDREDTH_OF_A_CENT, (
                f"{ticker}: {name} {mine}, by the exchange {right}"
            )


def total(money: Money) -> tuple[Decimal, Decimal]:
    return sum((m[0] for m in money.values()), ZERO), sum((m[1] for m in money.values()), ZERO)


def trade_until(day: TradingDay, until: float, *, restart_at: int = -1) -> int:
    """Trade at random; return how many orders and moves that were."""
    actions = 0
    while day.clock.now() + 120 < until:
        day.clock.advance(day.rng.choice([0.2, 3.0, 60.0, 120.0]) * (until - day.clock.now() > 4000) + 30)
        day.deliver()
        ticker = day.rng.choice(MARKETS)
        if day.exchange.market(ticker).status.can_still_trade:
            luck = day.rng.random()
            if luck < 0.3:
                day.move(ticker)
            elif luck < 0.35:
                day.cancel_resting()
            elif ticker == BY_HAND or (ticker == MIXED and luck < 0.6):
                day.trade_by_hand(ticker)
            elif luck < 0.7:
                day.enter(ticker)
            else:
                day.leave(ticker)
        actions += 1
        if actions % 5 == 0:
            day.clock.advance(4)
            day.deliver()
            day.look_up()
            day.read()
        if actions % 40 == 0:
            day.books.run_once()
        if actions == restart_at:
            day.start_books()
    return actions


@pytest.mark.parametrize(
    ("start", "seed"),
    [
        (datetime(2026, 9, 21, 19, tzinfo=NEW_YORK), 0),
        (datetime(2026, 9, 21, 19, tzinfo=NEW_YORK), 1),
        (datetime(2026, 9, 21, 19, tzinfo=NEW_YORK), 2),
        (datetime(2026, 10, 31, 19, tzinfo=NEW_YORK), 3),
        (datetime(2027, 3, 13, 19, tzinfo=NEW_YORK), 4),
    ],
    ids=["a day", "another", "a third", "a day of 25 hours", "a day of 23 hours"],
)
def test_a_day_of_trading_is_booked_as_the_exchange_books_it(
    tmp_path: Path, start: datetime, seed: int
) -> None:
    day = TradingDay(tmp_path, seed, start, NEW_YORK)
    before_midnight = day_end_s(day.clock.now(), NEW_YORK)
    started_with = day.exchange.ledger.balance

    trade_until(day, before_midnight - 600, restart_at=30)
    day.cancel_resting()
    day.settle_down()
    yesterday = trading_day(day.clock.now(), NEW_YORK)
    assert_same(by_market(day.portfolio.ledger()), day.truth(yesterday))

    # Around midnight nothing gets lost, but what happens before is told after.
    day.loses_nothing = True
    day.clock.advance(before_midnight - 1.5 - day.clock.now())
    for ticker in (ALPHA, BETA):
        day.move(ticker)
        day.enter(ticker)
        day.leave(ticker)
    opening_fills = len(day.exchange.ledger.fills)
    day.clock.advance(30)
    day.deliver()
    day.loses_nothing = False

    until = day_end_s(day.clock.now(), NEW_YORK)
    trade_until(day, day_start_s(until, NEW_YORK) - 6 * 3600, restart_at=100)
    for ticker, result in zip(ENDING, (OutcomeSide.YES, OutcomeSide.NO, None), strict=True):
        day.move(ticker)
        day.enter(ticker)
        day.end(ticker, result, settling_fee="0.0350" if result is OutcomeSide.YES else "0")
    trade_until(day, until - 600)
    day.settle_down()

    ledger = day.portfolio.ledger()
    assert (ledger.day, ledger.zone) == (trading_day(until - 1, NEW_YORK), "America/New_York")
    assert_same(by_market(ledger), day.truth(ledger.day))
    assert len(day.exchange.ledger.fills) - opening_fills > 150, "that was no day of trading"
    day.journal.run_once()
    kept = {record.day: record for record in day.remembered().ledgers}
    was = kept[yesterday]
    assert_same({"": (was.realized, was.fees)}, {"": total(day.truth(yesterday))})

    cash = was.realized - was.fees + ledger.realized - ledger.fees - day.cost_held()
    assert abs(day.exchange.ledger.balance - started_with - cash) < HUNDREDTH_OF_A_CENT
    for result in ledger.results:
        if result.ticker != MIXED:
            assert result.strategy == STRATEGIES.get(result.ticker, ""), result


def test_a_change_of_the_time_zone_counts_nothing_twice(tmp_path: Path) -> None:
    day = TradingDay(tmp_path, 5, datetime(2026, 9, 21, 17, tzinfo=NEW_YORK), UTC)
    trade_until(day, datetime(2026, 9, 22, 1, tzinfo=UTC).timestamp())
    day.settle_down()
    in_utc = day.portfolio.ledger()
    assert in_utc.day == "2026-09-22"
    day.start_books(NEW_YORK)
    day.settle_down()
    ledger = day.portfolio.ledger()
    assert (ledger.day, ledger.zone) == ("2026-09-21", "America/New_York")
    assert_same(by_market(ledger), day.whole_truth())
    assert ledger.fees > in_utc.fees
    day.start_books(UTC)
    day.settle_down()
    assert_same(by_market(day.portfolio.ledger()), by_market(in_utc))


# --- the whole daemon ---------------------------------------------------------------------------------

YES, NO, ENDS = "KXTEST-YES-A", "KXTEST-NO-B", "KXENDS-1-C"
HELD = (
    held_market(YES, "0.60", "0.62", side="yes", count="10", entry="0.60")
    + held_market(NO, "0.38", "0.40", side="no", count="12.50", entry="0.60")
    + held_market(ENDS, "0.50", "0.52", side="yes", count="5", entry="0.47")
)


def told_of(daemon: Daemon) -> dict[str, tuple[Decimal, Decimal]]:
    markets = daemon.status().get("pnl", {}).get("by_market", {})
    return {t: (Decimal(m["realized_today"]), Decimal(m["fees_today"])) for t, m in markets.items()}


def ledger_of(server: SandboxServer) -> dict[str, tuple[Decimal, Decimal]]:
    positions: Any = server.ledger()["positions"]
    return {t: (Decimal(p["realized_pnl"]), Decimal(p["fees_paid"])) for t, p in positions.items()}


def is_same(daemon: Daemon, server: SandboxServer) -> bool:
    told, truth = told_of(daemon), ledger_of(server)
    return told.keys() == truth.keys() and all(
        abs(mine - right) < HUNDREDTH_OF_A_CENT
        for ticker, money in truth.items()
        for mine, right in zip(told[ticker], money, strict=True)
    )


def test_the_status_tells_the_money_that_the_exchange_has_booked(tmp_path: Path) -> None:
    with (
        SandboxServer(parse_scenario(HELD, "test.toml")) as server,
        Daemon(tmp_path, server, RECONCILE_INTERVAL_S="2") as daemon,
    ):
        daemon.until(lambda: daemon.is_streaming(3), "three markets are streamed")
        server.set_market(YES, bid="0.40", ask="0.42", bid_size="4", ask_size="100")
        server.set_market(NO, bid="0.58", ask="0.60", bid_size="100", ask_size="100")
        daemon.until(lambda: len(daemon.events("exit_filled", ticker=NO)) > 0, "the NO position is sold")
        server.set_market(YES, bid="0.39", ask="0.42", bid_size="100", ask_size="100")
        daemon.until(lambda: daemon.position(YES) is None and daemon.position(NO) is None, "both are sold")
        server.set_market(ENDS, close_in_s=0.5, result="yes")
        daemon.until(lambda: ledger_of(server)[ENDS][0] > 0, "the market has paid", 40)
        daemon.until(lambda: is_same(daemon, server), "the status tells what the exchange has booked", 40)
        pnl, truth = daemon.status()["pnl"], total(ledger_of(server))
        assert (Decimal(pnl["realized_today"]), Decimal(pnl["fees_today"])) == truth
        assert set(pnl["by_event"]) == {"KXTEST-YES", "KXTEST-NO", "KXENDS-1"}
        assert pnl["by_strategy"][""]["realized_today"] == pnl["realized_today"]
        assert pnl["unrealized"] == "0.00"
