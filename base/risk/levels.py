"""At which prices a rule leaves a position. Pure: values in, values out.

Everything is exact dollars of the held side; what a level pays back is counted with the exchange's fees.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

from base.model import fees
from base.model.market import ONE, ZERO
from base.model.position import Position
from base.model.rules import ExitReason, ExitRule, RuleState
from base.risk.wording import dollars_text, number_text

HUNDRED = Decimal(100)
HIGHEST_PRICE = Decimal("0.9999")
"""Order prices have four decimals, so none comes nearer to 1."""


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
    if not rule.protect or rule.hedged:
        return False
    if rule.exit_before_close_s is not None or rule.exit_after_entry_s is not None:
        return True
    best_case = raise_marks(RuleState(), position, rule, HIGHEST_PRICE)
    levels = stop_levels(position, rule, best_case)
    lowest_sale = rule.hold_below_price or ZERO
    return levels.take_profit is not None or any(stop.price >= lowest_sale for stop in levels.stops)


def taker_fee(price: Decimal) -> Decimal:
    """Dollars of fee that taking one contract at `price` costs."""
    return fees.taker_fee(ONE, price)


def entry_fee(position: Position) -> Decimal:
    """Dollars of fee that buying one contract of this position has cost.

    What the exchange tells counts the market's whole life, earlier positions and partial exits included:
    more than one entry can cost is not of this one.
    """
    if position.fees_paid <= ZERO:
        return ZERO
    return min(position.fees_paid / position.count, taker_fee(position.entry_price))


def break_even_price(entry_price: Decimal, entry_fee: Decimal = ZERO) -> Decimal:
    """The price at which leaving, after its own taker fee, pays back the entry and its fee."""
    # The fee depends on the price it is added to: settles in two or three rounds, or between two
    # neighboring steps, of which the dearer one pays back.
    cost = entry_price + entry_fee
    fee = ZERO
    for _ in range(8):
        fee_there = taker_fee(min(cost + fee, ONE))
        if fee_there == fee:
            break
        fee, before = fee_there, fee
    else:
        fee = max(fee, before)
    return cost + fee


def raise_marks(state: RuleState, position: Position, rule: ExitRule, value: Decimal) -> RuleState:
    best = value if state.best_exit_value is None else max(state.best_exit_value, value)
    gain = _after_gain(position, rule.break_even_after_pct, rule.break_even_after_price)
    # Armed only above its own level: at a gain smaller than the fees it would fire at once, at a loss.
    armed = gain is not None and best >= gain and best > _pays_back(position)
    if best == state.best_exit_value and armed == state.break_even_armed:
        return state
    return replace(state, best_exit_value=best, break_even_armed=armed)


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
    is_wanted = rule.break_even_after_pct is not None or rule.break_even_after_price is not None
    if not is_wanted or not state.break_even_armed:
        return None
    price = _pays_back(position)
    above = price - position.entry_price
    basis = f"entry {dollars_text(position.entry_price)} plus fees {dollars_text(above)}"
    return Level(ExitReason.BREAK_EVEN, price, basis)


def _pays_back(position: Position) -> Decimal:
    return break_even_price(position.entry_price, entry_fee(position))


def _after_gain(position: Position, pct: Decimal | None, dollars: Decimal | None) -> Decimal | None:
    """The price at which the gain is reached that a rule names, None when it names none."""
    # A rule names one kind; should it name both, the later one counts.
    prices = []
    if pct is not None:
        prices.append(_gained(position.entry_price, pct))
    if dollars is not None:
        prices.append(position.entry_price + dollars)
    return max(prices, default=None)


def _trailing_stop(position: Position, rule: ExitRule, state: RuleState) -> Level | None:
    best = state.best_exit_value
    start = _after_gain(position, rule.trailing_activation_pct, rule.trailing_activation_price)
    if best is None or (start is not None and best < start):
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
