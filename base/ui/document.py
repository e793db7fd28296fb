"""Reading the status document safely: any field may be missing, null or of a newer kind. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from base.model.market import MarketStatus


def section(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object under `name`, empty when there is none."""
    value = document.get(name)
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Any]:
    """`value` when it is a list, otherwise nothing."""
    return list(value) if isinstance(value, list | tuple) else []


def rows(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a list of objects; anything else in it is left out."""
    return [entry for entry in items(value) if isinstance(entry, Mapping)]


def awaits_settlement(position: Mapping[str, Any]) -> bool:
    """Tell whether the position's market can trade no more, so that it is not counted as open.

    A status that this version does not know counts as one that can still trade.
    """
    try:
        return not MarketStatus(str(position.get("market_status"))).can_still_trade
    except ValueError:
        return False
