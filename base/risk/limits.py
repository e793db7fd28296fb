"""Pre-trade limits on entries. Pure. Exits never come here: an exit only reduces what these protect."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from base.model.market import ONE, ZERO, OutcomeSide, Quote
from base.risk.levels import taker_fee
from base.risk.trading_state import TradingState
from base.risk.wording import dollars_text, seconds_text

RATE_WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that entries may risk, in dollars (`MAX_*_DOLLARS`), and where and how often they may go."""

    max_order_cost: Decimal
    max_position_cost: Decimal
    max_total_exposure: Decimal
    max_daily_loss: Decimal
    max_event_cost: Decimal = Decimal(400)
    collar: Decimal = Decimal("0.10")
    """A limit price may be so many dollars above what the book shows (`ENTRY_COLLAR_DOLLARS`)."""
    entries_per_minute: int = 30
    """Orders and amends sent (`MAX_ENTRIES_PER_MINUTE`)."""
    min_time_left_s: float = 300.0
    """A market must trade at least so much longer (`ENTRY_MIN_TIME_LEFT_S`)."""


class DenialCode(StrEnum):
    """Why an entry was denied before it was sent."""

    TRADING_STATE = "trading_state"
    BAD_AMOUNT = "bad_amount"
    """An amount that is not a number, or a cost of 0 or less: nothing can be judged by it."""
    ORDER_COST = "order_cost"
    POSITION_COST = "position_cost"
    EVENT_COST = "event_cost"
    TOTAL_EXPOSURE = "total_exposure"
    DAILY_LOSS = "daily_loss"
    COLLAR = "collar"
    ORDER_RATE = "order_rate"
    TIME_LEFT = "time_left"


@dataclass(frozen=True, slots=True)
class Approved:
    """The entry may be reserved and sent."""

    ticker: str
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Denied:
    """The entry is not sent; `detail` names the limit to change if it should have been."""

    ticker: str
    code: DenialCode
    detail: str


def entry_cost(count: Decimal, price: Decimal) -> Decimal:
    """The most that buying `count` contracts at `price` or better can cost, the fee of taking included.

    A better price has the larger fee at times, and never the larger sum of both.
    """
    return count * (price + taker_fee(price))


def check_entry(
    *,
    cost: Decimal,
    ticker: str,
    position_cost: Decimal,
    reserved_ticker: Decimal,
    total_exposure: Decimal,
    reserved_total: Decimal,
    realized_today: Decimal,
    trading_state: TradingState,
    limits: Limits,
    event_cost: Decimal,
    reserved_event: Decimal,
    sent_last_minute: int,
    time_left_s: float | None,
    order_cost: Decimal | None = None,
) -> Approved | Denied:
    """Judge one entry of `cost` dollars against what is held and reserved already.

    `position_cost`, `event_cost` and `total_exposure` are what is held, `reserved_*` what entries under
    way may add; the caller holds its lock from this check to the reservation, or two entries fit into one
    gap. `time_left_s` is how long the market can still be traded, None when nobody knows. `order_cost`
    is what the whole order costs where `cost` is only what an amend adds to it.
    """

    def denied(code: DenialCode, detail: str) -> Denied:
        return Denied(ticker, code, f"entry in {ticker} for {detail}")

    if not trading_state.may_enter:
        return denied(
            DenialCode.TRADING_STATE,
            f"any cost: the bot is {trading_state}, entries are off (event=trading_state says why)",
        )
    whole = cost if order_cost is None else order_cost
    held = (position_cost, reserved_ticker, event_cost, reserved_event, total_exposure, reserved_total)
    amounts = (cost, whole, *held, realized_today)
    if not all(amount.is_finite() for amount in amounts) or cost <= ZERO or min(held) < ZERO:
        return denied(DenialCode.BAD_AMOUNT, f"{cost}: the cost and all that is held must be known numbers")
    if is_daily_loss_hit(realized_today, limits):
        lost, limit = dollars_text(-realized_today), dollars_text(limits.max_daily_loss)
        return denied(
            DenialCode.DAILY_LOSS,
            f"any cost: lost {lost} today, MAX_DAILY_LOSS_DOLLARS is {limit}",
        )
    if sent_last_minute >= limits.entries_per_minute:
        return denied(
            DenialCode.ORDER_RATE,
            f"any cost: {sent_last_minute} sent in the last minute, "
            f"MAX_ENTRIES_PER_MINUTE is {limits.entries_per_minute}",
        )
    # Written so that an unknown time, NaN included, is too short.
    if time_left_s is None or not time_left_s >= limits.min_time_left_s:
        is_known = time_left_s is not None and math.isfinite(time_left_s)
        left = seconds_text(round(time_left_s or 0.0)) if is_known else "an unknown time"
        return denied(
            DenialCode.TIME_LEFT,
            f"any cost: it trades for {left} more, "
            f"ENTRY_MIN_TIME_LEFT_S is {seconds_text(limits.min_time_left_s)}",
        )
    in_market = position_cost + reserved_ticker + cost
    in_event = event_cost + reserved_event + cost
    in_all = total_exposure + reserved_total + cost
    for code, amount, limit_dollars, name in (
        (DenialCode.ORDER_COST, whole, limits.max_order_cost, "MAX_ORDER_COST_DOLLARS"),
        (DenialCode.POSITION_COST, in_market, limits.max_position_cost, "MAX_POSITION_COST_DOLLARS"),
        (DenialCode.EVENT_COST, in_event, limits.max_event_cost, "MAX_EVENT_COST_DOLLARS"),
        (DenialCode.TOTAL_EXPOSURE, in_all, limits.max_total_exposure, "MAX_TOTAL_EXPOSURE_DOLLARS"),
    ):
        if amount > limit_dollars:
            makes = "" if amount == cost else f" makes {dollars_text(amount)}"
            return denied(
                code, f"{dollars_text(cost)}{makes} with fees, {name} is {dollars_text(limit_dollars)}"
            )
    return Approved(ticker, cost)


def check_price(
    *, ticker: str, price: Decimal, side: OutcomeSide, quote: Quote, only_rests: bool, limits: Limits
) -> Denied | None:
    """Judge a limit price against the book; None when it is within the collar.

    Where nobody offers, only an order that cannot take (`only_rests`) may go, near the best bid: any
    other would take whatever is offered next, at any price.
    """

    def denied(detail: str) -> Denied:
        limit = dollars_text(limits.collar)
        return Denied(
            ticker,
            DenialCode.COLLAR,
            f"entry in {ticker} at {price}: {detail}, ENTRY_COLLAR_DOLLARS is {limit}",
        )

    bid, ask = quote.best_bid(side), quote.best_ask(side)
    if not all(p.is_finite() for p in (price, bid, ask)):
        return denied("the book is not made of numbers")
    if bid >= ask:
        return denied(f"bid {dollars_text(bid)} and ask {dollars_text(ask)} are crossed")
    is_offered = ask < ONE and quote.ask_size(side) != ZERO
    if not is_offered and not only_rests:
        return denied(f"nobody offers {side.value}, so only a post-only order may go")
    is_bid = bid > ZERO and quote.bid_size(side) != ZERO
    reference, word = (ask, "ask") if is_offered else (bid if is_bid else ZERO, "bid")
    if price - reference > limits.collar:
        return denied(f"{dollars_text(price - reference)} above the best {word} {dollars_text(reference)}")
    return None


def is_daily_loss_hit(realized_today: Decimal, limits: Limits) -> bool:
    """Whether today's realized result (losses below 0) has reached the limit; an unknown result has."""
    return not realized_today.is_finite() or -realized_today >= limits.max_daily_loss
