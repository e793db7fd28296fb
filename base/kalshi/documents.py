"""Markets, positions, orders and fills from REST documents. Pure.

Unknown fields are ignored (the exchange adds some every month), required ones are required: what cannot be
proved right raises WireError and is never filled in with a default. Shapes: the official OpenAPI document
and recordings of the demo and production exchange of June to October 2026.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from base.errors import WireError
from base.kalshi.frames import parse_grid
from base.kalshi.strict_json import convert, prepare
from base.kalshi.wire import (
    parse_count,
    parse_dollars,
    parse_price,
    parse_size,
    parse_ticker,
    parse_time,
)
from base.model.market import (
    BookSide,
    Event,
    Market,
    MarketStatus,
    OutcomeSide,
    PriceGrid,
    PriceSource,
    Quote,
)
from base.model.order import Order, OrderStatus
from base.model.position import Fill, Position

ENTRY_PRICE_STEP = Decimal("0.000001")

_E = TypeVar("_E", bound=StrEnum)
_T = TypeVar("_T")
_U = TypeVar("_U")

# --- markets --------------------------------------------------------------------------------------------


class _Range(msgspec.Struct):
    start: str
    end: str
    step: str


class _Market(msgspec.Struct):
    ticker: str
    status: str
    event_ticker: str | None = None
    open_time: str | None = None
    close_time: str | None = None
    price_ranges: list[_Range] | None = None
    exchange_index: int | None = None
    result: str | None = None
    title: str | None = None
    settlement_value_dollars: str | None = None


class _TopOfBook(msgspec.Struct):
    """Of the same document, but apart: a price that is lost must not cost the market its status."""

    yes_bid_dollars: str
    yes_ask_dollars: str
    yes_bid_size_fp: str | None = None
    yes_ask_size_fp: str | None = None
    last_price_dollars: str | None = None


class _MarketPage(msgspec.Struct):
    markets: list[dict[str, Any]]
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class MarketSnapshot:
    """A market and its top of book, from one market document; `quote` is None where it proves no price, and
    `why_no_quote` says why."""

    market: Market
    quote: Quote | None
    asked_at: float | None = None
    """When the request left, monotonic; None is now."""
    why_no_quote: str = ""


@dataclass(frozen=True, slots=True)
class MarketPage:
    """One page of `GET /markets`; `unusable` says for each document that proves no price, or not even the
    market, why not."""

    snapshots: tuple[MarketSnapshot, ...]
    unusable: tuple[str, ...]
    cursor: str | None
    rows: int


def parse_market_page(body: bytes, *, sent_monotonic: float, sent_at: float) -> MarketPage:
    """A page of markets; `sent_*` is when the request left, which is when the quotes count as received.

    A document that does not prove its market is left out and named, so that it costs no other its price.
    """
    page = convert(body, _MarketPage)
    snapshots: list[MarketSnapshot] = []
    unusable: list[str] = []
    for document in page.markets:
        name = str(document.get("ticker"))[:128]
        try:
            snapshot = parse_market(document, sent_monotonic=sent_monotonic, sent_at=sent_at)
        except WireError as exc:
            unusable.append(f"{name}: {exc}")
            continue
        snapshots.append(snapshot)
        if snapshot.quote is None:
            unusable.append(f"{name}: {snapshot.why_no_quote}")
    return MarketPage(tuple(snapshots), tuple(unusable), page.cursor, len(page.markets))


def parse_market(document: Mapping[str, Any], *, sent_monotonic: float, sent_at: float) -> MarketSnapshot:
    """A market document. Raises WireError when it does not even prove the market and its status.

    Its quote has no exchange time: `updated_time` is about the market's description, not its prices.
    """
    try:
        m = msgspec.convert(document, _Market)
    except msgspec.ValidationError as exc:
        raise WireError(f"market: {exc}") from exc
    ticker = parse_ticker(m.ticker)
    market = Market(
        ticker=ticker,
        event_ticker=m.event_ticker or "",
        status=_enum_or(MarketStatus, m.status, MarketStatus.UNKNOWN),
        close_time=None if not m.close_time else parse_time(m.close_time),
        open_time=None if not m.open_time else parse_time(m.open_time),
        grid=_grid(m.price_ranges),
        exchange_index=m.exchange_index,
        result=m.result or "",
        title=m.title or "",
        settlement_value=_settlement_value(m.settlement_value_dollars),
    )
    try:
        quote = _quote(ticker, document, sent_monotonic, sent_at)
    except WireError as exc:
        return MarketSnapshot(market, None, sent_monotonic, f"no price: {exc}")
    return MarketSnapshot(market, quote, sent_monotonic)


def _quote(ticker: str, document: Mapping[str, Any], sent_monotonic: float, sent_at: float) -> Quote:
    try:
        top = msgspec.convert(document, _TopOfBook)
    except msgspec.ValidationError as exc:
        raise WireError(str(exc)) from exc
    return Quote(
        ticker=ticker,
        yes_bid=parse_price(top.yes_bid_dollars),
        yes_ask=parse_price(top.yes_ask_dollars),
        yes_bid_size=None if top.yes_bid_size_fp is None else parse_size(top.yes_bid_size_fp),
        yes_ask_size=None if top.yes_ask_size_fp is None else parse_size(top.yes_ask_size_fp),
        last_price=None if top.last_price_dollars is None else parse_price(top.last_price_dollars),
        ts_ms=0,
        received_monotonic=sent_monotonic,
        received_at=sent_at,
        source=PriceSource.REST,
    )


def _settlement_value(text: str | None) -> Decimal | None:
    """What a YES contract is paid; not known where it makes no sense, which must not cost the price."""
    try:
        return parse_price(text) if text else None
    except WireError:
        return None


def _grid(ranges: list[_Range] | None) -> PriceGrid:
    """The grid, or whole cents when it is missing or makes no sense.

    Whole cents are valid in every structure (docs.kalshi.com, price level structures): a market whose
    ranges cannot be read must not lose its price and with it its protection.
    """
    try:
        return parse_grid([(r.start, r.end, r.step) for r in ranges or ()]) or PriceGrid()
    except WireError:
        return PriceGrid()


# --- events ---------------------------------------------------------------------------------------------


class _EventMarket(msgspec.Struct):
    ticker: str


class _Event(msgspec.Struct):
    event_ticker: str
    mutually_exclusive: bool
    markets: list[_EventMarket]
    series_ticker: str | None = None
    title: str | None = None


class _EventPage(msgspec.Struct):
    events: list[dict[str, Any]]
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class EventPage:
    """One page of `GET /events`; `unusable` says for each document left out why."""

    events: tuple[Event, ...]
    unusable: tuple[str, ...]
    cursor: str | None
    rows: int


def parse_event_page(body: bytes) -> EventPage:
    """A page of events with nested markets; one that does not name its markets is left out and told."""
    page = convert(body, _EventPage)
    events: list[Event] = []
    unusable: list[str] = []
    for document in page.events:
        try:
            m = msgspec.convert(document, _Event)
            events.append(
                Event(
                    ticker=parse_ticker(m.event_ticker),
                    market_tickers=tuple(parse_ticker(market.ticker) for market in m.markets),
                    mutually_exclusive=m.mutually_exclusive,
                    series_ticker=m.series_ticker or "",
                    title=m.title or "",
                )
            )
        except (WireError, msgspec.ValidationError) as exc:
            unusable.append(f"{str(document.get('event_ticker'))[:128]}: {exc}")
    return EventPage(tuple(events), tuple(unusable), page.cursor, len(page.events))


# --- positions ------------------------------------------------------------------------------------------


class _PositionRow(msgspec.Struct):
    ticker: str
    position_fp: str
    market_exposure_dollars: str
    fees_paid_dollars: Any = None
    last_updated_ts: Any = None
    exchange_index: int | None = None


class _PositionPage(msgspec.Struct):
    market_positions: list[dict[str, Any]]
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class PositionRow:
    """One row of `GET /portfolio/positions`, flat ones included; `last_updated_ts` is epoch seconds.

    What is held and what was paid must be proved. Fees (0) and the time (None) may be missing or unreadable:
    no stop needs them, and a position must not go unprotected for want of them.
    """

    ticker: str
    signed_count: Decimal
    exposure_dollars: Decimal
    fees_paid: Decimal
    exchange_index: int | None
    last_updated_ts: float | None


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """A position that is there and cannot be proved: `ticker` is "" where not even that is told."""

    ticker: str
    why: str


def parse_position_page(body: bytes) -> tuple[tuple[PositionRow | UnreadableRow, ...], str | None]:
    """Rows and next cursor. A row that cannot be proved is told as such and costs the others nothing."""
    page = convert(body, _PositionPage)
    return tuple(map(_readable, page.market_positions)), page.cursor


def _readable(raw: dict[str, Any]) -> PositionRow | UnreadableRow:
    try:
        return _position_row(msgspec.convert(raw, _PositionRow))
    except (WireError, msgspec.ValidationError) as exc:
        ticker = raw.get("ticker")
        return UnreadableRow(ticker if isinstance(ticker, str) else "", str(exc))


def _position_row(m: _PositionRow) -> PositionRow:
    row = PositionRow(
        ticker=parse_ticker(m.ticker),
        signed_count=parse_count(m.position_fp),
        exposure_dollars=parse_dollars(m.market_exposure_dollars),
        fees_paid=_or(parse_dollars, m.fees_paid_dollars, Decimal(0)),
        exchange_index=m.exchange_index,
        last_updated_ts=_or(parse_time, m.last_updated_ts, None),
    )
    if row.signed_count and not 0 <= row.exposure_dollars <= abs(row.signed_count):
        raise WireError(
            f"position {row.ticker}: {row.exposure_dollars} dollars for {row.signed_count} contracts "
            f"is no price between 0 and 1"
        )
    return row


def _or(parse: Callable[[str], _T], value: object, otherwise: _U) -> _T | _U:
    """What a text says, or something else where it is missing or cannot be read."""
    if not isinstance(value, str):
        return otherwise
    try:
        return parse(value)
    except WireError:
        return otherwise


def to_position(row: PositionRow) -> Position | None:
    """The position of a row, None when it is flat.

    The exchange tells no average price; it is exposure over contracts, to six decimals.
    """
    if row.signed_count == 0:
        return None
    count = abs(row.signed_count)
    return Position(
        ticker=row.ticker,
        outcome_side=OutcomeSide.YES if row.signed_count > 0 else OutcomeSide.NO,
        count=count,
        entry_price=(row.exposure_dollars / count).quantize(ENTRY_PRICE_STEP, ROUND_HALF_EVEN),
        exchange_index=row.exchange_index,
        fees_paid=row.fees_paid,
    )


# --- orders and fills -----------------------------------------------------------------------------------


class _Order(msgspec.Struct):
    order_id: str
    ticker: str
    status: str
    yes_price_dollars: str
    initial_count_fp: str
    fill_count_fp: str
    remaining_count_fp: str
    taker_fill_cost_dollars: str
    maker_fill_cost_dollars: str
    taker_fees_dollars: str
    maker_fees_dollars: str
    client_order_id: str | None = None
    book_side: str | None = None
    outcome_side: str | None = None
    action: str | None = None
    side: str | None = None
    created_time: str | None = None
    exchange_index: int | None = None


class _OrderDocument(msgspec.Struct):
    order: _Order


class _OrderPage(msgspec.Struct):
    orders: list[_Order]
    cursor: str | None = None


class _Fill(msgspec.Struct):
    order_id: str
    yes_price_dollars: str
    count_fp: str
    fee_cost: str
    trade_id: str | None = None
    fill_id: str | None = None
    ticker: str | None = None
    market_ticker: str | None = None
    book_side: str | None = None
    outcome_side: str | None = None
    side: str | None = None
    created_time: str | None = None
    ts: int | None = None
    subaccount_number: int | None = None
    exchange_index: int | None = None


class _FillPage(msgspec.Struct):
    fills: list[_Fill]
    cursor: str | None = None


def parse_order(body: bytes) -> Order:
    """The document of `GET /portfolio/orders/{id}`. Raises WireError."""
    return _order(convert(body, _OrderDocument).order)


def parse_order_page(body: bytes) -> tuple[tuple[Order, ...], str | None]:
    """Orders and next cursor. Raises WireError."""
    page = convert(body, _OrderPage)
    return tuple(map(_order, page.orders)), page.cursor


def parse_fill_page(body: bytes) -> tuple[tuple[Fill, ...], str | None]:
    """Fills and next cursor. Raises WireError.

    They carry no client order id (removed 2026-03-30): join them to orders by `order_id`.
    """
    page = convert(body, _FillPage)
    return tuple(map(_fill, page.fills)), page.cursor


def _order(m: _Order) -> Order:
    book_side = _direction(m.book_side, m.outcome_side)
    if book_side is None:
        # Old documents. Only purchases are clear: the OpenAPI text calls a sale of YES a "no" order, while
        # sales recorded in May 2026 carry the side that the sale moves to.
        if m.action != "buy" or m.side not in ("yes", "no"):
            raise WireError(f"order {m.order_id}: neither book_side nor outcome_side")
        book_side = BookSide.BID if m.side == "yes" else BookSide.ASK
    return Order(
        order_id=m.order_id,
        client_order_id=m.client_order_id or "",
        ticker=parse_ticker(m.ticker),
        book_side=book_side,
        status=_enum_or(OrderStatus, m.status, OrderStatus.UNKNOWN),
        price=parse_price(m.yes_price_dollars),
        initial_count=parse_size(m.initial_count_fp),
        fill_count=parse_size(m.fill_count_fp),
        remaining_count=parse_size(m.remaining_count_fp),
        fill_cost=parse_dollars(m.taker_fill_cost_dollars) + parse_dollars(m.maker_fill_cost_dollars),
        fees=parse_dollars(m.taker_fees_dollars) + parse_dollars(m.maker_fees_dollars),
        exchange_index=m.exchange_index,
        created_ts_ms=0 if not m.created_time else round(parse_time(m.created_time) * 1000),
    )


def _fill(m: _Fill) -> Fill:
    book_side = _direction(m.book_side, m.outcome_side)
    if book_side is None:
        # Old documents: `side` is the side that the fill moves to, also on sales. A YES bought at 0.77 and
        # closed at 0.06 was reported as action=sell, side=no (recorded 2026-05-08).
        if m.side not in ("yes", "no"):
            raise WireError(f"fill of order {m.order_id}: neither book_side nor outcome_side")
        book_side = BookSide.BID if m.side == "yes" else BookSide.ASK
    trade_id = m.trade_id or m.fill_id
    if not trade_id:
        raise WireError(f"fill of order {m.order_id} without an id")
    ts_ms = round(parse_time(m.created_time) * 1000) if m.created_time else (m.ts or 0) * 1000
    return Fill(
        trade_id=trade_id,
        order_id=m.order_id,
        ticker=parse_ticker(m.ticker or m.market_ticker or ""),
        book_side=book_side,
        count=parse_size(m.count_fp),
        yes_price=parse_price(m.yes_price_dollars),
        fee=parse_dollars(m.fee_cost),
        ts_ms=ts_ms,
        subaccount=m.subaccount_number or 0,
        exchange_index=m.exchange_index,
    )


def _direction(book_side: str | None, outcome_side: str | None) -> BookSide | None:
    """The side of the YES book from the two documented fields; None when both are absent."""
    told = set()
    if book_side is not None:
        told.add(_enum(BookSide, book_side))
    if outcome_side is not None:
        is_yes = _enum(OutcomeSide, outcome_side) is OutcomeSide.YES
        told.add(BookSide.BID if is_yes else BookSide.ASK)
    if len(told) > 1:
        raise WireError(f"book_side {book_side} and outcome_side {outcome_side} disagree")
    return told.pop() if told else None


# --- enums ----------------------------------------------------------------------------------------------


def _enum(kind: type[_E], text: str) -> _E:
    try:
        return kind(text)
    except ValueError as exc:
        raise WireError(f"not a {kind.__name__}: {text!r}") from exc


def _enum_or(kind: type[_E], text: str, default: _E) -> _E:
    """An enum's member, or `default` for one that was added after this was written."""
    try:
        return kind(text)
    except ValueError:
        return default


prepare(globals())
