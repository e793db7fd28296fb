"""The paper gateway: to the program it is the exchange, also after a restart."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from base.clock import SystemClock
from base.errors import OrderRejected, RequestRejected, TransientError
from base.execution.gateway import EntryGateway, Gateway, OrderLookup
from base.execution.paper import HAND_OVER_S_MAX, RESULT_READ_S, PaperGateway
from base.model.market import BookSide, MarketStatus, OutcomeSide
from base.model.order import (
    EntryOrder,
    EntryState,
    OrderAck,
    OrderRequest,
    OrderStatus,
    TimeInForce,
    entry_book_side,
    exit_book_side,
)
from base.model.position import Fill
from base.store.journal import Journal
from base.store.portfolio import Portfolio
from base.store.reconcile import AGREEMENT_S
from base.store.records import FillRecord, PaperRecord, Record, Remembered
from tests.execution.paper_rig import ASK, BID, GTC, NO, YES, D, PaperRig, T, displayed, real
from tests.fakes.clock import FakeClock


def taker_fee(count: str, price: str) -> Decimal:
    exact = D("0.07") * D(count) * D(price) * (1 - D(price))
    return exact.quantize(D("0.0001"), "ROUND_CEILING")


def test_it_is_both_gateways() -> None:
    rig = PaperRig()
    gateway: Gateway = rig.gateway
    entries: EntryGateway = rig.gateway
    assert gateway.open_sender().batch_max == 1
    assert entries.find_orders({}, 0).as_of == rig.clock.now()


# --- exits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "limit", "at"), [(YES, "0.38", "0.40"), (NO, "0.44", "0.42")])
def test_an_exit_fills_at_the_displayed_price_and_is_taken_off_the_real_position(
    side: OutcomeSide, limit: str, at: str
) -> None:
    rig = PaperRig(real("10", side))
    ack = rig.send(exit_book_side(side), "10", limit, reduce_only=True)
    assert (ack.fill_count, ack.average_fill_price) == (D(10), D(at))
    assert ack.fees == taker_fee("10", at)
    assert rig.sees(real("10", side)) == 0
    lookup = rig.gateway.find_orders({"c1": T, "c2": T}, since=rig.clock.now() - 1)
    assert {name: order.fill_count for name, order in lookup.found.items()} == {"c1": 10}
    assert lookup.as_of == rig.clock.now()


def test_orders_together_each_have_their_own_answer() -> None:
    rig = PaperRig(real("10"))
    fok = TimeInForce.FILL_OR_KILL
    first, second, third = rig.gateway.open_sender().create_orders(
        [
            rig.request(ASK, "4", "0.38", reduce_only=True),
            rig.request(ASK, "4", "0.38", fok, reduce_only=True),
            rig.request(ASK, "9", "0.38", reduce_only=True),
        ]
    )
    assert isinstance(first, OrderAck)
    assert isinstance(second, OrderRejected)
    assert isinstance(third, OrderAck)
    assert (first.fill_count, third.fill_count) == (4, 6)


def test_reduce_only_never_flips_nor_opens() -> None:
    rig = PaperRig(real("3"))
    assert rig.send(ASK, "10", "0.38", reduce_only=True).fill_count == 3
    assert rig.told.orders[-1].reason == "ReduceOnlyCancel"
    assert rig.send(ASK, "10", "0.38", reduce_only=True).fill_count == 0
    assert rig.sees(real("3")) == 0


def test_an_entry_adds_a_position_of_its_own() -> None:
    rig = PaperRig()
    assert rig.send(entry_book_side(NO), "5", "0.40").fill_count == 5
    assert rig.sees(None) == -5
    assert rig.send(exit_book_side(NO), "5", "0.42", reduce_only=True).fill_count == 5
    assert rig.sees(None) == 0


def test_a_real_position_opened_against_a_simulated_one_nets() -> None:
    rig = PaperRig()
    rig.send(entry_book_side(NO), "4", "0.40")
    assert rig.sees(real("10")) == 6
    assert rig.send(ASK, "6", "0.38", reduce_only=True).fill_count == 6
    assert rig.sees(real("10")) == 0


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (MarketStatus.INACTIVE, "trading_is_paused"),
        (MarketStatus.CLOSED, "market_inactive"),
        (MarketStatus.UNKNOWN, "market_inactive"),
        (MarketStatus.INITIALIZED, "market_inactive"),
    ],
)
def test_a_market_that_cannot_trade_refuses_as_the_exchange_does(status: MarketStatus, code: str) -> None:
    rig = PaperRig(real("10"))
    rig.becomes(status)
    assert rig.refusal(rig.request(ASK, "10", "0.38", reduce_only=True)) == (409, code)
    assert rig.sees(real("10")) == 10


# --- latency ------------------------------------------------------------------------------------------


class MovingClock(FakeClock):
    """A clock with something that happens while somebody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []
        self.meanwhile: list[OrderLookup] = []
        self.rig: PaperRig | None = None

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        self.waits.append(timeout_s)
        if self.rig is not None:
            self.rig.shows([("0.33", "100")], [("0.36", "100")])
            assert self.rig.gateway.balance(D(100)) is not None, "nothing is locked while an order travels"
        is_set = super().wait(event, timeout_s)
        if self.rig is not None:
            self.meanwhile.append(self.rig.gateway.find_orders({"c1": T}, 0))
        return is_set


def test_an_order_meets_the_quote_of_when_it_arrives() -> None:
    clock = MovingClock()
    rig = PaperRig(real("10"), clock=clock, latency_s=0.05)
    clock.rig = rig
    sent_at = clock.now()
    ack = rig.send(ASK, "10", "0.30", reduce_only=True)
    assert ack.average_fill_price == D("0.33")
    assert (clock.waits, ack.ts_ms) == ([0.05], int((sent_at + 0.05) * 1000))
    (lookup,) = clock.meanwhile
    assert (lookup.found, lookup.as_of) == ({}, sent_at), "it may not be taken for an order that was lost"


def test_orders_that_leave_together_travel_once() -> None:
    clock = MovingClock()
    rig = PaperRig(real("10"), clock=clock, latency_s=0.05)
    rig.gateway.create_orders([rig.request(ASK, "1", "0.30") for _ in range(3)])
    assert clock.waits == [0.05]


@pytest.mark.parametrize(("is_readable", "at"), [(True, "0.33"), (False, None)], ids=["read", "unread"])
def test_a_price_that_nothing_vouches_for_is_read_anew_or_fills_nothing(
    is_readable: bool, at: str | None
) -> None:
    rig = PaperRig(real("10"))
    assert rig.view is not None
    rig.view = replace(rig.view, is_vouched=False, age_s=60.0)
    rig.on_read = displayed([("0.33", "100")], [("0.36", "100")]) if is_readable else None
    ack = rig.send(ASK, "10", "0.30", reduce_only=True)
    assert rig.reads == [(T,)]
    assert ack.average_fill_price == (None if at is None else D(at))


def test_a_read_that_fails_refuses_nothing() -> None:
    rig = PaperRig(real("10"))
    assert rig.view is not None
    view = replace(rig.view, is_vouched=False, age_s=60.0)

    def fails(tickers: object) -> None:
        raise TransientError("reads are down")

    gateway = PaperGateway(lambda ticker: view, fails, rig.clock)
    assert gateway.create_order(rig.request(ASK, "10", "0.30")).fill_count == 0


@pytest.mark.parametrize(
    ("has_book", "is_exit", "reads", "filled"),
    [(False, False, [(T,)], 0), (False, True, [], 5), (True, False, [], 5)],
    ids=["an entry by the ticker alone", "an exit does not wait", "an entry with the book"],
)
def test_an_offer_that_only_the_ticker_still_shows_may_be_gone(
    has_book: bool, is_exit: bool, reads: list[tuple[str, ...]], filled: int
) -> None:
    rig = PaperRig(real("10", NO) if is_exit else None)
    rig.shows([("0.40", "100")], [("0.42", "100")], depth=has_book)
    rig.on_read = displayed([("0.40", "100")], [("0.47", "100")], depth=False)
    assert rig.send(BID, "5", "0.42", reduce_only=is_exit).fill_count == filled
    assert rig.reads == reads


def test_a_move_meets_the_market_as_it_is_read_too() -> None:
    rig = PaperRig()
    rig.shows([("0.40", "100")], [("0.42", "100")], depth=False)
    ack = rig.gateway.create_entry(rig.request(BID, "10", "0.39", GTC))
    rig.on_read = displayed([("0.40", "100")], [("0.47", "100")], depth=False)
    moved = replace(rig.request(BID, "10", "0.42", GTC), client_order_id="c1")
    assert rig.gateway.amend_entry(ack.order_id, moved).fill_count == 0


# --- resting orders -----------------------------------------------------------------------------------


def test_a_resting_order_is_found_moved_and_canceled() -> None:
    rig = PaperRig()
    ack = rig.gateway.create_entry(rig.request(BID, "10", "0.39", GTC))
    assert (ack.fill_count, ack.remaining_count) == (0, 10)
    assert rig.gateway.resting_tickers == {T}
    moved = replace(rig.request(BID, "130", "0.42", GTC), client_order_id="c1")
    answer = rig.gateway.amend_entry(ack.order_id, moved)
    assert (answer.fill_count, answer.remaining_count) == (100, 30)
    assert answer.fees == taker_fee("100", "0.42")
    found = rig.gateway.find_orders({"c1": T}, 0).found["c1"]
    assert (found.status, found.fill_count) == (OrderStatus.RESTING, 100)
    rig.shows([("0.40", "9")], [("0.41", "7")])
    rig.step()
    assert rig.gateway.cancel_entry(ack.order_id, T) == 23
    found = rig.gateway.find_orders({"c1": T}, 0).found["c1"]
    assert (found.status, found.fill_count) == (OrderStatus.CANCELED, 107)
    assert rig.sees(None) == 107
    assert rig.gateway.resting_tickers == frozenset()


def test_what_does_not_rest_any_more_is_not_found() -> None:
    rig = PaperRig()
    ack = rig.gateway.create_entry(rig.request(BID, "10", "0.39", GTC))
    assert rig.gateway.cancel_entry(ack.order_id, T) == 10
    again = replace(rig.request(BID, "10", "0.38", GTC), client_order_id="c1")
    rests = rig.gateway.create_entry(rig.request(BID, "10", "0.39", GTC))
    for attempt in (
        lambda: rig.gateway.cancel_entry(ack.order_id, T),
        lambda: rig.gateway.cancel_entry(rests.order_id, "KXANOTHER-A"),
        lambda: rig.gateway.cancel_entry("paper-unknown", T),
        lambda: rig.gateway.amend_entry(ack.order_id, again),
    ):
        with pytest.raises(RequestRejected) as refused:
            attempt()
        assert refused.value.status == 404


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"count": "4"}, "invalid_parameters"),
        ({"price": "0.425"}, "invalid_price"),
        ({"side": ASK}, "order_side_mismatch"),
        ({"name": "another"}, "order_id_and_client_order_id_mismatch"),
    ],
    ids=["fewer than have filled", "off the grid", "another side", "another order"],
)
def test_a_move_that_the_exchange_refuses_moves_nothing(how: dict[str, object], code: str) -> None:
    rig = PaperRig()
    ack = rig.gateway.create_entry(rig.request(BID, "10", "0.39", GTC, name="mine"))
    rig.shows([("0.30", "9")], [("0.39", "4")])
    rig.step()
    request = rig.request(**({"side": BID, "count": "9", "price": "0.38", "tif": GTC, "name": "mine"} | how))  # type: ignore[arg-type]
    with pytest.raises(OrderRejected) as refused:
        rig.gateway.amend_entry(ack.order_id, request)
    assert refused.value.code == code
    assert rig.gateway.cancel_entry(ack.order_id, T) == 6


def test_a_post_only_order_is_not_moved_into_the_market() -> None:
    rig = PaperRig()
    ack = rig.gateway.create_entry(rig.request(BID, "10", "0.39", GTC, post_only=True, name="mine"))
    with pytest.raises(OrderRejected) as refused:
        rig.gateway.amend_entry(ack.order_id, rig.request(BID, "10", "0.42", GTC, name="mine"))
    assert refused.value.code == "invalid_order"
    assert rig.gateway.cancel_entry(ack.order_id, T) == 10


def test_after_the_close_nothing_can_be_canceled() -> None:
    rig = PaperRig()
    ack = rig.gateway.create_entry(rig.request(BID, "10", "0.39", GTC))
    rig.becomes(MarketStatus.CLOSED)
    with pytest.raises(RequestRejected) as refused:
        rig.gateway.cancel_entry(ack.order_id, T)
    assert refused.value.code == "market_inactive"


def test_markets_stay_known_while_something_rests_or_is_not_paid() -> None:
    rig = PaperRig(real("10"))
    assert rig.gateway.needed_tickers == frozenset()
    ack = rig.gateway.create_entry(rig.request(BID, "10", "0.39", GTC))
    assert rig.gateway.needed_tickers == {T}
    rig.gateway.cancel_entry(ack.order_id, T)
    assert rig.gateway.needed_tickers == frozenset()
    rig.send(ASK, "10", "0.40", reduce_only=True)
    assert (rig.sees(real("10")), rig.gateway.needed_tickers) == (0, {T})
    rig.becomes(MarketStatus.FINALIZED, "yes")
    rig.gateway.settle_once()
    assert rig.gateway.needed_tickers == frozenset()


def test_stopping_cancels_what_rests() -> None:
    rig = PaperRig()
    rig.gateway.create_entry(rig.request(BID, "10", "0.39", GTC))
    rig.gateway.stop()
    assert rig.told.orders[-1].status is OrderStatus.CANCELED
    rig.shows([("0.30", "9")], [("0.35", "4")])
    rig.step()
    assert rig.fills == []


# --- what is told -------------------------------------------------------------------------------------


def test_fills_are_told_as_the_stream_would() -> None:
    rig = PaperRig(real("10"))
    rig.shows([("0.40", "4"), ("0.39", "100")], [("0.42", "100")])
    ack = rig.send(ASK, "10", "0.38", reduce_only=True)
    first, second = rig.told.fills
    assert (first.count, first.post_position, second.count, second.post_position) == (4, 6, 6, 0)
    assert first.trade_id != second.trade_id
    assert {f.client_order_id for f in rig.told.fills} == {"c1"}
    assert {f.order_id for f in rig.told.fills} == {ack.order_id}
    (update,) = rig.told.orders
    assert (update.status, update.fill_count, update.initial_count) == (OrderStatus.EXECUTED, 10, 10)
    assert update.fill_cost == 4 * D("0.60") + 6 * D("0.61"), "of the NO contracts bought"


@pytest.mark.parametrize("fills_first", [True, False], ids=["fills first", "answer first"])
def test_a_portfolio_counts_answers_and_fills_once(fills_first: bool) -> None:
    rig = PaperRig(real("10"))
    rig.shows([("0.40", "4"), ("0.39", "100")], [("0.42", "100")])
    portfolio = Portfolio(rig.clock)
    portfolio.apply_read({T: real("10")}, rig.clock.monotonic())
    ack = rig.send(ASK, "8", "0.38", reduce_only=True)

    def fills() -> None:
        for fill in rig.told.fills:
            portfolio.apply_fill(fill)

    def answer() -> None:
        portfolio.apply_answer(
            T, ack.order_id, ASK, ack.fill_count, ack.average_fill_price, ack.fees, ack.ts_ms
        )

    for tell in (fills, answer) if fills_first else (answer, fills):
        tell()
    held = portfolio.get(T)
    assert held is not None
    assert held.signed_count == 2
    ledger = portfolio.ledger()
    assert ledger.realized == 4 * (D("0.40") - D("0.50")) + 4 * (D("0.39") - D("0.50"))
    assert ledger.fees == ack.fees


class KeepingRecorder:
    """A recorder that notes what was told before each commit."""

    def __init__(self) -> None:
        self.rig: PaperRig | None = None
        self.told_before: list[int] = []
        self.records: list[Record] = []

    def write(self, records: Iterable[Record]) -> None:
        raise AssertionError("what an answer says is committed")

    def commit(self, records: Iterable[Record]) -> bool:
        assert self.rig is None or self.rig.gateway.balance(D(1)) is not None, "no lock is held"
        self.told_before.append(len(self.rig.told.fills) if self.rig is not None else -1)
        self.records += records
        return True


def test_what_an_answer_says_is_on_disk_before_it_is_told() -> None:
    recorder = KeepingRecorder()
    rig = recorder.rig = PaperRig(real("10"), recorder)
    rig.send(ASK, "10", "0.38", reduce_only=True)
    assert recorder.told_before == [0, 1], "and once more, with what those who were told have written"
    kinds = [type(record) for record in recorder.records]
    assert (kinds.count(FillRecord), kinds.count(PaperRecord)) == (1, 2)


def test_what_was_not_told_because_a_listener_broke_is_told_with_the_next() -> None:
    rig = PaperRig(real("10"))
    rig.shows([("0.40", "4"), ("0.39", "100")], [("0.42", "100")])
    heard: list[Fill] = []

    def stumbles(fill: Fill) -> None:
        heard.append(fill)
        if len(heard) == 1:
            raise ZeroDivisionError("a bug of the listener")

    rig.gateway.attach(stumbles, rig.told.orders.append, lambda payout: None)
    with pytest.raises(ZeroDivisionError):
        rig.send(ASK, "6", "0.38", reduce_only=True)
    assert rig.gateway.find_orders({"c1": T}, 0).found["c1"].fill_count == 6
    assert rig.send(ASK, "4", "0.38", reduce_only=True).fill_count == 4
    assert [(f.client_order_id, f.count) for f in heard] == [("c1", 4), ("c1", 2), ("c2", 4)]
    assert [u.client_order_id for u in rig.told.orders] == ["c1", "c2"]


class SlowRecorder(KeepingRecorder):
    """A disk that takes its time, and notices when two write at once."""

    def __init__(self) -> None:
        super().__init__()
        self.overlaps = 0
        self._busy = threading.Lock()

    def commit(self, records: Iterable[Record]) -> bool:
        if not self._busy.acquire(blocking=False):
            self.overlaps += 1
            return super().commit(records)
        threading.Event().wait(0.005)
        self._busy.release()
        return super().commit(records)


def test_many_threads_sell_what_is_held_once() -> None:
    recorder = SlowRecorder()
    rig = PaperRig(real("50"))
    rig.shows([("0.40", "1000")], [("0.42", "1000")])
    requests = [rig.request(ASK, "3", "0.38", reduce_only=True) for _ in range(40)]
    gateway = PaperGateway(
        lambda ticker: rig.view, lambda tickers: None, SystemClock(), recorder, latency_s=0.002
    )
    told: list[Fill] = []
    gateway.attach(told.append, lambda update: None, lambda payout: None)
    gateway.overlay({T: real("50")})
    written: list[bool] = []

    def sell(request: OrderRequest) -> None:
        ack = gateway.create_order(request)
        rows = {r.trade_id for r in recorder.records if isinstance(r, FillRecord)}
        written.append(ack.fill_count == 0 or f"{ack.order_id}-1" in rows)

    threads = [threading.Thread(target=sell, args=(request,)) for request in requests]
    started = SystemClock().monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert SystemClock().monotonic() - started < HAND_OVER_S_MAX, "nobody waits for what is done"
    assert written == [True] * 40, "each answer comes after its record"
    posts = [f.post_position for f in told if f.post_position is not None]
    assert (sum(f.count for f in told), posts) == (50, sorted(posts, reverse=True))
    assert recorder.overlaps == 0
    rows = [r for r in recorder.records if isinstance(r, PaperRecord) and r.ticker == T]
    assert rows[-1].taken_off == 50, "the newest word is the last on disk"


# --- money --------------------------------------------------------------------------------------------


def test_the_balance_is_the_exchanges_with_what_was_traded_here() -> None:
    rig = PaperRig(real("10"))
    assert rig.gateway.balance(D("100")) == 100
    sold = rig.send(ASK, "10", "0.40", reduce_only=True)
    assert rig.gateway.balance(D("100")) == 100 + 4 - sold.fees
    assert rig.gateway.balance(None) is None


def test_what_cannot_be_paid_is_refused() -> None:
    rig = PaperRig(real("10"))
    rig.gateway.balance(D("5.00"))
    assert rig.refusal(rig.request(BID, "12", "0.42")) == (400, "insufficient_balance")
    assert rig.gateway.create_entry(rig.request(BID, "10", "0.30", GTC)).remaining_count == 10
    assert rig.refusal(rig.request(BID, "5", "0.42")) == (400, "insufficient_balance")
    assert rig.send(BID, "4", "0.42").fill_count == 4, "3.00 are reserved, 1.75 are enough"
    rig.gateway.balance(D("0"))
    assert rig.send(ASK, "4", "0.40", reduce_only=True).fill_count == 4, "an exit costs nothing"


# --- the end of a market ------------------------------------------------------------------------------


def test_a_market_that_ends_pays_once() -> None:
    rig = PaperRig()
    rig.send(BID, "5", "0.42")
    rig.becomes(MarketStatus.DETERMINED, "yes")
    rig.gateway.settle_once()
    assert rig.told.payouts == [], "a result can still be disputed"
    rig.becomes(MarketStatus.FINALIZED, "yes")
    for _ in range(3):
        rig.gateway.settle_once()
    (payout,) = rig.told.payouts
    assert (payout.signed, payout.cost, payout.revenue) == (5, D("2.10"), 5)
    assert rig.sees(None) == 0
    assert rig.gateway.balance(D(0)) == 5 - D("2.10") - taker_fee("5", "0.42")


def test_what_the_exchange_has_paid_is_paid_here() -> None:
    rig = PaperRig(real("10"))
    rig.send(ASK, "4", "0.40", reduce_only=True)
    rig.becomes(MarketStatus.DETERMINED, "no")
    assert rig.sees(real("10")) == 6
    assert rig.sees(None) == 0
    (payout,) = rig.told.payouts
    assert (payout.signed, payout.cost, payout.revenue) == (6, 3, 0)


@pytest.mark.parametrize(
    ("result", "value", "paid"),
    [
        ("no", None, "0"),
        ("scalar", "0.35", "1.75"),
        ("scalar", None, None),
        ("", None, None),
        ("", "0.00", None),
        ("void", "0.35", None),
    ],
    ids=[
        "lost", "scalar", "scalar without its value", "no result", "a value without a result",
        "a result added later",
    ],
)  # fmt: skip
def test_what_a_result_pays(result: str, value: str | None, paid: str | None) -> None:
    rig = PaperRig()
    rig.send(BID, "5", "0.42")
    rig.becomes(MarketStatus.FINALIZED, result, value)
    rig.gateway.settle_once()
    assert [p.revenue for p in rig.told.payouts] == ([] if paid is None else [D(paid)])
    assert bool(rig.gateway.doubts()) is (paid is None)
    assert rig.sees(None) == (5 if paid is None else 0), "what is not paid is held, loudly"


def test_a_closed_market_is_read_until_it_has_a_result() -> None:
    rig = PaperRig()
    rig.send(BID, "5", "0.42")
    rig.becomes(MarketStatus.CLOSED)
    rig.gateway.settle_once()
    rig.gateway.settle_once()
    assert rig.reads == [(T,)]
    rig.clock.advance(RESULT_READ_S)
    rig.gateway.settle_once()
    assert rig.reads == [(T,), (T,)]


# --- restarts -----------------------------------------------------------------------------------------


class Runs:
    """Runs of the program with one journal on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal: Journal | None = None
        self.starts = 0

    def start(self, held: str | None = None) -> PaperRig:
        self.end()
        self.journal = Journal.open(self.path, SystemClock(), account="paper-test")
        remembered = self.journal.load()
        self.journal.start()
        rig = PaperRig(None if held is None else real(held), self.journal, remembered)
        rig.count, self.starts = 100 * self.starts, self.starts + 1  # no order id is used twice
        return rig

    def end(self) -> None:
        if self.journal is not None:
            self.journal.stop()
            self.journal.join(5.0)
            self.journal = None


@pytest.fixture
def runs(tmp_path: Path) -> Iterable[Runs]:
    runs = Runs(tmp_path / "journal.sqlite3")
    yield runs
    runs.end()


def test_after_a_restart_what_was_sold_is_sold_and_what_was_bought_is_held(runs: Runs) -> None:
    rig = runs.start("10")
    rig.send(ASK, "7", "0.40", reduce_only=True)
    assert runs.start("10").sees(real("10")) == 3
    rig = runs.start("10")
    rig.send(ASK, "3", "0.40", reduce_only=True)
    rig.send(ASK, "5", "0.40")
    balance = rig.gateway.balance(D(100))
    for _ in range(2):
        rig = runs.start("10")
        assert rig.sees(real("10")) == -5
        assert rig.gateway.balance(D(100)) == balance


def test_reopened_by_hand_while_it_was_down_it_is_held(runs: Runs) -> None:
    rig = runs.start("10")
    rig.send(ASK, "10", "0.40", reduce_only=True)
    rig = runs.start()
    assert rig.sees(real("10", entry="0.61")) == 10


def test_an_order_whose_answer_was_lost_in_a_crash_is_found(runs: Runs) -> None:
    rig = runs.start("10")
    rig.shows([("0.40", "4"), ("0.39", "3")], [("0.42", "100")])
    rig.send(ASK, "10", "0.38", reduce_only=True)
    again = runs.start("10")
    found = again.gateway.find_orders({"c1": T}, 0).found["c1"]
    assert (found.fill_count, found.average_yes_price) == (7, (4 * D("0.40") + 3 * D("0.39")) / 7)
    assert again.refusal(again.request(ASK, "10", "0.38", name="c1")) == (409, "order_already_exists")


def test_what_rested_is_canceled_by_a_restart(runs: Runs) -> None:
    rig = runs.start()
    ack = rig.gateway.create_entry(rig.request(BID, "10", "0.39", GTC))
    assert runs.journal is not None
    entry = EntryOrder("c1", T, YES, D(10), D("0.39"), "mine", EntryState.RESTING, 1.0, order_id=ack.order_id)
    runs.journal.commit([entry])
    again = runs.start()
    found = again.gateway.find_orders({"c1": T}, 0).found["c1"]
    assert (found.status, found.fill_count) == (OrderStatus.CANCELED, 0)
    again.shows([("0.30", "9")], [("0.35", "4")])
    again.step()
    assert again.fills == []


def test_what_was_paid_before_a_restart_is_not_paid_again() -> None:
    paid = FillRecord(f"settlement:{T}:5000", "", T, BookSide.ASK, D(10), D(1), D(0), 5_000)
    rig = PaperRig(real("10"), remembered=Remembered(fills=(paid,)))
    rig.becomes(MarketStatus.FINALIZED, "yes")
    rig.gateway.settle_once()
    assert rig.told.payouts == []
    assert rig.sees(real("10")) == 0


def test_one_empty_read_gives_nothing_back() -> None:
    rig = PaperRig(real("10"))
    rig.send(ASK, "10", "0.40", reduce_only=True)
    assert rig.sees(None) == 0
    assert rig.sees(real("10")) == 0
    rig.sees(None)
    rig.clock.advance(AGREEMENT_S)
    rig.sees(None)
    assert rig.sees(real("10")) == 10, "reads that agree say that it was closed and opened anew"
