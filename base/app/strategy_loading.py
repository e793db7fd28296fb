"""Which class a strategy's name means, and making one of it without letting its constructor end anything."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping

from base.errors import BotError, ConfigError
from base.strategy.guard import Guard
from base.strategy.interface import Strategy
from base.strategy.riskless_set import RisklessSet
from base.strategy.value import Value

Registry = Mapping[str, Callable[[Mapping[str, str]], Strategy]]

STRATEGIES: Registry = {"guard": Guard, "value": Value, "riskless_set": RisklessSet}
"""What `STRATEGY` may name without a module."""
ERROR_CHARACTERS_MAX = 300


class StrategyError(BotError):
    """The strategy's constructor failed: the daemon protects what is held and opens nothing."""


def check_strategy_name(name: str, registry: Registry = STRATEGIES) -> None:
    """Raise ConfigError for a name that can be no strategy, without running any code of the user's."""
    if name not in registry and not all(name.partition(":")):
        known = ", ".join(sorted(registry))
        raise ConfigError([f"STRATEGY={name!r} is neither built in ({known}) nor package.module:ClassName"])


def load_strategy(name: str, settings: Mapping[str, str], registry: Registry = STRATEGIES) -> Strategy:
    """A built-in strategy by name, or `package.module:ClassName`.

    Raises ConfigError where there is no such class or it says itself that its settings are wrong, and
    StrategyError for whatever else its constructor raises.
    """
    check_strategy_name(name, registry)
    if name in registry:
        return registry[name](settings)
    module_name, _, class_name = name.partition(":")
    sys.path.insert(0, os.getcwd())  # the user's own module stands beside their .env
    try:
        make = getattr(importlib.import_module(module_name), class_name)
    except BaseException as exc:  # the user's code: whatever it raises, exits included, they must read it
        raise ConfigError([f"STRATEGY={name!r} cannot be loaded: {describe_error(exc)}"]) from exc
    finally:
        sys.path.pop(0)
    try:
        strategy: Strategy = make(settings)
        can_decide = callable(getattr(strategy, "decide", None))
    except ConfigError:
        raise
    except BaseException as exc:
        raise StrategyError(f"STRATEGY={name!r} cannot be made: {describe_error(exc)}") from exc
    if not can_decide:
        raise ConfigError([f"STRATEGY={name!r} has no method decide(view)"])
    return strategy


def describe_error(exc: BaseException) -> str:
    """What was raised, in words; the user's exceptions may even raise when they are printed."""
    try:
        return f"{type(exc).__name__}: {exc}"[:ERROR_CHARACTERS_MAX]
    except BaseException:  # printing it is the user's code too
        return f"{type(exc).__name__} (its text cannot be printed)"
