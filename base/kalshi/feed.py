"""What the stream tells the rest of the program: its state, its settings, who hears its messages."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from base.kalshi.transport import CA_FILE
from base.model.events import Lifecycle, OrderUpdate, PositionUpdate
from base.model.market import Level
from base.model.position import Fill

Depth = tuple[tuple[Level, ...], tuple[Level, ...]]
"""The displayed YES bids and NO bids, best first, each in dollars of its own side."""
NO_DEPTH: Depth = ((), ())


class FeedState(StrEnum):
    """What consumers may assume.

    CONNECTING: nothing yet; prices come from REST. LIVE: frames flow; a confirmed quote may be acted on
    however old it is. DOWN: no quote is kept fresh by the feed; REST carries all prices.
    """

    CONNECTING = "connecting"
    LIVE = "live"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class FeedStatus:
    """The feed at one moment."""

    state: FeedState
    connected_for_s: float | None
    last_frame_age_s: float | None
    reconnects: int
    messages: int
    required: frozenset[str]
    confirmed: frozenset[str]
    connection: int
    unknown_types: dict[str, int]
    malformed: int
    last_error: str

    @property
    def is_live(self) -> bool:
        return self.state is FeedState.LIVE


class StreamListener(Protocol):
    """Who hears the private and lifecycle messages; called on the WebSocket thread, must not block."""

    def fill(self, fill: Fill) -> None: ...

    def order_update(self, update: OrderUpdate) -> None: ...

    def position_update(self, update: PositionUpdate) -> None: ...

    def lifecycle(self, event: Lifecycle) -> None: ...

    def feed_changed(self, state: FeedState) -> None: ...


@dataclass(frozen=True, slots=True)
class FeedSettings:
    """Where to connect and how patiently; durations in seconds."""

    url: str
    silent_after_s: float = 25.0
    reconnect_delay_initial_s: float = 0.5
    reconnect_delay_max_s: float = 60.0
    orderbook_feed: bool = True
    ca_file: str = CA_FILE
    """The certificate authorities that vouch for the exchange."""


class NoFeed:
    """Stands in for the client when the stream is switched off: always down, everything through REST."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the field below
        self._required: frozenset[str] = frozenset()

    def set_required(self, tickers: Iterable[str], held: Iterable[str]) -> None:
        with self._lock:
            self._required = frozenset(tickers)

    def suspect(self, tickers: Iterable[str]) -> None:
        """There is no stream to suspect."""

    def is_confirmed(self, ticker: str) -> bool:
        return False

    def depth(self, ticker: str) -> Depth:
        """There is no book."""
        return NO_DEPTH

    def ticker_samples(self) -> tuple[bytes, ...]:
        """There is no stream."""
        return ()

    def status(self) -> FeedStatus:
        with self._lock:
            required = self._required
        return FeedStatus(
            FeedState.DOWN,
            None,
            None,
            0,
            0,
            required,
            frozenset(),
            0,
            {},
            0,
            "switched off by WEBSOCKET_ENABLED",
        )
