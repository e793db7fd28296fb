"""Pre-trade limits on entries. Pure. Exits never come here: an exit only reduces what these protect."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from base.model.market import ZERO
from base.risk.trading_state import TradingState
from base.risk.wording import dollars_text


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that entries may risk, in dollars (`MAX_*_DOLLARS`)."""

    max_order_cost: Decimal
    max_position_cost: Decimal
    max_total_exposure: Decimal
    max_daily_loss: Decimal


class DenialCode(StrEnum):
    """Why an entry was denied before it was sent."""

    TRADING_STATE = "trading_state"
    BAD_AMOUNT = "bad_amount"
    """An amount that is not a number, or a cost of 0 or less: nothing can be judged by it."""
    ORDER_COST = "order_cost"
    POSITION_COST = "position_cost"
    TOTAL_EXPOSURE = "total_exposure"
    DAILY_LOSS = "daily_loss"


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
) -> Approved | Denied:
    """Judge one entry of `cost` dollars against what is held and reserved already.

    `position_cost` and `total_exposure` are what is held, `reserved_*` what entries under way may add;
    the caller holds its lock from this check to the reservation, or two entries fit into one gap.
    """

    def denied(code: DenialCode, detail: str) -> Denied:
        return Denied(ticker, code, f"entry in {ticker} for {detail}")

    if not trading_state.may_enter:
        return denied(DenialCode.TRADING_STATE, f"any cost: the bot is {trading_state}, entries are off")
    amounts = (cost, position_cost, reserved_ticker, total_exposure, reserved_total, realized_today)
    if not all(amount.is_finite() for amount in amounts) or cost <= ZERO:
        return denied(DenialCode.BAD_AMOUNT, f"{cost}: the cost and all that is held must be known numbers")
    if is_daily_loss_hit(realized_today, limits):
        lost, limit = dollars_text(-realized_today), dollars_text(limits.max_daily_loss)
        return denied(
            DenialCode.DAILY_LOSS,
            f"any cost: lost {lost} today, MAX_DAILY_LOSS_DOLLARS is {limit}",
        )
    in_market = position_cost + reserved_ticker + cost
    in_all = total_exposure + reserved_total + cost
    for code, amount, limit_dollars, name in (
        (DenialCode.ORDER_COST, cost, limits.max_order_cost, "MAX_ORDER_COST_DOLLARS"),
        (DenialCode.POSITION_COST, in_market, limits.max_position_cost, "MAX_POSITION_COST_DOLLARS"),
        (DenialCode.TOTAL_EXPOSURE, in_all, limits.max_total_exposure, "MAX_TOTAL_EXPOSURE_DOLLARS"),
    ):
        if amount > limit_dollars:
            makes = "" if code is DenialCode.ORDER_COST else f" makes {dollars_text(amount)}"
            return denied(code, f"{dollars_text(cost)}{makes}, {name} is {dollars_text(limit_dollars)}")
    return Approved(ticker, cost)


def is_daily_loss_hit(realized_today: Decimal, limits: Limits) -> bool:
    """Whether today's realized result (losses below 0) has reached the limit; an unknown result has."""
    return not realized_today.is_finite() or -realized_today >= limits.max_daily_loss
