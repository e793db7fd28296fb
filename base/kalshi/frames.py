"""Stream frames: JSON text in, typed events out; and the commands we send.

Typed decoding with msgspec is the validation: a missing price, a number where a string belongs or a
price outside 0..1 raises WireError, and nothing is ever filled in with a default. Unknown fields are
ignored (the exchange adds some every month); unknown types become `Ignored`.

Shapes: the official AsyncAPI document; `ticker` also in the older form with a `data` envelope and
integer cents. Where a frame has both forms the strings win, and what the losing field holds (a rounded
or fractional cent, a deprecated time as text) cannot cost the frame.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, TypeVar

import msgspec

from base.errors import WireError
from base.kalshi.wire import (
    parse_cents,
    parse_count,
    parse_dollars,
    parse_price,
    parse_size,
    parse_ticker,
)
from base.model.events import (
    BookDelta,
    BookSnapshot,
    ErrorReply,
    FillEvent,
    Ignored,
    Lifecycle,
    LifecycleKind,
    Ok,
    OrderUpdate,
    PositionUpdate,
    StreamEvent,
    Subscribed,
    Ticker,
    Unsubscribed,
)
from base.model.market import BookSide, MarketStatus, OutcomeSide, PriceGrid, PriceRange
from base.model.order import OrderStatus
from base.model.position import Fill

_E = TypeVar("_E")
_NOTHING = msgspec.Raw(b"")
_INTEGER = re.compile(rb"[0-9]{1,15}")


class _Envelope(msgspec.Struct):
    type: str
    sid: int | None = None
    seq: int | None = None
    id: int = 0
    msg: msgspec.Raw = _NOTHING
    data: msgspec.Raw = _NOTHING


class _Ticker(msgspec.Struct):
    market_ticker: str
    yes_bid_dollars: str | None = None
    yes_ask_dollars: str | None = None
    yes_bid_size_fp: str | None = None
    yes_ask_size_fp: str | None = None
    price_dollars: str | None = None
    yes_bid: msgspec.Raw = _NOTHING
    yes_ask: msgspec.Raw = _NOTHING
    price: msgspec.Raw = _NOTHING
    ts_ms: int | None = None
    ts: msgspec.Raw = _NOTHING


class _Snapshot(msgspec.Struct):
    market_ticker: str
    yes_dollars_fp: list[tuple[str, str]] = []
    no_dollars_fp: list[tuple[str, str]] = []


class _Delta(msgspec.Struct):
    market_ticker: str
    price_dollars: str
    delta_fp: str
    side: str
    ts_ms: int = 0


class _Fill(msgspec.Struct):
    trade_id: str
    order_id: str
    market_ticker: str
    yes_price_dollars: str
    count_fp: str
    fee_cost: str = "0"
    book_side: str | None = None
    outcome_side: str | None = None
    side: str | None = None
    ts_ms: int = 0
    client_order_id: str = ""
    post_position_fp: str | None = None
    subaccount: int | None = None
    exchange_index: int | None = None


class _UserOrder(msgspec.Struct):
    order_id: str
    ticker: str
    status: str
    book_side: str | None = None
    fill_count_fp: str = "0"
    remaining_count_fp: str = "0"
    initial_count_fp: str = "0"
    taker_fees_dollars: str = "0"
    maker_fees_dollars: str = "0"
    taker_fill_cost_dollars: str = "0"
    maker_fill_cost_dollars: str = "0"
    client_order_id: str | None = None
    last_update_reason: str | None = None
    outcome_side: str | None = None


class _MarketPosition(msgspec.Struct):
    market_ticker: str
    position_fp: str
    position_cost_dollars: str = "0"
    realized_pnl_dollars: str = "0"
    fees_paid_dollars: str = "0"
    subaccount: int | None = None


class _Range(msgspec.Struct):
    start: str
    end: str
    step: str


class _Lifecycle(msgspec.Struct):
    market_ticker: str
    event_type: str
    close_ts: int | None = None
    result: str | None = None
    is_deactivated: bool | None = None
    price_ranges: list[_Range] | None = None


class _SubscribedMsg(msgspec.Struct):
    channel: str
    sid: int


class _OkMsg(msgspec.Struct):
    market_tickers: list[str] | None = None


class _ErrorMsg(msgspec.Struct):
    code: int
    msg: str = ""
    market_ticker: str | None = None
    market_tickers: list[str] | None = None


_envelope = msgspec.json.Decoder(_Envelope)
_ticker = msgspec.json.Decoder(_Ticker)
_snapshot = msgspec.json.Decoder(_Snapshot)
_delta = msgspec.json.Decoder(_Delta)
_fill = msgspec.json.Decoder(_Fill)
_user_order = msgspec.json.Decoder(_UserOrder)
_market_position = msgspec.json.Decoder(_MarketPosition)
_lifecycle = msgspec.json.Decoder(_Lifecycle)
_subscribed = msgspec.json.Decoder(_SubscribedMsg)
_ok = msgspec.json.Decoder(_OkMsg)
_error = msgspec.json.Decoder(_ErrorMsg)
_command = msgspec.json.Encoder()


def decode_frame(text: bytes | str) -> StreamEvent:
    """Decode one frame. Raises WireError for anything that cannot be proved right."""
    try:
        envelope = _envelope.decode(text)
        decode = _DECODERS.get(envelope.type)
        if decode is None:
            return Ignored(envelope.type, envelope.sid, envelope.seq)
        return decode(envelope)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise WireError(f"malformed frame: {exc}") from exc


def encode_command(command_id: int, cmd: str, params: dict[str, Any]) -> str:
    """A command as the exchange takes it; ids start at 1 because 0 means "no id"."""
    return _command.encode({"id": command_id, "cmd": cmd, "params": params}).decode()


def parse_grid(ranges: Sequence[tuple[str, str, str]]) -> PriceGrid | None:
    """A market's grid from (start, end, step) strings, None when there are none. Raises WireError."""
    if not ranges:
        return None
    parsed = []
    for start, end, step in ranges:
        one = PriceRange(parse_price(start), parse_price(end), parse_price(step))
        if one.step <= 0 or one.end <= one.start:
            raise WireError(f"impossible price range {start}..{end} by {step}")
        parsed.append(one)
    return PriceGrid(tuple(sorted(parsed, key=lambda r: r.start)))


def _body(envelope: _Envelope) -> msgspec.Raw:
    return envelope.msg if envelope.msg else envelope.data


def _decode_ticker(envelope: _Envelope) -> StreamEvent:
    m = _ticker.decode(_body(envelope))
    ts_ms = m.ts_ms if m.ts_ms is not None else (_integer(m.ts) or 0) * 1000
    return Ticker(
        ticker=parse_ticker(m.market_ticker),
        yes_bid=_either_price(m.yes_bid_dollars, m.yes_bid, "yes_bid"),
        yes_ask=_either_price(m.yes_ask_dollars, m.yes_ask, "yes_ask"),
        yes_bid_size=None if m.yes_bid_size_fp is None else parse_size(m.yes_bid_size_fp),
        yes_ask_size=None if m.yes_ask_size_fp is None else parse_size(m.yes_ask_size_fp),
        last_price=None
        if m.price_dollars is None and bytes(m.price) in (b"", b"null")
        else _either_price(m.price_dollars, m.price, "price"),
        ts_ms=ts_ms,
        sid=envelope.sid or 0,
    )


def _either_price(dollars: str | None, cents: msgspec.Raw, name: str) -> Decimal:
    if dollars is not None:
        return parse_price(dollars)
    whole = _integer(cents)
    if whole is None:
        raise WireError(f"ticker without {name}: {bytes(cents)[:20]!r}")
    return parse_cents(whole)


def _integer(raw: msgspec.Raw) -> int | None:
    text = bytes(raw)
    return int(text) if _INTEGER.fullmatch(text) else None


def _decode_snapshot(envelope: _Envelope) -> StreamEvent:
    m = _snapshot.decode(_body(envelope))
    return BookSnapshot(
        ticker=parse_ticker(m.market_ticker),
        sid=envelope.sid or 0,
        seq=envelope.seq,
        yes_levels=tuple((parse_price(p), parse_size(c)) for p, c in m.yes_dollars_fp),
        no_levels=tuple((parse_price(p), parse_size(c)) for p, c in m.no_dollars_fp),
    )


def _decode_delta(envelope: _Envelope) -> StreamEvent:
    m = _delta.decode(_body(envelope))
    return BookDelta(
        ticker=m.market_ticker,
        sid=envelope.sid or 0,
        seq=envelope.seq,
        side=_enum(OutcomeSide, m.side),
        price=parse_price(m.price_dollars),
        delta=parse_count(m.delta_fp),
        ts_ms=m.ts_ms,
    )


def _decode_fill(envelope: _Envelope) -> StreamEvent:
    m = _fill.decode(_body(envelope))
    return FillEvent(
        Fill(
            trade_id=m.trade_id,
            order_id=m.order_id,
            ticker=parse_ticker(m.market_ticker),
            book_side=book_side_of(m.book_side, m.outcome_side, m.side),
            count=parse_size(m.count_fp),
            yes_price=parse_price(m.yes_price_dollars),
            fee=parse_dollars(m.fee_cost),
            ts_ms=m.ts_ms,
            client_order_id=m.client_order_id,
            post_position=None if m.post_position_fp is None else parse_count(m.post_position_fp),
            subaccount=m.subaccount or 0,
            exchange_index=m.exchange_index,
        )
    )


def book_side_of(book_side: str | None, outcome_side: str | None, side: str | None) -> BookSide:
    """The side of the YES book that a fill was on; YES is the bid.

    `book_side` and `outcome_side` are documented; the deprecated `side` is the side that the fill moves
    to, also on sales: a YES position closed was reported as action=sell, side=no (recorded 2026-05-08).
    Raises WireError when nothing tells it.
    """
    if book_side is not None:
        return _enum(BookSide, book_side)
    told = outcome_side if outcome_side is not None else side
    if told is None:
        raise WireError("a fill without book_side")
    return BookSide.BID if _enum(OutcomeSide, told) is OutcomeSide.YES else BookSide.ASK


def _decode_user_order(envelope: _Envelope) -> StreamEvent:
    m = _user_order.decode(_body(envelope))
    book_side = book_side_of(m.book_side, m.outcome_side, None)
    try:
        status = OrderStatus(m.status)
    except ValueError:
        status = OrderStatus.UNKNOWN
    return OrderUpdate(
        order_id=m.order_id,
        client_order_id=m.client_order_id or "",
        ticker=parse_ticker(m.ticker),
        book_side=book_side,
        status=status,
        fill_count=parse_size(m.fill_count_fp),
        remaining_count=parse_size(m.remaining_count_fp),
        initial_count=parse_size(m.initial_count_fp),
        fees=parse_dollars(m.taker_fees_dollars) + parse_dollars(m.maker_fees_dollars),
        fill_cost=parse_dollars(m.taker_fill_cost_dollars) + parse_dollars(m.maker_fill_cost_dollars),
        reason=m.last_update_reason or "",
    )


def _decode_market_position(envelope: _Envelope) -> StreamEvent:
    m = _market_position.decode(_body(envelope))
    return PositionUpdate(
        ticker=parse_ticker(m.market_ticker),
        count=parse_count(m.position_fp),
        cost=parse_dollars(m.position_cost_dollars),
        realized_pnl=parse_dollars(m.realized_pnl_dollars),
        fees_paid=parse_dollars(m.fees_paid_dollars),
        subaccount=m.subaccount or 0,
    )


_STATUS_AFTER: dict[LifecycleKind, MarketStatus] = {
    LifecycleKind.ACTIVATED: MarketStatus.ACTIVE,
    LifecycleKind.DEACTIVATED: MarketStatus.INACTIVE,
    LifecycleKind.DETERMINED: MarketStatus.DETERMINED,
    LifecycleKind.SETTLED: MarketStatus.FINALIZED,
}


def _decode_lifecycle(envelope: _Envelope) -> StreamEvent:
    m = _lifecycle.decode(_body(envelope))
    try:
        kind = LifecycleKind(m.event_type)
    except ValueError:
        kind = LifecycleKind.OTHER
    status = _STATUS_AFTER.get(kind)
    if status is None and m.is_deactivated is not None and kind is not LifecycleKind.CREATED:
        status = MarketStatus.INACTIVE if m.is_deactivated else MarketStatus.ACTIVE
    return Lifecycle(
        ticker=parse_ticker(m.market_ticker),
        kind=kind,
        sid=envelope.sid or 0,
        seq=envelope.seq,
        status=status,
        close_time=float(m.close_ts) if m.close_ts else None,
        grid=parse_grid([(r.start, r.end, r.step) for r in m.price_ranges or ()]),
        result=m.result or "",
    )


def _decode_subscribed(envelope: _Envelope) -> StreamEvent:
    m = _subscribed.decode(_body(envelope))
    return Subscribed(envelope.id, m.channel, m.sid)


def _decode_ok(envelope: _Envelope) -> StreamEvent:
    body = _body(envelope)
    tickers: tuple[str, ...] | None = None
    if body and bytes(body).lstrip()[:1] == b"{":  # list_subscriptions answers with an array
        listed = _ok.decode(body).market_tickers
        tickers = tuple(listed) if listed else None
    return Ok(envelope.id, envelope.sid, envelope.seq, tickers)


def _decode_unsubscribed(envelope: _Envelope) -> StreamEvent:
    return Unsubscribed(envelope.id, envelope.sid, envelope.seq)


def _decode_error(envelope: _Envelope) -> StreamEvent:
    m = _error.decode(_body(envelope))
    named = m.market_tickers or ([m.market_ticker] if m.market_ticker else [])
    return ErrorReply(envelope.id, m.code, m.msg, envelope.sid, envelope.seq, tuple(named))


def _enum(kind: Callable[[str], _E], text: str) -> _E:
    try:
        return kind(text)
    except ValueError as exc:
        raise WireError(f"unknown value: {text!r}") from exc


_DECODERS: dict[str, Callable[[_Envelope], StreamEvent]] = {
    "ticker": _decode_ticker,
    "orderbook_snapshot": _decode_snapshot,
    "orderbook_delta": _decode_delta,
    "fill": _decode_fill,
    "user_order": _decode_user_order,
    "market_position": _decode_market_position,
    "market_lifecycle_v2": _decode_lifecycle,
    "subscribed": _decode_subscribed,
    "ok": _decode_ok,
    "unsubscribed": _decode_unsubscribed,
    "error": _decode_error,
}
