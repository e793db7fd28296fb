"""The names of the configuration: which are ours, with their defaults, and which are mistyped."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        "KALSHI_ENV": "sandbox",
        "KALSHI_REST_URL": "",
        "KALSHI_WS_URL": "",
        "KALSHI_API_KEY_ID": "",
        "KALSHI_PRIVATE_KEY_PATH": "",
        "TRADING_MODE": "paper",
        "LIVE_ARMED": "no",
        "STATE_DIR": "./state",
        "STRATEGY": "guard",
        "STRATEGY_INTERVAL_S": "30",
        "STOP_LOSS_INTERVAL_S": "2",
        "UI_INTERVAL_S": "1",
        "RECONCILE_INTERVAL_S": "30",
        "PRICE_STALE_AFTER_S": "60",
        "RECONNECT_DELAY_INITIAL_S": "0.5",
        "RECONNECT_DELAY_MAX_S": "60",
        "WEBSOCKET_ENABLED": "yes",
        "ORDERBOOK_FEED": "yes",
        "FEED_SILENT_AFTER_S": "25",
        "STOP_LOSS_PCT": "25",
        "TAKE_PROFIT_PCT": "",
        "TRAILING_STOP_PCT": "",
        "RULES_FILE": "",
        "ADOPT_POSITIONS": "yes",
        "MAX_ORDER_COST_DOLLARS": "50",
        "MAX_POSITION_COST_DOLLARS": "200",
        "MAX_TOTAL_EXPOSURE_DOLLARS": "1000",
        "MAX_DAILY_LOSS_DOLLARS": "100",
        "MAX_EVENT_COST_DOLLARS": "400",
        "MAX_ENTRIES_PER_MINUTE": "30",
        "ENTRY_COLLAR_DOLLARS": "0.10",
        "ENTRY_MIN_TIME_LEFT_S": "300",
        "PAPER_LATENCY_MS": "50",
        "TRADING_TIMEZONE": "America/New_York",
        "UI_HOST": "127.0.0.1",
        "UI_PORT": "8787",
        "UI_TOKEN": "",
        "LOG_LEVEL": "INFO",
        "LOG_FORMAT": "text",
        "LOG_FILE": "",
        "EXIT_FLOOR_DOLLARS": "0.01",
        "EXIT_STEPS_THROUGH": "2,4,8,16",
        "ALERT_URLS": "",
        "DEADMAN_URL": "",
        "DEADMAN_INTERVAL_S": "60",
    }
)
"""Every variable with its default, as one would write it in `.env`; empty means none or off."""

SECRET_NAMES = frozenset({"UI_TOKEN", "ALERT_URLS", "DEADMAN_URL", "KALSHI_API_KEY_ID"})
STRATEGY_PREFIX = "STRATEGY_"
EMPTY_SWITCHES_OFF = frozenset({"STOP_LOSS_PCT"})
"""Where an empty value does not stand for the default."""

FILE_PREFIXES = tuple(sorted({name.partition("_")[0] + "_" for name in DEFAULTS} - {STRATEGY_PREFIX}))
"""In `.env`, which is ours, every name that starts like one of ours must be one of ours."""
ENVIRONMENT_PREFIXES = (
    *("KALSHI_", "UI_", "STOP_LOSS_", "TAKE_PROFIT_", "TRAILING_", "TRADING_MODE", "LIVE_ARMED"),
    *("PRICE_STALE_", "RECONNECT_DELAY_", "RECONCILE_", "FEED_SILENT_", "WEBSOCKET_ENABLED", "ORDERBOOK_"),
    *("MAX_ORDER_", "MAX_POSITION_", "MAX_TOTAL_EXPOSURE_", "MAX_DAILY_LOSS_", "EXIT_FLOOR_", "RULES_FILE"),
    *("EXIT_STEPS_", "ADOPT_POSITIONS", "ALERT_URL", "MAX_EVENT_COST_", "MAX_ENTRIES_", "ENTRY_COLLAR_"),
    *("ENTRY_MIN_TIME_", "PAPER_LATENCY_", "TRADING_TIMEZONE", "DEADMAN_"),
)
"""The real environment is shared: only what no other program is likely to set (systemd sets STATE_DIRECTORY
and LOGS_DIRECTORY, for instance). Other names are errors there only when a letter or two from one of ours."""
TYPO_LETTERS_MAX = 2


def mistaken_for(name: str, prefixes: tuple[str, ...]) -> str | None:
    """The known variable that an unknown name must be meant for; None when it is known or not ours.

    A STRATEGY_* name is the strategy's own unless it is nearly STRATEGY_INTERVAL_S. Lower case counts as
    a mistake too: names are case-sensitive.
    """
    if name in DEFAULTS:
        return None
    upper = name.upper()
    close = [
        known
        for known in DEFAULTS
        if abs(len(known) - len(upper)) <= TYPO_LETTERS_MAX  # the cheap test first: environments are long
        and edit_distance(upper, known) <= TYPO_LETTERS_MAX
    ]
    if not close and not upper.startswith(prefixes):
        return None
    first_word = upper.partition("_")[0]
    relatives = [known for known in DEFAULTS if known.startswith(first_word)]
    return min(close or relatives or DEFAULTS, key=lambda known: (edit_distance(upper, known), known))


def edit_distance(a: str, b: str) -> int:
    """How many letters must be added, removed or replaced to turn `a` into `b`."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (letter != other))
    return row[-1]
