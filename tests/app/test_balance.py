"""The account's money: known, too old, or not known at all."""

from __future__ import annotations

from decimal import Decimal

import pytest

from base.app.balance import OLD_AFTER_S, BalanceReads
from base.errors import TransientError
from tests.fakes.clock import FakeClock


class Account:
    def __init__(self) -> None:
        self.dollars = Decimal("100.25")
        self.is_away = False

    def read(self) -> Decimal:
        if self.is_away:
            raise TransientError("away")
        return self.dollars


def test_nothing_is_known_before_the_first_read() -> None:
    assert BalanceReads(Account().read, FakeClock()).available() is None


@pytest.mark.parametrize(("age_s", "is_known"), [(OLD_AFTER_S, True), (OLD_AFTER_S + 0.1, False)])
def test_a_balance_that_cannot_be_read_again_is_known_for_a_while(age_s: float, is_known: bool) -> None:
    account, clock = Account(), FakeClock()
    reads = BalanceReads(account.read, clock)
    assert reads.service.run_guarded()
    account.is_away = True
    clock.advance(age_s)
    assert not reads.service.run_guarded()
    assert reads.available() == (account.dollars if is_known else None)


def test_its_age_counts_from_the_asking() -> None:
    account, clock = Account(), FakeClock()

    def slow() -> Decimal:
        clock.advance(10.0)
        return account.read()

    reads = BalanceReads(slow, clock)
    reads.run_once()
    clock.advance(OLD_AFTER_S - 9.0)
    assert reads.available() is None
