"""Hand-made status documents that follow the public contract field by field."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "env": "sandbox",
    "trading_mode": "live",
    "trading_state": "active",
    "started_at": "2026-11-22T15:00:00Z",
    "uptime_s": 3725.3,
    "health": {"ok": False, "reasons": ["KXHIGHNY-26NOV22-B54.5 is not protected: no_bid"]},
    "coverage": {
        "open": 3,
        "protected": 2,
        "unprotected": [{"ticker": "KXHIGHNY-26NOV22-B54.5", "reason": "no_bid"}],
    },
    "feed": {
        "state": "live",
        "connected_for_s": 11.9,
        "last_frame_age_s": 0.2,
        "reconnects": 1,
        "markets_required": 3,
        "markets_confirmed": 3,
        "messages": 1234,
    },
    "rest": {
        "reads_last_60s": 2,
        "writes_last_60s": 1,
        "price_reads_last_60s": 0,
        "rate_limited_last_60s": 0,
    },
    "threads": {
        "strategy-loop": {"alive": True, "last_pass_age_s": 3.1},
        "websocket": {"alive": True, "last_pass_age_s": 0.2},
        "stop-loss": {"alive": True, "last_pass_age_s": 0.4},
        "ui-metrics": {"alive": True, "last_pass_age_s": 0.9},
    },
    "positions": [
        {
            "ticker": "KXBTCD-26NOV2217-T86249.99",
            "outcome_side": "yes",
            "count": "10.00",
            "entry_price": "0.5200",
            "exit_value": "0.5000",
            "price_age_s": 0.4,
            "price_source": "ws",
            "market_status": "active",
            "unrealized_pnl": "-0.20",
            "stop_price": "0.3900",
            "take_profit_price": None,
            "protected": True,
            "reason": "",
        },
        {
            "ticker": "KXFEDDECISION-26DEC-H0",
            "outcome_side": "no",
            "count": "250.00",
            "entry_price": "0.3125",
            "exit_value": "0.4100",
            "price_age_s": 41.7,
            "price_source": "rest",
            "market_status": "active",
            "unrealized_pnl": "24.38",
            "stop_price": "0.3125",
            "take_profit_price": "0.9000",
            "protected": True,
            "reason": "",
        },
        {
            "ticker": "KXHIGHNY-26NOV22-B54.5",
            "outcome_side": "yes",
            "count": "33.50",
            "entry_price": "0.1900",
            "exit_value": None,
            "price_age_s": 14.2,
            "price_source": "ws",
            "market_status": "active",
            "unrealized_pnl": None,
            "stop_price": "0.1425",
            "take_profit_price": None,
            "protected": False,
            "reason": "no_bid",
        },
        {
            "ticker": "KXHIGHCHI-26NOV21-T40",
            "outcome_side": "yes",
            "count": "5.00",
            "entry_price": "0.8800",
            "exit_value": None,
            "price_age_s": None,
            "price_source": "none",
            "market_status": "determined",
            "unrealized_pnl": None,
            "stop_price": None,
            "take_profit_price": None,
            "protected": False,
            "reason": "closed",
        },
    ],
    "exits": [
        {
            "episode": "e-20261122-0001",
            "ticker": "KXETHD-26NOV2217-T2849.99",
            "reason": "stop_loss",
            "state": "closed",
            "trigger_price": "0.3900",
            "filled": "10.00",
            "average_price": "0.3800",
            "fees": "0.17",
            "attempts": 1,
        },
        {
            "episode": "e-20261122-0002",
            "ticker": "KXINXU-26NOV22-T6600",
            "reason": "trailing_stop",
            "state": "blocked",
            "trigger_price": "0.7100",
            "filled": "0.00",
            "average_price": None,
            "fees": "0.00",
            "attempts": 2,
        },
    ],
    "pnl": {"realized_today": "-1.57", "unrealized": "24.18", "fees_today": "0.17"},
}

EVALUATIONS: list[dict[str, Any]] = [
    {
        "at": 1_795_359_600.25,
        "exit_value": "0.5000",
        "bid_size": "120.00",
        "price_age_s": 0.4,
        "price_source": "ws",
        "decision": "hold",
        "why": "within_rules",
        "detail": "",
        "stop_price": "0.3900",
        "take_profit_price": None,
        "repeats": 7,
    },
    {
        "at": 1_795_359_614.75,
        "exit_value": "0.3800",
        "bid_size": "15.00",
        "price_age_s": 0.0,
        "price_source": "ws",
        "decision": "exit",
        "why": "stop_loss",
        "detail": "0.3800 is at or below 0.3900",
        "stop_price": "0.3900",
        "take_profit_price": None,
    },
]


def example_status() -> dict[str, Any]:
    """A sandbox with three open positions, one of them not protected."""
    return copy.deepcopy(STATUS)


def covered_status() -> dict[str, Any]:
    """The same with everything protected and healthy."""
    document = example_status()
    document["health"] = {"ok": True, "reasons": []}
    document["coverage"] = {"open": 3, "protected": 3, "unprotected": []}
    document["positions"][2] |= {"protected": True, "reason": "", "exit_value": "0.1800"}
    return document


def broken_documents(status: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Copies of `status` with one field missing, null or of a wrong kind: any depth, first of each list."""
    for path in _paths(status):
        for name, replacement in (("missing", ...), ("null", None), ("text", "x"), ("list", [None, "x"])):
            document = copy.deepcopy(status)
            holder: Any = document
            for key in path[:-1]:
                holder = holder[key]
            if replacement is ...:
                del holder[path[-1]]
            else:
                holder[path[-1]] = replacement
            yield f"{'.'.join(map(str, path))} {name}", document


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    )
    for key, entry in entries:
        yield (*path, key)
        yield from _paths(entry, (*path, key))
