"""What happened while nobody listened is booked once; the sandbox's own ledger is the judge."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from base.app.bookkeeping import (
    COUNT_RETRY_S,
    COUNT_TRIES,
    FAILING_S_MAX,
    INTERVAL_S,
    LOOK_AGAIN_S,
    LOOKS,
    NOT_LOADED_RETRY_S,
    Bookkeeper,
)
from base.app.exchange import BASIC_READ, BASIC_WRITE, Exchange
from base.errors import TransientError
from base.kalshi.rate_limit import RateLimiter, RequestStats
from base.kalshi.rest_client import RestClient
from base.kalshi.server_clock import ServerClock
from base.kalshi.signing import load_signer
from base.model.market import ZERO, BookSide, OutcomeSide
from base.model.order import Order, OrderRequest, TimeInForce
from base.model.position import Fill, Position
from base.model.trading_day import trading_day
from base.sandbox.scenario import parse_scenario
from base.sandbox.server import SandboxServer
from base.store.portfolio import AGREEMENT_S, Portfolio
from base.store.realized import Holding, Payout, replay
from base.store.records import (
    FillRecord,
    LedgerRecord,
    OrderRecord,
    PositionRecord,
    Record,
    Remembered,
    ResultRecord,
)
from tests.fakes.clock import FakeClock

D = Decimal
HUNDREDTH_OF_A_CENT = D("0.0001")
A, B, C = "KXA-1-YES", "KXA-1-NO", "KXB-2-FLAT"
QUIET = """
balance = "100000"
[[market]]
ticker = "KXA-1-YES"
bid = "0.52"
ask = "0.54"
position = { side = "yes", count = "10", entry = "0.60" }
[[market]]
ticker = "KXA-1-NO"
bid = "0.40"
ask = "0.42"
position = { side = "no", count = "5", entry = "0.55" }
[[market]]
ticker = "KXB-2-FLAT"
bid = "0.30"
ask = "0.33"
"""


class ListRecorder:
    """Keeps every record, and what a journal would remember of them."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def write(self, records: Iterable[Record]) -> None:
        self.records.extend(records)

    def commit(self, records: Iterable[Record]) -> bool:
        self.write(records)
        return True

    def remembered(self) -> Remembered:
        def newest(kind: type) -> dict[str, object]:
            return {r.key: r for r in self.records if isinstance(r, kind)}  # type: ignore[union-attr]

        return Remembered(
            positions=tuple(p for p in newest(PositionRecord).values() if p.count),  # type: ignore[attr-defined,misc]
            orders=tuple(newest(OrderRecord).values()),  # type: ignore[arg-type]
            fills=tuple(newest(FillRecord).values()),  # type: ignore[arg-type]
            ledgers=tuple(newest(LedgerRecord).values()),  # type: ignore[arg-type]
            results=tuple(newest(ResultRecord).values()),  # type: ignore[arg-type]
        )


class Venue:
    """The sandbox, a client of the daemon's, and trades at prices that differ from fill to fill."""

    def __init__(self, server: SandboxServer, clock: FakeClock) -> None:
        self.server = server
        self.clock = clock
        server_clock, stats = ServerClock(clock), RequestStats(clock)
        signer = load_signer(server.key_id, server.key_file)
        limiter = RateLimiter(clock, BASIC_READ, BASIC_WRITE)
        rest = RestClient(server.rest_url, signer, clock, server_clock, limiter, stats=stats)
        self.exchange = Exchange(rest, signer, server_clock, limiter, stats, clock, server.rest_url)
        self._number = 0

    def trade(self, ticker: str, signed: Decimal, process: Process | None = None) -> list[Fill]:
        """Buy or sell across the book; a process that sends it takes in the answer."""
        self._number += 1
        self.clock.advance(0.25)
        request = OrderRequest(
            ticker,
            f"trade-{self._number}",
            BookSide.BID if signed > 0 else BookSide.ASK,
            abs(signed),
            D("0.99") if signed > 0 else D("0.01"),
            TimeInForce.IMMEDIATE_OR_CANCEL,
            reduce_only=False,
        )
        ack = self.exchange.rest.create_order(request)
        assert ack.fill_count > 0
        if process is not None:
            process.portfolio.apply_answer(
                ticker,
                ack.order_id,
                request.book_side,
                ack.fill_count,
                ack.average_fill_price,
                ack.fees,
                ack.ts_ms,
            )
        return list(reversed(self.exchange.rest.get_fills(order_id=ack.order_id)))

    def money(self) -> tuple[Decimal, Decimal]:
        """Realized and fees by the exchange's own ledger."""
        positions = self.server.call(lambda venue: list(venue.exchange.ledger.positions.values()))
        return sum((p.realized_pnl for p in positions), ZERO), sum((p.fees_paid for p in positions), ZERO)


class Process:
    """One run of the daemon's account: a portfolio and its bookkeeper."""

    def __init__(self, venue: Venue, remembered: Remembered | None = None) -> None:
        self.recorder = ListRecorder()
        self.clock = venue.clock
        self.exchange = venue.exchange
        self.portfolio = Portfolio(venue.clock, self.recorder)
        if remembered is not None:
            self.portfolio.restore(remembered)
        self.books = Bookkeeper(self.portfolio, venue.exchange, lambda orders: None, venue.clock)

    def read(self) -> None:
        self.clock.advance(AGREEMENT_S)
        started_at = self.clock.monotonic()
        self.portfolio.apply_read(self.exchange.read_held().positions, started_at)

    def signed(self, ticker: str) -> Decimal:
        position = self.portfolio.get(ticker)
        return position.signed_count if position is not None else ZERO

    def agrees_with(self, venue: Venue) -> None:
        ledger = self.portfolio.ledger()
        realized, fees = venue.money()
        assert abs(ledger.realized - realized) < HUNDREDTH_OF_A_CENT
        assert abs(ledger.fees - fees) < HUNDREDTH_OF_A_CENT


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    clock = FakeClock()
    with SandboxServer(parse_scenario(QUIET), clock=clock, key_dir=tmp_path, enforce_limits=False) as server:
        yield Venue(server, clock)


def trade_at_random(venue: Venue, rng: random.Random, count: int, process: Process | None) -> None:
    """Orders of ours whose answer comes, by hand with fills told or not, in three markets."""
    for _ in range(count):
        ticker, signed = rng.choice([A, B, C]), D(rng.randint(1, 4_000)) / 100 * rng.choice([1, -1])
        is_ours = process is not None and rng.random() < 0.5
        fills = venue.trade(ticker, signed, process if is_ours else None)
        told = fills if rng.random() < 0.5 else rng.sample(fills, rng.randint(0, len(fills)))
        if process is not None:
            for fill in told:
                process.portfolio.apply_fill(fill)


@pytest.mark.parametrize("has_journal", [True, False], ids=["with its journal", "its journal is lost"])
@pytest.mark.parametrize("seed", range(6))
def test_after_a_crash_the_ledger_is_the_exchanges(venue: Venue, seed: int, has_journal: bool) -> None:
    rng = random.Random(seed)
    before = Process(venue)
    before.read()
    before.books.run_once()
    before.agrees_with(venue)
    trade_at_random(venue, rng, 8, before)
    trade_at_random(venue, rng, 4, None)  # it is down
    after = Process(venue, before.recorder.remembered() if has_journal else None)
    after.read()
    after.books.run_once()
    after.agrees_with(venue)
    booked = after.portfolio.ledger()
    after.books.run_once()
    assert after.portfolio.ledger() == booked, "a second look books nothing"
    again = Process(venue, merged(before, after) if has_journal else None)
    assert not has_journal or again.portfolio.ledger() == booked
    trade_at_random(venue, rng, 3, again)
    again.read()
    again.books.run_once()
    again.agrees_with(venue)


def merged(*processes: Process) -> Remembered:
    recorder = ListRecorder()
    for process in processes:
        recorder.write(process.recorder.records)
    return recorder.remembered()


def test_what_a_running_process_missed_is_booked_and_moves_nothing(venue: Venue) -> None:
    process = Process(venue)
    process.read()
    process.books.run_once()
    fills = venue.trade(A, D(-4))
    today = trading_day(venue.clock.now())
    opening = Holding(D(10), D("0.60"))
    assert process.portfolio.book_missed(today, replay(fills, opening)) == len(fills)
    process.agrees_with(venue)
    assert process.signed(A) == 10, "what is held, reads and messages say"
    for fill in fills:
        process.portfolio.apply_fill(fill)
    assert process.signed(A) == 6, "a message that comes after the money still moves the position"
    process.agrees_with(venue)
    assert process.portfolio.book_missed("1999-12-31", replay(fills, opening)) is None, "that day is over"


@pytest.mark.parametrize("is_answer_first", [True, False], ids=["its answer", "its fills"])
def test_an_order_found_after_a_restart_is_booked_once_whoever_comes_first(
    venue: Venue, is_answer_first: bool
) -> None:
    process = Process(venue)
    process.read()
    process.books.run_once()
    fills = venue.trade(A, D(-4))
    count = sum((f.count for f in fills), ZERO)
    average = (sum((f.count * f.yes_price for f in fills), ZERO) / count).quantize(D("0.0001"))
    fees = sum((f.fee for f in fills), ZERO)

    def book_answer() -> None:
        held = process.signed(A)
        process.portfolio.book_answer(
            fills[0].order_id,
            A,
            BookSide.ASK,
            count,
            average,
            fees,
            outcome_side=OutcomeSide.YES,
            entry_price=D("0.60"),
        )
        assert process.signed(A) == held, "a fresh read moves it"

    if is_answer_first:
        book_answer()
        process.agrees_with(venue)
    process.read()
    process.books.run_once()
    book_answer()
    process.agrees_with(venue)
    process.portfolio.apply_answer(A, fills[0].order_id, BookSide.ASK, count, average, fees, reduce_only=True)
    assert process.signed(A) == 6
    process.agrees_with(venue)


@pytest.mark.parametrize("has_journal", [True, False], ids=["with its journal", "its journal is lost"])
def test_a_settlement_is_booked_once(venue: Venue, has_journal: bool) -> None:
    process = Process(venue)
    process.read()
    process.books.run_once()
    venue.trade(A, D(-4))
    venue.server.set_market(A, close_in_s=1, result="yes")
    for _ in range(12):
        venue.clock.advance(2)
        venue.server.call(lambda v: v.step())
    process.books.run_once()
    process.agrees_with(venue)
    for _ in range(3):
        process.read()
    assert process.portfolio.get(A) is None
    process.books.run_once()
    process.agrees_with(venue)
    again = Process(venue, process.recorder.remembered() if has_journal else None)
    again.read()
    again.books.run_once()
    again.agrees_with(venue)
    realized, _ = venue.money()
    assert realized != 0


class FakeRest:
    """Answers with the fills of all subaccounts, as the exchange does when none is named."""

    def __init__(self, fills: list[Fill]) -> None:
        self.fills = fills
        self.asked: list[tuple[str | None, int | None]] = []

    def get_fills(self, ticker: str | None = None, min_ts: int | None = None) -> list[Fill]:
        self.asked.append((ticker, min_ts))
        return self.fills


def test_other_subaccounts_fills_are_not_ours(venue: Venue) -> None:
    ours = Fill("t1", "o1", A, BookSide.ASK, D(1), D("0.40"), ZERO, 1)
    rest = FakeRest([ours, replace(ours, trade_id="t2", subaccount=3)])
    exchange = replace(venue.exchange, rest=rest)  # type: ignore[arg-type]
    assert exchange.read_fills(since_s=7) == [ours]
    assert exchange.read_fills(tickers=[A, B]) == [ours]
    assert rest.asked == [(None, 7), (f"{A},{B}", None)]


# --- a scripted history -----------------------------------------------------------------------------


class History:
    """An exchange that lists what it is told to, or cannot be read."""

    def __init__(self) -> None:
        self.fills: list[Fill] = []
        self.payouts: list[Payout] = []
        self.error: TransientError | None = None
        self.asked: list[tuple[int | None, tuple[str, ...]]] = []
        self.resting_reads = 0

    def read_fills(self, since_s: int | None = None, tickers: Sequence[str] = ()) -> list[Fill]:
        self.asked.append((since_s, tuple(tickers)))
        if self.error is not None:
            raise self.error
        return [
            f
            for f in reversed(self.fills)
            if (not tickers or f.ticker in tickers) and f.ts_ms >= (since_s or 0) * 1000
        ]

    def read_settlements(self, since_s: int) -> list[Payout]:
        return list(self.payouts)

    def read_resting(self) -> list[Order]:
        self.resting_reads += 1
        return []


class Rig:
    def __init__(self, *held: Position) -> None:
        self.clock = FakeClock()
        self.portfolio = Portfolio(self.clock)
        self.history = History()
        self.books = Bookkeeper(self.portfolio, self.history, lambda orders: None, self.clock)
        self.portfolio.apply_read({p.ticker: p for p in held}, self.clock.monotonic())

    def fill(self, signed: str, price: str, *, ago_s: float = 60.0, ticker: str = A) -> None:
        number = len(self.history.fills)
        count = D(signed)
        side = BookSide.BID if count > 0 else BookSide.ASK
        ts_ms = round((self.clock.now() - ago_s) * 1000)
        self.history.fills.append(
            Fill(f"t{number}", f"o{number}", ticker, side, abs(count), D(price), D("0.01"), ts_ms)
        )


def yes(count: str, entry: str, ticker: str = A) -> Position:
    return Position(ticker, OutcomeSide.YES, D(count), D(entry))


def test_before_positions_are_known_nothing_is_read() -> None:
    rig = Rig()
    books = Bookkeeper(Portfolio(rig.clock), rig.history, lambda orders: None, rig.clock)
    assert books.run_once() == NOT_LOADED_RETRY_S
    assert rig.history.asked == []


def test_a_market_that_was_only_entered_needs_no_older_fills() -> None:
    rig = Rig(yes("4", "0.40"))
    rig.fill("+4", "0.40")
    assert rig.books.run_once() is None
    assert len(rig.history.asked) == 1
    ledger = rig.portfolio.ledger()
    assert (ledger.realized, ledger.fees) == (0, D("0.01"))


def test_what_was_bought_days_ago_and_sold_today_is_judged_by_its_own_price() -> None:
    rig = Rig()
    rig.fill("+10", "0.50", ago_s=3 * 86_400)
    rig.fill("-10", "0.30")
    assert rig.books.run_once() is None
    ledger = rig.portfolio.ledger()
    assert (ledger.realized, ledger.fees) == (D("-2.00"), D("0.01")), "older fees are older days' business"


def test_many_markets_are_read_in_lists_that_the_exchange_takes() -> None:
    rig = Rig()
    for number in range(250):
        rig.fill("+1", "0.50", ticker=f"KX-{number}")
        rig.fill("-1", "0.40", ticker=f"KX-{number}")
    rig.books.run_once()
    assert [len(tickers) for _, tickers in rig.history.asked] == [0, 100, 100, 50]
    assert rig.portfolio.ledger().realized == D("-25.00")


@pytest.mark.parametrize(
    ("held", "was_held", "fills", "realized"),
    [
        (yes("6", "0.50"), None, ["-4 0.30"], "-0.80"),
        (yes("8", "0.45"), None, ["-4 0.30", "+2 0.30"], "-0.80"),
        (None, yes("10", "0.50"), ["-10 0.30"], "-2.00"),
        (None, None, ["-10 0.30"], "0"),
    ],
    ids=[
        "the rest tells what it cost",
        "the rest and what was added tell it",
        "gone, but it was held here before",
        "nobody knows: fees only",
    ],
)
def test_contracts_from_before_the_listed_fills(
    held: Position | None, was_held: Position | None, fills: list[str], realized: str
) -> None:
    rig = Rig(*([was_held] if was_held is not None else []))
    if was_held is not None:
        for _ in range(3):
            rig.clock.advance(AGREEMENT_S)
            rig.portfolio.apply_read({}, rig.clock.monotonic())
    elif held is not None:
        rig.portfolio.apply_read({A: held}, rig.clock.monotonic())
    for text in fills:
        rig.fill(*text.split())
    for _ in range(COUNT_TRIES):
        assert rig.books.run_once() == COUNT_RETRY_S, "the list may be behind, or the position"
        assert rig.portfolio.ledger().fees == 0
        rig.clock.advance(COUNT_RETRY_S)
    rig.portfolio.apply_read({A: held} if held is not None else {}, rig.clock.monotonic())
    assert rig.books.run_once() is None
    ledger = rig.portfolio.ledger()
    assert (ledger.realized, ledger.fees) == (D(realized), len(fills) * D("0.01"))


@pytest.mark.parametrize(
    ("held", "fills", "realized"),
    [
        (yes("10", "0.50"), ["-10 0.55", "+10 0.50"], "1.00"),
        (Position(A, OutcomeSide.NO, D(5), D("0.45")), ["-15 0.55"], "1.00"),
        (yes("6", "0.45"), ["-4 0.55"], "0.40"),
        (None, ["-10 0.30"], "-1.50"),
    ],
    ids=["sold and bought again", "turned to the other side", "a part sold", "all sold"],
)
def test_what_was_traded_while_the_daemon_was_down_is_judged_by_what_it_knew_before(
    held: Position | None, fills: list[str], realized: str
) -> None:
    rig = Rig()
    before = PositionRecord(A, OutcomeSide.YES, D(10), D("0.45"), None)
    portfolio = Portfolio(rig.clock)
    portfolio.restore(Remembered(positions=(before,)))
    portfolio.apply_read({} if held is None else {A: held}, rig.clock.monotonic())
    books = Bookkeeper(portfolio, rig.history, lambda orders: None, rig.clock)
    for text in fills:
        rig.fill(*text.split())
    assert books.run_once() is None, "nothing is left to ask"
    assert portfolio.ledger().realized == D(realized)


def test_a_count_that_does_not_add_up_is_asked_about_again_although_reads_confirm_it() -> None:
    rig = Rig(yes("6", "0.50"))
    rig.fill("-4", "0.30")
    for _ in range(COUNT_TRIES - 1):
        assert rig.books.run_once() == COUNT_RETRY_S, "the list of fills may lag longer than the read"
        rig.clock.advance(COUNT_RETRY_S)
        rig.portfolio.apply_read({A: yes("6", "0.50")}, rig.clock.monotonic())
    assert rig.books.run_once() is None
    assert rig.portfolio.ledger().realized == D("-0.80")


def test_a_position_that_catches_up_is_judged_by_its_fills() -> None:
    rig = Rig(yes("10", "0.60"))
    rig.fill("+10", "0.50")
    rig.fill("-4", "0.30")
    assert rig.books.run_once() == COUNT_RETRY_S
    rig.clock.advance(60)
    rig.portfolio.apply_read({A: yes("6", "0.50")}, rig.clock.monotonic())
    assert rig.books.run_once() is None
    assert rig.portfolio.ledger().realized == D("-0.80")


@pytest.mark.parametrize(
    ("fill_ago_s", "is_told", "pays", "events"),
    [
        (None, False, True, [("INFO", "money_booked")]),
        (300.0, False, False, [("WARNING", "missed_money_booked")]),
        (300.0, True, False, []),
        (300.0, False, True, [("WARNING", "missed_money_booked"), ("INFO", "money_booked")]),
        (5_000.0, False, False, [("INFO", "money_booked")]),
        (1.0, False, False, [("INFO", "money_booked")]),
    ],
    ids=[
        "a settlement is expected",
        "a fill that the stream did not tell",
        "a fill that it told",
        "a fill it did not tell, and a settlement",
        "sold while the program did not run",
        "sold a second ago: the stream may still tell",
    ],
)
def test_only_what_the_stream_should_have_told_is_a_warning(
    fill_ago_s: float | None,
    is_told: bool,
    pays: bool,
    events: list[tuple[str, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By level and event, not by text: who sleeps hears of warnings."""
    rig = Rig(yes("10", "0.50"))
    rig.clock.advance(3_600)
    if pays:
        rig.history.payouts.append(Payout(B, round((rig.clock.now() - 60) * 1000), D(5), D("2.00"), D(5)))
    if fill_ago_s is not None:
        if not is_told:
            for _ in range(3):
                rig.clock.advance(AGREEMENT_S)
                rig.portfolio.apply_read({}, rig.clock.monotonic())
        rig.fill("+10", "0.50", ago_s=2 * 86_400)
        rig.fill("-10", "0.30", ago_s=fill_ago_s)
        if is_told:
            rig.portfolio.apply_fill(rig.history.fills[-1])
    with caplog.at_level("INFO"):
        rig.books.run_once()
        rig.books.run_once()
    told = [(r.levelname, r.event_fields["event"]) for r in caplog.records]  # type: ignore[attr-defined]
    assert [pair for pair in told if pair[1].endswith("money_booked")] == events
    expected = (D("-2.00") if fill_ago_s is not None else 0) + (3 if pays else 0)
    assert rig.portfolio.ledger().realized == expected


def test_older_fills_are_read_again_only_for_news_or_when_somebody_doubts() -> None:
    rig = Rig()
    rig.fill("+10", "0.50")
    rig.fill("-10", "0.30")
    reads = []
    for is_doubted in (False, False, True):
        if is_doubted:
            rig.books.look_for_missed()
        rig.history.asked.clear()
        rig.books.run_once()
        reads.append([tickers for _, tickers in rig.history.asked])
    assert reads == [[(), (A,)], [()], [(), (A,)]]


def test_yesterdays_fills_and_settlements_are_not_todays_money() -> None:
    rig = Rig()
    rig.fill("+10", "0.50", ago_s=2 * 86_400)
    rig.fill("-10", "0.30", ago_s=86_400)
    day_old = round((rig.clock.now() - 86_400) * 1000)
    rig.history.payouts.append(Payout(B, day_old, D(5), D("2.00"), D(5)))
    assert rig.books.run_once() is None
    ledger = rig.portfolio.ledger()
    assert (ledger.realized, ledger.fees) == (0, 0)


def test_reads_that_fail_are_told_after_a_minute_and_until_one_succeeds() -> None:
    rig = Rig()
    rig.history.error = TransientError("503")
    assert not rig.books.service.run_guarded()
    assert rig.books.doubts() == []
    rig.clock.advance(FAILING_S_MAX + 1)
    assert not rig.books.service.run_guarded()
    assert len(rig.books.doubts()) == 1
    assert rig.books.service.next_delay_s() < 10, "it is tried again soon"
    rig.history.error = None
    assert rig.books.service.run_guarded()
    assert rig.books.doubts() == []


def test_after_a_corrected_position_its_fills_are_looked_for_until_they_are_listed() -> None:
    rig = Rig()
    rig.books.look_for_missed()
    assert rig.books.service.is_wanted
    assert [rig.books.run_once() for _ in range(LOOKS)] == [LOOK_AGAIN_S, LOOK_AGAIN_S, None]
    rig.books.look_for_missed()
    rig.fill("+10", "0.50", ago_s=3 * 86_400)
    rig.fill("-10", "0.30")
    assert rig.books.run_once() is None
    assert rig.portfolio.ledger().realized == D("-2.00")


def test_resting_orders_are_read_at_start_and_every_ten_minutes() -> None:
    rig = Rig()
    for reads in (1, 1, 2):
        rig.books.run_once()
        assert rig.history.resting_reads == reads
        rig.clock.advance(INTERVAL_S / 2 + 1)
