"""What should be streamed, what was asked for, what was acknowledged, what has shown a price. Pure.

The tracker is told what is required, what was heard and what time it is, and answers with the commands
that are due. On a new connection everything is asked for again from what is required *now*: there is no
list of old subscriptions to replay. A ticker is confirmed when the exchange acknowledged it *and* a
price came through this connection; until then REST covers it.

Error codes are those of the exchange's AsyncAPI document: 10 and 25 end a subscription (resubscribe), 26
and 27 mean smaller and slower, 8 an unknown channel (the others of the same command live on, recorded),
7 and 12 a subscription id that is gone, 9 needs a new connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from base.model.events import ErrorReply, Ok, Subscribed, Unsubscribed

ACK_TIMEOUT_S = 5.0
"""An acknowledgement or first price that stays out this long is asked for again."""
RETRY_S_MAX = 60.0
BATCH_SIZE_MAX = 200
SLOW_DOWN_S_INITIAL = 1.0
SLOW_DOWN_S_MAX = 30.0
SLOW_DOWN_ENDS_S = 60.0
"""So long without another such error, and the pace is the ordinary one again."""
LOSS_DELAY_S_MAX = 30.0
"""Subscriptions that the exchange keeps ending are asked for again at most this seldom."""
SNAPSHOT_SPACING_S = 1.0
COMMANDS_AT_ONCE_MAX = 100

PRIVATE_CHANNELS = ("fill", "user_orders", "market_positions", "market_lifecycle_v2")


class Channel(StrEnum):
    """The two channels that are asked for by ticker."""

    TICKER = "ticker"
    ORDERBOOK = "orderbook_delta"


@dataclass(frozen=True, slots=True)
class Command:
    """One command to send; the id is unique on its connection."""

    id: int
    cmd: str
    params: dict[str, Any]


@dataclass(slots=True)
class _Wanted:
    """One ticker of one channel on this connection."""

    requested_at: float | None = None
    retry_at: float = 0.0
    attempts: int = 0
    sid: int | None = None
    is_acknowledged: bool = False
    has_price: bool = False
    needs_price: bool = True
    """Private channels are complete with their acknowledgement."""
    batch_size_max: int = BATCH_SIZE_MAX

    @property
    def is_complete(self) -> bool:
        return self.is_acknowledged and (self.has_price or not self.needs_price)

    def ask_again(self, at: float) -> None:
        """Forget the request under way; the next one is due at `at`."""
        self.requested_at = None
        self.retry_at = at

    def lose(self, retry_at: float) -> None:
        """The exchange no longer streams it on this connection."""
        self.is_acknowledged = self.has_price = False
        self.sid = None
        self.ask_again(retry_at)


@dataclass(frozen=True, slots=True)
class Lost:
    """What a reply put an end to: subscriptions, and the tickers whose books came through them."""

    sids: frozenset[int] = frozenset()
    books: frozenset[str] = frozenset()


NOTHING_LOST = Lost()


@dataclass(slots=True)
class _Pending:
    """A command on its way."""

    sent_at: float
    channel: Channel | None
    tickers: tuple[str, ...]
    """What it names: tickers, or channels for the private command."""
    adds: bool


@dataclass(slots=True)
class _ChannelState:
    wanted: dict[str, _Wanted] = field(default_factory=dict)
    sids: list[int] = field(default_factory=list)
    is_refused: bool = False


class SubscriptionTracker:
    """Owned by the WebSocket thread; not thread-safe."""

    def __init__(self) -> None:
        self._required: dict[Channel, frozenset[str]] = {c: frozenset() for c in Channel}
        self._reset()

    def _reset(self) -> None:
        self._channels: dict[Channel, _ChannelState] = {c: _ChannelState() for c in Channel}
        self._private: dict[str, _Wanted] = {c: _Wanted(needs_price=False) for c in PRIVATE_CHANNELS}
        self._pending: dict[int, _Pending] = {}
        self._next_id = 1
        self._batch_size = BATCH_SIZE_MAX
        self._slow_down_s = 0.0
        self._slowed_at = 0.0
        self._quiet_until = 0.0
        self._lost_at: float | None = None
        self._loss_delay_s = 0.0
        self._snapshot_wanted: set[str] = set()
        self._snapshot_asked: set[str] = set()
        self._snapshot_asked_at: float | None = None
        self.needs_reconnect = False

    # --- what is required ---------------------------------------------------------------------------

    def set_required(self, tickers: Iterable[str], books: Iterable[str]) -> None:
        """What must be streamed from now on: tickers, and of which the order book too."""
        self._required[Channel.TICKER] = frozenset(tickers)
        self._required[Channel.ORDERBOOK] = frozenset(books)

    @property
    def required(self) -> frozenset[str]:
        return self._required[Channel.TICKER]

    def is_confirmed(self, ticker: str) -> bool:
        """Acknowledged by the exchange and a price seen on this connection."""
        wanted = self._channels[Channel.TICKER].wanted.get(ticker)
        return wanted is not None and wanted.is_acknowledged and wanted.has_price

    @property
    def confirmed(self) -> frozenset[str]:
        """Of the required tickers, those confirmed on this connection."""
        return frozenset(t for t in self.required if self.is_confirmed(t))

    @property
    def subscribed_count(self) -> int:
        """Tickers acknowledged on this connection."""
        return sum(w.is_acknowledged for w in self._channels[Channel.TICKER].wanted.values())

    # --- what was heard -----------------------------------------------------------------------------

    def connection_opened(self) -> None:
        """Forget everything of the last connection: sids and ids start anew."""
        self._reset()

    def price_seen(self, ticker: str) -> None:
        """A price of this ticker came through this connection (a ticker frame or a book)."""
        wanted = self._channels[Channel.TICKER].wanted.get(ticker)
        if wanted is not None:
            wanted.has_price = True

    def book_seen(self, ticker: str) -> None:
        """A snapshot of this ticker's book has come."""
        wanted = self._channels[Channel.ORDERBOOK].wanted.get(ticker)
        if wanted is not None:
            wanted.has_price = True
        self._snapshot_wanted.discard(ticker)
        self._snapshot_asked.discard(ticker)

    def suspect(self, ticker: str) -> None:
        """The stream is silent on a market that REST says has moved: ask for it again."""
        wanted = self._channels[Channel.TICKER].wanted.get(ticker)
        if wanted is not None and wanted.is_acknowledged:
            wanted.is_acknowledged = wanted.has_price = False
            wanted.requested_at = None

    def request_snapshots(self, tickers: Iterable[str]) -> None:
        """These books are unusable: ask for fresh snapshots."""
        self._snapshot_wanted.update(tickers)

    def books_of(self, sid: int) -> list[str]:
        """The tickers whose books come through this subscription."""
        return [t for t, w in self._channels[Channel.ORDERBOOK].wanted.items() if w.sid in (sid, None)]

    def observe(self, reply: Subscribed | Ok | Unsubscribed | ErrorReply, now: float) -> Lost:
        """Take in a reply of the exchange; return what it ended."""
        if isinstance(reply, ErrorReply):
            return self._observe_error(reply, now)
        if isinstance(reply, Unsubscribed):  # never asked for
            return self._drop_subscription(reply.sid, None, now)
        if isinstance(reply, Subscribed):
            self._acknowledge(reply)
        else:
            self._confirm_update(reply)
        return NOTHING_LOST

    def _acknowledge(self, reply: Subscribed) -> None:
        if reply.channel in self._private:
            self._private[reply.channel].is_acknowledged = True
            self._private[reply.channel].sid = reply.sid
            return
        if reply.channel not in list(Channel):
            return
        channel = Channel(reply.channel)
        state = self._channels[channel]
        if reply.sid not in state.sids:
            state.sids.append(reply.sid)
        pending = self._pending.pop(reply.command_id, None)
        if pending is not None:
            self._mark_acknowledged(state, pending.tickers, reply.sid)
        elif reply.command_id == 0:  # 0 is "no id": it can only mean what this channel waits for
            asked = [t for t, w in state.wanted.items() if w.requested_at is not None]
            self._mark_acknowledged(state, asked, reply.sid)

    def _confirm_update(self, reply: Ok) -> None:
        pending = self._pending.pop(reply.command_id, None)
        if pending is None or pending.channel is None or not pending.adds:
            return
        state = self._channels[pending.channel]
        held = (
            pending.tickers
            if reply.tickers is None
            else tuple(t for t in pending.tickers if t in reply.tickers)
        )
        # A merged subscribe may be answered with `ok` instead of `subscribed`.
        sid = reply.sid if reply.sid is not None else (state.sids[0] if state.sids else None)
        if sid is not None and sid not in state.sids:
            state.sids.append(sid)
        self._mark_acknowledged(state, held, sid)

    @staticmethod
    def _mark_acknowledged(state: _ChannelState, tickers: Iterable[str], sid: int | None) -> None:
        for ticker in tickers:
            # What is no longer wanted comes back for a moment, so that it is deleted at the exchange too.
            wanted = state.wanted.setdefault(ticker, _Wanted())
            wanted.is_acknowledged = True
            wanted.sid = sid

    def _observe_error(self, reply: ErrorReply, now: float) -> Lost:
        pending = self._pending.pop(reply.command_id, None) if reply.command_id else None
        if reply.code == 9:
            self.needs_reconnect = True
        elif reply.code in (10, 25, 7, 12):
            return self._drop_subscription(reply.sid, pending, now)
        elif reply.code in (26, 27):
            self._batch_size = max(1, self._batch_size // 2)
            self._slow_down_s = min(SLOW_DOWN_S_MAX, max(SLOW_DOWN_S_INITIAL, self._slow_down_s * 2))
            self._slowed_at = now
            self._quiet_until = now + self._slow_down_s
            for wanted in self._concerned(pending):
                wanted.ask_again(now + self._slow_down_s)
        elif reply.code == 8:
            self._refuse_channel(pending, now)
        elif pending is not None and len(pending.tickers) > 1:
            # One bad ticker can refuse a whole batch: halve until the bad one stands alone.
            for wanted in self._concerned(pending):
                wanted.batch_size_max = max(1, len(pending.tickers) // 2)
                wanted.ask_again(now)
        return NOTHING_LOST

    def _concerned(self, pending: _Pending | None) -> list[_Wanted]:
        """What a command asked for and has not got yet."""
        if pending is None:
            return []
        everything = self._private if pending.channel is None else self._channels[pending.channel].wanted
        return [
            everything[name]
            for name in pending.tickers
            if name in everything and not everything[name].is_acknowledged
        ]

    def _drop_subscription(self, sid: int | None, pending: _Pending | None, now: float) -> Lost:
        """A subscription has ended on the exchange's side: all that it carried is asked for again."""
        if sid is not None:
            ended = {sid}
        elif pending is not None and pending.channel is not None:
            ended = set(self._channels[pending.channel].sids)
        else:
            ended = set()
        if not ended:
            return NOTHING_LOST
        retry_at = now + self._next_loss_delay_s(now)
        for wanted in self._private.values():
            if wanted.sid in ended:
                wanted.lose(retry_at)
        books: set[str] = set()
        for channel, state in self._channels.items():
            if not ended & set(state.sids):
                continue
            state.sids = [s for s in state.sids if s not in ended]
            for ticker, wanted in state.wanted.items():
                if wanted.sid is None or wanted.sid in ended:
                    wanted.lose(retry_at)
                    if channel is Channel.ORDERBOOK:
                        books.add(ticker)
        return Lost(frozenset(ended), frozenset(books))

    def _next_loss_delay_s(self, now: float) -> float:
        """None for the first loss in a while, then longer and longer: an exchange that ends every
        subscription as soon as it is made must not be asked as fast as it answers."""
        if self._lost_at is None or now - self._lost_at > 2 * LOSS_DELAY_S_MAX:
            self._loss_delay_s = 0.0
        else:
            self._loss_delay_s = min(LOSS_DELAY_S_MAX, max(1.0, self._loss_delay_s * 2))
        self._lost_at = now
        return self._loss_delay_s

    def _refuse_channel(self, pending: _Pending | None, now: float) -> None:
        """Unknown channel: the command's other channels are acknowledged on their own (recorded)."""
        if pending is None:
            return
        if pending.channel is Channel.ORDERBOOK:
            self._channels[pending.channel].is_refused = True
            return
        for wanted in self._concerned(pending):
            if pending.channel is None:
                wanted.batch_size_max = 1  # the good ones must not be refused again with the bad one
            wanted.ask_again(now + RETRY_S_MAX)

    # --- what to send -------------------------------------------------------------------------------

    def due_commands(self, now: float) -> list[Command]:
        """The commands to send now; they count as sent."""
        if now < self._quiet_until:
            return []
        self._expire(now)
        if self._slow_down_s and now - self._slowed_at > SLOW_DOWN_ENDS_S:
            self._slow_down_s = 0.0
            self._batch_size = BATCH_SIZE_MAX
        commands: list[Command] = []
        budget = 1 if self._slow_down_s else COMMANDS_AT_ONCE_MAX
        for step in (
            self._private_command,
            lambda t: self._removal(Channel.TICKER, t),
            lambda t: self._addition(Channel.TICKER, t),
            lambda t: self._removal(Channel.ORDERBOOK, t),
            lambda t: self._addition(Channel.ORDERBOOK, t),
            self._snapshot_command,
        ):
            while len(commands) < budget and (command := step(now)) is not None:
                commands.append(command)
        if commands and self._slow_down_s:
            self._quiet_until = now + self._slow_down_s
        return commands

    def _expire(self, now: float) -> None:
        """What stayed out too long becomes due again, more patiently each time."""
        # Far longer than the patience with one request: a late acknowledgement is still one.
        for command_id in [i for i, p in self._pending.items() if now - p.sent_at > RETRY_S_MAX]:
            del self._pending[command_id]
        for wanted in [
            *self._private.values(),
            *(w for s in self._channels.values() for w in s.wanted.values()),
        ]:
            if wanted.requested_at is None or wanted.is_complete:
                continue
            patience_s = min(RETRY_S_MAX, ACK_TIMEOUT_S * 2 ** max(0, wanted.attempts - 2))
            if now - wanted.requested_at >= patience_s:
                wanted.ask_again(now)
        if self._snapshot_asked_at is not None:
            patience_s = ACK_TIMEOUT_S if self._snapshot_asked else SNAPSHOT_SPACING_S
            if now - self._snapshot_asked_at >= patience_s:
                self._snapshot_asked_at = None

    def _send(
        self,
        cmd: str,
        params: dict[str, Any],
        now: float,
        channel: Channel | None,
        names: tuple[str, ...],
        adds: bool,
    ) -> Command:
        command = Command(self._next_id, cmd, params)
        self._next_id += 1
        self._pending[command.id] = _Pending(now, channel, names, adds)
        return command

    def _private_command(self, now: float) -> Command | None:
        due = [
            (name, wanted)
            for name, wanted in self._private.items()
            if not wanted.is_acknowledged and wanted.requested_at is None and wanted.retry_at <= now
        ]
        if not due:
            return None
        due = due[: due[0][1].batch_size_max]
        for _, wanted in due:
            wanted.requested_at = now
            wanted.attempts += 1
        names = tuple(name for name, _ in due)
        return self._send("subscribe", {"channels": list(names)}, now, None, names, True)

    def _removal(self, channel: Channel, now: float) -> Command | None:
        state = self._channels[channel]
        gone = [t for t in state.wanted if t not in self._required[channel]]
        if not gone:
            return None
        sid = state.wanted[gone[0]].sid
        batch = tuple(t for t in gone if state.wanted[t].sid == sid)[: self._batch_size]
        for ticker in batch:
            del state.wanted[ticker]
            if channel is Channel.ORDERBOOK:
                self._snapshot_wanted.discard(ticker)
                self._snapshot_asked.discard(ticker)
        if sid is None:
            # Not acknowledged yet: it is deleted when its acknowledgement comes after all.
            return self._removal(channel, now)
        params = {"sids": [sid], "action": "delete_markets", "market_tickers": list(batch)}
        return self._send("update_subscription", params, now, channel, batch, False)

    def _addition(self, channel: Channel, now: float) -> Command | None:
        state = self._channels[channel]
        if state.is_refused:
            return None
        for ticker in self._required[channel]:
            if ticker not in state.wanted:
                state.wanted[ticker] = _Wanted()
        due = sorted(
            t
            for t, w in state.wanted.items()
            if not w.is_complete and w.requested_at is None and w.retry_at <= now
        )
        if not due:
            return None
        first = state.wanted[due[0]]
        size = min(self._batch_size, first.batch_size_max)
        is_retry = first.attempts > 0
        batch = tuple(
            t
            for t in due
            if (state.wanted[t].attempts > 0) == is_retry
            and state.wanted[t].batch_size_max == first.batch_size_max
        )[:size]
        for ticker in batch:
            wanted = state.wanted[ticker]
            wanted.requested_at = now
            wanted.attempts += 1
        params: dict[str, Any] = {"market_tickers": list(batch)}
        if channel is Channel.TICKER:
            params["send_initial_snapshot"] = True
        if state.sids and not is_retry:
            params |= {"sids": [state.sids[0]], "action": "add_markets"}
            return self._send("update_subscription", params, now, channel, batch, True)
        # A repeated subscribe is merged into the subscription that is there (changelog 2025-10), so a
        # retry needs to know nothing of what the exchange kept of the first one.
        params["channels"] = [channel.value]
        if channel is Channel.ORDERBOOK:
            # The default of this flag is announced to flip; left out, NO prices would change meaning.
            params["use_yes_price"] = False
        return self._send("subscribe", params, now, channel, batch, True)

    def _snapshot_command(self, now: float) -> Command | None:
        state = self._channels[Channel.ORDERBOOK]
        if self._snapshot_asked_at is not None or not self._snapshot_wanted:
            return None
        known = sorted(
            t for t in self._snapshot_wanted if t in state.wanted and state.wanted[t].sid is not None
        )
        if not known:
            return None
        sid = state.wanted[known[0]].sid
        batch = tuple(t for t in known if state.wanted[t].sid == sid)[: self._batch_size]
        self._snapshot_asked_at = now
        self._snapshot_asked = set(batch)
        params = {"sids": [sid], "action": "get_snapshot", "market_tickers": list(batch)}
        return self._send("update_subscription", params, now, Channel.ORDERBOOK, batch, False)
