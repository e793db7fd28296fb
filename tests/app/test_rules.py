"""Rules are replaced whole or not at all."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from base.app.rules import RulesInForce
from base.errors import ConfigError
from base.model.rules import ExitRule

DEFAULTS = ExitRule(stop_loss_pct=Decimal(25))
TICKER = "KXHIGHNY-26NOV22-T60"


def write(path: Path, stop: str, match: str = "KXHIGHNY-*") -> None:
    path.write_text(f'[[rule]]\nmatch = "{match}"\nstop_loss_price = "{stop}"\n', encoding="utf-8")


def test_a_reload_takes_effect_for_tickers_already_looked_up(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    write(path, "0.40")
    rules = RulesInForce(path, DEFAULTS)
    assert rules.rule_of(TICKER).stop_loss_price == Decimal("0.40")
    write(path, "0.30")
    assert rules.reload()
    assert rules.rule_of(TICKER).stop_loss_price == Decimal("0.30")


@pytest.mark.parametrize("text", ["[[rule]]\nmatch = 5\n", "not toml [", "[[rule]]\nstop_los = '1'\n", None])
def test_a_bad_file_is_refused_whole_and_the_rules_in_force_stay(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "rules.toml"
    write(path, "0.40")
    rules = RulesInForce(path, DEFAULTS)
    if text is None:
        path.unlink()
    else:
        path.write_text(text, encoding="utf-8")
    assert not rules.reload()
    assert rules.rule_of(TICKER).stop_loss_price == Decimal("0.40")
    assert rules.refused


def test_without_a_file_the_defaults_are_in_force() -> None:
    rules = RulesInForce(None, DEFAULTS)
    assert rules.rule_of(TICKER) == DEFAULTS
    assert rules.reload()


def test_a_bad_file_at_the_start_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        RulesInForce(tmp_path / "absent.toml", DEFAULTS)


def test_a_file_with_one_good_table_and_one_bad_one_changes_nothing_and_names_every_problem(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rules.toml"
    write(path, "0.40")
    rules = RulesInForce(path, DEFAULTS)
    path.write_text(
        '[[rule]]\nmatch = "KXHIGHNY-*"\nstop_loss_price = "0.30"\n'
        '[[rule]]\nmatch = "KXBTC-*"\nstop_los_pct = 25\nmax_spread = 0.1\n',
        encoding="utf-8",
    )
    assert not rules.reload()
    assert rules.rule_of(TICKER).stop_loss_price == Decimal("0.40")
    assert rules.rule_of("KXBTC-26NOV22-T1") == DEFAULTS
    assert [problem.partition(": ")[0] for problem in rules.refused] == ["rules.toml:6", "rules.toml:7"]
    write(path, "0.30")
    assert rules.reload()
    assert rules.refused == ()
    assert rules.rule_of(TICKER).stop_loss_price == Decimal("0.30")
