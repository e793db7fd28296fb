"""Positions as a complete read gives them."""

from __future__ import annotations

from collections.abc import Iterable

from base.model.position import Position


def by_ticker(positions: Iterable[Position]) -> dict[str, Position]:
    """Positions keyed by their ticker."""
    return {p.ticker: p for p in positions}
