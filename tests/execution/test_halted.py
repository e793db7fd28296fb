"""The kill switch: while it is on no order of an exit leaves, and the moment it is off they go on."""

from __future__ import annotations

from decimal import Decimal

import pytest

from base.execution.exits import ExitDesk, ExitOrder
from base.execution.refusals import BlockedWhy
from base.model.rules import ExitReason
from base.store.portfolio import Portfolio
from tests.fakes.clock import FakeClock
from tests.fakes.gateway import FakeExchange, FakeSender, Lost, Reject
from tests.fakes.journal import MemoryJournal

T, OTHER = "KXHIGHNY-26NOV22-T60", "KXBTCD-26NOV22-T95000"


class Rig:
    def __init__(self, *, halted: bool) -> None:
        self.clock = FakeClock()
        self.exchange = FakeExchange(self.clock)
        self.journal = MemoryJournal()
        self.halted = halted
        for ticker in (T, OTHER):
            self.exchange.holds(ticker, "10")
            self.exchange.prices.set(ticker, "0.40")
        self.start()

    def start(self) -> None:
        self.portfolio = Portfolio(self.clock)
        self.desk = ExitDesk(
            self.exchange,
            self.portfolio,
            self.exchange.prices.get,
            self.read,
            self.clock,
            workers=1,
            recorder=self.journal,
            may_send=lambda: not self.halted,
        )
        self.sender = FakeSender(self.exchange)
        self.read()

    def read(self) -> None:
        self.portfolio.apply_read(self.exchange.positions(), self.clock.monotonic())

    def trigger(self, *tickers: str) -> None:
        self.desk.trigger_all(
            ExitOrder(t, ExitReason.STOP_LOSS, Decimal("0.40"), Decimal("0.42"), Decimal("0.01"))
            for t in tickers
        )

    def drive(self, seconds: float) -> None:
        until = self.clock.monotonic() + seconds
        while self.clock.monotonic() < until:
            if not self.desk.run_once(self.sender):
                self.clock.advance(0.05)

    def states(self) -> set[tuple[str, str]]:
        return {(view.state, view.why) for view in self.desk.views()}


def test_while_it_is_on_exits_are_blocked_and_go_out_within_a_second_of_its_end() -> None:
    rig = Rig(halted=True)
    rig.trigger(T, OTHER)
    rig.drive(600)
    assert rig.exchange.requests == []
    assert rig.states() == {("blocked", "halted")}
    assert "remove STATE_DIR/halted" in BlockedWhy.HALTED.remedy
    rig.halted = False
    rig.drive(1)
    assert rig.states() == {("closed", "filled")}
    assert sorted(r.ticker for r in rig.exchange.requests) == [OTHER, T]
    assert rig.exchange.positions() == {}


def test_an_exit_that_is_halted_reads_nothing_and_ends_when_nothing_is_held() -> None:
    rig = Rig(halted=True)
    rig.trigger(T)
    rig.drive(5)
    rig.exchange.holds(T, "0")  # closed by hand on the exchange
    for _ in range(2):
        rig.clock.advance(30)
        rig.read()
    rig.drive(2)
    assert rig.states() == {("closed", "flat")}
    assert rig.exchange.requests == []


@pytest.mark.parametrize(
    "step",
    [Lost(acted=False), Reject(409, "trading_is_paused"), Reject(400, "insufficient_balance")],
    ids=["its order was lost", "it met a pause", "it met a lack of funds"],
)
def test_what_was_under_way_sends_nothing_more(step: Lost | Reject) -> None:
    rig = Rig(halted=False)
    rig.exchange.script[T].extend([step, step])
    rig.trigger(T)
    rig.drive(0.1)
    assert len(rig.exchange.requests) == 1
    rig.halted = True
    rig.drive(300)
    assert len(rig.exchange.requests) == 1
    assert rig.states() == {("blocked", "halted")}
    rig.halted = False
    rig.drive(60)
    assert rig.states() == {("closed", "filled")}
    assert T not in rig.exchange.positions()


def test_a_halted_exit_is_on_disk_and_still_halted_after_a_restart() -> None:
    rig = Rig(halted=True)
    rig.trigger(T)
    rig.drive(2)
    rig.journal.flush()
    remembered = rig.journal.remembered()
    rig.start()
    rig.desk.resume(remembered)
    rig.drive(30)
    assert rig.exchange.requests == []
    assert rig.states() == {("blocked", "halted")}
    rig.halted = False
    rig.drive(2)
    assert rig.states() == {("closed", "filled")}
    assert T not in rig.exchange.positions()
