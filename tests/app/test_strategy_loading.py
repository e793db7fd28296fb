"""Which strategies are loaded, and what is said of those that cannot be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from base.app.strategy_loading import STRATEGIES, StrategyError, check_strategy_name, load_strategy
from base.errors import ConfigError
from base.strategy.guard import Guard
from base.strategy.value import Value

CUSTOM = """
from base.errors import ConfigError

class Mine:
    def __init__(self, settings):
        self.settings = settings
    def decide(self, view):
        return []

class Undecided:
    def __init__(self, settings):
        pass

class Broken:
    def __init__(self, settings):
        raise ZeroDivisionError("in the user's own code")

class Leaving:
    def __init__(self, settings):
        raise SystemExit(7)

class MuteError(Exception):
    def __str__(self):
        raise SystemExit(3)

class Mute:
    def __init__(self, settings):
        raise MuteError()

class Picky:
    def __init__(self, settings):
        raise ConfigError(["STRATEGY_COUNT=0 is not a number from 1 to 10", "STRATEGY_EDGE is empty"])
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module of the user's beside their .env, under a name that no other test has imported."""
    name = f"strategy_of_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(CUSTOM, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return name


def test_built_in_strategies_by_name() -> None:
    assert isinstance(load_strategy("guard", {}), Guard)
    assert isinstance(load_strategy("value", {"STRATEGY_FAIR_PRICES": "A=0.5"}), Value)
    assert set(STRATEGIES) == {"guard", "value", "riskless_set"}


def test_a_class_of_the_users_own_gets_its_settings(module: str) -> None:
    path = list(sys.path)
    strategy = load_strategy(f"{module}:Mine", {"STRATEGY_COUNT": "5"})
    assert strategy.settings == {"STRATEGY_COUNT": "5"}  # type: ignore[attr-defined]
    assert sys.path == path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gaurd", "guard, riskless_set, value"),
        ("{module}", "package.module:ClassName"),
        ("{module}:Absent", "Absent"),
        ("no_such_module_anywhere:Mine", "no_such_module_anywhere"),
        ("{module}:Undecided", "decide(view)"),
    ],
)
def test_what_cannot_be_loaded_is_a_configuration_error_that_says_why(
    module: str, name: str, says: str
) -> None:
    path = list(sys.path)
    with pytest.raises(ConfigError) as wrong:
        load_strategy(name.format(module=module), {})
    assert len(wrong.value.problems) == 1
    assert says in wrong.value.problems[0]
    assert sys.path == path


def test_a_strategys_own_configuration_errors_are_told_all(module: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        load_strategy(f"{module}:Picky", {})
    assert len(wrong.value.problems) == 2


def test_a_built_in_strategys_wrong_settings_are_configuration_errors() -> None:
    with pytest.raises(ConfigError):
        load_strategy("value", {})


@pytest.mark.parametrize(
    ("name", "says"), [("Broken", "in the user's own code"), ("Leaving", "SystemExit"), ("Mute", "Mute")]
)
def test_a_constructor_that_fails_is_no_reason_to_stop(module: str, name: str, says: str) -> None:
    with pytest.raises(StrategyError) as failed:
        load_strategy(f"{module}:{name}", {})
    assert says in str(failed.value)


def test_a_name_is_checked_without_running_anything(module: str) -> None:
    check_strategy_name("guard")
    check_strategy_name(f"{module}:Mine")
    assert module not in sys.modules
    with pytest.raises(ConfigError):
        check_strategy_name("guard", {"value": Value})
