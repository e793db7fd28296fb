"""Everything that talks to the exchange, built once from the configuration."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from base.app.config import Config
from base.app.entries import ENTRY_ID_PREFIX
from base.clock import Clock
from base.errors import BotError
from base.kalshi.documents import PositionRow, to_position
from base.kalshi.order_connection import OrderConnection
from base.kalshi.rate_limit import AccountLimits, Lane, Quota, RateLimiter, RequestStats
from base.kalshi.rest_client import RestClient, UnreadablePositions
from base.kalshi.server_clock import ServerClock
from base.kalshi.signing import Signer, load_signer
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.log import log_event
from base.model.order import Order, OrderStatus
from base.model.position import Fill
from base.store.portfolio import NO_TICKER, HeldRead
from base.store.realized import Payout

logger = logging.getLogger(__name__)

WRITE_SLACK_SHARE = 0.1
"""Share of the write bucket that is left alone: an order reaches the exchange's bucket later than it was
taken from ours, and the one after a full burst was answered with 429 (measured on loopback, with a disk
write between)."""
BASIC_READ = Quota(200, 200)
BASIC_WRITE = Quota(100 * (1 - WRITE_SLACK_SHARE), 100)
"""The Basic tier (docs, rate limits): what is assumed until `/account/limits` has answered."""


@dataclass(frozen=True)
class Exchange:
    """The REST side: one signer, one limiter and one set of counters for all connections."""

    rest: RestClient
    signer: Signer
    server_clock: ServerClock
    limiter: RateLimiter
    stats: RequestStats
    clock: Clock
    rest_url: str

    def open_order_connection(self) -> OrderConnection:
        """A warm connection for one exit worker."""
        return OrderConnection(
            self.rest_url,
            self.signer,
            self.server_clock,
            self.clock,
            self.limiter,
            stats=self.stats,
            costs=self.rest.costs,
        )

    def sign_now(self, method: str, path: str) -> dict[str, str]:
        """Fresh headers of one attempt."""
        return self.signer.headers(method, path, self.server_clock.now_ms())

    def read_prices(self, tickers: Sequence[str], cache: WebsocketPriceCache) -> int:
        """Read these markets into the cache; return how many the exchange knew."""
        snapshots = self.rest.get_markets(tickers)
        for snapshot in snapshots:
            cache.apply_market(snapshot.market, snapshot.asked_at)
            if snapshot.quote is not None:
                cache.apply(snapshot.quote)
        return len(snapshots)

    def read_held(self, lane: Lane = Lane.RECONCILE) -> HeldRead:
        """One complete read of all positions. Raises BotError when there is none."""
        rows: Sequence[PositionRow]
        unreadable: tuple[str, ...] = ()
        try:
            rows = self.rest.get_positions(lane)
        except UnreadablePositions as exc:
            log_event(logger, logging.ERROR, "positions_unreadable", why=exc)
            rows, unreadable = exc.rows, tuple(r.ticker or NO_TICKER for r in exc.unreadable)
        held = [to_position(row) for row in rows]
        return HeldRead({p.ticker: p for p in held if p is not None}, unreadable)

    # The account's history: other subaccounts trade for themselves.

    def read_fills(self, since_s: int | None = None, tickers: Sequence[str] = ()) -> list[Fill]:
        """All fills since a wall time, or of up to 100 markets, in the exchange's order. Raises BotError."""
        fills = self.rest.get_fills(ticker=",".join(tickers) or None, min_ts=since_s)
        return [fill for fill in fills if fill.subaccount == 0]

    def read_settlements(self, since_s: int) -> list[Payout]:
        """What ended markets have paid since a wall time. Raises BotError.

        `fee_cost` is what trading them cost in all (OpenAPI: total fees paid), which their fills tell
        one by one; what settling itself cost is worked out from the market's fills (`settling_fee`).
        """
        return [
            Payout(
                s.ticker,
                round(s.settled_time * 1000),
                s.yes_count - s.no_count,
                s.yes_cost + s.no_cost,
                s.revenue,
                s.fees,
            )
            for s in self.rest.get_settlements(min_ts=since_s)
        ]

    def read_resting(self) -> list[Order]:
        """The account's resting orders. Raises BotError."""
        return self.rest.get_orders(status=OrderStatus.RESTING.value)

    def tickers_entered(self) -> set[str]:
        """Markets in which this program has placed entries, by their client order ids, as far back as the
        exchange lists orders (about two weeks). Raises BotError."""
        orders = self.rest.get_orders()
        return {
            o.ticker for o in orders if o.fill_count > 0 and o.client_order_id.startswith(ENTRY_ID_PREFIX)
        }

    def seed_limits(self) -> None:
        """Take the account's own budget; on failure the Basic tier's stays assumed."""
        try:
            limits = self.rest.get_account_limits()
            self.limiter.reseed(with_slack(limits))
            self.rest.get_endpoint_costs()
        except BotError as exc:
            log_event(logger, logging.WARNING, "limits_unread", why=exc, assumed="basic tier")
            return
        log_event(
            logger,
            logging.INFO,
            "limits",
            tier=limits.usage_tier,
            read_a_second=limits.read.refill_per_s,
            write_a_second=limits.write.refill_per_s,
        )


def with_slack(limits: AccountLimits) -> AccountLimits:
    """The account's limits, the write bucket a little smaller than it is."""
    write = Quota(limits.write.capacity * (1 - WRITE_SLACK_SHARE), limits.write.refill_per_s)
    return replace(limits, write=write)


def open_exchange(config: Config, clock: Clock) -> Exchange:
    """Load the key and build the clients; nothing is sent yet. Raises ConfigError."""
    assert config.rest_url is not None, "the embedded sandbox has been started before"
    assert config.private_key_path is not None, "checked with the configuration"
    signer = load_signer(config.api_key_id, config.private_key_path)
    server_clock = ServerClock(clock)
    limiter = RateLimiter(clock, BASIC_READ, BASIC_WRITE)
    stats = RequestStats(clock)
    rest = RestClient(config.rest_url, signer, clock, server_clock, limiter, stats=stats)
    return Exchange(rest, signer, server_clock, limiter, stats, clock, config.rest_url)
