"""Decide whether one position is left, and say why. Pure: values in, values out.

Everything is in dollars of the held side, so a long NO position is the exact mirror of a long YES one.
What is *not* a price comes first: in 112 of 112 recorded closes the last quote is bid 0 / ask 1 without
sizes, winners included, and a stop that takes that for a price sells every winner at its close.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

from base.model.market import ONE, ZERO, Market, MarketStatus, OutcomeSide, Quote
from base.model.position import Position
from base.model.rules import Evaluation, Exit, ExitReason, ExitRule, Hold, HoldReason, RuleState
from base.risk.guards import Delay, check_guards, note_fall
from base.risk.levels import (
    Level,
    Levels,
    raise_marks,
    stop_levels,
)
from base.risk.wording import dollars_text, number_text, seconds_text


@dataclass(frozen=True, slots=True)
class ExitValue:
    """A price to act on: what the book pays for one contract of the held side.

    `size` is contracts at that price, None when the source does not tell; `spread` is None when nobody
    offers the held side. `quoted_at` is the quote's `received_monotonic`, its identity for the guards.
    """

    value: Decimal
    size: Decimal | None
    spread: Decimal | None
    quoted_at: float


def evaluate(
    position: Position,
    quote: Quote | None,
    market: Market,
    rule: ExitRule,
    state: RuleState,
    *,
    now_wall: float,
    now_monotonic: float,
    floor: Decimal,
    price_age_s: float | None,
    no_price_reason: HoldReason | None = None,
) -> Evaluation:
    """Look at one position once: the verdict, why, and the state to hand in next time.

    Of several reasons that may leave at once the first in the order of `ExitReason` wins.

    Staleness is the caller's judgement: `no_price_reason` (`STALE_PRICE`, `NO_PRICE`) wins over the
    quote. A paused or closed market is said first, because no fresh price would help there.
    """
    price = _price(position, quote, market, now_wall, floor, price_age_s, no_price_reason)
    if isinstance(price, ExitValue):
        state = raise_marks(state, position, rule, price.value)
        state = note_fall(rule, state, price.value, now_monotonic)
    to_close_s = None if market.close_time is None else market.close_time - now_wall
    levels = stop_levels(position, rule, state) if rule.protect else Levels()
    is_suspended = (
        rule.no_stop_before_close_s is not None
        and to_close_s is not None
        and to_close_s <= rule.no_stop_before_close_s
    )

    guards = ""
    decision: Hold | Exit
    if (kept := _kept_by_rule(rule, state)) is not None:
        decision, state = kept, _forget_trigger(state)
    elif isinstance(price, Hold):
        # The trigger's clock runs on: a bid that vanishes has not recovered, and a guard that started
        # over after every gap could hold a falling position for ever.
        decision = price
    else:
        decision, state, guards = _decide(
            position, price, rule, state, levels, is_suspended, to_close_s, now_wall, now_monotonic
        )

    stop = None if is_suspended else levels.tightest_stop
    return Evaluation(
        ticker=position.ticker,
        decision=decision,
        state=state,
        exit_value=price.value if isinstance(price, ExitValue) else None,
        bid_size=price.size if isinstance(price, ExitValue) else None,
        stop_price=None if stop is None else stop.price,
        take_profit_price=None if levels.take_profit is None else levels.take_profit.price,
        price_age_s=price_age_s,
        price_source="none" if quote is None else quote.source.value,
        at=now_wall,
        stop_basis="" if stop is None else f"{_NAMES[stop.reason]}, {stop.basis}",
        take_profit_basis="" if levels.take_profit is None else levels.take_profit.basis,
        guards=guards,
    )


def price_to_act_on(
    quote: Quote | None, side: OutcomeSide, market: Market, now_wall: float, *, floor: Decimal
) -> ExitValue | Hold:
    """What a position of `side` would fetch now, or why there is no price to act on.

    Only the side that the position sells into must be real: a YES bid with size is a price whatever
    the ask says. An active market with an empty book was recorded as bid 0 *and* ask 0.
    """
    if (closed := _market_hold(market, now_wall)) is not None:
        return closed
    if quote is None:
        return Hold(HoldReason.NO_PRICE, "no price has been received yet")
    numbers = (quote.yes_bid, quote.yes_ask, quote.yes_bid_size, quote.yes_ask_size)
    # A NaN or a price outside 0..1 would make every comparison below a lie.
    if not all(n is None or n.is_finite() for n in numbers) or not (
        ZERO <= quote.yes_bid <= ONE and ZERO <= quote.yes_ask <= ONE
    ):
        return Hold(HoldReason.NO_PRICE, f"impossible quote: bid {quote.yes_bid}, ask {quote.yes_ask}")

    bid, bid_size = quote.best_bid(side), quote.bid_size(side)
    ask, ask_size = quote.best_ask(side), quote.ask_size(side)
    if not _is_real(bid, bid_size):
        size = "unknown" if bid_size is None else number_text(bid_size)
        return Hold(HoldReason.NO_BID, f"nobody bids (bid {dollars_text(bid)}, size {size})")
    is_offered = _is_real(ask, ask_size)
    if is_offered and bid >= ask:
        return Hold(HoldReason.CROSSED, f"crossed book: bid {dollars_text(bid)}, ask {dollars_text(ask)}")
    if bid < floor:
        return Hold(HoldReason.BELOW_FLOOR, f"bid {dollars_text(bid)} below floor {dollars_text(floor)}")
    return ExitValue(bid, bid_size, ask - bid if is_offered else None, quote.received_monotonic)


_MARKET_HOLDS: dict[MarketStatus, tuple[HoldReason, str]] = {
    MarketStatus.INACTIVE: (HoldReason.PAUSED, "the market is paused"),
    MarketStatus.UNKNOWN: (HoldReason.NOT_OPEN, "the exchange has not said that the market is open"),
    MarketStatus.INITIALIZED: (HoldReason.NOT_OPEN, "the market has not opened"),
}


def _market_hold(market: Market, now_wall: float) -> Hold | None:
    status = market.status_at(now_wall)
    if status is MarketStatus.ACTIVE:
        return None
    why, detail = _MARKET_HOLDS.get(status, (HoldReason.CLOSED, f"the market is {status}"))
    return Hold(why, detail)


def _is_real(price: Decimal, size: Decimal | None) -> bool:
    # 0 and 1 are how an empty side is written, on whichever side they stand; no order can carry them.
    return ZERO < price < ONE and (size is None or size > ZERO)


def _price(
    position: Position,
    quote: Quote | None,
    market: Market,
    now_wall: float,
    floor: Decimal,
    price_age_s: float | None,
    no_price_reason: HoldReason | None,
) -> ExitValue | Hold:
    if no_price_reason is None:
        return price_to_act_on(quote, position.outcome_side, market, now_wall, floor=floor)
    age = "no price" if price_age_s is None else f"last price {seconds_text(price_age_s)} old"
    return _market_hold(market, now_wall) or Hold(no_price_reason, age)


def _kept_by_rule(rule: ExitRule, state: RuleState) -> Hold | None:
    """Why no price at all would leave this position, None when some would."""
    if not rule.protect:
        return Hold(HoldReason.BY_CHOICE, "the rule says protect = false")
    if rule.hedged:
        return Hold(HoldReason.HEDGED, "part of a set that cannot lose while all of it is held")
    if not rule.is_armed and not _goes_with_event(rule, state):
        return Hold(HoldReason.NO_RULE, "no rule would ever leave it")
    return None


def _goes_with_event(rule: ExitRule, state: RuleState) -> bool:
    return rule.exit_with_event and state.leave_with != ""


def _decide(
    position: Position,
    price: ExitValue,
    rule: ExitRule,
    state: RuleState,
    levels: Levels,
    is_suspended: bool,
    to_close_s: float | None,
    now_wall: float,
    now_monotonic: float,
) -> tuple[Hold | Exit, RuleState, str]:
    """The verdict, the state, and what the guards said."""
    crossed_stop = next((stop for stop in levels.stops if price.value <= stop.price), None)
    trigger = None if is_suspended else crossed_stop
    if trigger is None and levels.take_profit is not None and price.value >= levels.take_profit.price:
        trigger = levels.take_profit

    at_level: Exit | None = None
    delay: Delay | None = None
    guards = ""
    if trigger is None:
        state = _forget_trigger(state)
    else:
        state = _count_trigger(state, price, now_monotonic)
        verdict = check_guards(
            rule,
            state,
            spread=price.spread,
            bid_size=price.size,
            now_monotonic=now_monotonic,
            to_close_s=to_close_s,
        )
        guards = f"waiting: {verdict.detail}" if isinstance(verdict, Delay) else verdict.detail or "passed"
        if isinstance(verdict, Delay):
            delay = verdict
        else:
            detail = _triggered_text(trigger, price.value)
            detail = f"{detail}; {verdict.detail}" if verdict.detail else detail
            at_level = Exit(trigger.reason, price.value, trigger.price, detail)
    # No guard stands before the others: no wick moves a clock, and waiting could reach the close.
    leave = min(
        _exits(at_level, _time_stop(position, rule, price.value, to_close_s, now_wall), rule, state, price),
        key=lambda each: _ORDER[each.reason],
        default=None,
    )

    if leave is None:
        return _hold(price.value, levels, trigger, delay, crossed_stop), state, guards
    if rule.hold_below_price is not None and price.value < rule.hold_below_price:
        held = f"{leave.detail}, but not sold below {dollars_text(rule.hold_below_price)}"
        return Hold(HoldReason.HOLD_BELOW, held), state, guards
    return leave, state, guards


def _exits(
    at_level: Exit | None, time_stop: Exit | None, rule: ExitRule, state: RuleState, price: ExitValue
) -> Iterator[Exit]:
    """Everything that leaves now, in no order."""
    if at_level is not None:
        yield at_level
    if time_stop is not None:
        yield time_stop
    if _goes_with_event(rule, state):
        yield Exit(ExitReason.EVENT_GROUP, price.value, None, state.leave_with)


def _hold(
    value: Decimal, levels: Levels, trigger: Level | None, delay: Delay | None, crossed_stop: Level | None
) -> Hold:
    if trigger is not None and delay is not None:
        return Hold(HoldReason.GUARDED, f"{_triggered_text(trigger, value)}; waiting: {delay.detail}")
    if crossed_stop is not None:
        text = f"{_triggered_text(crossed_stop, value)}, but stops rest so near the close"
        return Hold(HoldReason.NO_STOP_NEAR_CLOSE, text)
    parts = [f"bid {dollars_text(value)}"]
    for level in (levels.tightest_stop, levels.take_profit):
        if level is not None:
            parts.append(f"{_NAMES[level.reason]} {dollars_text(level.price)} ({level.basis})")
    return Hold(HoldReason.WITHIN_RULES, ", ".join(parts))


def _time_stop(
    position: Position, rule: ExitRule, value: Decimal, to_close_s: float | None, now_wall: float
) -> Exit | None:
    limit_s = rule.exit_before_close_s
    if limit_s is not None and to_close_s is not None and to_close_s <= limit_s:
        detail = f"{seconds_text(to_close_s)} to the close, the rule leaves {seconds_text(limit_s)} before"
        return Exit(ExitReason.TIME_STOP, value, None, detail)
    limit_s = rule.exit_after_entry_s
    if limit_s is not None and position.opened_at is not None and now_wall - position.opened_at >= limit_s:
        held = seconds_text(now_wall - position.opened_at)
        detail = f"held for {held}, the rule leaves after {seconds_text(limit_s)}"
        return Exit(ExitReason.TIME_STOP, value, None, detail)
    return None


def _count_trigger(state: RuleState, price: ExitValue, now_monotonic: float) -> RuleState:
    if state.triggered_at is None:
        return replace(state, triggered_at=now_monotonic, triggered_updates=1, last_quote_at=price.quoted_at)
    if price.quoted_at == state.last_quote_at:
        return state
    return replace(state, triggered_updates=state.triggered_updates + 1, last_quote_at=price.quoted_at)


def _forget_trigger(state: RuleState) -> RuleState:
    if state.triggered_at is None:
        return state
    return replace(state, triggered_at=None, triggered_updates=0, last_quote_at=None)


_ORDER: dict[ExitReason, int] = {reason: place for place, reason in enumerate(ExitReason)}
_NAMES: dict[ExitReason, str] = {
    ExitReason.STOP_LOSS: "stop",
    ExitReason.BREAK_EVEN: "break-even stop",
    ExitReason.TRAILING_STOP: "trailing stop",
    ExitReason.TAKE_PROFIT: "take-profit",
}


def _triggered_text(level: Level, value: Decimal) -> str:
    how = "at or above" if level.reason is ExitReason.TAKE_PROFIT else "at or below"
    return (
        f"bid {dollars_text(value)} {how} {_NAMES[level.reason]} {dollars_text(level.price)} ({level.basis})"
    )
