"""One complete read against what is known: every kind of correction, and how the two end up the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.model.events import PositionUpdate
from base.model.market import ZERO, BookSide, OutcomeSide
from base.model.position import Fill, Position
from base.store.portfolio import Portfolio
from base.store.reconcile import (
    AGREEMENT_S,
    READ_LAG_S,
    Correction,
    CorrectionKind,
    KnownMarket,
    compare,
)
from tests.fakes.clock import FakeClock

T, OTHER = "KXHIGHNY-26NOV22-T60", "KXBTCD-26NOV22-T95000"
YES, NO = OutcomeSide.YES, OutcomeSide.NO
READ_AT = 1_000.0
LONG_AGO = READ_AT - 600


def held(count: str = "10", side: OutcomeSide = YES, entry: str = "0.50", ticker: str = T) -> Position:
    return Position(ticker, side, Decimal(count), Decimal(entry))


def known(position: Position | None = None, **fields: object) -> KnownMarket:
    return KnownMarket(position, 7, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("market", "row", "has_ended", "kind"),
    [
        (None, held(), False, "opened"),
        (known(), held(), False, "opened"),
        (known(held()), held(), False, "confirmed"),
        (known(held()), held("12"), False, "grown"),
        (known(held()), held("9.99"), False, "shrunk"),
        (known(held()), held("10", NO), False, "flipped"),
        (known(held()), held("3", NO), False, "flipped"),
        (known(held()), held(entry="0.51"), False, "repriced"),
        (known(held()), held("12", entry="0.51"), False, "grown"),
        (known(held(), missing_since=READ_AT - 5), held(), False, "confirmed"),
        (known(held()), None, False, "missing"),
        (known(held(), missing_since=READ_AT - AGREEMENT_S + 0.1), None, False, "missing"),
        (known(held(), missing_since=READ_AT - AGREEMENT_S), None, False, "dropped"),
        (known(held()), None, True, "settled"),
        (known(held(), missing_since=READ_AT - AGREEMENT_S), None, True, "settled"),
        (known(held()), held(), True, "confirmed"),
        (known(held(), is_awaited=True), held("4"), False, "skipped"),
        (known(held(), is_awaited=True), None, True, "skipped"),
        (known(held(), changed_at=READ_AT - READ_LAG_S + 0.1), held("4"), False, "skipped"),
        (known(held(), changed_at=READ_AT + 0.2), None, True, "skipped"),
        (known(None, changed_at=READ_AT - 1), held(), False, "skipped"),
        (known(None, changed_at=READ_AT - READ_LAG_S), held(), False, "opened"),
        (known(held(), changed_at=LONG_AGO), held("4"), False, "shrunk"),
    ],
    ids=[
        "bought elsewhere",
        "held again",
        "the same",
        "more",
        "a hundredth less",
        "turned",
        "turned and smaller",
        "another entry",
        "more, at another entry",
        "shown again",
        "not shown for the first time",
        "not shown again too soon",
        "not shown by two reads that agree",
        "not shown and its market has a result",
        "not shown twice and its market has a result",
        "waits for settlement",
        "an order is out",
        "an order is out at the end",
        "changed just before the read",
        "changed while the read was out",
        "sold just before the read",
        "sold long enough before the read",
        "changed long ago",
    ],
)
def test_what_a_read_means(
    market: KnownMarket | None, row: Position | None, has_ended: bool, kind: str
) -> None:
    (correction,) = compare(
        {} if market is None else {T: market},
        {} if row is None else {T: row},
        READ_AT,
        ended={T} if has_ended else (),
    )
    assert correction.kind == kind
    assert correction.ticker == T
    assert correction.version == (0 if market is None else 7)
    assert correction.why
    assert correction.after == row


@pytest.mark.parametrize(
    ("market", "wants_read"),
    [
        (known(held(), is_awaited=True), False),
        (known(held(), changed_at=READ_AT - 1), True),
        (known(held()), False),
    ],
    ids=["its answer will ask", "a little later it can be judged", "judged"],
)
def test_only_what_a_later_read_can_judge_wants_one(market: KnownMarket, wants_read: bool) -> None:
    (correction,) = compare({T: market}, {T: held()}, READ_AT)
    assert correction.wants_read is wants_read


def test_a_read_with_unreadable_rows_says_nothing_about_what_it_does_not_show() -> None:
    corrections = compare(
        {T: known(held(), missing_since=LONG_AGO)}, {OTHER: held(ticker=OTHER)}, READ_AT, is_whole=False
    )
    assert [(c.kind, c.ticker) for c in corrections] == [(CorrectionKind.OPENED, OTHER)]


def test_a_market_that_changes_between_the_view_and_the_correction_is_left_to_the_next_read() -> None:
    clock = FakeClock()
    portfolio = Portfolio(clock)
    portfolio.apply_read({T: held(), OTHER: held(ticker=OTHER)}, clock.monotonic())
    clock.advance(60)
    corrections = compare(
        portfolio.compared_state(), {T: held("9"), OTHER: held("9", ticker=OTHER)}, clock.monotonic()
    )
    portfolio.order_left(T, "c1")
    changes = portfolio.apply_corrections(corrections, clock.monotonic())
    assert [change.ticker for change in changes] == [OTHER]
    position = portfolio.get(T)
    assert position is not None
    assert position.count == 10
    assert portfolio.next_read_s() == READ_LAG_S + 0.1


@pytest.mark.parametrize("act", ["fill", "left", "settled", "update", "read"])
def test_everything_that_a_comparison_must_not_overlook_outdates_the_view(act: str) -> None:
    clock = FakeClock()
    portfolio = Portfolio(clock)
    portfolio.apply_read({T: held()}, clock.monotonic())
    portfolio.order_left(T, "c1")
    if act != "settled":
        portfolio.order_settled("c1")
    clock.advance(60)
    view = portfolio.compared_state()
    if act == "fill":
        portfolio.apply_fill(a_fill("t1", Decimal(1), Decimal(11)))
    elif act == "left":
        portfolio.order_left(T, "c2")
    elif act == "settled":
        portfolio.order_settled("c1")
    elif act == "update":
        portfolio.apply_update(flat_update())
    else:
        portfolio.apply_read({T: held("11")}, clock.monotonic())
    assert portfolio.compared_state()[T].version != view[T].version


def flat_update() -> PositionUpdate:
    return PositionUpdate(T, ZERO, ZERO, ZERO, ZERO)


def a_fill(trade: str, signed: Decimal, post: Decimal, ts_ms: int = 1, order: str = "") -> Fill:
    return Fill(
        trade,
        order or f"order-{trade}",
        T,
        BookSide.BID if signed > 0 else BookSide.ASK,
        abs(signed),
        Decimal("0.50"),
        ZERO,
        ts_ms,
        post_position=post,
    )


# --- any interleaving -------------------------------------------------------------------------------


@dataclass
class World:
    """An exchange whose reads lag, and a portfolio that hears of it in any order."""

    clock: FakeClock = field(default_factory=FakeClock)
    signed: Decimal = ZERO
    history: list[tuple[float, Decimal]] = field(default_factory=list)
    untold: list[Fill] = field(default_factory=list)
    number: int = 0

    def __post_init__(self) -> None:
        self.portfolio = Portfolio(self.clock)
        self.history.append((self.clock.monotonic(), ZERO))

    def trade(self, signed: Decimal) -> Fill:
        self.number += 1
        self.signed += signed
        self.clock.advance(0.001)
        self.history.append((self.clock.monotonic(), self.signed))
        return a_fill(f"t{self.number}", signed, self.signed, self.number)

    def trade_by_hand(self, signed: Decimal) -> None:
        self.untold.append(self.trade(signed))

    def exit_of_ours(self, lost: bool) -> None:
        """A reduce-only order for half of what is known here; its answer comes, or is lost."""
        position = self.portfolio.get(T)
        reduced = min(position.count, abs(self.signed)) if position is not None else ZERO
        if position is None or reduced == 0 or position.signed_count * self.signed <= 0:
            return
        self.portfolio.order_left(T, f"c{self.number}")
        fill = self.trade(-reduced if self.signed > 0 else reduced)
        if not lost:
            self.portfolio.apply_answer(
                T,
                fill.order_id,
                fill.book_side,
                fill.count,
                fill.yes_price,
                ZERO,
                fill.ts_ms,
                reduce_only=True,
            )
        self.portfolio.order_settled(f"c{self.number - 1}")
        self.untold.append(fill)

    def tell(self, index: int) -> None:
        if self.untold:
            self.portfolio.apply_fill(self.untold.pop(index % len(self.untold)))

    def lose(self, index: int) -> None:
        if self.untold:
            self.untold.pop(index % len(self.untold))

    def read(self, lag_s: float) -> list[Correction]:
        """A read that shows the account as it was `lag_s` ago."""
        seen_at = self.clock.monotonic() - lag_s
        shown = next((signed for at, signed in reversed(self.history) if at <= seen_at), ZERO)
        rows = {}
        if shown:
            side = YES if shown > 0 else NO
            rows[T] = Position(T, side, abs(shown), Decimal("0.50"))
        corrections = compare(self.portfolio.compared_state(), rows, self.clock.monotonic())
        self.portfolio.apply_corrections(corrections, self.clock.monotonic())
        return corrections

    @property
    def local(self) -> Decimal:
        position = self.portfolio.get(T)
        return position.signed_count if position is not None else ZERO


contracts = st.decimals("0.01", "20", places=2)
steps = st.one_of(
    st.tuples(st.just("buy"), contracts),
    st.tuples(st.just("sell"), contracts),
    st.tuples(st.just("exit"), st.booleans()),
    st.tuples(st.just("tell"), st.integers(0, 5)),
    st.tuples(st.just("lose"), st.integers(0, 5)),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0, READ_LAG_S, AGREEMENT_S])),
    st.tuples(st.just("read"), st.sampled_from([0.0, 0.3, 1.0, READ_LAG_S - 0.01])),
)


@settings(max_examples=200, deadline=None, database=None)
@given(st.lists(steps, max_size=25))
def test_however_fills_answers_and_lagging_reads_interleave_two_quiet_reads_bring_the_truth(
    script: list[tuple[str, object]],
) -> None:
    world = World()
    gone_by_one_read = 0
    for what, value in script:
        if what in ("buy", "sell"):
            assert isinstance(value, Decimal)
            world.trade_by_hand(value if what == "buy" else -value)
        elif what == "exit":
            world.exit_of_ours(bool(value))
        elif what == "tell":
            world.tell(int(str(value)))
        elif what == "lose":
            world.lose(int(str(value)))
        elif what == "wait":
            world.clock.advance(float(str(value)))
        else:
            was, known_missing = world.local, world.portfolio.is_doubted(T)
            world.read(float(str(value)))
            gone_by_one_read += was != 0 and world.local == 0 and not known_missing
    assert gone_by_one_read == 0, "one read took a position away"
    for _ in range(2):
        world.clock.advance(AGREEMENT_S + READ_LAG_S)
        world.read(0.0)
    assert world.local == world.signed
