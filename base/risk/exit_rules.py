"""Decide whether one position is left, and say why. Pure: values in, values out.

Everything is in dollars of the held side, so a long NO position is the exact mirror of a long YES one.
What is *not* a price comes first: in 112 of 112 recorded closes the last quote is bid 0 / ask 1 without
sizes, winners included, and a stop that takes that for a price sells every winner at its close.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import ROUND_UP, Decimal

from base.model.market import ONE, ZERO, Market, MarketStatus, OutcomeSide, Quote
from base.model.position import Position
from base.model.rules import Evaluation, Exit, ExitReason, ExitRule, Hold, HoldReason, RuleState
from base.risk.guards import Delay, check_guards
from base.risk.wording import dollars_text, number_text, seconds_text

HUNDRED = Decimal(100)
TAKER_FEE_RATE = Decimal("0.07")
"""Taker fee a contract is rate x P x (1 - P), rounded up to `FEE_STEP` (docs.kalshi.com, fee rounding;
recorded 2026-06-11: 0.0175 for one contract at 0.52). A series' own multiplier is taken as 1.
"""
FEE_STEP = Decimal("0.0001")
HIGHEST_PRICE = Decimal("0.9999")
"""Order prices have four decimals, so none comes nearer to 1."""


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


@dataclass(frozen=True, slots=True)
class Level:
    """One price at which a rule leaves; `basis` says in words where it comes from."""

    reason: ExitReason
    price: Decimal
    basis: str


@dataclass(frozen=True, slots=True)
class Levels:
    """The levels in force: `stops` trigger at or below, in the order in which reasons win."""

    stops: tuple[Level, ...] = ()
    take_profit: Level | None = None

    @property
    def tightest_stop(self) -> Level | None:
        """The stop that a falling price meets first."""
        return max(self.stops, key=lambda level: level.price, default=None)


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

    Staleness is the caller's judgement: `no_price_reason` (`STALE_PRICE`, `NO_PRICE`) wins over the
    quote. A paused or closed market is said first, because no fresh price would help there.
    """
    price = _price(position, quote, market, now_wall, floor, price_age_s, no_price_reason)
    if isinstance(price, ExitValue):
        state = _raise_marks(state, position, rule, price.value)
    to_close_s = None if market.close_time is None else market.close_time - now_wall
    levels = stop_levels(position, rule, state) if rule.protect else Levels()
    is_suspended = (
        rule.no_stop_before_close_s is not None
        and to_close_s is not None
        and to_close_s <= rule.no_stop_before_close_s
    )

    decision: Hold | Exit
    if not rule.protect:
        decision, state = Hold(HoldReason.BY_CHOICE, "the rule says protect = false"), _forget_trigger(state)
    elif not rule.is_armed:
        decision, state = Hold(HoldReason.NO_RULE, "no rule would ever leave it"), _forget_trigger(state)
    elif isinstance(price, Hold):
        # The trigger's clock runs on: a bid that vanishes has not recovered, and a guard that started
        # over after every gap could hold a falling position for ever.
        decision = price
    else:
        decision, state = _decide(
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


def stop_levels(position: Position, rule: ExitRule, state: RuleState) -> Levels:
    """Every level that `rule` puts on this position now, exact.

    A trailing stop appears once its activation gain has been seen, a break-even stop once it is armed.
    Levels that no price can reach (a stop at 0 or less, a take-profit at 1 or more) are left out.
    """
    stops = (
        _stop_loss(position, rule),
        _break_even(position, rule, state),
        _trailing_stop(position, rule, state),
    )
    return Levels(
        stops=tuple(level for level in stops if level is not None and level.price > ZERO),
        take_profit=_take_profit(position, rule),
    )


def can_ever_exit(position: Position, rule: ExitRule) -> bool:
    """Whether `rule` can leave this very position: armed, and with a level that a price can reach.

    `is_armed` looks at the rule alone. A stop of 5 dollars on a position that cost 3, or a trailing
    stop that starts at a gain above 1 dollar, is armed and dead.
    """
    if not rule.protect:
        return False
    if rule.exit_before_close_s is not None or rule.exit_after_entry_s is not None:
        return True
    best_case = _raise_marks(RuleState(), position, rule, HIGHEST_PRICE)
    levels = stop_levels(position, rule, best_case)
    lowest_sale = rule.hold_below_price or ZERO
    return levels.take_profit is not None or any(stop.price >= lowest_sale for stop in levels.stops)


def taker_fee(price: Decimal) -> Decimal:
    """Dollars of fee that taking one contract at `price` costs."""
    return (TAKER_FEE_RATE * price * (ONE - price)).quantize(FEE_STEP, ROUND_UP)


def break_even_price(entry_price: Decimal) -> Decimal:
    """The price at which leaving, after its own taker fee, pays back the entry price."""
    # The fee depends on the price it is added to: settles in two or three rounds, or between two
    # neighboring steps, of which the dearer one pays back.
    fee = ZERO
    for _ in range(8):
        fee_there = taker_fee(min(entry_price + fee, ONE))
        if fee_there == fee:
            break
        fee, before = fee_there, fee
    else:
        fee = max(fee, before)
    return entry_price + fee


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


def _raise_marks(state: RuleState, position: Position, rule: ExitRule, value: Decimal) -> RuleState:
    best = value if state.best_exit_value is None else max(state.best_exit_value, value)
    # Armed only above its own level: at a gain smaller than the fee it would fire at once, at a loss.
    armed = (
        rule.break_even_after_pct is not None
        and best >= _gained(position.entry_price, rule.break_even_after_pct)
        and best > break_even_price(position.entry_price)
    )
    if best == state.best_exit_value and armed == state.break_even_armed:
        return state
    return replace(state, best_exit_value=best, break_even_armed=armed)


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
) -> tuple[Hold | Exit, RuleState]:
    crossed_stop = next((stop for stop in levels.stops if price.value <= stop.price), None)
    trigger = None if is_suspended else crossed_stop
    if trigger is None and levels.take_profit is not None and price.value >= levels.take_profit.price:
        trigger = levels.take_profit

    leave: Exit | None = None
    delay: Delay | None = None
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
        if isinstance(verdict, Delay):
            delay = verdict
        else:
            detail = _triggered_text(trigger, price.value)
            detail = f"{detail}; {verdict.detail}" if verdict.detail else detail
            leave = Exit(trigger.reason, price.value, trigger.price, detail)
    if leave is None:
        # No guard stands before a time stop: no wick moves a clock, and waiting could reach the close.
        leave = _time_stop(position, rule, price.value, to_close_s, now_wall)

    if leave is None:
        return _hold(price.value, levels, trigger, delay, crossed_stop), state
    if rule.hold_below_price is not None and price.value < rule.hold_below_price:
        held = f"{leave.detail}, but not sold below {dollars_text(rule.hold_below_price)}"
        return Hold(HoldReason.HOLD_BELOW, held), state
    return leave, state


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


def _gained(price: Decimal, pct: Decimal) -> Decimal:
    return price * (HUNDRED + pct) / HUNDRED


def _stop_loss(position: Position, rule: ExitRule) -> Level | None:
    # A rule names one kind; should it name several, the tightest counts.
    entry = position.entry_price
    found: list[Level] = []
    if rule.stop_loss_price is not None:
        found.append(Level(ExitReason.STOP_LOSS, rule.stop_loss_price, "set by the rule"))
    if rule.stop_loss_pct is not None:
        price = _gained(entry, -rule.stop_loss_pct)
        basis = f"{number_text(rule.stop_loss_pct)} % under entry {dollars_text(entry)}"
        found.append(Level(ExitReason.STOP_LOSS, price, basis))
    if rule.stop_loss_dollars is not None:
        price = entry - rule.stop_loss_dollars / position.count
        held = f"{number_text(position.count)} from {dollars_text(entry)}"
        basis = f"loss of {dollars_text(rule.stop_loss_dollars)} dollars on {held}"
        found.append(Level(ExitReason.STOP_LOSS, price, basis))
    return max(found, key=lambda level: level.price, default=None)


def _break_even(position: Position, rule: ExitRule, state: RuleState) -> Level | None:
    if rule.break_even_after_pct is None or not state.break_even_armed:
        return None
    price = break_even_price(position.entry_price)
    fee = price - position.entry_price
    basis = f"entry {dollars_text(position.entry_price)} plus exit fee {dollars_text(fee)}"
    return Level(ExitReason.BREAK_EVEN, price, basis)


def _trailing_stop(position: Position, rule: ExitRule, state: RuleState) -> Level | None:
    best = state.best_exit_value
    if best is None:
        return None
    if rule.trailing_activation_pct is not None and best < _gained(
        position.entry_price, rule.trailing_activation_pct
    ):
        return None
    found: list[Level] = []
    if rule.trailing_stop_pct is not None:
        basis = f"{number_text(rule.trailing_stop_pct)} % under the best bid {dollars_text(best)}"
        found.append(Level(ExitReason.TRAILING_STOP, _gained(best, -rule.trailing_stop_pct), basis))
    if rule.trailing_stop_price is not None:
        basis = f"{dollars_text(rule.trailing_stop_price)} under the best bid {dollars_text(best)}"
        found.append(Level(ExitReason.TRAILING_STOP, best - rule.trailing_stop_price, basis))
    return max(found, key=lambda level: level.price, default=None)


def _take_profit(position: Position, rule: ExitRule) -> Level | None:
    found: list[Level] = []
    if rule.take_profit_price is not None:
        found.append(Level(ExitReason.TAKE_PROFIT, rule.take_profit_price, "set by the rule"))
    if rule.take_profit_pct is not None:
        price = _gained(position.entry_price, rule.take_profit_pct)
        basis = f"{number_text(rule.take_profit_pct)} % over entry {dollars_text(position.entry_price)}"
        found.append(Level(ExitReason.TAKE_PROFIT, price, basis))
    first = min(found, key=lambda level: level.price, default=None)
    return None if first is None or first.price >= ONE else first


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
