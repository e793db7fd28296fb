"""The stream thread on a real socket: it comes back, never lies about being live, and stops at once."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest

from base.clock import SystemClock
from base.kalshi.feed import FeedSettings, FeedState, NoFeed
from base.kalshi.market_data import DEPTH_LEVELS_MAX
from base.kalshi.server_clock import ServerClock
from base.kalshi.transport import CA_FILE
from base.kalshi.websocket_client import WebsocketClient
from base.kalshi.websocket_price_cache import PriceEntry, WebsocketPriceCache
from base.model.events import Lifecycle, OrderUpdate, PositionUpdate
from base.model.market import MarketStatus, PriceSource
from base.model.position import Fill
from tests.fakes.stream_server import (
    BINARY,
    CONTINUATION,
    SIDS,
    TEXT,
    Document,
    Obedient,
    Peer,
    Script,
    StreamServer,
    close_with,
    eventually,
    frame_bytes,
    half_frame,
    never_answer,
    open_and_send,
    refuse_with,
    reset_after_first_frame,
    stay_silent,
    ticker,
    trickle_frame,
    trickle_upgrade,
)

from .keys import KEY_ID, signer, tls_server

T = 1_790_000_000_000


class HurriedClock(SystemClock):
    """The real clock, except that a backoff takes no time: what was asked for is kept instead."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the fields below
        self._ahead_s = 0.0
        self._delays_s: list[float] = []

    def monotonic(self) -> float:
        with self._lock:
            return super().monotonic() + self._ahead_s

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._ahead_s += seconds

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        with self._lock:
            self._delays_s.append(timeout_s)
        return event.wait(0.002)

    @property
    def delays_s(self) -> list[float]:
        with self._lock:
            return list(self._delays_s)


class LongestDelay(random.Random):
    """Draws the ceiling of every delay, so that a test sees it."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Heard:
    """A listener that keeps what it hears; `breaks_on` makes one kind of message raise."""

    def __init__(self) -> None:
        self.fills: list[Fill] = []
        self.orders: list[OrderUpdate] = []
        self.positions: list[PositionUpdate] = []
        self.lifecycles: list[Lifecycle] = []
        self.states: list[FeedState] = []
        self.breaks_on = ""

    def _note(self, kind: str, kept: list[Any], what: object) -> None:
        kept.append(what)
        if kind == self.breaks_on:
            raise RuntimeError("the listener is broken")

    def fill(self, fill: Fill) -> None:
        self._note("fill", self.fills, fill)

    def order_update(self, update: OrderUpdate) -> None:
        self._note("order", self.orders, update)

    def position_update(self, update: PositionUpdate) -> None:
        self._note("position", self.positions, update)

    def lifecycle(self, event: Lifecycle) -> None:
        self._note("lifecycle", self.lifecycles, event)

    def feed_changed(self, state: FeedState) -> None:
        self._note("feed", self.states, state)


class Rig:
    """A client with everything around it, not started yet."""

    def __init__(self, url: str, clock: SystemClock | None = None, **settings: Any) -> None:
        self.clock = clock or HurriedClock()
        self.heard = Heard()
        self.cache = WebsocketPriceCache(self.clock, stale_after_s=60.0)
        self.server_clock = ServerClock(self.clock)
        chosen = {"silent_after_s": 30.0, "reconnect_delay_initial_s": 0.5, "reconnect_delay_max_s": 8.0}
        self.feed = WebsocketClient(
            FeedSettings(url, **(chosen | settings)),
            lambda method, path: signer().headers(method, path, self.server_clock.now_ms()),
            self.server_clock,
            self.cache,
            self.heard,
            self.clock,
            LongestDelay(),
        )

    @property
    def delays_s(self) -> list[float]:
        assert isinstance(self.clock, HurriedClock)
        return self.clock.delays_s

    def require(self, *tickers: str, held: tuple[str, ...] = ()) -> None:
        self.cache.require(tickers, held)
        self.feed.set_required(tickers, held)

    def entry(self, market: str) -> PriceEntry:
        entry = self.cache.get(market)
        assert entry is not None
        return entry

    def has_bid(self, market: str, bid: str) -> bool:
        entry = self.cache.get(market)
        return entry is not None and entry.yes_bid == D(bid)

    def top(self, market: str) -> tuple[str, str]:
        entry = self.entry(market)
        return f"{entry.yes_bid:.4f}", f"{entry.yes_ask:.4f}"

    def is_confirmed(self, *tickers: str) -> bool:
        return all(self.feed.is_confirmed(t) for t in tickers)


@contextmanager
def running(*scripts: Script, server: dict[str, Any] | None = None, **settings: Any) -> Iterator[Any]:
    """A server that runs these scripts, and a client that is connected to it; yields both."""
    with StreamServer(*scripts, **(server or {})) as stream:
        rig = Rig(stream.url, **settings)
        rig.feed.start()
        try:
            yield stream, rig
        finally:
            rig.feed.stop()
            assert rig.feed.join(5)


@contextmanager
def streaming(*tickers: str, held: tuple[str, ...] = (), **settings: Any) -> Iterator[Any]:
    """A client for which these tickers are confirmed; yields the exchange, its peer and the rig."""
    exchange = Obedient()
    with running(exchange, **settings) as (server, rig):
        rig.require(*tickers, held=held)
        eventually(lambda: rig.is_confirmed(*tickers))
        if held:
            eventually(lambda: all(rig.cache.get(t) is not None for t in held))
            eventually(lambda: server.peer(0).asked("orderbook_delta") >= set(held))
        yield exchange, server.peer(0), rig


# --- connecting ---------------------------------------------------------------------------------------


def test_it_connects_signed_and_confirms_what_is_required() -> None:
    with streaming("KXA", "KXB", held=("KXA",)) as (_, peer, rig):
        assert peer.path == "/trade-api/ws/v2"
        assert peer.headers["kalshi-access-key"] == KEY_ID
        assert peer.headers["kalshi-access-signature"]
        assert "origin" not in peer.headers
        status = rig.feed.status()
        assert status.is_live
        assert status.confirmed == status.required == {"KXA", "KXB"}
        assert (status.reconnects, status.malformed, status.last_error) == (0, 0, "")
        assert status.messages > 0
        assert rig.heard.states == [FeedState.LIVE]
        assert [c["id"] for c in peer.commands] == list(range(1, len(peer.commands) + 1))
        (book,) = [c for c in peer.commands if "orderbook_delta" in c["params"].get("channels", ())]
        assert book["params"]["use_yes_price"] is False


def test_before_the_first_frame_nothing_is_live() -> None:
    def open_only(peer: Peer) -> None:
        peer.accept_upgrade()
        peer.read_on()

    with running(open_only) as (server, rig):
        assert rig.feed.status().state is FeedState.CONNECTING
        peer = server.peer(0)
        eventually(lambda: peer.commands)
        status = rig.feed.status()
        assert status.state is FeedState.CONNECTING
        assert status.last_frame_age_s is None, "an upgrade is no frame"
        peer.ping()
        eventually(lambda: rig.feed.status().is_live)


def test_a_connection_that_only_says_goodbye_was_never_live() -> None:
    def goodbye(peer: Peer) -> None:
        peer.accept_upgrade()
        peer.close(1013)
        peer.read_on()

    with running(goodbye) as (server, rig):
        eventually(lambda: server.connections >= 3)
        assert rig.heard.states == []
        assert rig.feed.status().state is FeedState.DOWN
        assert "1013" in rig.feed.status().last_error


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with streaming("KXA"):
        return


def test_prices_reach_the_cache_as_they_come() -> None:
    with streaming("KXA") as (_, peer, rig):
        assert rig.entry("KXA").quote.source is PriceSource.SNAPSHOT
        peer.send(ticker("KXA", "0.4100", "0.4600", T + 1))
        eventually(lambda: rig.has_bid("KXA", "0.41"))
        quote = rig.entry("KXA").quote
        assert quote is not None
        assert (quote.yes_ask, quote.yes_bid_size, quote.ts_ms) == (D("0.46"), 100, T + 1)
        assert (quote.source, quote.connection) == (PriceSource.WS, 1)
        peer.send(
            {"type": "ticker", "data": {"market_ticker": "KXA", "yes_bid": 65, "yes_ask": 67}},
        )
        eventually(lambda: rig.has_bid("KXA", "0.65"))


def test_what_is_required_later_is_added_and_removed() -> None:
    with streaming("KXA") as (_, peer, rig):
        rig.require("KXA", "KXB")
        eventually(lambda: rig.is_confirmed("KXA", "KXB"))
        rig.require("KXB")
        eventually(lambda: peer.named("delete_markets") == [{"KXA"}])
        eventually(lambda: rig.feed.status().confirmed == {"KXB"})
        peer.send(ticker("KXA", "0.1000"), ticker("KXB", "0.4200", ts_ms=T + 1))
        eventually(lambda: rig.has_bid("KXB", "0.42"))
        assert rig.cache.get("KXA") is None


def test_an_acknowledged_ticker_without_price_is_not_confirmed() -> None:
    with running(Obedient(with_prices=False)) as (server, rig):
        rig.require("KXA")
        eventually(lambda: server.peer(0).asked("ticker") == {"KXA"})
        server.peer(0).ping()
        eventually(lambda: rig.feed.status().is_live)
        assert not rig.is_confirmed("KXA")
        server.peer(0).send(ticker("KXA"))
        eventually(lambda: rig.is_confirmed("KXA"))


class StandingClock(HurriedClock):
    """With it the loop never gets round to looking through all that is required."""

    def monotonic(self) -> float:
        return 1_000.0


@contextmanager
def running_on_a_standing_clock(script: Script) -> Iterator[Rig]:
    with StreamServer(script) as server:
        rig = Rig(server.url, clock=StandingClock())
        rig.require("KXA", "KXB")
        rig.feed.start()
        try:
            yield rig
        finally:
            rig.feed.stop()
            assert rig.feed.join(5)


def test_a_first_price_confirms_at_once() -> None:
    with running_on_a_standing_clock(Obedient()) as rig:
        eventually(lambda: rig.is_confirmed("KXA", "KXB"))
        assert rig.feed.status().confirmed == {"KXA", "KXB"}


def test_a_price_that_was_not_acknowledged_confirms_nothing() -> None:
    def deaf(peer: Peer) -> None:
        peer.accept_upgrade()
        peer.next_command()
        peer.send(ticker("KXA", "0.4000"), ticker("KXB", "0.4000"))
        peer.read_on()

    with running_on_a_standing_clock(deaf) as rig:
        eventually(lambda: rig.has_bid("KXB", "0.40"))
        assert not rig.feed.is_confirmed("KXA")


def test_an_unanswered_subscription_is_repeated_after_five_seconds() -> None:
    def deaf(peer: Peer) -> None:
        peer.accept_upgrade()
        peer.ping()
        peer.read_on()

    with running(deaf) as (server, rig):
        rig.require("KXA")
        eventually(lambda: server.peer(0).asked("ticker") == {"KXA"})
        rig.clock.advance(5.0)
        eventually(
            lambda: sum("KXA" in c["params"].get("market_tickers", ()) for c in server.peer(0).commands) == 2
        )


def test_a_suspected_market_is_asked_for_again() -> None:
    with streaming("KXA", "KXB") as (_, peer, rig):
        rig.feed.suspect(["KXA"])
        eventually(lambda: sum(c["params"].get("market_tickers") == ["KXA"] for c in peer.commands) == 1)
        eventually(lambda: rig.is_confirmed("KXA", "KXB"))


def test_a_suspected_market_is_not_confirmed_until_it_is_answered() -> None:
    exchange, falls_silent = Obedient(), threading.Event()

    def obey_until_told(peer: Peer) -> None:
        peer.accept_upgrade()
        while not peer.stop.is_set():
            command = peer.next_command()
            if not falls_silent.is_set():
                peer.send(*exchange.answer(command))

    with running(obey_until_told) as (_, rig):
        rig.require("KXA", "KXB")
        eventually(lambda: rig.is_confirmed("KXA", "KXB"))
        falls_silent.set()
        rig.feed.suspect(["KXA"])
        eventually(lambda: rig.feed.status().confirmed == {"KXB"})


def test_many_commands_pass_a_slow_reader() -> None:
    """A send that has to wait for the exchange to read is not a failure of the connection."""
    obedient = Obedient()
    slept = threading.Event()

    def slow(peer: Peer) -> None:
        peer.accept_upgrade()
        peer.ping()
        slept.wait(0.3)
        while not peer.stop.is_set():
            peer.send(*obedient.answer(peer.next_command()))

    tickers = [f"KX{'LONG' * 20}-{n:04}" for n in range(2_000)]
    with StreamServer(slow, receive_buffer_bytes=4_096) as server:
        rig = Rig(server.url)
        rig.require(*tickers)
        rig.feed.start()
        try:
            eventually(lambda: server.peer(0).asked("ticker") == set(tickers))
            assert server.connections == 1
        finally:
            rig.feed.stop()
            assert rig.feed.join(5)


# --- coming back --------------------------------------------------------------------------------------


def test_after_a_cut_it_asks_for_what_is_required_now() -> None:
    with running(Obedient()) as (server, rig):
        rig.require("KXA", "KXB")
        eventually(lambda: rig.is_confirmed("KXA", "KXB"))
        rig.require("KXB", "KXC", held=("KXC",))
        server.peer(0).reset()
        again = server.peer(1)
        eventually(lambda: rig.is_confirmed("KXB", "KXC"))
        assert again.asked("ticker") == {"KXB", "KXC"}
        eventually(lambda: again.asked("orderbook_delta") == {"KXC"})
        eventually(lambda: rig.feed.status().reconnects == 1)
        assert rig.entry("KXC").quote.connection == 2
        assert rig.heard.states == [FeedState.LIVE, FeedState.DOWN, FeedState.LIVE]
        assert [c["id"] for c in again.commands] == list(range(1, len(again.commands) + 1))
        stamps = [int(p.headers["kalshi-access-timestamp"]) for p in server.peers]
        assert stamps[0] < stamps[1], "each attempt is signed anew"


def test_a_lower_time_on_a_new_connection_is_taken() -> None:
    with running(Obedient()) as (server, rig):
        rig.require("KXA")
        server.peer(0).send(ticker("KXA", "0.4100", ts_ms=T + 10_000))
        eventually(lambda: rig.has_bid("KXA", "0.41"))
        server.peer(0).reset()
        eventually(lambda: rig.has_bid("KXA", "0.40"))


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1008, 1011, 1012, 1013])
def test_it_comes_back_whatever_the_close_code(code: int) -> None:
    with running(close_with(code), Obedient()) as (_, rig):
        rig.require("KXA")
        eventually(lambda: rig.is_confirmed("KXA"))
        assert rig.feed.status().reconnects == 1


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(reset_after_first_frame, id="reset"),
        pytest.param(refuse_with(502), id="502 to the upgrade"),
        pytest.param(lambda peer: None, id="closed without an answer"),
        pytest.param(lambda peer: peer.send_bytes(b"SSH-2.0-OpenSSH\r\n"), id="another protocol"),
        pytest.param(lambda peer: peer.send_bytes(b"HTTP/1.1 xyz\r\n\r\n"), id="a broken status line"),
        pytest.param(open_and_send(b"\xf1\x00"), id="reserved bits"),
        pytest.param(open_and_send(b"\x83\x00"), id="an unknown opcode"),
        pytest.param(open_and_send(frame_bytes(b"x", CONTINUATION)), id="a continuation of nothing"),
        pytest.param(open_and_send(b"\x81\x7f" + (1 << 40).to_bytes(8, "big")), id="a frame of 1 TiB"),
        pytest.param(
            open_and_send(
                frame_bytes(b"[" * 1_000_000, TEXT, fin=False)
                + frame_bytes(b"[" * 1_000_000, CONTINUATION, fin=False) * 16
            ),
            id="a message without end, in fragments",
        ),
    ],
)
def test_it_comes_back_after(first: Script) -> None:
    with running(first, Obedient()) as (server, rig):
        rig.require("KXA")
        eventually(lambda: rig.is_confirmed("KXA"))
        assert server.connections == 2
        assert len(rig.delays_s) == 1


def test_nothing_is_confirmed_from_the_moment_the_feed_is_down() -> None:
    with running(Obedient(), never_answer) as (server, rig):
        rig.require("KXA")
        eventually(lambda: rig.is_confirmed("KXA"))
        server.peer(0).reset()
        eventually(lambda: not rig.is_confirmed("KXA"))
        eventually(lambda: server.connections == 2)
        status = rig.feed.status()
        assert status.state is FeedState.DOWN
        assert status.confirmed == frozenset()
        assert status.connected_for_s is None
        assert not rig.is_confirmed("KXA")
        assert rig.has_bid("KXA", "0.40"), "the price stays; only nobody vouches for it"


def test_a_silent_but_open_socket_is_recognized() -> None:
    with running(stay_silent, Obedient(), silent_after_s=0.4, clock=SystemClock()) as (server, rig):
        rig.require("KXA")
        started = time.monotonic()
        server.peer(0).send(
            *Obedient().answer(
                {"id": 2, "cmd": "subscribe", "params": {"channels": ["ticker"], "market_tickers": ["KXA"]}}
            )
        )
        eventually(lambda: server.connections == 2, within_s=2)
        assert time.monotonic() - started >= 0.4
        eventually(lambda: rig.is_confirmed("KXA"))
        assert rig.heard.states[:2] == [FeedState.LIVE, FeedState.DOWN]


def test_pings_alone_keep_the_feed_alive_and_are_answered() -> None:
    with streaming("KXA", silent_after_s=0.6, clock=SystemClock()) as (_, peer, rig):
        pause = threading.Event()
        for _ in range(8):
            pause.wait(0.1)
            peer.ping()
            assert rig.is_confirmed("KXA")
        eventually(lambda: len(peer.pongs) == 8)
        assert set(peer.pongs) == {b"heartbeat"}
        assert rig.feed.status().reconnects == 0


def test_a_frame_that_trickles_in_hides_nothing() -> None:
    """The reader is stuck in it; whoever asks sees the truth, and the watchdog cuts it off."""

    def obey_then_trickle(peer: Peer) -> None:
        peer.accept_upgrade()
        while not peer.asked("ticker"):
            peer.send(*Obedient().answer(peer.next_command()))
        peer.trickle(frame_bytes(b"x" * 60_000), every_s=0.02)

    with running(obey_then_trickle, Obedient(), silent_after_s=0.4, clock=SystemClock()) as (server, rig):
        rig.require("KXA")
        eventually(lambda: rig.is_confirmed("KXA"))
        eventually(lambda: not rig.is_confirmed("KXA"), within_s=1)
        assert rig.feed.status().state is FeedState.DOWN
        assert rig.feed.status().confirmed == frozenset()
        assert server.connections == 1
        passed_at = rig.feed.last_pass_at
        rig.feed.enforce_liveness()
        assert server.connections == 1, "not before its time"
        eventually(lambda: (rig.feed.enforce_liveness(), server.connections == 2)[1])
        eventually(lambda: rig.is_confirmed("KXA"))
        assert rig.feed.last_pass_at > passed_at


def test_a_frame_in_two_halves_is_one() -> None:
    with streaming("KXA") as (_, peer, rig):
        data = frame_bytes(json.dumps(ticker("KXA", "0.4300", ts_ms=T + 1)).encode())
        peer.send_bytes(data[:40])
        threading.Event().wait(0.15)  # three read time-outs
        peer.send_bytes(data[40:])
        eventually(lambda: rig.has_bid("KXA", "0.43"))
        assert rig.feed.status().malformed == 0


def test_a_message_in_fragments_is_one() -> None:
    with streaming("KXA") as (_, peer, rig):
        data = json.dumps(ticker("KXA", "0.4300", ts_ms=T + 1)).encode()
        peer.send_bytes(frame_bytes(data[:30], TEXT, fin=False))
        peer.ping()
        peer.send_bytes(frame_bytes(data[30:], CONTINUATION))
        eventually(lambda: rig.has_bid("KXA", "0.43"))


# --- backing off --------------------------------------------------------------------------------------


def test_delays_grow_up_to_the_limit_and_a_short_life_resets_nothing() -> None:
    with running(*[refuse_with(503)] * 3, *[close_with(1001)] * 3, stay_silent) as (server, rig):
        eventually(lambda: server.connections == 7)
        assert rig.delays_s == [0.5, 1, 2, 4, 8, 8]


def test_a_connection_that_was_heard_for_long_resets_the_delay() -> None:
    with running(*[refuse_with(503)] * 3, stay_silent, stay_silent) as (server, rig):
        peer = server.peer(3)
        eventually(lambda: rig.feed.status().is_live)
        rig.clock.advance(25.0)
        messages = rig.feed.status().messages
        peer.ping()
        eventually(lambda: rig.feed.status().messages > messages)
        peer.close(1001)
        eventually(lambda: server.connections == 5)
        assert rig.delays_s == [0.5, 1, 2, 0.5]


def test_an_attempt_that_hangs_for_long_resets_nothing() -> None:
    released = threading.Event()

    def hang(peer: Peer) -> None:
        released.wait(5)

    with running(refuse_with(503), refuse_with(503), hang, stay_silent) as (server, rig):
        eventually(lambda: server.connections == 3)
        rig.clock.advance(25.0)
        released.set()
        eventually(lambda: server.connections == 4)
        assert rig.delays_s == [0.5, 1, 2]


def test_a_refused_key_is_not_hammered() -> None:
    with running(refuse_with(401), refuse_with(403), stay_silent) as (server, rig):
        eventually(lambda: server.connections == 3)
        assert [d >= 5 for d in rig.delays_s] == [True, True]


def test_a_wrong_clock_is_learned_from_the_refusal() -> None:
    ahead_s = 300.0

    def strict(peer: Peer) -> None:
        peer.read_upgrade()
        off_s = time.time() + ahead_s - int(peer.headers["kalshi-access-timestamp"]) / 1000
        if abs(off_s) > 10:
            date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + ahead_s))
            peer.send_bytes(
                f"HTTP/1.1 401 Unauthorized\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n".encode()
            )
            return
        peer.send_bytes(peer.upgrade_answer())
        peer.ping()
        peer.read_on()

    with running(strict) as (server, rig):
        eventually(lambda: rig.feed.status().is_live)
        assert server.connections == 2
        assert rig.delays_s == [0.5], "the cure is known, so there is nothing to wait for"


def test_a_redirect_is_not_followed() -> None:
    with StreamServer(Obedient()) as elsewhere:
        with running(refuse_with(302, Location=elsewhere.url), never_answer) as (server, rig):
            eventually(lambda: server.connections == 2)
            assert rig.feed.status().state is FeedState.DOWN
            assert "edirect" in rig.feed.status().last_error
        assert elsewhere.connections == 0, "the signature would have gone there"


# --- stopping -----------------------------------------------------------------------------------------


def idle(peer: Peer) -> None:
    Obedient()(peer)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(idle, id="in a read"),
        pytest.param(half_frame, id="in half a frame"),
        pytest.param(trickle_frame, id="in a frame that trickles in"),
        pytest.param(never_answer, id="in a handshake that is never answered"),
        pytest.param(trickle_upgrade, id="in a handshake that trickles in"),
    ],
)
def test_it_stops_at_once(script: Script) -> None:
    with running(script) as (server, rig):
        rig.require("KXA")
        eventually(lambda: server.connections == 1)
        eventually(lambda: script in (never_answer, trickle_upgrade) or rig.heard.states)
        assert_stops_at_once(rig)
        assert server.connections == 1


def test_it_stops_at_once_while_backing_off() -> None:
    with running(
        refuse_with(503), clock=SystemClock(), reconnect_delay_initial_s=30.0, reconnect_delay_max_s=30.0
    ) as (_, rig):
        eventually(lambda: rig.feed.status().last_error)
        assert_stops_at_once(rig)


def test_it_stops_at_once_in_a_tls_handshake_that_is_never_answered() -> None:
    with StreamServer(never_answer) as server:
        rig = Rig(server.url.replace("ws://", "wss://"))
        rig.feed.start()
        eventually(lambda: server.connections == 1)
        assert_stops_at_once(rig)


def assert_stops_at_once(rig: Rig) -> None:
    started = time.monotonic()
    rig.feed.stop()
    assert rig.feed.join(2)
    assert time.monotonic() - started < 0.5
    assert not rig.feed.is_alive


def test_stopping_what_never_ran_is_nothing() -> None:
    rig = Rig("ws://127.0.0.1:9/trade-api/ws/v2")
    rig.feed.stop()
    rig.feed.cut()
    rig.feed.enforce_liveness()
    assert rig.feed.join(0)


# --- what comes in ------------------------------------------------------------------------------------

GARBAGE: list[bytes] = [
    frame_bytes(b""),
    frame_bytes(b"hello"),
    frame_bytes(b"null"),
    frame_bytes(b"[]"),
    frame_bytes(b"{}"),
    frame_bytes(b"\xff\xfe"),
    frame_bytes(b"[" * 50_000),
    frame_bytes(b'{"type":"ticker","msg":{"market_ticker":"KXA","yes_bid_dollars":"NaN"}}'),
    frame_bytes(b'{"type":"ticker","msg":{"market_ticker":"KXA","yes_bid_dollars":"0.30"}}'),
    frame_bytes(
        b'{"type":"ticker","msg":{"market_ticker":"KXA","yes_bid_dollars":0.3,"yes_ask_dollars":0.4}}'
    ),
    frame_bytes(b'{"type":"error"}'),
    frame_bytes(b'{"type":"orderbook_delta","sid":6,"seq":1,"msg":{"side":"maybe"}}'),
]


def test_garbage_ends_neither_the_thread_nor_the_connection() -> None:
    with streaming("KXA") as (_, peer, rig):
        peer.send_bytes(b"".join(GARBAGE) + frame_bytes(b"\x00\x01", BINARY))
        peer.send(ticker("KXA", "0.4100", ts_ms=T + 1))
        eventually(lambda: rig.has_bid("KXA", "0.41"))
        status = rig.feed.status()
        assert status.malformed == len(GARBAGE)
        assert status.reconnects == 0
        assert rig.is_confirmed("KXA")


def test_unknown_types_are_counted_by_name() -> None:
    with streaming("KXA") as (_, peer, rig):
        peer.send(
            {"type": "trade", "sid": 9, "seq": 1, "msg": {}},
            {"type": "trade", "sid": 9, "seq": 2, "msg": {}},
            {"type": "event_fee_update", "sid": 4, "seq": 1},
            ticker("KXA", "0.4100", ts_ms=T + 1),
        )
        eventually(lambda: rig.has_bid("KXA", "0.41"))
        assert rig.feed.status().unknown_types == {"trade": 2, "event_fee_update": 1}
        assert rig.feed.status().malformed == 0


def test_the_names_of_unknown_types_do_not_pile_up() -> None:
    with streaming("KXA") as (_, peer, rig):
        peer.send(*({"type": f"new_{n}"} for n in range(200)), ticker("KXA", "0.4100", ts_ms=T + 1))
        eventually(lambda: rig.has_bid("KXA", "0.41"))
        counts = rig.feed.status().unknown_types
        assert len(counts) <= 51
        assert sum(counts.values()) == 200


FILL = {
    "type": "fill",
    "sid": SIDS["fill"],
    "msg": {
        "trade_id": "t-1",
        "order_id": "o-1",
        "market_ticker": "KXA",
        "yes_price_dollars": "0.4000",
        "count_fp": "5.00",
        "fee_cost": "0.0100",
        "book_side": "ask",
        "ts_ms": T,
        "post_position_fp": "0.00",
    },
}
ORDER = {
    "type": "user_order",
    "sid": SIDS["user_orders"],
    "msg": {"order_id": "o-1", "ticker": "KXA", "status": "executed", "book_side": "ask"},
}
POSITION = {
    "type": "market_position",
    "sid": SIDS["market_positions"],
    "msg": {"market_ticker": "KXA", "position_fp": "-3.00"},
}


def lifecycle(event: str, market: str = "KXA", seq: int = 1) -> Document:
    return {
        "type": "market_lifecycle_v2",
        "sid": SIDS["market_lifecycle_v2"],
        "seq": seq,
        "msg": {"market_ticker": market, "event_type": event},
    }


def test_the_listener_hears_private_and_lifecycle_messages() -> None:
    with streaming("KXA") as (_, peer, rig):
        peer.send(FILL, ORDER, POSITION, lifecycle("created", "KXNEW", 1), lifecycle("deactivated", seq=2))
        eventually(lambda: rig.heard.lifecycles)
        (fill,), (order,), (position,) = rig.heard.fills, rig.heard.orders, rig.heard.positions
        assert (fill.trade_id, fill.count, fill.post_position) == ("t-1", 5, 0)
        assert (order.order_id, order.ticker) == ("o-1", "KXA")
        assert (position.ticker, position.count) == ("KXA", -3)
        assert [e.ticker for e in rig.heard.lifecycles] == ["KXA"], "new markets are noise"
        eventually(lambda: rig.entry("KXA").market.status is MarketStatus.INACTIVE)


@pytest.mark.parametrize("kind", ["fill", "feed"])
def test_a_broken_listener_does_not_end_the_feed(kind: str) -> None:
    with running(Obedient()) as (server, rig):
        rig.require("KXA")
        eventually(lambda: rig.is_confirmed("KXA"))
        rig.heard.breaks_on = kind
        server.peer(0).send(FILL)
        if kind == "feed":
            server.peer(0).reset()
        eventually(lambda: len(rig.heard.states) >= 2)
        rig.heard.breaks_on = ""
        eventually(lambda: rig.is_confirmed("KXA"))
        assert rig.feed.is_alive


def test_a_demand_for_authentication_makes_a_new_connection() -> None:
    with running(Obedient()) as (server, rig):
        rig.require("KXA")
        eventually(lambda: rig.is_confirmed("KXA"))
        server.peer(0).send({"type": "error", "msg": {"code": 9, "msg": "Authentication required"}})
        server.peer(1)
        eventually(lambda: rig.feed.status().reconnects == 1 and rig.is_confirmed("KXA"))


# --- books --------------------------------------------------------------------------------------------


def test_the_book_gives_prices_between_tickers() -> None:
    with streaming("KXA", held=("KXA",)) as (exchange, peer, rig):
        peer.send(exchange.delta("KXA", "yes", "0.4200", "7.00", T + 5))
        eventually(lambda: rig.has_bid("KXA", "0.42"))
        quote = rig.entry("KXA").quote
        assert (quote.yes_bid_size, quote.ts_ms, quote.source) == (7, T + 5, PriceSource.WS)
        peer.send(exchange.delta("KXA", "no", "0.5700", "3.00", T + 6))
        eventually(lambda: rig.top("KXA") == ("0.4200", "0.4300"))
        # A ticker of before says nothing new; one of after does, even when the book has not moved.
        peer.send(ticker("KXA", "0.1100", ts_ms=T + 4), ticker("KXA", "0.4100", "0.4300", ts_ms=T + 9))
        eventually(lambda: rig.has_bid("KXA", "0.41"))


def test_no_book_is_asked_for_when_it_is_switched_off() -> None:
    with streaming("KXA", orderbook_feed=False) as (exchange, peer, rig):
        rig.require("KXA", "KXB", held=("KXA", "KXB"))
        eventually(lambda: rig.is_confirmed("KXB"))
        assert peer.asked("orderbook_delta") == set()
        peer.send(
            exchange.snapshot("KXA", yes=[("0.9000", "1.00")], no=[]), ticker("KXA", "0.4100", ts_ms=T + 1)
        )
        eventually(lambda: rig.has_bid("KXA", "0.41"))


def test_a_gap_makes_the_book_unusable_until_its_snapshot() -> None:
    with streaming("KXA", "KXB", held=("KXA", "KXB")) as (exchange, peer, rig):
        peer.send(ticker("KXB", "0.4000", ts_ms=T + 50))
        exchange.next_seq()  # one message is lost, nobody knows of which market
        peer.send(exchange.delta("KXA", "yes", "0.4400", "1.00", T + 100))
        eventually(lambda: peer.named("get_snapshot"))
        assert peer.named("get_snapshot")[0] == {"KXA", "KXB"}

        def a_change_shows() -> bool:
            # Repeated, because the first ones may still go out before the snapshot that they build on.
            peer.send(exchange.delta("KXA", "yes", "0.4300", "1.00", T + 200))
            return rig.has_bid("KXA", "0.43")

        eventually(a_change_shows)


def test_without_a_usable_book_the_ticker_carries_on() -> None:
    def no_snapshots(peer: Peer) -> None:
        peer.accept_upgrade()
        while not peer.stop.is_set():
            command = peer.next_command()
            if command["params"].get("action") != "get_snapshot":
                peer.send(*exchange.answer(command))

    exchange = Obedient()
    with running(no_snapshots) as (server, rig):
        rig.require("KXA", held=("KXA",))
        eventually(lambda: rig.is_confirmed("KXA") and server.peer(0).asked("orderbook_delta"))
        peer = server.peer(0)
        peer.send(exchange.delta("KXA", "yes", "0.4100", "1.00", T + 100))
        eventually(lambda: rig.has_bid("KXA", "0.41"))
        exchange.next_seq()
        peer.send(
            exchange.delta("KXA", "yes", "0.4400", "1.00", T + 150), ticker("KXA", "0.3000", ts_ms=T + 140)
        )
        eventually(lambda: rig.has_bid("KXA", "0.30"))
        assert rig.is_confirmed("KXA")


def test_a_snapshot_after_a_gap_is_newer_than_the_ticker_before_it() -> None:
    with streaming("KXA", held=("KXA",)) as (exchange, peer, rig):
        peer.send(exchange.delta("KXA", "yes", "0.4100", "1.00", T + 100))
        peer.send(ticker("KXA", "0.4200", ts_ms=T + 200))
        eventually(lambda: rig.has_bid("KXA", "0.42"))
        peer.send(exchange.snapshot("KXA", yes=[("0.2000", "5.00")]))
        eventually(lambda: rig.has_bid("KXA", "0.20"))


@pytest.mark.parametrize("repeated", ["delta", "snapshot"])
def test_a_repeated_message_is_not_applied_twice(repeated: str) -> None:
    with streaming("KXA", held=("KXA",)) as (exchange, peer, rig):
        old = exchange.snapshot("KXA", yes=[("0.3500", "5.00")])
        change = exchange.delta("KXA", "yes", "0.3600", "5.00", T + 100)
        peer.send(old, change, change if repeated == "delta" else old)
        peer.send(exchange.delta("KXA", "yes", "0.0100", "1.00", T + 200))
        eventually(lambda: rig.entry("KXA").quote.ts_ms == T + 200)
        quote = rig.entry("KXA").quote
        assert (quote.yes_bid, quote.yes_bid_size) == (D("0.36"), 5)
        assert peer.named("get_snapshot") == []


def test_a_level_below_nothing_asks_for_a_snapshot() -> None:
    with streaming("KXA", held=("KXA",)) as (exchange, peer, rig):
        peer.send(exchange.delta("KXA", "yes", "0.4000", "-500.00", T + 100))
        eventually(lambda: peer.named("get_snapshot") == [{"KXA"}])
        peer.send(exchange.delta("KXA", "yes", "0.4300", "1.00", T + 200))
        eventually(lambda: rig.has_bid("KXA", "0.43"))
        assert rig.feed.status().malformed == 1


def test_a_crossed_book_says_nothing_and_the_ticker_speaks() -> None:
    with streaming("KXA", held=("KXA",)) as (exchange, peer, rig):
        peer.send(exchange.delta("KXA", "yes", "0.9900", "1.00", T + 500))
        peer.send(ticker("KXA", "0.2500", "0.4500", ts_ms=T + 400))
        eventually(lambda: rig.has_bid("KXA", "0.25"))


def test_a_book_that_contradicts_the_ticker_is_fetched_anew() -> None:
    with streaming("KXA", held=("KXA",)) as (exchange, peer, rig):
        peer.send(exchange.delta("KXA", "yes", "0.4100", "1.00", T))
        for n in range(5):
            peer.send(ticker("KXA", f"0.2{n}00", ts_ms=T + n))
        eventually(lambda: peer.named("get_snapshot") == [{"KXA"}])
        eventually(lambda: rig.has_bid("KXA", "0.40"))
        peer.send(exchange.delta("KXA", "yes", "0.4300", "1.00", T + 100))
        eventually(lambda: rig.has_bid("KXA", "0.43"))


def test_a_book_in_another_scale_is_given_up_for_the_ticker() -> None:
    """NO levels priced as YES prices, should the exchange flip its default after all."""
    with streaming("KXA", held=("KXA",)) as (exchange, peer, rig):
        peer.send(
            exchange.snapshot("KXA", yes=[("0.4000", "9.00")], no=[("0.4500", "9.00"), ("0.9900", "9.00")])
        )
        peer.send(exchange.delta("KXA", "no", "0.9800", "1.00", T))
        for n in range(5):
            peer.send(ticker("KXA", "0.4000", ts_ms=T + n))
        eventually(lambda: {"KXA"} in peer.named("delete_markets"))
        peer.send(
            exchange.snapshot("KXA", yes=[("0.9000", "1.00")], no=[]),
            ticker("KXA", "0.3300", ts_ms=T + 10),
        )
        eventually(lambda: rig.has_bid("KXA", "0.33"))
        assert rig.is_confirmed("KXA")


def test_a_book_subscription_that_ends_starts_anew_with_its_number() -> None:
    with streaming("KXA", held=("KXA",)) as (exchange, peer, rig):
        for n in range(20):
            peer.send(exchange.delta("KXA", "yes", "0.4100", "1.00", T + n))
        eventually(lambda: rig.has_bid("KXA", "0.41"))
        exchange.restart()
        peer.send({"type": "error", "sid": SIDS["orderbook_delta"], "msg": {"code": 25, "msg": "overflow"}})
        eventually(
            lambda: sum("orderbook_delta" in c["params"].get("channels", ()) for c in peer.commands) == 2
        )
        eventually(lambda: rig.has_bid("KXA", "0.40"))
        peer.send(exchange.delta("KXA", "yes", "0.4200", "1.00", T + 100))
        eventually(lambda: rig.has_bid("KXA", "0.42"))
        assert rig.is_confirmed("KXA")


# --- depth --------------------------------------------------------------------------------------------

NOTHING: Any = ((), ())
"""What is told of a book that is not known."""


@contextmanager
def book_of_two_levels() -> Iterator[Any]:
    """A held market with two levels a side, at an exchange that sends no snapshot when it is asked, and
    no price at all on the next connection."""
    exchange = Obedient()

    def no_snapshots(peer: Peer) -> None:
        peer.accept_upgrade()
        while not peer.stop.is_set():
            command = peer.next_command()
            if command["params"].get("action") != "get_snapshot":
                peer.send(*exchange.answer(command))

    with running(no_snapshots, Obedient(with_prices=False)) as (server, rig):
        rig.require("KXA", held=("KXA",))
        eventually(lambda: rig.feed.depth("KXA") != NOTHING)
        yes, no = [("0.3900", "50.00"), ("0.4000", "9.50")], [("0.5000", "20.00"), ("0.5500", "10.00")]
        server.peer(0).send(exchange.snapshot("KXA", yes, no))
        eventually(lambda: rig.feed.depth("KXA") == TWO_LEVELS)
        yield exchange, server.peer(0), rig


TWO_LEVELS = (
    ((D("0.40"), D("9.5")), (D("0.39"), D(50))),
    ((D("0.55"), D(10)), (D("0.50"), D(20))),
)


def test_the_depth_of_a_held_market_is_told_best_first_and_as_it_is_now() -> None:
    with book_of_two_levels() as (exchange, peer, rig):
        peer.send(exchange.delta("KXA", "yes", "0.4000", "-9.50", T + 1))
        eventually(lambda: rig.feed.depth("KXA")[0] == ((D("0.39"), D(50)),))
        peer.send(exchange.delta("KXA", "no", "0.5600", "1.25", T + 2))
        eventually(lambda: rig.feed.depth("KXA")[1][0] == (D("0.56"), D("1.25")))
        assert rig.feed.depth("KXB") == NOTHING
        many = [(f"0.{cents:02}{tenths}0", "1.00") for cents in range(1, 51) for tenths in range(5)]
        peer.send(exchange.snapshot("KXA", many, []))
        eventually(lambda: len(rig.feed.depth("KXA")[0]) == DEPTH_LEVELS_MAX)
        yes, no = rig.feed.depth("KXA")
        assert (yes[0][0], yes[1][0], no) == (D("0.504"), D("0.503"), ())


def a_gap(exchange: Obedient, peer: Peer, rig: Rig) -> None:
    exchange.next_seq()
    peer.send(exchange.delta("KXA", "yes", "0.3800", "1.00", T + 1))


def a_gap_that_a_control_reply_shows(exchange: Obedient, peer: Peer, rig: Rig) -> None:
    exchange.next_seq()
    sid = SIDS["orderbook_delta"]
    peer.send({"id": 99, "sid": sid, "seq": exchange.next_seq(), "type": "ok", "msg": {}})


def a_level_below_nothing(exchange: Obedient, peer: Peer, rig: Rig) -> None:
    peer.send(exchange.delta("KXA", "yes", "0.4000", "-500.00", T + 1))


def a_crossed_book(exchange: Obedient, peer: Peer, rig: Rig) -> None:
    peer.send(exchange.delta("KXA", "yes", "0.4500", "1.00", T + 1))


def a_ticker_that_contradicts(exchange: Obedient, peer: Peer, rig: Rig) -> None:
    peer.send(exchange.delta("KXA", "yes", "0.3800", "1.00", T))
    for n in range(5):
        peer.send(ticker("KXA", f"0.2{n}00", ts_ms=T + n))


def an_ended_subscription(exchange: Obedient, peer: Peer, rig: Rig) -> None:
    # The second loss in a row is not made good at once, so that the book stays away for a while.
    gone = {"type": "error", "sid": SIDS["orderbook_delta"], "msg": {"code": 25, "msg": "overflow"}}
    peer.send(gone)
    exchange.restart()
    eventually(lambda: sum("orderbook_delta" in c["params"].get("channels", ()) for c in peer.commands) == 2)
    eventually(lambda: rig.feed.depth("KXA") not in (NOTHING, TWO_LEVELS))
    peer.send(gone)


def a_position_that_is_gone(exchange: Obedient, peer: Peer, rig: Rig) -> None:
    rig.require("KXA", held=())


def a_lost_connection(exchange: Obedient, peer: Peer, rig: Rig) -> None:
    peer.close(1001)
    eventually(lambda: rig.feed.status().connection == 2 and rig.feed.status().is_live)


@pytest.mark.parametrize(
    "spoil",
    [
        a_gap,
        a_gap_that_a_control_reply_shows,
        a_level_below_nothing,
        a_crossed_book,
        a_ticker_that_contradicts,
        an_ended_subscription,
        a_position_that_is_gone,
        a_lost_connection,
    ],
    ids=lambda spoil: spoil.__name__.replace("_", " "),
)
def test_a_book_that_cannot_be_believed_has_no_depth(spoil: Any) -> None:
    with book_of_two_levels() as (exchange, peer, rig):
        spoil(exchange, peer, rig)
        eventually(lambda: rig.feed.depth("KXA") == NOTHING)


def test_a_silent_feed_has_no_depth_from_that_moment_on() -> None:
    with book_of_two_levels() as (_, _, rig):
        rig.clock.advance(31.0)
        assert rig.feed.depth("KXA") == NOTHING


def test_depth_comes_back_with_the_next_snapshot() -> None:
    with book_of_two_levels() as (exchange, peer, rig):
        a_gap(exchange, peer, rig)
        eventually(lambda: rig.feed.depth("KXA") == NOTHING)
        peer.send(exchange.delta("KXA", "yes", "0.3700", "1.00", T + 2))
        peer.send(exchange.snapshot("KXA", [("0.3000", "1.00")], []))
        eventually(lambda: rig.feed.depth("KXA") == (((D("0.30"), D(1)),), ()))


def test_depth_comes_back_when_the_book_is_not_crossed_any_more() -> None:
    with book_of_two_levels() as (exchange, peer, rig):
        a_crossed_book(exchange, peer, rig)
        eventually(lambda: rig.feed.depth("KXA") == NOTHING)
        peer.send(exchange.delta("KXA", "yes", "0.4500", "-1.00", T + 2))
        eventually(lambda: rig.feed.depth("KXA") == TWO_LEVELS)


def test_without_order_books_there_is_no_depth() -> None:
    with streaming("KXA", orderbook_feed=False) as (exchange, peer, rig):
        rig.require("KXA", held=("KXA",))
        peer.send(exchange.snapshot("KXA"), ticker("KXA", "0.4100", ts_ms=T + 1))
        eventually(lambda: rig.has_bid("KXA", "0.41"))
        assert rig.feed.depth("KXA") == NOTHING


def test_depth_may_be_asked_for_while_the_book_changes() -> None:
    """Every copy is a book that was there: 9.5 contracts move to and fro, first bid anew and then gone."""
    with book_of_two_levels() as (exchange, peer, rig):
        frames = []
        for n in range(400):
            old, new = ("0.4000", "0.3800") if n % 2 == 0 else ("0.3800", "0.4000")
            frames.append(exchange.delta("KXA", "yes", new, "9.50", T + n))
            frames.append(exchange.delta("KXA", "yes", old, "-9.50", T + n))
        frames.append(exchange.delta("KXA", "no", "0.0100", "1.00", T + 1_000))
        sender = threading.Thread(target=lambda: peer.send(*frames))
        sender.start()
        seen = set()
        for _ in range(1_000_000):
            yes, no = rig.feed.depth("KXA")
            seen.add(yes)
            if len(no) == 3:
                break
        sender.join(5)
        assert len(no) == 3, "all of them have been taken in"
        moved = ((D("0.39"), D(50)), (D("0.38"), D("9.5")))
        both = (*TWO_LEVELS[0], (D("0.38"), D("9.5")))
        assert seen <= {TWO_LEVELS[0], moved, both}


# --- TLS ----------------------------------------------------------------------------------------------


def test_a_trusted_exchange_is_streamed_over_tls_and_stops_at_once(tmp_path: Path) -> None:
    context, ca_file = tls_server(tmp_path)
    with running(Obedient(), server={"tls": context}, ca_file=ca_file) as (_, rig):
        rig.require("KXA")
        eventually(lambda: rig.is_confirmed("KXA"))
        assert_stops_at_once(rig)


def test_an_untrusted_exchange_learns_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, ca_file = tls_server(tmp_path)
    for name in ("SSL_CERT_FILE", "WEBSOCKET_CLIENT_CA_BUNDLE"):
        monkeypatch.setenv(name, ca_file)
    with running(Obedient(), server={"tls": context}, ca_file=CA_FILE) as (server, rig):
        eventually(lambda: server.connections >= 2)
        assert "certificate" in rig.feed.status().last_error
        assert server.peers == [], "no connection got as far as a request"


# --- without a stream ---------------------------------------------------------------------------------


def test_no_feed_vouches_for_nothing() -> None:
    feed = NoFeed()
    feed.set_required(["KXA"], ["KXA"])
    feed.suspect(["KXA"])
    status = feed.status()
    assert (status.state, status.required, status.confirmed) == (FeedState.DOWN, {"KXA"}, frozenset())
    assert not status.is_live
    assert not feed.is_confirmed("KXA")
    assert feed.depth("KXA") == NOTHING
    assert "WEBSOCKET_ENABLED" in status.last_error
