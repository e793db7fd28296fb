"""The WebSocket side: upgrades, one writer a connection, heartbeats, and the faults of a bad line."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import socket
import struct
from collections.abc import Iterable

from aiohttp import WSMsgType, web

from base.sandbox.fixed_point import milliseconds
from base.sandbox.happenings import Happening
from base.sandbox.market import SandboxMarket
from base.sandbox.refusals import Refused
from base.sandbox.session import Session
from base.sandbox.signatures import KeyPair, check_request
from base.sandbox.venue import Venue
from base.sandbox.wire import Json

WS_PATH = "/trade-api/ws/v2"
PING_INTERVAL_S = 10.0  # docs.kalshi.com, connection keep-alive
QUEUE_FRAMES_MAX = 50_000  # a reader this far behind is cut off
POLL_S = 0.02
_GARBAGE = (
    '{"type":"ticker","sid":1,"msg":{"market_ticker":"',
    "this is not JSON",
    "[]",
    '{"type":"ticker","sid":1,"msg":{"market_ticker":"KX-GARBAGE","yes_bid_dollars":"NaN"}}',
    '{"type":"orderbook_delta","sid":1,"seq":"x","msg":null}',
    '{"type":"surprise","sid":99,"msg":{}}',
)
_log = logging.getLogger(__name__)


def reset_connection(transport: asyncio.BaseTransport | None) -> None:
    """Drop a TCP connection without a goodbye (RST, not FIN)."""
    if not isinstance(transport, asyncio.Transport):
        return
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class _Connection:
    """One client. Owned by the event loop."""

    def __init__(self, socket_: web.WebSocketResponse, session: Session, request: web.Request) -> None:
        self.socket = socket_
        self.session = session
        self.request = request
        self.queue: asyncio.Queue[str] = asyncio.Queue(QUEUE_FRAMES_MAX)

    def put(self, text: str) -> None:
        """Queue a frame; a client that reads too slowly loses its connection."""
        try:
            self.queue.put_nowait(text)
        except asyncio.QueueFull:
            _log.warning("event=slow_reader frames=%d; connection cut", QUEUE_FRAMES_MAX)
            self.cut()

    def cut(self) -> None:
        reset_connection(self.request.transport)


class Stream:
    """All connections; hears of every happening of the venue."""

    def __init__(self, venue: Venue, keys: KeyPair, ping_interval_s: float = PING_INTERVAL_S) -> None:
        self._venue = venue
        self._keys = keys
        self._ping_interval_s = ping_interval_s
        self._connections: set[_Connection] = set()
        venue.listeners.append(self._publish)
        venue.cut_sockets = self.cut
        venue.send_garbage = self.send_garbage

    # Faults that act at once

    def cut(self) -> None:
        for connection in tuple(self._connections):
            connection.cut()

    def send_garbage(self, count: int) -> None:
        for connection in self._connections:
            for text in itertools.islice(itertools.cycle(_GARBAGE), count):
                connection.put(text)

    # Upgrade and life of a connection

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self._venue.note_request("GET ws")
        faults, clock = self._venue.faults, self._venue.clock
        if clock.now() < faults.refuse_ws_until:
            if faults.refuse_ws_status is not None:
                return web.Response(status=faults.refuse_ws_status)
            while clock.now() < self._venue.faults.refuse_ws_until:
                await asyncio.sleep(POLL_S)
            reset_connection(request.transport)
            return web.Response(status=503)
        try:
            path = request.raw_path.partition("?")[0]
            check_request(self._keys, request.headers, "GET", path, clock.now(), is_required=True)
        except Refused as refused:
            return web.json_response(refused.body(), status=refused.status)
        answer = web.WebSocketResponse(autoping=False, max_msg_size=64 * 1024 * 1024)
        await answer.prepare(request)
        session = Session(self._find_market, lambda: self._venue.exchange.markets, self._touch_ticker)
        connection = _Connection(answer, session, request)
        self._connections.add(connection)
        tasks = [asyncio.create_task(self._write(connection)), asyncio.create_task(self._ping(connection))]
        try:
            await self._read(connection)
        finally:
            self._connections.discard(connection)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return answer

    async def _read(self, connection: _Connection) -> None:
        async for message in connection.socket:
            if message.type is WSMsgType.TEXT:
                self._send(connection, connection.session.receive(message.data))
            elif message.type is WSMsgType.PING and not self._is_silent():
                await connection.socket.pong(message.data)
            elif message.type is WSMsgType.BINARY:
                self._send(connection, connection.session.receive(""))

    async def _write(self, connection: _Connection) -> None:
        try:
            while True:
                await connection.socket.send_str(await connection.queue.get())
        except ConnectionError:
            _log.debug("event=client_gone")

    async def _ping(self, connection: _Connection) -> None:
        try:
            while True:
                await asyncio.sleep(self._ping_interval_s)
                if not self._is_silent():
                    await connection.socket.ping(b"heartbeat")
        except ConnectionError:
            _log.debug("event=client_gone")

    # Frames

    def _find_market(self, ticker: str) -> SandboxMarket | None:
        return self._venue.exchange.markets.get(ticker)

    def _touch_ticker(self, ticker: str) -> None:
        market = self._venue.exchange.markets[ticker]
        market.ticker_ts_ms = max(milliseconds(self._venue.clock.now()), market.ticker_ts_ms + 1)

    def _is_silent(self) -> bool:
        return self._venue.clock.now() < self._venue.faults.silent_until

    def _publish(self, happening: Happening) -> None:
        for connection in self._connections:
            self._send(connection, connection.session.frames_for(happening))

    def _send(self, connection: _Connection, frames: Iterable[Json]) -> None:
        """Queue frames, less what the faults in force swallow; a swallowed frame keeps its `seq`."""
        for frame in frames:
            if not self._is_silent() and not self._is_swallowed(frame):
                frame["sending_ts_ms"] = milliseconds(self._venue.clock.now())
                connection.put(json.dumps(frame, separators=(",", ":")))

    def _is_swallowed(self, frame: Json) -> bool:
        faults = self._venue.faults
        kind, msg = frame["type"], frame.get("msg")
        if kind in ("subscribed", "ok") and faults.drop_acks > 0:
            faults.drop_acks -= 1
            return True
        if kind in ("orderbook_delta", "orderbook_snapshot") and faults.drop_book_frames > 0:
            faults.drop_book_frames -= 1
            return True
        return kind == "ticker" and isinstance(msg, dict) and faults.is_muted(msg.get("market_ticker"))
