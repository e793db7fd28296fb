"""Judges exits by the exchange's own ledger: what was sold is exactly what was held, once, and nothing is
forgotten. It knows the contract and the sandbox, and nothing of the daemon's code.

The stage is here too: positions entered at 0.60 whose stop (25 %) lies at 0.45, and quotes in dollars of
the held side, so that YES and NO read alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

from base.model.market import OutcomeSide
from base.sandbox.happenings import Filled, Happening
from base.sandbox.scenario import HeldPosition, MarketPlan
from base.sandbox.server import SandboxServer
from base.sandbox.venue import Venue

ZERO = Decimal(0)
ONE = Decimal(1)
ENTRY = Decimal("0.60")
CRASHED = Decimal("0.40")
SPREAD = Decimal("0.02")
EXIT_ID_PREFIX = "bs"
ORDER_PATHS = ("POST /portfolio/events/orders", "POST /portfolio/events/orders/batched")


class Crime(StrEnum):
    """What an exit must never do."""

    OVERSOLD = "oversold"
    """More was sold than was held."""
    FLIPPED = "flipped"
    """The position was on the other side at some moment, even if it came back."""
    FORGOTTEN = "forgotten"
    """Something triggered was not sold in time."""
    UNPROVOKED = "unprovoked"
    """Something was sold whose bid had never been at its stop."""
    RESTING = "resting"
    """An order of an exit was left in the book."""
    UNPROTECTED = "unprotected"
    """What is still held was not protected again in time."""


@dataclass(frozen=True, slots=True)
class Violation:
    crime: StrEnum
    ticker: str
    detail: str

    def __str__(self) -> str:
        return f"{self.crime} {self.ticker}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Holding:
    """A position as the account was given it."""

    ticker: str
    side: OutcomeSide
    count: Decimal
    entry: Decimal = ENTRY

    def signed(self, count: Decimal) -> Decimal:
        """A net count of the account as a count of this side: below 0 is the other side."""
        return count if self.side is OutcomeSide.YES else -count


@dataclass(frozen=True, slots=True)
class Course:
    """What became of one position, by the ledger. Counts in contracts of the held side."""

    holding: Holding
    held: Decimal
    """What was left to the exits: bought, less what was sold by hand."""
    sold: Decimal
    """By exits."""
    left: Decimal
    orders: int
    """Orders of exits that reached the exchange's order entry, refused ones included."""
    order_ids: int
    """Different client order ids among them."""
    oversold: Decimal
    flipped: Decimal
    """The furthest that the position was on the other side."""
    flat_at: float | None
    """Wall time of the fill after which nothing was held, None while something is."""

    def crimes(self, *, must_be_flat: bool, may_be_sold: bool = True) -> list[Violation]:
        """What was done wrong, if the bid has or has not been at the stop."""
        found = []
        told = f"held {self.held}, sold {self.sold}, left {self.left}, {self.orders} orders"
        if self.oversold > 0:
            found.append(Violation(Crime.OVERSOLD, self.holding.ticker, told))
        if self.flipped > 0:
            found.append(Violation(Crime.FLIPPED, self.holding.ticker, f"by {self.flipped}; {told}"))
        if must_be_flat and self.left > 0:
            found.append(Violation(Crime.FORGOTTEN, self.holding.ticker, told))
        if not may_be_sold and self.orders:
            found.append(Violation(Crime.UNPROVOKED, self.holding.ticker, told))
        return found


class Ledger:
    """One reading of the sandbox's ledger."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.now: float = document["now"]

    def of(self, ticker: str) -> dict[str, list[dict[str, Any]]]:
        """The rows of one market, for a report."""
        return {
            name: [row for row in self.document[name] if row["ticker"] == ticker]
            for name in ("fills", "submissions", "orders")
        }

    def course(self, holding: Holding) -> Course:
        """Walk the account's fills of a market in their order."""
        held = sold = oversold = flipped = left = ZERO
        flat_at: float | None = None
        for fill in self.of(holding.ticker)["fills"]:
            count = Decimal(fill["count"])
            left = holding.signed(Decimal(fill["post_position"]))
            if fill["client_order_id"].startswith(EXIT_ID_PREFIX):
                sold += count
                oversold = max(oversold, sold - held)
            else:
                is_purchase = (fill["side"] == "bid") == (holding.side is OutcomeSide.YES)
                held += count if is_purchase else -count
            flipped = max(flipped, -left)
            flat_at = fill["at"] if left == 0 else None
        sent = self.exit_orders(holding.ticker)
        ids = {s["client_order_id"] for s in sent}
        return Course(holding, held, sold, left, len(sent), len(ids), oversold, flipped, flat_at)

    def exit_orders(self, ticker: str | None = None) -> list[dict[str, Any]]:
        """Orders of exits in the order in which they came, of one market or of all."""
        return [
            s
            for s in self.document["submissions"]
            if s["client_order_id"].startswith(EXIT_ID_PREFIX) and ticker in (None, s["ticker"])
        ]

    def order_requests(self, since: float = 0.0) -> int:
        """Requests to order entry, those included that a fault answered before anything looked at them."""
        requests = self.document["requests"]
        return sum(at >= since for path in ORDER_PATHS for at in requests.get(path, {"times": []})["times"])

    def resting(self) -> list[Violation]:
        return [
            Violation(Crime.RESTING, o["ticker"], f"{o['client_order_id']} rests")
            for o in self.document["orders"]
            if o["status"] == "resting"
        ]


def read_ledger(server: SandboxServer) -> Ledger:
    return Ledger(server.ledger())


# --- the stage ------------------------------------------------------------------------------------------


def plan(holding: Holding, size: str = "100", value: Decimal | None = None) -> MarketPlan:
    """A quiet market with this position, its bid at the entry price or `value`."""
    bid, ask = yes_quote(holding.side, holding.entry if value is None else value)
    held = HeldPosition(holding.side, holding.count, holding.entry)
    return MarketPlan(holding.ticker, bid, ask, size=Decimal(size), position=held)


def yes_quote(side: OutcomeSide, value: Decimal) -> tuple[Decimal, Decimal]:
    """Bid and ask of the YES book at which a contract of the side can be sold for `value`."""
    return (value, value + SPREAD) if side is OutcomeSide.YES else (ONE - value - SPREAD, ONE - value)


def open_positions(server: SandboxServer, holdings: Iterable[Holding]) -> None:
    """List new markets with these positions, as if they had just been bought by hand."""

    def act(venue: Venue) -> None:
        for holding in holdings:
            venue.open_market(plan(holding), venue.clock.now())

    server.call(act)


def quote(server: SandboxServer, holdings: Iterable[Holding], value: Decimal, size: str = "100") -> None:
    """Move the bid of the held side in all these markets in one instant."""

    def act(venue: Venue) -> None:
        for holding in holdings:
            bid, ask = yes_quote(holding.side, value)
            fields = {"bid": str(bid), "ask": str(ask), "bid_size": size, "ask_size": size}
            venue.set_market(holding.ticker, fields)

    server.call(act)


def left(server: SandboxServer, holding: Holding) -> Decimal:
    """What is held now, of the held side."""
    return left_of(server, [holding])[0]


def left_of(server: SandboxServer, holdings: Sequence[Holding]) -> list[Decimal]:
    ledger = server.call(lambda venue: [venue.exchange.ledger.position_count(h.ticker) for h in holdings])
    return [h.signed(count) for h, count in zip(holdings, ledger, strict=True)]


def sell_by_hand(server: SandboxServer, holding: Holding, count: Decimal, price: Decimal = CRASHED) -> None:
    """Trade against the position as its owner would on the exchange's own page."""
    other = OutcomeSide.NO if holding.side is OutcomeSide.YES else OutcomeSide.YES
    server.add_position(holding.ticker, other.value, str(count), str(ONE - price))


def make_flat_by_hand(server: SandboxServer, holding: Holding) -> None:
    """Take what is left of a position, or of its other side, out of the account."""
    count = left(server, holding)
    if count > 0:
        sell_by_hand(server, holding, count)
    elif count < 0:
        server.add_position(holding.ticker, holding.side.value, str(-count), str(CRASHED))


def is_exit_fill(happening: Happening) -> bool:
    return isinstance(happening, Filled) and happening.fill.client_order_id.startswith(EXIT_ID_PREFIX)
