"""NO is the mirror of YES: in every judgement, and all the way to the wire and back into the books.

A market is mirrored by exchanging what its two outcomes are called: bid and ask change places at 1 - price,
and so do the stretches of its grid. A NO position there must fare exactly as the YES position here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from itertools import pairwise, permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.execution.ladder import exit_rung
from base.kalshi.order_entry import order_body
from base.model.market import (
    CENT,
    ONE,
    ZERO,
    BookSide,
    Level,
    Market,
    MarketStatus,
    OutcomeSide,
    PriceGrid,
    PriceRange,
    Quote,
)
from base.model.order import OrderRequest, TimeInForce, entry_book_side, exit_book_side, to_yes_leg
from base.model.position import Fill, Position
from base.model.rules import ExitRule, HoldReason, RuleState
from base.risk.exit_rules import evaluate, price_to_act_on
from base.risk.levels import can_ever_exit, stop_levels
from base.store.portfolio import Portfolio
from tests.fakes.clock import FakeClock
from tests.risk.cases import MONOTONIC, NO, NOW, TICKER, YES, mirrored, quote

D = Decimal
BID, ASK = BookSide.BID, BookSide.ASK
EXACT_TO = D("1e-12")
"""Averages over thirds of a contract end somewhere; far below what money is counted in."""

# --- what is drawn --------------------------------------------------------------------------------------


def grid(*ranges: tuple[str, str, str]) -> PriceGrid:
    return PriceGrid(tuple(PriceRange(D(start), D(end), D(step)) for start, end, step in ranges))


GRIDS = {
    "whole cents": grid(("0", "1", "0.01")),
    "tenths of a cent at the ends": grid(
        ("0", "0.1", "0.001"), ("0.1", "0.9", "0.01"), ("0.9", "1", "0.001")
    ),
    "tenths of a cent": grid(("0", "1", "0.001")),
    "hundredths of a cent": grid(("0", "1", "0.0001")),
    "finer near 0 only": grid(("0", "0.1", "0.001"), ("0.1", "1", "0.01")),
    "coarser than a cent above the middle": grid(("0", "0.5", "0.01"), ("0.5", "1", "0.05")),
}
STEPS = ("0.0001", "0.001", "0.01", "0.02")


@st.composite
def random_grids(draw: st.DrawFn) -> PriceGrid:
    """Stretches that meet on whole tenths, each with a step of its own."""
    cuts = draw(st.lists(st.integers(1, 9), max_size=3, unique=True).map(sorted))
    edges = [ZERO, *(D(cut) / 10 for cut in cuts), ONE]
    return PriceGrid(
        tuple(PriceRange(start, end, D(draw(st.sampled_from(STEPS)))) for start, end in pairwise(edges))
    )


grids = st.sampled_from(list(GRIDS.values())) | random_grids()
prices = st.integers(1, 9_999).map(lambda n: D(n) / 10_000)
any_prices = st.integers(0, 10_000).map(lambda n: D(n) / 10_000)
counts = st.integers(1, 500_000).map(lambda n: D(n) / 100)
sizes = st.none() | st.just(ZERO) | counts
amounts = st.integers(1, 100_000).map(lambda n: D(n) / 100)
pcts = st.integers(1, 99).map(D)
seconds = st.integers(0, 900).map(float)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "stop_loss_price": maybe(prices),
    "stop_loss_pct": maybe(pcts),
    "stop_loss_dollars": maybe(amounts),
    "take_profit_price": maybe(prices),
    "take_profit_pct": maybe(pcts),
    "trailing_stop_pct": maybe(pcts),
    "trailing_stop_price": maybe(prices),
    "trailing_activation_pct": maybe(pcts),
    "trailing_activation_price": maybe(prices),
    "break_even_after_pct": maybe(pcts),
    "break_even_after_price": maybe(prices),
    "exit_before_close_s": maybe(seconds),
    "exit_after_entry_s": maybe(seconds),
    "no_stop_before_close_s": maybe(seconds),
    "hold_below_price": maybe(prices),
    "exit_with_event": st.booleans(),
    "confirm_ms": st.just(0) | st.integers(0, 20_000),
    "confirm_updates": st.just(1) | st.integers(1, 5),
    "max_spread": maybe(prices),
    "min_bid_size": maybe(amounts),
    "wick_drop": maybe(prices),
    "wick_wait_ms": st.integers(0, 20_000),
    "guard_patience_ms": st.integers(0, 20_000),
    "protect": st.sampled_from([True, True, True, False]),
    "hedged": st.sampled_from([False, False, False, True]),
}
rules = st.builds(ExitRule, **FIELDS)
states = st.builds(
    RuleState,
    best_exit_value=maybe(prices),
    break_even_armed=st.booleans(),
    triggered_at=maybe(st.integers(-20, 0).map(lambda s: MONOTONIC + s)),
    triggered_updates=st.integers(0, 5),
    last_quote_at=maybe(st.just(MONOTONIC)),
    last_value=maybe(prices),
    fell_at=maybe(st.integers(-20, 0).map(lambda s: MONOTONIC + s)),
    leave_with=st.sampled_from(["", "", "KX-E-B1 was left by its stop_loss"]),
)
positions = st.builds(
    Position,
    ticker=st.just(TICKER),
    outcome_side=st.just(YES),
    count=counts,
    entry_price=prices,
    opened_at=maybe(st.integers(0, 900).map(lambda s: NOW - s)),
    fees_paid=st.just(ZERO) | amounts,
)


@st.composite
def quotes(draw: st.DrawFn) -> Quote:
    """Any top of a book: one-sided, empty, crossed, without sizes, and mostly an ordinary one."""
    bid = draw(any_prices)
    ask = draw(any_prices | st.integers(1, 300).map(lambda n: min(ONE, bid + D(n) / 10_000)))
    at = draw(st.sampled_from([MONOTONIC - 1, MONOTONIC]))
    return replace(quote(str(bid), str(ask), at=at), yes_bid_size=draw(sizes), yes_ask_size=draw(sizes))


@st.composite
def markets(draw: st.DrawFn) -> Market:
    closes_in_s = draw(maybe(st.integers(-5, 900)))
    return Market(
        TICKER,
        event_ticker=draw(st.sampled_from(["", "KXHIGHNY-26DEC19"])),
        status=draw(st.sampled_from([MarketStatus.ACTIVE] * 5 + list(MarketStatus))),
        close_time=None if closes_in_s is None else NOW + closes_in_s,
        grid=draw(grids),
    )


def mirrored_grid(of: PriceGrid) -> PriceGrid:
    return PriceGrid(tuple(PriceRange(ONE - r.end, ONE - r.start, r.step) for r in reversed(of.ranges)))


def mirrored_market(of: Market) -> Market:
    return replace(of, grid=mirrored_grid(of.grid))


def mirrored_position(of: Position) -> Position:
    return replace(of, outcome_side=of.outcome_side.opposite)


# --- judgement ------------------------------------------------------------------------------------------


def test_every_field_of_a_rule_is_drawn() -> None:
    assert FIELDS.keys() == {field.name for field in fields(ExitRule)}


@given(
    positions,
    markets(),
    rules,
    states,
    st.lists(st.tuples(st.none() | quotes(), st.integers(0, 5_000)), min_size=1, max_size=6),
    st.sampled_from([D("0.01"), D("0.0001"), D("0.05")]),
    st.sampled_from([None, None, None, HoldReason.STALE_PRICE]),
)
@settings(deadline=None, max_examples=600, database=None)
def test_a_no_position_is_judged_as_its_yes_mirror(
    held: Position,
    market: Market,
    rule: ExitRule,
    state: RuleState,
    course: list[tuple[Quote | None, int]],
    floor: Decimal,
    no_price_reason: HoldReason | None,
) -> None:
    """Decision, words, levels and memory, look after look."""
    yes_state = no_state = state
    ms = 0
    for seen, wait_ms in course:
        ms += wait_ms
        when: dict[str, Any] = {
            "now_wall": NOW + ms / 1000,
            "now_monotonic": MONOTONIC + ms / 1000,
            "floor": floor,
            "price_age_s": None if seen is None else 1.0,
            "no_price_reason": no_price_reason,
        }
        yes = evaluate(held, seen, market, rule, yes_state, **when)
        no = evaluate(
            mirrored_position(held),
            None if seen is None else mirrored(seen),
            mirrored_market(market),
            rule,
            no_state,
            **when,
        )
        assert no == yes
        yes_state, no_state = yes.state, no.state


@given(positions, rules, states, quotes(), markets())
@settings(deadline=None, max_examples=200, database=None)
def test_levels_and_prices_are_mirrored(
    held: Position, rule: ExitRule, state: RuleState, seen: Quote, market: Market
) -> None:
    other = mirrored_position(held)
    assert stop_levels(other, rule, state) == stop_levels(held, rule, state)
    assert can_ever_exit(other, rule) == can_ever_exit(held, rule)
    assert price_to_act_on(mirrored(seen), NO, mirrored_market(market), NOW, floor=CENT) == price_to_act_on(
        seen, YES, market, NOW, floor=CENT
    )


# --- prices and orders ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mapping:
    name: str
    side: OutcomeSide
    is_entry: bool
    book_side: BookSide
    yes_price: str
    """What a price of 0.30 of the side is on the wire."""


MAPPINGS = [
    Mapping("buy YES", YES, True, BID, "0.30"),
    Mapping("sell YES", YES, False, ASK, "0.30"),
    Mapping("buy NO", NO, True, ASK, "0.70"),
    Mapping("sell NO", NO, False, BID, "0.70"),
]


@pytest.mark.parametrize("case", MAPPINGS, ids=lambda case: case.name)
def test_the_four_mappings(case: Mapping) -> None:
    book_side = entry_book_side(case.side) if case.is_entry else exit_book_side(case.side)
    assert book_side is case.book_side
    assert to_yes_leg(D("0.30"), case.side) == D(case.yes_price)
    assert to_yes_leg(D(case.yes_price), case.side) == D("0.30")


@given(grids, any_prices | st.integers(0, 10**6).map(lambda n: D(n) / 10**6), st.integers(0, 20))
@settings(deadline=None, max_examples=400, database=None)
def test_grids_are_mirrored_and_round_to_what_they_accept(of: PriceGrid, price: Decimal, steps: int) -> None:
    other = mirrored_grid(of)
    low, high = of.floor(price), of.ceil(price)
    assert ONE - other.ceil(ONE - price) == low
    assert ONE - other.floor(ONE - price) == high
    assert low <= price <= high
    for rounded in (low, high):
        assert of.floor(rounded) == rounded == of.ceil(rounded)
    assert ONE - other.above(ONE - price, steps) == of.below(price, steps)
    assert (ONE - other.lowest, ONE - other.highest) == (of.highest, of.lowest)


def order(side: BookSide, count: Decimal, yes_price: Decimal, *, is_entry: bool) -> dict[str, Any]:
    """An order as the exchange reads it."""
    request = OrderRequest(
        TICKER, "b-1", side, count, yes_price, TimeInForce.IMMEDIATE_OR_CANCEL, reduce_only=not is_entry
    )
    body: dict[str, Any] = json.loads(order_body(request))
    return body


@st.composite
def books(draw: st.DrawFn, of: PriceGrid) -> tuple[Quote, tuple[Level, ...]]:
    """A quote on the grid with a real YES bid, and the displayed bids from there down."""
    bid = min(max(of.floor(draw(prices)), of.lowest), of.highest)
    ask = of.ceil(bid + D("0.0001"))
    levels, price = [], bid
    for _ in range(draw(st.integers(0, 6))):
        levels.append((price, draw(counts)))
        price = of.below(price, draw(st.integers(1, 4)))
    top = quote(str(bid), str(ask), "10", "0" if ask == ONE else "10")
    return top, tuple(dict(levels).items())


@given(st.data(), grids, counts, st.integers(0, 6), st.booleans())
@settings(deadline=None, max_examples=400, database=None)
def test_an_exit_reaches_the_wire_mirrored_on_the_grid_and_towards_filling(
    data: st.DataObject, of: PriceGrid, count: Decimal, rung: int, is_urgent: bool
) -> None:
    seen, bids = data.draw(books(of))
    floor = data.draw(st.sampled_from([CENT, D("0.0001")]) | prices.filter(lambda p: p <= seen.yes_bid))
    market = Market(TICKER, grid=of)
    terms: dict[str, Any] = {"count": count, "bids": bids, "is_urgent": is_urgent}
    yes = exit_rung(YES, seen, market, rung, floor, **terms)
    no = exit_rung(NO, mirrored(seen), mirrored_market(market), rung, floor, **terms)

    yes_order = order(yes.book_side, count, yes.price, is_entry=False)
    no_order = order(no.book_side, count, no.price, is_entry=False)
    assert (yes_order["side"], no_order["side"]) == ("ask", "bid")
    assert D(yes_order["price"]) + D(no_order["price"]) == ONE
    assert yes_order["count"] == no_order["count"]
    assert D(yes_order["count"]) == count
    assert yes_order["reduce_only"] is no_order["reduce_only"] is True

    asked = D(yes_order["price"])
    assert of.floor(asked) == asked == of.ceil(asked), "off the grid"
    other = mirrored_grid(of)
    assert other.floor(D(no_order["price"])) == D(no_order["price"]), "off the mirrored grid"
    assert asked >= min(floor, of.highest), "below the floor"
    assert asked <= max(seen.yes_bid, of.ceil(floor)), "above the bid fills nothing"


# --- fills, positions and money -------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One execution."""

    count: Decimal
    yes_price: Decimal
    fee: Decimal


@dataclass(frozen=True)
class Trade:
    """An order of ours that filled in parts, and how word of it comes: fills by index, -1 its answer."""

    book_side: BookSide
    parts: tuple[Part, ...]
    words: tuple[int, ...]
    tells_position: bool

    def mirrored(self) -> Trade:
        parts = tuple(replace(part, yes_price=ONE - part.yes_price) for part in self.parts)
        return replace(self, book_side=ASK if self.book_side is BID else BID, parts=parts)


@st.composite
def trades(draw: st.DrawFn) -> Trade:
    part = st.builds(
        Part,
        st.integers(1, 3_000).map(lambda n: D(n) / 100),
        prices,
        st.integers(0, 200).map(lambda n: D(n) / 10_000),
    )
    parts = tuple(draw(st.lists(part, min_size=1, max_size=3)))
    words = list(range(len(parts)))
    told = draw(st.sampled_from(["fills", "answer", "both"]))
    words = [-1] if told == "answer" else words if told == "fills" else [*words, -1]
    return Trade(
        draw(st.sampled_from(BookSide)), parts, tuple(draw(st.permutations(words))), draw(st.booleans())
    )


def carry_out(course: Sequence[Trade]) -> Portfolio:
    """A portfolio that has heard of every trade."""
    clock = FakeClock()
    portfolio = Portfolio(clock)
    portfolio.apply_read({}, clock.monotonic())
    signed, ts_ms = ZERO, 1_000
    for number, trade in enumerate(course):
        direction = 1 if trade.book_side is BID else -1
        total = sum((part.count for part in trade.parts), ZERO)
        only_reduces = -direction * signed >= total
        posts = []
        for part in trade.parts:
            signed += direction * part.count
            posts.append(signed)
        ts_ms += 10
        for word in trade.words:
            clock.advance(0.01)
            if word < 0:
                paid = sum((part.count * part.yes_price for part in trade.parts), ZERO)
                fees = sum((part.fee for part in trade.parts), ZERO)
                portfolio.apply_answer(
                    TICKER,
                    f"o{number}",
                    trade.book_side,
                    total,
                    (paid / total).quantize(D("0.0001")),  # as the exchange rounds it
                    fees,
                    ts_ms + 5,
                    reduce_only=only_reduces,
                )
                continue
            part = trade.parts[word]
            portfolio.apply_fill(
                Fill(
                    f"t{number}-{word}", f"o{number}", TICKER, trade.book_side, part.count, part.yes_price,
                    part.fee, ts_ms + word, post_position=posts[word] if trade.tells_position else None,
                )
            )  # fmt: skip
    return portfolio


def rounded(amount: Decimal) -> Decimal:
    return amount.quantize(EXACT_TO)


def check_mirrored(course: Sequence[Trade]) -> None:
    """Both sides hold what was traded and have gained the same."""
    yes, no = carry_out(course), carry_out([trade.mirrored() for trade in course])
    held, other = yes.get(TICKER), no.get(TICKER)
    signed = sum(((1 if t.book_side is BID else -1) * part.count for t in course for part in t.parts), ZERO)
    assert (ZERO if held is None else held.signed_count) == signed
    assert (ZERO if other is None else other.signed_count) == -signed
    if held is not None and other is not None:
        assert rounded(other.entry_price) == rounded(held.entry_price)
    assert rounded(no.ledger().realized) == rounded(yes.ledger().realized)
    assert rounded(no.ledger().fees) == rounded(yes.ledger().fees)


@given(st.lists(trades(), min_size=1, max_size=6))
@settings(deadline=None, max_examples=300, database=None)
def test_what_is_held_and_gained_is_mirrored(course: list[Trade]) -> None:
    """Opened, added to, reduced and flipped, by fills and answers in any order within an order."""
    check_mirrored(course)


BEFORE = {
    "nothing held before": (),
    "more held than it sells": (Part(D(5), D("0.55"), ZERO),),
    "less held than it sells": (Part(D(2), D("0.55"), ZERO),),
}


@pytest.mark.parametrize("bought", BEFORE.values(), ids=BEFORE)
@pytest.mark.parametrize("tells_position", [True, False], ids=["fills tell the position", "they do not"])
def test_word_of_an_order_comes_in_any_order(bought: tuple[Part, ...], tells_position: bool) -> None:
    before = [Trade(BID, bought, (0,), tells_position)] if bought else []
    parts = (Part(D(1), D("0.42"), D("0.01")), Part(D(2), D("0.40"), D("0.02")))
    for told in ((0, 1), (0, 1, -1), (-1,)):
        for words in permutations(told):
            sells = Trade(ASK, parts, words, tells_position)
            check_mirrored([*before, sells])
            check_mirrored([*before, sells, replace(sells, book_side=BID)])


@pytest.mark.parametrize("side", OutcomeSide)
@given(st.data(), grids, counts, prices)
@settings(deadline=None, max_examples=150, database=None)
def test_a_round_trip_gains_the_difference_on_either_side(
    side: OutcomeSide, data: st.DataObject, of: PriceGrid, count: Decimal, paid: Decimal
) -> None:
    """Bought at `paid`, sold at the displayed bid: both as the wire says it, and nothing is left over."""
    seen, bids = data.draw(books(of))
    bid, market = seen.yes_bid, Market(TICKER, grid=of)
    if side is NO:
        seen, market = mirrored(seen), mirrored_market(market)
    clock = FakeClock()
    portfolio = Portfolio(clock)
    portfolio.apply_read({}, clock.monotonic())

    def execute(sent: dict[str, Any], held_price: Decimal) -> None:
        clock.advance(1)
        portfolio.apply_fill(
            Fill(
                f"t-{sent['side']}", f"o-{sent['side']}", TICKER, BookSide(sent["side"]),
                D(sent["count"]), to_yes_leg(held_price, side), D("0.02"), round(clock.now() * 1000),
            )
        )  # fmt: skip

    execute(order(entry_book_side(side), count, to_yes_leg(paid, side), is_entry=True), paid)
    bought = portfolio.get(TICKER)
    assert bought is not None
    assert (bought.outcome_side, bought.count, bought.entry_price) == (side, count, paid)

    rung = exit_rung(side, seen, market, 0, CENT, count=count, bids=bids)
    # A limit is a bound: the exchange sells at the better of it and what is bid.
    sold_at = max(bid, to_yes_leg(rung.price, side))
    execute(order(rung.book_side, count, rung.price, is_entry=False), sold_at)
    assert portfolio.get(TICKER) is None
    assert rounded(portfolio.ledger().realized) == rounded(count * (sold_at - paid))
    assert portfolio.ledger().fees == D("0.04")
