"""The WebSocket manager thread: connect, read, classify, back off, resubscribe.

One thread owns the socket, the subscriptions, the order books and the backoff, and makes every send. It
writes prices into the cache and hands private messages to a listener. Other threads only set what is
required, ask for a status, or stop it.

A plain receive loop instead of the library's `WebSocketApp`: that one hides errors once it reconnects by
itself, follows redirects with the signature in its headers, and its `ping_timeout` was measured to miss
its own deadline by a factor of six. Liveness is the age of the last complete frame of any kind (the
server pings every 10 s), on the monotonic clock, and it is computed by whoever asks, so that a reader
stuck in a half-sent frame cannot hide it.
"""

from __future__ import annotations

import logging
import random
import socket
import ssl
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

import websocket

from base.clock import Clock
from base.errors import WireError
from base.kalshi.backoff import Backoff
from base.kalshi.feed import NO_DEPTH, Depth, FeedSettings, FeedState, FeedStatus, StreamListener
from base.kalshi.frames import decode_frame, encode_command
from base.kalshi.market_data import MarketData
from base.kalshi.server_clock import ServerClock
from base.kalshi.subscriptions import Command, SubscriptionTracker
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.kalshi.websocket_socket import CONNECT_TIMEOUT_S, bound_frames, close_code, open_socket
from base.log import RepeatedWarnings, log_event
from base.model.events import (
    BookDelta,
    BookSnapshot,
    ErrorReply,
    FillEvent,
    Ignored,
    Lifecycle,
    LifecycleKind,
    Ok,
    OrderUpdate,
    PositionUpdate,
    StreamEvent,
    Subscribed,
    Ticker,
    Unsubscribed,
)

logger = logging.getLogger(__name__)

READ_TIMEOUT_S = 0.05
"""How long a read waits before the loop looks at what else is due; a frame cut by it is resumed."""
SEND_TIMEOUT_S = 5.0
"""A send is not resumed: a command cut in the middle costs the connection."""
STABLE_AFTER_S = 20.0
"""A connection that was heard for this long makes the next failure start at the initial delay again."""
AUTH_DELAY_S_MIN = 5.0
"""A refused key or clock is not cured by hurrying."""
MAINTENANCE_S = 0.1
"""How often, at most, subscriptions are looked at while frames pour in."""
UNKNOWN_TYPES_MAX = 50
"""So many message types that we do not know are counted by name, all others together."""
SAMPLE_EVERY_S = 5.0
SAMPLE_BYTES_MAX = 65_536
SAMPLES_MAX = 2


class _FeedSilent(Exception):
    """No frame of any kind for too long on an open socket."""


class WebsocketClient:
    """The thread `websocket`. `sign` returns the headers of one attempt for (method, path)."""

    def __init__(
        self,
        settings: FeedSettings,
        sign: Callable[[str, str], dict[str, str]],
        server_clock: ServerClock,
        cache: WebsocketPriceCache,
        listener: StreamListener,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._settings = settings
        self._sign = sign
        self._server_clock = server_clock
        self._cache = cache
        self._listener = listener
        self._clock = clock
        self._backoff = Backoff(settings.reconnect_delay_initial_s, settings.reconnect_delay_max_s)
        self._rng = rng
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

        # Owned by the WebSocket thread.
        self._tracker = SubscriptionTracker()
        self._warnings = RepeatedWarnings()
        self._data = MarketData(
            self._tracker,
            cache,
            self._publish_if_confirmed,
            self._warnings,
            clock,
            use_books=settings.orderbook_feed,
        )
        self._ws: Any = None
        self._last_maintenance = 0.0
        self._announced_count = -1
        self._sample_due_at = 0.0

        self._lock = threading.Lock()  # guards the fields below; never held during I/O or callbacks
        self._required: frozenset[str] = frozenset()
        self._held: frozenset[str] = frozenset()
        self._suspects: set[str] = set()
        self._sock: socket.socket | None = None
        self._connected_at: float | None = None
        self._last_frame_at: float | None = None
        self._alive_at: float | None = None  # as above, and what a connection attempt has achieved
        self._last_pass_at = clock.monotonic()
        self._connection = 0
        self._reconnects = 0
        self._messages = 0
        self._malformed = 0
        self._unknown: Counter[str] = Counter()
        self._confirmed: set[str] = set()
        self._last_error = ""
        self._is_heard = False
        self._has_been_live = False
        self._ticker_samples: deque[bytes] = deque(maxlen=SAMPLES_MAX)

    # --- what other threads may call ----------------------------------------------------------------

    def start(self) -> None:
        """Start the thread, or a new one where the last has died."""
        self._thread = threading.Thread(target=self._run, name="websocket", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread without waiting for a read: the socket is shut down under it."""
        self._stop.set()
        self.cut()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; return whether it has ended."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self.is_alive

    @property
    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def last_pass_at(self) -> float:
        """Monotonic time at which the loop last went round."""
        with self._lock:
            return self._last_pass_at

    def cut(self) -> None:
        """Shut the socket down (a blocked read wakes within milliseconds); the thread reconnects."""
        with self._lock:
            sock = self._sock
        if sock is None:
            return
        try:
            # close() would not wake a blocked read on Linux; shutdown() does. The plain socket's, because
            # the one of a TLS socket first takes the encryption off, under a thread that may be sending.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        except OSError as exc:
            log_event(logger, logging.DEBUG, "socket_already_down", why=exc)

    def set_required(self, tickers: Iterable[str], held: Iterable[str]) -> None:
        """What must be streamed from now on; `held` gets the order book beside the ticker."""
        required = frozenset(tickers)
        with self._lock:
            self._required = required
            self._held = frozenset(held) & required

    def suspect(self, tickers: Iterable[str]) -> None:
        """REST says that these confirmed markets moved while the stream was silent on them."""
        with self._lock:
            self._suspects.update(tickers)

    def is_confirmed(self, ticker: str) -> bool:
        """Whether the live feed vouches for this ticker's quote now."""
        with self._lock:
            return ticker in self._confirmed and self._state_locked(self._clock.monotonic()) is FeedState.LIVE

    def depth(self, ticker: str) -> Depth:
        """The best levels of a held market's book, as far as it is known now; empty where the feed is not
        live or the book cannot be believed (no snapshot since a gap, crossed, contradicted, not held)."""
        with self._lock:
            is_live = self._state_locked(self._clock.monotonic()) is FeedState.LIVE
        return self._data.depth(ticker) if is_live else NO_DEPTH

    def ticker_samples(self) -> tuple[bytes, ...]:
        """The last two samples of `ticker` frames as they came, oldest first: one each `SAMPLE_EVERY_S`, each
        that cannot be read, and the next that can."""
        with self._lock:
            return tuple(self._ticker_samples)

    def status(self) -> FeedStatus:
        now = self._clock.monotonic()
        with self._lock:
            state = self._state_locked(now)
            return FeedStatus(
                state=state,
                connected_for_s=None if self._connected_at is None else now - self._connected_at,
                last_frame_age_s=None if self._last_frame_at is None else now - self._last_frame_at,
                reconnects=self._reconnects,
                messages=self._messages,
                required=self._required,
                confirmed=self._required & self._confirmed if state is FeedState.LIVE else frozenset(),
                connection=self._connection,
                unknown_types=dict(self._unknown),
                malformed=self._malformed,
                last_error=self._last_error,
            )

    def _state_locked(self, now: float) -> FeedState:
        if not self._is_heard or self._last_frame_at is None:
            return FeedState.DOWN if self._has_been_live or self._last_error else FeedState.CONNECTING
        if now - self._last_frame_at > self._settings.silent_after_s:
            return FeedState.DOWN
        return FeedState.LIVE

    def enforce_liveness(self) -> None:
        """Cut a socket that is open but silent. For a watchdog on another thread: a reader that is stuck
        in a frame that trickles in byte by byte cannot notice by itself."""
        now = self._clock.monotonic()
        with self._lock:
            heard = self._alive_at
            stuck = heard is not None and now - heard > self._settings.silent_after_s + 0.5
        if stuck:
            self.cut()

    # --- the thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            delay_min_s = 0.0
            try:
                self._connect()
                self._read_until_it_ends()
            except _FeedSilent as exc:
                self._note_error(str(exc))
            except websocket.WebSocketBadStatusException as exc:
                delay_min_s = self._note_refusal(exc)
            except (websocket.WebSocketException, OSError, ValueError) as exc:
                self._note_error(f"{type(exc).__name__}: {exc}")
            except Exception as exc:  # safety net: the feed must come back whatever a frame provoked
                log_event(logger, logging.ERROR, "feed_error", exc_info=True)
                self._note_error(f"{type(exc).__name__}: {exc}")
            heard_for_s = self._disconnect()
            if self._stop.is_set():
                break
            if heard_for_s >= STABLE_AFTER_S:
                self._backoff = self._backoff.reset()
            delay_s, self._backoff = self._backoff.next_delay(self._rng)
            delay_s = max(delay_s, delay_min_s)
            with self._lock:
                why = self._last_error
            log_event(logger, logging.WARNING, "feed_down", delay_s=round(delay_s, 2), why=why)
            self._clock.wait(self._stop, delay_s)

    def _note_error(self, text: str) -> None:
        with self._lock:
            self._last_error = text

    def _note_refusal(self, exc: websocket.WebSocketBadStatusException) -> float:
        """Note an upgrade that was answered with a status; return the least delay before the next."""
        code = exc.status_code
        self._note_error(f"the upgrade was answered with HTTP {code}")
        if code not in (401, 403):
            return 0.0
        headers = exc.resp_headers or {}
        self._server_clock.observe_date(headers.get("date"))
        if self._server_clock.apply_observed():
            return 0.0  # the clock was the reason; the next signature will carry the right time
        log_event(
            logger,
            logging.ERROR,
            "feed_refused",
            status=code,
            remedy="check the API key id, its key file, its scopes and this machine's clock",
        )
        return AUTH_DELAY_S_MIN

    def _connect(self) -> None:
        url = urlsplit(self._settings.url)
        sock = open_socket(url, self._settings.ca_file)
        with self._lock:
            self._sock = sock
            self._connection += 1
            # The handshakes are under the same watchdog as everything after them.
            self._alive_at = self._clock.monotonic()
        if self._stop.is_set():  # asked after `cut` can see the socket: a stop cannot fall in between
            raise OSError("stopping")
        if isinstance(sock, ssl.SSLSocket):
            sock.do_handshake()
        # The JSON decoder rejects bad UTF-8; the library's own check is pure Python and costs 90 %.
        ws = websocket.WebSocket(skip_utf8_validation=True)
        ws.connect(  # type: ignore[no-untyped-call]
            self._settings.url,
            socket=sock,
            timeout=CONNECT_TIMEOUT_S,
            header=[f"{k}: {v}" for k, v in self._sign("GET", url.path).items()],
            redirect_limit=0,  # a redirect would carry the signature to another host
            suppress_origin=True,
        )
        ws.settimeout(READ_TIMEOUT_S)
        bound_frames(ws)
        self._ws = ws
        self._tracker.connection_opened()
        self._data.connection_opened(self._connection)
        self._announced_count = -1
        now = self._clock.monotonic()
        with self._lock:
            self._connected_at = self._alive_at = now
            self._is_heard = False
            self._confirmed.clear()

    def _note_first_frame(self) -> None:
        """The connection lives from its first frame on: an upgrade alone proves no stream."""
        with self._lock:
            self._is_heard = True
            if self._has_been_live:
                self._reconnects += 1
            self._has_been_live = True
            self._last_error = ""
        log_event(logger, logging.INFO, "feed_live", url=self._settings.url, connection=self._connection)
        self._listener.feed_changed(FeedState.LIVE)

    def _disconnect(self) -> float:
        """Close everything; return for how many seconds this connection was heard."""
        ws, self._ws = self._ws, None
        heard_for_s = 0.0
        with self._lock:
            was_connected = self._is_heard
            if was_connected and self._connected_at is not None and self._last_frame_at is not None:
                heard_for_s = self._last_frame_at - self._connected_at
            sock, self._sock = self._sock, None
            self._connected_at = None
            self._is_heard = False
            self._confirmed.clear()
        self._data.connection_closed()
        if ws is not None:
            ws.shutdown()
        if sock is not None:
            sock.close()
        if was_connected:
            try:
                self._listener.feed_changed(FeedState.DOWN)
            except Exception:  # safety net: whatever hears of it, the feed has to come back
                log_event(logger, logging.ERROR, "feed_listener_error", exc_info=True)
        return heard_for_s

    def _read_until_it_ends(self) -> None:
        """The receive loop; ends by an exception or by `stop`."""
        ws = self._ws
        self._maintain(self._clock.monotonic())
        while not self._stop.is_set():
            try:
                opcode, frame = ws.recv_data_frame(True)
            except websocket.WebSocketTimeoutException:
                opcode, frame = -1, None
            now = self._clock.monotonic()
            if opcode == websocket.ABNF.OPCODE_CLOSE:  # a goodbye makes nothing live
                raise OSError(f"the exchange closed the connection: {close_code(frame.data)}")
            if frame is not None:
                with self._lock:
                    self._last_frame_at = self._alive_at = now
                    self._messages += 1
                    is_first = not self._is_heard
                if is_first:
                    self._note_first_frame()
                if opcode == websocket.ABNF.OPCODE_TEXT:
                    self._take_in(frame.data, now)
            if now - self._last_maintenance >= MAINTENANCE_S:
                self._maintain(now)

    def _maintain(self, now: float) -> None:
        """What is due beside reading: subscriptions, suspects, liveness."""
        self._last_maintenance = now
        with self._lock:
            self._last_pass_at = now
            silent_s = now - (now if self._alive_at is None else self._alive_at)
            required, held, suspects = self._required, self._held, self._suspects
            self._suspects = set()
        if silent_s > self._settings.silent_after_s:
            raise _FeedSilent(f"no frame of any kind for {silent_s:.1f} s")
        books = self._data.books_of(held)
        self._tracker.set_required(required, books)
        for ticker in suspects:
            self._tracker.suspect(ticker)
        self._data.keep_only(books)
        self._send(self._tracker.due_commands(now))
        if self._tracker.needs_reconnect:
            raise OSError("the exchange asks for a new authentication")
        self._publish_confirmed()

    def _send(self, commands: list[Command]) -> None:
        if not commands:
            return
        self._ws.settimeout(SEND_TIMEOUT_S)
        for command in commands:
            self._ws.send(encode_command(command.id, command.cmd, command.params))
        self._ws.settimeout(READ_TIMEOUT_S)

    def _publish_confirmed(self) -> None:
        """Publish what is confirmed now, whatever has changed: it looks through all that is required."""
        confirmed = set(self._tracker.confirmed)
        with self._lock:
            changed = confirmed != self._confirmed
            self._confirmed = confirmed
        if changed:
            self._confirmed_changed()

    def _publish_if_confirmed(self, ticker: str) -> None:
        """Publish one ticker whose first price has come. By itself, because at start every ticker of
        thousands has its first price, and looking through all of them each time took seconds."""
        if not self._tracker.is_confirmed(ticker):
            return
        with self._lock:
            self._confirmed.add(ticker)
        self._confirmed_changed()

    def _confirmed_changed(self) -> None:
        required = len(self._tracker.required)
        with self._lock:
            confirmed = len(self._confirmed)
        if confirmed == required and self._announced_count != required:
            self._announced_count = required
            log_event(logger, logging.INFO, "subscribed", count=required)
        self._cache.changed.set()

    # --- one frame ----------------------------------------------------------------------------------

    def _take_in(self, data: bytes, now: float) -> None:
        try:
            event = decode_frame(data)
            if isinstance(event, Ticker) and now >= self._sample_due_at:
                self._keep_sample(data, now + SAMPLE_EVERY_S)
            self._dispatch(event, now)
        except WireError as exc:
            if b'"ticker"' in data:  # one that cannot be read says the most, until the next that can
                self._keep_sample(data, now)
            with self._lock:
                self._malformed += 1
            held_back = self._warnings.allow("malformed", now)
            if held_back is not None:
                log_event(
                    logger, logging.WARNING, "malformed_frame", why=str(exc)[:200], also_since_last=held_back
                )

    def _keep_sample(self, data: bytes, next_due_at: float) -> None:
        if len(data) > SAMPLE_BYTES_MAX:
            return
        self._sample_due_at = next_due_at
        with self._lock:
            self._ticker_samples.append(data)

    def _dispatch(self, event: StreamEvent, now: float) -> None:
        if isinstance(event, Ticker):
            self._data.take_ticker(event, now)
        elif isinstance(event, BookDelta):
            self._data.take_delta(event, now)
        elif isinstance(event, BookSnapshot):
            self._data.take_snapshot(event, now)
        elif isinstance(event, FillEvent):
            self._listener.fill(event.fill)
        elif isinstance(event, OrderUpdate):
            self._listener.order_update(event)
        elif isinstance(event, PositionUpdate):
            self._listener.position_update(event)
        elif isinstance(event, Lifecycle):
            self._data.check_sequence(event.sid, event.seq)
            self._cache.apply_lifecycle(event)
            if event.kind is not LifecycleKind.CREATED:
                self._listener.lifecycle(event)
        elif isinstance(event, Ignored):
            name = event.type[:64]
            with self._lock:
                is_known = name in self._unknown or len(self._unknown) < UNKNOWN_TYPES_MAX
                self._unknown[name if is_known else "other"] += 1
            self._data.check_sequence(event.sid, event.seq)
        else:
            self._take_reply(event, now)

    def _take_reply(self, event: Subscribed | Ok | Unsubscribed | ErrorReply, now: float) -> None:
        if (
            isinstance(event, ErrorReply)
            and (held_back := self._warnings.allow(f"error {event.code}", now)) is not None
        ):
            log_event(
                logger,
                logging.WARNING,
                "feed_error_reply",
                code=event.code,
                message=event.message,
                sid=event.sid,
                also_since_last=held_back,
            )
        if not isinstance(event, Subscribed):
            self._data.check_sequence(event.sid, event.seq)
        self._data.subscription_lost(self._tracker.observe(event, now))
        self._publish_confirmed()
