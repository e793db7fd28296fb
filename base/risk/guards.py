"""Guards against thin books: each may delay an exit, none may prevent it.

46 to 71 % of the recorded one-update drops of 5 cents or more are back within 5 s, but most large falls
are real. By value a position (`tests/benchmarks/guard_values.py`) no guard is worth its delay on each of
the recorded tapes: on the liquid market they cost up to two cents, on thin ones only patience of 30 s gains
one or two. So all are off until a rule asks for them, and all guards of a position share one time box that
starts with the trigger, `guard_patience_ms` long, after which the exit goes through whatever they say. A
guard that never gives way is a disabled stop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

from base.model.rules import ExitRule, RuleState
from base.risk.wording import dollars_text, number_text, seconds_text

CLOSE_MARGIN_S = 3.0
"""No guard delays an exit in a market's last seconds: a delay that reaches the close would be a refusal.

More than one full sweep of the checker (2 s), so that there is an evaluation left to act in.
"""


@dataclass(frozen=True, slots=True)
class Pass:
    """The exit may go. `detail` names the guards that were overruled by the time box, "" when none was."""

    detail: str = ""


@dataclass(frozen=True, slots=True)
class Delay:
    """The exit waits; `detail` says for what."""

    detail: str


Verdict = Pass | Delay


def check_guards(
    rule: ExitRule,
    state: RuleState,
    *,
    spread: Decimal | None,
    bid_size: Decimal | None,
    now_monotonic: float,
    to_close_s: float | None,
) -> Verdict:
    """Ask every guard about a triggered exit, inside the one time box.

    `spread` and `bid_size` are of the held side: spread None means that nobody offers, size None that
    the source does not tell it. `state` is the state with the present trigger already counted.
    """
    delays = [
        verdict.detail
        for verdict in (
            check_updates(rule, state),
            check_time(rule, state, now_monotonic),
            check_spread(rule, spread),
            check_bid_size(rule, bid_size),
            check_wick(rule, state, now_monotonic),
        )
        if isinstance(verdict, Delay)
    ]
    if not delays:
        return Pass()
    waited_ms = _triggered_for_ms(state, now_monotonic)
    if waited_ms >= rule.guard_patience_ms:
        return Pass(f"guards overruled after {seconds_text(waited_ms / 1000)}: {'; '.join(delays)}")
    if to_close_s is not None and to_close_s <= CLOSE_MARGIN_S:
        return Pass(f"guards overruled {seconds_text(to_close_s)} before the close: {'; '.join(delays)}")
    return Delay("; ".join(delays))


def check_updates(rule: ExitRule, state: RuleState) -> Verdict:
    """Want `confirm_updates` distinct quotes that all say so."""
    if state.triggered_updates >= rule.confirm_updates:
        return Pass()
    return Delay(f"seen in {state.triggered_updates} of {rule.confirm_updates} updates")


def check_time(rule: ExitRule, state: RuleState, now_monotonic: float) -> Verdict:
    """Want the trigger to have lasted `confirm_ms`."""
    held_ms = _triggered_for_ms(state, now_monotonic)
    if held_ms >= rule.confirm_ms:
        return Pass()
    return Delay(f"triggered for {held_ms} of {rule.confirm_ms} ms")


def check_spread(rule: ExitRule, spread: Decimal | None) -> Verdict:
    """Want a spread of at most `max_spread`; an empty other side is as wide as can be."""
    if rule.max_spread is None or (spread is not None and spread <= rule.max_spread):
        return Pass()
    seen = "nobody offers, spread unknown" if spread is None else f"spread {dollars_text(spread)}"
    return Delay(f"{seen}, limit {dollars_text(rule.max_spread)}")


def check_bid_size(rule: ExitRule, bid_size: Decimal | None) -> Verdict:
    """Want `min_bid_size` contracts at the best bid; an untold size cannot be judged and passes."""
    if rule.min_bid_size is None or bid_size is None or bid_size >= rule.min_bid_size:
        return Pass()
    return Delay(f"bid for {number_text(bid_size)} contracts, wanted {number_text(rule.min_bid_size)}")


def check_wick(rule: ExitRule, state: RuleState, now_monotonic: float) -> Verdict:
    """Give a sudden fall `wick_wait_ms` to come back; a bid back above the level ends the trigger itself."""
    if rule.wick_drop is None or state.fell_at is None:
        return Pass()
    waited_ms = round((now_monotonic - state.fell_at) * 1000)
    if waited_ms >= rule.wick_wait_ms:
        return Pass()
    return Delay(f"sudden fall {waited_ms} of {rule.wick_wait_ms} ms ago")


def note_fall(rule: ExitRule, state: RuleState, value: Decimal, now_monotonic: float) -> RuleState:
    """Remember a price, and when it is a sudden fall, that it fell; before the trigger is judged by it.

    The price before a gap counts as the one before it. While a trigger stands a further fall is no reason
    to wait longer: a collapse comes in steps.
    """
    if rule.wick_drop is None:
        return state
    before = state.last_value
    fell = before is not None and before - value >= rule.wick_drop and state.triggered_at is None
    if value == before:
        return state
    return replace(state, last_value=value, fell_at=now_monotonic if fell else state.fell_at)


def _triggered_for_ms(state: RuleState, now_monotonic: float) -> int:
    # Rounded: 10.0 s computed from floats may come out as 9.999999999.
    return 0 if state.triggered_at is None else round((now_monotonic - state.triggered_at) * 1000)
