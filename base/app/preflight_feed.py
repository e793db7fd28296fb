"""The part of `check` that opens the stream: with the daemon's own client, one market, a few seconds."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from base.app.config import Config
from base.app.findings import Finding
from base.app.preflight_codes import Code, fail, ok, warn
from base.clock import Clock
from base.kalshi.feed import FeedSettings, FeedState
from base.kalshi.server_clock import ServerClock
from base.kalshi.signing import Signer
from base.kalshi.websocket_client import WebsocketClient
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.model.events import Lifecycle, OrderUpdate, PositionUpdate
from base.model.position import Fill

LOOK_S_MAX = 8.0
POLL_S = 0.02
STOP_S = 2.0


@dataclass(frozen=True, slots=True)
class FeedLook:
    """What came of one connection; `sample` is the first ticker frame as it came."""

    is_live: bool
    is_confirmed: bool
    sample: bytes | None
    error: str
    took_s: float


LookAtFeed = Callable[[Config, Signer, Clock, ServerClock, str], FeedLook]


class _Nobody:
    """Hears the private messages of a connection that is there to be looked at only."""

    def fill(self, fill: Fill) -> None:
        """The daemon's own connection hears it too."""

    def order_update(self, update: OrderUpdate) -> None:
        """Likewise."""

    def position_update(self, update: PositionUpdate) -> None:
        """Likewise."""

    def lifecycle(self, event: Lifecycle) -> None:
        """Likewise."""

    def feed_changed(self, state: FeedState) -> None:
        """The status is asked instead."""


def look_at_feed(
    config: Config,
    signer: Signer,
    clock: Clock,
    server_clock: ServerClock,
    ticker: str,
    patience_s: float = LOOK_S_MAX,
) -> FeedLook:
    """Connect and subscribe to `ticker` ("" for none); ends with its first price, or the first error."""
    assert config.ws_url is not None, "set together with the REST URL"
    client = WebsocketClient(
        FeedSettings(url=config.ws_url, orderbook_feed=False),
        lambda method, path: signer.headers(method, path, server_clock.now_ms()),
        server_clock,
        WebsocketPriceCache(clock, config.price_stale_after_s),
        _Nobody(),
        clock,
        random.Random(),
    )
    client.set_required([ticker] if ticker else [], [])
    started = clock.monotonic()
    never = threading.Event()
    client.start()
    try:
        while True:
            status, samples = client.status(), client.ticker_samples()
            sample = samples[-1] if samples else None
            is_confirmed = bool(status.confirmed)
            took_s = clock.monotonic() - started
            is_done = status.is_live and (not ticker or (is_confirmed and sample is not None))
            if is_done or took_s > patience_s or (status.last_error and not status.is_live):
                return FeedLook(status.is_live, is_confirmed, sample, status.last_error, took_s)
            clock.wait(never, POLL_S)
    finally:
        client.stop()
        client.join(STOP_S)


def judge_feed(look: FeedLook, config: Config, ticker: str) -> Finding:
    """What the look means for the daemon."""
    what = f"feed: {config.ws_url}"
    if not look.is_live:
        why = look.error or f"nothing came within {look.took_s:.0f} s"
        return fail(
            Code.FEED_DOWN,
            f"{what}: {why}",
            "let this machine reach it (firewall, proxy); without it prices come through REST, seconds old",
        )
    if not ticker:
        return ok(
            Code.FEED_WITHOUT_MARKET,
            f"{what} answers after {look.took_s:.1f} s; no open market to subscribe to",
        )
    if not look.is_confirmed:
        return warn(
            Code.FEED_WITHOUT_PRICE,
            f"{what} answers, but the subscription to {ticker} brought no price in {look.took_s:.0f} s",
            "run check again in a minute; meanwhile run reads its price through REST",
        )
    return ok(Code.FEED, f"{what}: subscribed to {ticker}, its price came after {look.took_s:.1f} s")
