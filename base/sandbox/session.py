"""One stream connection's protocol: commands in, frames out. Pure; the socket is in `stream.py`.

Commands, replies and error codes from docs.kalshi.com (AsyncAPI of 2026-10-26).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from base.sandbox.happenings import (
    Filled,
    Happening,
    LevelChanged,
    LifecycleChanged,
    OrderChanged,
    PositionChanged,
    SnapshotDue,
    TickerChanged,
    Traded,
)
from base.sandbox.market import SandboxMarket
from base.sandbox.wire import (
    Json,
    delta_msg,
    fill_msg,
    lifecycle_msg,
    market_position_msg,
    snapshot_msg,
    ticker_msg,
    trade_msg,
    user_order_msg,
)

BOOK = "orderbook_delta"
TICKER = "ticker"
CHANNELS = frozenset(
    {
        BOOK, TICKER, "trade", "fill", "market_positions", "market_lifecycle_v2",
        "multivariate_market_lifecycle", "communications", "order_group_updates", "user_orders",
        "cfbenchmarks_value", "cfbenchmarks_value_5hz", "pyth_value",
    }
)  # fmt: skip
SEQUENCED = frozenset(
    {
        BOOK, "trade", "market_lifecycle_v2", "multivariate_market_lifecycle", "communications",
        "order_group_updates",
    }
)  # fmt: skip
ERRORS = {
    1: "Unable to process message",
    2: "Params required",
    3: "Channels required",
    4: "Subscription IDs required",
    5: "Unknown command",
    7: "Unknown subscription ID",
    8: "Unknown channel name",
    11: "Invalid parameter",
    12: "Exactly one subscription ID is required",
    13: "Unsupported action",
    14: "Market Ticker required",
    15: "Action required",
}


@dataclass(slots=True)
class Subscription:
    """One channel of one connection. `tickers` is None when it takes every market."""

    sid: int
    channel: str
    tickers: dict[str, None] | None
    use_yes_price: bool = False
    skips_ticker_ack: bool = False
    seq: int = 0

    def wants(self, ticker: str) -> bool:
        return self.tickers is None or ticker in self.tickers

    def next_seq(self) -> int:
        self.seq += 1
        return self.seq


class CommandError(Exception):
    """An error reply; the code decides the text."""

    def __init__(self, code: int) -> None:
        super().__init__(ERRORS[code])
        self.code = code


class Session:
    """Belongs to one connection.

    `find_market` looks a market up, `touch_ticker` gives its next ticker frame a new time.
    """

    def __init__(
        self,
        find_market: Callable[[str], SandboxMarket | None],
        all_tickers: Callable[[], Iterable[str]],
        touch_ticker: Callable[[str], None],
    ) -> None:
        self._find_market = find_market
        self._all_tickers = all_tickers
        self._touch_ticker = touch_ticker
        self._subscriptions: dict[int, Subscription] = {}
        self._last_sid = 0

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        return tuple(self._subscriptions.values())

    def receive(self, text: str) -> list[Json]:
        """Carry out one command; return the frames that answer it, in order."""
        try:
            command = json.loads(text)
        except (ValueError, RecursionError):
            return [_error(0, 1)]
        if not isinstance(command, dict):
            return [_error(0, 1)]
        command_id = command.get("id", 0)
        if type(command_id) is not int or command_id < 0:
            return [_error(0, 11)]
        try:
            return self._carry_out(command, command_id)
        except CommandError as exc:
            return [_error(command_id, exc.code)]

    def _carry_out(self, command: Mapping[str, object], command_id: int) -> list[Json]:
        name = command.get("cmd")
        if name == "list_subscriptions":
            listed = [{"channel": s.channel, "sid": s.sid} for s in self._subscriptions.values()]
            return [{"id": command_id, "type": "ok", "msg": listed}]
        if name not in ("subscribe", "unsubscribe", "update_subscription"):
            raise CommandError(5)
        params = command.get("params")
        if not isinstance(params, dict):
            raise CommandError(2)
        if name == "subscribe":
            return self._subscribe(command_id, params)
        if name == "unsubscribe":
            return self._unsubscribe(command_id, params)
        return self._update(command_id, params)

    # Commands

    def _subscribe(self, command_id: int, params: Mapping[str, object]) -> list[Json]:
        """Subscribe channel by channel; a bad channel does not stop the good ones (recorded)."""
        channels = params.get("channels")
        if not isinstance(channels, list) or not channels:
            raise CommandError(3)
        tickers = self._tickers_of(params, allow_ids=channels == [TICKER])
        frames: list[Json] = []
        for channel in channels:
            if channel not in CHANNELS:
                frames.append(_error(command_id, 8))
            elif channel == BOOK and not tickers:
                frames.append(_error(command_id, 14))
            else:
                frames.extend(self._subscribe_channel(command_id, str(channel), tickers, params))
        return frames

    def _subscribe_channel(
        self, command_id: int, channel: str, tickers: list[str] | None, params: Mapping[str, object]
    ) -> list[Json]:
        subscription = next((s for s in self._subscriptions.values() if s.channel == channel), None)
        # Lifecycle cannot be filtered (docs, market lifecycle channel).
        wanted = None if channel == "market_lifecycle_v2" or tickers is None else dict.fromkeys(tickers)
        if subscription is None:
            self._last_sid += 1
            subscription = Subscription(self._last_sid, channel, wanted)
            self._subscriptions[subscription.sid] = subscription
        elif wanted is None:
            subscription.tickers = None
        elif subscription.tickers is not None:
            # Subscribing again merges into the existing sid (changelog 2025-10).
            subscription.tickers.update(wanted)
        if "use_yes_price" in params:
            subscription.use_yes_price = params["use_yes_price"] is True
        subscription.skips_ticker_ack = params.get("skip_ticker_ack") is True
        frames: list[Json] = [
            {"id": command_id, "type": "subscribed", "msg": {"channel": channel, "sid": subscription.sid}}
        ]
        return frames + self._initial(subscription, tickers, params)

    def _initial(
        self, subscription: Subscription, tickers: list[str] | None, params: Mapping[str, object]
    ) -> list[Json]:
        """What a subscription starts with: books always, tickers when asked for."""
        if subscription.channel == BOOK:
            return [self._snapshot(subscription, m) for m in self._known(tickers or [])]
        if subscription.channel != TICKER or params.get("send_initial_snapshot") is not True:
            return []
        frames: list[Json] = []
        for market in self._known(self._all_tickers() if tickers is None else tickers):
            self._touch_ticker(market.ticker)
            frames.append({"type": "ticker", "sid": subscription.sid, "msg": ticker_msg(market)})
        return frames

    def _unsubscribe(self, command_id: int, params: Mapping[str, object]) -> list[Json]:
        sids = params.get("sids")
        if not isinstance(sids, list) or not sids:
            raise CommandError(4)
        if any(type(sid) is not int or sid not in self._subscriptions for sid in sids):
            raise CommandError(7)
        gone = [self._subscriptions.pop(sid) for sid in dict.fromkeys(sids)]
        return [{"id": command_id, "sid": s.sid, "seq": s.next_seq(), "type": "unsubscribed"} for s in gone]

    def _update(self, command_id: int, params: Mapping[str, object]) -> list[Json]:
        subscription = self._one_subscription(params)
        action = params.get("action")
        if not action:
            raise CommandError(15)
        if action not in ("add_markets", "delete_markets", "get_snapshot"):
            raise CommandError(13)
        tickers = self._tickers_of(
            params, allow_ids=subscription.channel == TICKER and action != "get_snapshot"
        )
        if not tickers:
            raise CommandError(14)
        if action == "get_snapshot":
            if subscription.channel != BOOK:
                raise CommandError(13)
            return [{"id": command_id, **self._snapshot(subscription, m)} for m in self._known(tickers)]
        if subscription.tickers is not None:
            if action == "add_markets":
                subscription.tickers.update(dict.fromkeys(tickers))
            else:
                for ticker in tickers:
                    subscription.tickers.pop(ticker, None)
        listed = [] if subscription.skips_ticker_ack else list(subscription.tickers or ())
        reply: Json = {
            "id": command_id,
            "sid": subscription.sid,
            "type": "ok",
            "msg": {"market_tickers": listed},
        }
        if subscription.channel in SEQUENCED:
            # Control replies use a number up (recorded 2026-08-07: snapshot 1, ok 2, snapshot 3).
            reply["seq"] = subscription.next_seq()
        return [reply] + (self._initial(subscription, tickers, params) if action == "add_markets" else [])

    def _one_subscription(self, params: Mapping[str, object]) -> Subscription:
        sid, sids = params.get("sid"), params.get("sids")
        if sid is None and sids is None:
            raise CommandError(4)
        found = sids if isinstance(sids, list) else []
        if (sid is not None and sids is not None) or (sid is None and len(found) != 1):
            raise CommandError(12)
        wanted = sid if sid is not None else found[0]
        if type(wanted) is not int or wanted not in self._subscriptions:
            raise CommandError(7)
        return self._subscriptions[wanted]

    def _tickers_of(self, params: Mapping[str, object], *, allow_ids: bool) -> list[str] | None:
        """The market tickers of a command, None when it names none."""
        one, many = params.get("market_ticker"), params.get("market_tickers")
        ids = params.get("market_ids") or ([params["market_id"]] if params.get("market_id") else None)
        if (one is not None and many is not None) or (ids is not None and not allow_ids):
            raise CommandError(11)
        if one is not None:
            many = [one]
        if many is None and isinstance(ids, list):
            markets = self._known(self._all_tickers())
            return [m.ticker for m in markets if m.spec.market_id in ids]
        if many is None:
            return None
        if not isinstance(many, list) or not all(isinstance(t, str) and t for t in many):
            raise CommandError(11)
        return list(many) or None

    # Frames

    def _known(self, tickers: Iterable[str]) -> list[SandboxMarket]:
        """Unknown tickers are taken in silence: what the exchange does with them is not documented."""
        found = (self._find_market(ticker) for ticker in tickers)
        return [market for market in found if market is not None]

    def _snapshot(self, subscription: Subscription, market: SandboxMarket) -> Json:
        return {
            "type": "orderbook_snapshot",
            "sid": subscription.sid,
            "seq": subscription.next_seq(),
            "msg": snapshot_msg(market, use_yes_price=subscription.use_yes_price),
        }

    def frames_for(self, happening: Happening) -> list[Json]:
        """The frames with which this connection hears of something."""
        return [
            frame
            for subscription in self._subscriptions.values()
            if (frame := self._frame(subscription, happening)) is not None
        ]

    def _frame(self, subscription: Subscription, happening: Happening) -> Json | None:
        """One subscription's view of one happening, None when it is not its business."""
        channel = subscription.channel
        ticker, kind, msg = "", "", None
        match happening:
            case TickerChanged(ticker=ticker) if channel == TICKER:
                market = self._find_market(ticker)
                kind, msg = "ticker", market and ticker_msg(market)
            case LevelChanged(ticker=ticker) if channel == BOOK and subscription.wants(ticker):
                market = self._find_market(ticker)
                flag = subscription.use_yes_price
                kind, msg = "orderbook_delta", market and delta_msg(market, happening, use_yes_price=flag)
            case SnapshotDue(ticker=ticker) if channel == BOOK and subscription.wants(ticker):
                market = self._find_market(ticker)
                flag = subscription.use_yes_price
                kind, msg = "orderbook_snapshot", market and snapshot_msg(market, use_yes_price=flag)
            case Traded(trade=trade) if channel == "trade":
                ticker, kind, msg = trade.ticker, "trade", trade_msg(trade)
            case Filled(fill=fill) if channel == "fill":
                ticker, kind, msg = fill.ticker, "fill", fill_msg(fill)
            case OrderChanged(order=order) if channel == "user_orders":
                ticker, kind, msg = order.ticker, "user_order", user_order_msg(order)
            case PositionChanged(position=position) if channel == "market_positions":
                ticker, kind, msg = position.ticker, "market_position", market_position_msg(position)
            case LifecycleChanged(ticker=ticker) if channel == "market_lifecycle_v2":
                market = self._find_market(ticker)
                kind, msg = "market_lifecycle_v2", market and lifecycle_msg(market, happening)
            case _:
                return None
        if msg is None or not subscription.wants(ticker):
            return None
        frame: Json = {"type": kind, "sid": subscription.sid, "msg": msg}
        if channel in SEQUENCED:
            frame["seq"] = subscription.next_seq()
        return frame


def _error(command_id: int, code: int) -> Json:
    frame: Json = {"type": "error", "msg": {"code": code, "msg": ERRORS[code]}}
    if command_id:
        frame["id"] = command_id
    return frame
