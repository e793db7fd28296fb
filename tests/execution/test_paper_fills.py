"""How orders fill on paper: the documented model, case by case."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import RequestRejected
from base.execution.gateway import TradingShards
from base.execution.paper_fills import available, fee_of, levels_met, take
from base.model.market import BookSide, MarketStatus
from base.model.order import OrderStatus, TimeInForce
from tests.execution.paper_rig import ASK, BID, FOK, GTC, IOC, D, Levels, PaperRig, T, displayed, real

BIDS = [("0.40", "10"), ("0.39", "20"), ("0.35", "50")]
ASKS = [("0.42", "10"), ("0.43", "20"), ("0.47", "50")]


@dataclass(frozen=True)
class Case:
    name: str
    side: BookSide
    count: str
    limit: str
    fills: list[tuple[str, str]]
    tif: TimeInForce = IOC
    rests: str = "0"
    bids: Levels = tuple(BIDS)
    asks: Levels = tuple(ASKS)
    depth: bool = True


CASES = [
    Case("a sale within the best size fills at the best bid", ASK, "4", "0.30", [("4", "0.40")]),
    Case("a sale walks the book, each level at its price", ASK, "35", "0.35",
         [("10", "0.40"), ("20", "0.39"), ("5", "0.35")]),
    Case("a sale stops at its limit", ASK, "35", "0.39", [("10", "0.40"), ("20", "0.39")]),
    Case("a sale above the bid fills nothing", ASK, "4", "0.41", []),
    Case("no more than is displayed", ASK, "500", "0.01", [("10", "0.40"), ("20", "0.39"), ("50", "0.35")]),
    Case("without depth only the best size is known", ASK, "35", "0.01", [("10", "0.40")], depth=False),
    Case("a purchase walks the asks", BID, "12", "0.43", [("10", "0.42"), ("2", "0.43")]),
    Case("a purchase below the ask fills nothing", BID, "4", "0.41", []),
    Case("nobody bids", ASK, "4", "0.01", [], bids=()),
    Case("a bid of 1 is no bid", ASK, "4", "0.01", [], bids=[("1.00", "10")], asks=()),
    Case("a bid without size is no bid", ASK, "4", "0.01", [], bids=[("0.40", "0")]),
    Case("a crossed book proves no price", ASK, "4", "0.01", [], bids=[("0.45", "10")]),
    Case("fill-or-kill that can be filled is", BID, "30", "0.43", [("10", "0.42"), ("20", "0.43")], FOK),
    Case("good-till-canceled takes what crosses and rests with the remainder", BID, "15", "0.42",
         [("10", "0.42")], GTC, rests="5"),
    Case("good-till-canceled away from the market only rests", BID, "15", "0.30", [], GTC, rests="15"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_crosses_takes_what_is_displayed(case: Case) -> None:
    rig = PaperRig()
    rig.shows(case.bids, case.asks, depth=case.depth)
    ack = rig.send(case.side, case.count, case.limit, case.tif)
    assert rig.fills == case.fills
    count = sum((D(c) for c, _ in case.fills), D(0))
    value = sum((D(c) * D(p) for c, p in case.fills), D(0))
    assert (ack.fill_count, ack.remaining_count) == (count, D(case.rests))
    assert ack.average_fill_price == (value / count if count else None)
    assert ack.fees == sum((fee_of(D(c), D(p), is_taker=True) for c, p in case.fills), D(0))


def test_a_size_that_nobody_told_is_no_size() -> None:
    view = displayed(BIDS, ASKS, depth=False)
    assert view.quote is not None
    unknown = replace(view, quote=replace(view.quote, yes_bid_size=None))
    assert levels_met(unknown, ASK) == ()
    assert levels_met(replace(unknown, yes_bids=((D("0.40"), D(7)),)), ASK) == ((D("0.40"), D(7)),)


@pytest.mark.parametrize(("bid", "ask"), [("0", "0.42"), ("0.40", "1")], ids=["bid of 0", "ask of 1"])
def test_an_empty_side_is_empty_whatever_its_size(bid: str, ask: str) -> None:
    view = displayed([(bid, "10")], [(ask, "10")], depth=False)
    assert [len(levels_met(view, side)) for side in (ASK, BID)] == [int(bid != "0"), int(ask != "1")]


def test_where_quote_and_depth_differ_the_smaller_size_counts() -> None:
    view = displayed(BIDS, ASKS)
    assert view.quote is not None
    newer = replace(view, quote=replace(view.quote, yes_bid=D("0.39"), yes_bid_size=D(3)))
    assert levels_met(newer, ASK) == ((D("0.39"), D(3)), (D("0.35"), D(50)))
    elsewhere = replace(view, quote=replace(view.quote, yes_bid=D("0.37"), yes_bid_size=D(3)))
    assert levels_met(elsewhere, ASK) == ((D("0.37"), D(3)),)


@pytest.mark.parametrize(
    ("fee", "count", "price", "is_taker"),
    [("0.0175", "1", "0.52", True), ("0.0007", "1", "0.99", True), ("0", "100", "0.50", False)],
    ids=["recorded at 0.52", "recorded at 0.99", "who rests pays nothing"],
)
def test_fees_are_the_exchanges(fee: str, count: str, price: str, is_taker: bool) -> None:
    assert fee_of(D(count), D(price), is_taker=is_taker) == D(fee)


# --- what was taken is gone ---------------------------------------------------------------------------


def test_what_was_taken_is_not_taken_again() -> None:
    rig = PaperRig()
    rig.shows(BIDS, ASKS)
    assert rig.send(ASK, "8", "0.40").fill_count == 8
    assert rig.send(ASK, "8", "0.40").fill_count == 2
    assert rig.send(ASK, "8", "0.40").fill_count == 0
    assert rig.send(BID, "8", "0.42").fill_count == 8, "the other side is untouched"


@pytest.mark.parametrize(
    ("bids", "ts_ms", "count"),
    [
        (BIDS, 0, 0),
        ([("0.40", "9"), *BIDS[1:]], 0, 9),
        (BIDS, 2_000, 10),
        (BIDS, 1_000, 0),
    ],
    ids=[
        "the same quote read again is nothing new",
        "another size is",
        "a quote of a later exchange time is",
        "one of the same time is not",
    ],
)
def test_taken_size_comes_back_with_something_newer(bids: Levels, ts_ms: int, count: int) -> None:
    rig = PaperRig()
    rig.shows(BIDS, ASKS, ts_ms=1_000)
    assert rig.send(ASK, "10", "0.40").fill_count == 10
    rig.shows(bids, ASKS, ts_ms=ts_ms)
    assert rig.send(ASK, "50", "0.40").fill_count == count


# --- resting ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Resting:
    name: str
    bids: Levels
    asks: Levels
    fills: list[tuple[str, str]]


@pytest.mark.parametrize(
    "case",
    [
        Resting("the ask stays away", BIDS, ASKS, []),
        Resting("its own price is the best bid", [("0.41", "5")], ASKS, []),
        Resting("others leave and it stands alone", [("0.30", "5")], ASKS, []),
        Resting("the ask comes to it", BIDS[1:], [("0.40", "6"), ("0.43", "9")], [("6", "0.40")]),
        Resting("the ask comes through it", BIDS[2:], [("0.38", "4"), ("0.39", "3")], [("7", "0.40")]),
        Resting("more comes than it wants", BIDS[1:], [("0.40", "60")], [("15", "0.40")]),
        Resting("the book empties", (), (), []),
    ],
    ids=lambda case: case.name,
)
def test_a_resting_purchase_fills_when_the_ask_comes_to_it(case: Resting) -> None:
    rig = PaperRig()
    rig.shows(BIDS, ASKS)
    rig.send(BID, "15", "0.40", GTC)
    rig.shows(case.bids, case.asks)
    rig.step()
    rig.step()  # the same quote again gives nothing more
    assert rig.fills == case.fills
    assert [f.fee for f in rig.told.fills] == [D(0)] * len(case.fills)


def test_a_resting_sale_mirrors_a_resting_purchase() -> None:
    rig = PaperRig(real("20"))
    rig.shows(BIDS, ASKS)
    assert rig.send(ASK, "15", "0.45", GTC).remaining_count == 15
    rig.shows([("0.46", "6")], [("0.48", "6")])
    rig.step()
    assert rig.fills == [("6", "0.45")]
    assert rig.sees(real("20")) == 14


@pytest.mark.parametrize("arrives", ["a cancel", "an exit", "a move away"])
def test_what_the_market_has_come_to_is_bought_before_what_arrives_later(arrives: str) -> None:
    rig = PaperRig(real("10"))
    rig.shows(BIDS, ASKS)
    request = rig.request(BID, "5", "0.39", GTC)
    order_id = rig.gateway.create_entry(request).order_id
    rig.shows([("0.36", "50")], [("0.38", "3")])
    if arrives == "a cancel":
        assert rig.gateway.cancel_entry(order_id, T) == 2
    elif arrives == "an exit":
        assert rig.send(ASK, "13", "0.30", reduce_only=True).fill_count == 13
    else:
        rig.gateway.amend_entry(order_id, replace(request, price=D("0.35")))
    assert rig.fills[0] == ("3", "0.39")


def test_a_cancel_that_comes_too_late_is_refused_and_the_purchase_told() -> None:
    rig = PaperRig()
    rig.shows(BIDS, ASKS)
    order_id = rig.send(BID, "5", "0.39", GTC).order_id
    rig.shows([("0.36", "50")], [("0.38", "30")])
    with pytest.raises(RequestRejected):
        rig.gateway.cancel_entry(order_id, T)
    assert (rig.fills, rig.told.orders[-1].status) == ([("5", "0.39")], OrderStatus.EXECUTED)


def test_two_that_rest_share_what_comes_and_the_better_price_goes_first() -> None:
    rig = PaperRig()
    rig.shows(BIDS, ASKS)
    rig.send(BID, "10", "0.38", GTC)
    rig.send(BID, "4", "0.39", GTC)
    rig.send(BID, "9", "0.39", GTC)
    rig.shows([("0.30", "5")], [("0.37", "12")])
    rig.step()
    assert rig.fills == [("4", "0.39"), ("8", "0.39")]
    assert [(u.status, u.remaining_count) for u in rig.told.orders[-2:]] == [
        (OrderStatus.EXECUTED, 0),
        (OrderStatus.RESTING, 1),
    ]


@pytest.mark.parametrize(
    ("statuses", "reason"),
    [
        ([MarketStatus.INACTIVE, MarketStatus.ACTIVE], "HaltCancel"),
        ([MarketStatus.CLOSED], "CloseCancel"),
        ([MarketStatus.INACTIVE, MarketStatus.CLOSED], "CloseCancel"),
        ([MarketStatus.INACTIVE], None),
        ([MarketStatus.UNKNOWN, MarketStatus.ACTIVE], None),
    ],
    ids=["a pause's end", "the close", "a close in a pause", "a pause itself", "not known for a moment"],
)
def test_what_ends_a_resting_order(statuses: list[MarketStatus], reason: str | None) -> None:
    rig = PaperRig()
    rig.send(BID, "15", "0.40", GTC)
    for status in statuses:
        rig.becomes(status)
        rig.step()
    ended = [u for u in rig.told.orders if u.status is OrderStatus.CANCELED]
    assert [u.reason for u in ended] == ([] if reason is None else [reason])
    assert (rig.gateway.resting_tickers == frozenset()) is (reason is not None)


def test_nothing_fills_in_a_pause() -> None:
    rig = PaperRig()
    rig.send(BID, "15", "0.41", GTC)
    rig.shows(BIDS, [("0.41", "50")])
    rig.becomes(MarketStatus.INACTIVE)
    rig.step()
    assert rig.fills == []


def test_while_the_exchange_takes_no_orders_nothing_fills_and_what_rests_stays() -> None:
    rig = PaperRig()
    rig.send(BID, "15", "0.41", GTC)
    rig.shows(BIDS, [("0.41", "50")])
    rig.shards = TradingShards(default=False, shards={})
    assert rig.refusal(rig.request(BID, "1", "0.41")) == (409, "trading_is_paused")
    assert not rig.gateway.trading_shards().takes_orders(None)
    rig.step()
    assert rig.fills == []
    rig.shards = TradingShards(default=True, shards={})
    rig.step()
    assert rig.fills == [("15", "0.41")]


def test_a_resting_order_expires() -> None:
    rig = PaperRig()
    request = rig.request(BID, "15", "0.40", GTC, expires_at=int(rig.clock.now()) + 10)
    rig.gateway.create_entry(request)
    rig.step(9.0)
    assert rig.gateway.find_orders({"c1": ""}, 0).found["c1"].status is OrderStatus.RESTING
    rig.shows(BIDS, [("0.39", "50")])
    rig.step(1.0)
    assert rig.gateway.find_orders({"c1": ""}, 0).found["c1"].status is OrderStatus.CANCELED
    assert (rig.told.orders[-1].reason, rig.fills) == ("ExpiryCancel", [])


# --- our own orders in the way ------------------------------------------------------------------------


def test_a_sale_stops_at_a_resting_purchase_of_ours() -> None:
    rig = PaperRig(real("100"))
    rig.shows(BIDS, ASKS)
    rig.send(BID, "5", "0.39", GTC)
    assert rig.send(ASK, "60", "0.30").fill_count == 10
    assert rig.fills == [("10", "0.40")], "who stands first at 0.39 is not known"
    assert rig.told.orders[-1].reason == "SelfTradeCancel"
    assert rig.gateway.resting_tickers == {T}, "what rests stays"


@dataclass(frozen=True)
class Exit:
    """An exit of so many contracts, with purchases of 5 of ours resting at these prices."""

    name: str
    resting: tuple[str, ...]
    count: str
    limit: str
    canceled: tuple[str, ...]
    filled: str


@pytest.mark.parametrize(
    "case",
    [
        Exit("inside the spread it is met at once", ("0.41",), "5", "0.40", ("0.41",), "5"),
        Exit("at the best price it is met first", ("0.40",), "5", "0.40", ("0.40",), "5"),
        Exit("behind what suffices it is not met", ("0.39",), "10", "0.30", (), "10"),
        Exit("one contract more meets it", ("0.39",), "11", "0.30", ("0.39",), "11"),
        Exit("below the limit it is not met", ("0.39",), "60", "0.40", (), "10"),
        Exit("those that are met go, the others stay", ("0.41", "0.30"), "10", "0.20", ("0.41",), "10"),
        Exit("capped to what is held it meets less", ("0.38",), "500", "0.20", (), "12"),
    ],
    ids=lambda c: c.name,
)
def test_an_exit_cancels_our_own_order_in_its_way_and_goes_on(case: Exit) -> None:
    held = "12" if case.count == "500" else "100"
    rig = PaperRig(real(held))
    rig.shows(BIDS, ASKS)
    orders = {price: rig.send(BID, "5", price, GTC).order_id for price in case.resting}
    told = len(rig.told.orders)
    assert rig.send(ASK, case.count, case.limit, reduce_only=True).fill_count == D(case.filled)
    *canceled, last = rig.told.orders[told:]
    assert [u.order_id for u in canceled] == [orders[price] for price in case.canceled]
    assert {(u.status, u.reason, u.remaining_count) for u in canceled} <= {
        (OrderStatus.CANCELED, "SelfTradeCancel", D(0))
    }
    assert last.fill_count == D(case.filled)
    assert last.reason != "SelfTradeCancel", "an exit never gives way"
    left = len(case.resting) - len(case.canceled)
    assert rig.gateway.resting_tickers == ({T} if left else set())


# --- refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "answer"),
    [
        ({"tif": FOK, "count": "31", "price": "0.43"}, (409, "fill_or_kill_insufficient_resting_volume")),
        ({"tif": GTC, "price": "0.42", "post_only": True}, (400, "invalid_order")),
        ({"tif": GTC, "reduce_only": True}, (400, "invalid_order")),
        ({"tif": FOK, "reduce_only": True}, (400, "invalid_order")),
        ({"tif": IOC, "post_only": True}, (400, "invalid_order")),
        ({"tif": IOC, "expires_at": 2_000_000_000}, (400, "invalid_order")),
        ({"tif": GTC, "expires_at": 1_000}, (400, "invalid_order")),
        ({"price": "0.425"}, (400, "invalid_price")),
        ({"price": "1.00"}, (400, "invalid_price")),
        ({"count": "0"}, (400, "invalid_parameters")),
        ({"name": "used"}, (409, "order_already_exists")),
    ],
    ids=[
        "fill-or-kill for more than is there", "post-only that would take", "reduce-only that rests",
        "reduce-only fill-or-kill", "post-only at once", "expiry at once", "expired already",
        "off the grid", "a price of 1", "nothing", "an id that was used",
    ],
)  # fmt: skip
def test_what_the_exchange_refuses_is_refused(how: dict[str, object], answer: tuple[int, str]) -> None:
    rig = PaperRig()
    rig.shows(BIDS, ASKS)
    rig.gateway.create_entry(rig.request(BID, "1", "0.30", name="used"))
    told = len(rig.told.orders)
    order = rig.request(**({"side": BID, "count": "5", "price": "0.42"} | how))  # type: ignore[arg-type]
    assert rig.refusal(order) == answer
    assert (rig.fills, len(rig.told.orders)) == ([], told)


def test_post_only_rests_where_it_takes_nothing() -> None:
    rig = PaperRig()
    rig.shows(BIDS, ASKS)
    assert rig.gateway.create_entry(rig.request(BID, "5", "0.41", GTC, post_only=True)).remaining_count == 5


# --- what always holds --------------------------------------------------------------------------------

cents = st.integers(1, 99).map(lambda n: Decimal(n) / 100)
counts = st.integers(1, 5_000).map(lambda n: Decimal(n) / 100)


@settings(max_examples=200)
@given(st.dictionaries(cents, counts, max_size=8), st.sampled_from(BookSide), cents, counts)
def test_never_more_than_displayed_never_worse_than_the_limit(
    book: dict[Decimal, Decimal], side: BookSide, limit: Decimal, count: Decimal
) -> None:
    levels = sorted(book.items(), reverse=side is BookSide.ASK)
    parts = take(levels, side, limit, count)
    assert all(0 < part.count <= book[part.yes_price] for part in parts)
    assert all(p.yes_price <= limit if side is BookSide.BID else p.yes_price >= limit for p in parts)
    assert len({part.yes_price for part in parts}) == len(parts)
    assert sum((p.count for p in parts), D(0)) == min(count, available(levels, side, limit))
