"""Every combination of inputs: active only when nothing speaks against it, halted only by the kill switch."""

from __future__ import annotations

from dataclasses import fields
from itertools import product

import pytest

from base.risk.trading_state import StateInputs, TradingState, next_state

LACKS = "the answers lack yes_bid_dollars (GET /markets: is missing)"
NAMES = [field.name for field in fields(StateInputs)]
VALUES = [("", LACKS) if name == "api_trouble" else (False, True) for name in NAMES]
ALL = [StateInputs(*values) for values in product(*VALUES)]
FINE = StateInputs(reconciled_once=True)


def test_a_process_that_has_just_started_only_reduces() -> None:
    assert next_state(TradingState.REDUCING, StateInputs()).current is TradingState.REDUCING


@pytest.mark.parametrize("previous", list(TradingState))
@pytest.mark.parametrize("inputs", ALL, ids=str)
def test_state_from_inputs(previous: TradingState, inputs: StateInputs) -> None:
    change = next_state(previous, inputs)
    assert (change.current is TradingState.ACTIVE) == (inputs == FINE)
    assert (change.current is TradingState.HALTED) == inputs.kill_switch
    assert change.previous is previous
    assert change.changed == (previous is not change.current)
    assert bool(change.why) == (change.current is not TradingState.ACTIVE)


def test_every_reason_is_named() -> None:
    worst = next_state(TradingState.ACTIVE, StateInputs(False, False, LACKS, *[True] * (len(NAMES) - 3)))
    assert len(worst.why.split("; ")) == len(NAMES)
    assert worst.why.startswith("the kill switch is on")
    assert LACKS in worst.why, "which field, so that nobody has to look for it elsewhere"


def test_exits_go_on_while_reducing_and_entries_only_when_active() -> None:
    assert [state.may_exit for state in TradingState] == [False, True, True]
    assert [state.may_enter for state in TradingState] == [False, False, True]
