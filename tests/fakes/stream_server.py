"""A loopback WebSocket server that does what a script says, network failures included.

Plain sockets and threads of the standard library, so that it shares nothing with the client under test.
Each connection runs the next script on its own thread; the last script repeats. Scripts and tests talk to
a connection through its `Peer`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

ACCEPT_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
WAIT_S_MAX = 5.0

Document = Mapping[str, Any]


def eventually(is_true: Callable[[], object], within_s: float = WAIT_S_MAX) -> None:
    """Wait until `is_true()`; fail when it stays false."""
    pause = threading.Event()
    for _ in range(int(within_s / 0.005)):
        if is_true():
            return
        pause.wait(0.005)
    raise AssertionError(f"still not so after {within_s} s")


def frame_bytes(data: bytes, opcode: int = TEXT, *, fin: bool = True, rsv: int = 0) -> bytes:
    """One unmasked frame, as a server sends it."""
    head = bytes([(fin << 7) | (rsv << 4) | opcode])
    if len(data) < 126:
        return head + bytes([len(data)]) + data
    if len(data) < 65_536:
        return head + b"\x7e" + struct.pack("!H", len(data)) + data
    return head + b"\x7f" + struct.pack("!Q", len(data)) + data


class Peer:
    """The server's end of one connection. Sends may come from any thread."""

    def __init__(self, connection: socket.socket, stop: threading.Event) -> None:
        self.stop = stop
        self._connection = connection
        self._reader = connection.makefile("rb")
        self._send_lock = threading.Lock()
        self._lock = threading.Lock()  # guards the fields below
        self.headers: dict[str, str] = {}
        self.path = ""
        self._commands: list[dict[str, Any]] = []
        self._pongs: list[bytes] = []
        self.is_open = False
        self._is_reset = False

    # --- the upgrade --------------------------------------------------------------------------------

    def read_upgrade(self) -> None:
        """Read the request line and the headers. Raises ConnectionError when the client leaves."""
        first = self._reader.readline().decode("ascii").split()
        headers: dict[str, str] = {}
        while line := self._reader.readline().decode("ascii").strip():
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        if "sec-websocket-key" not in headers:
            raise ConnectionError("the client left before its request was complete")
        with self._lock:
            self.path = first[1]
            self.headers = headers

    def upgrade_answer(self) -> bytes:
        key = self.headers["sec-websocket-key"]
        accept = base64.b64encode(hashlib.sha1((key + ACCEPT_GUID).encode()).digest()).decode()
        return (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
        ).encode()

    def accept_upgrade(self) -> None:
        self.read_upgrade()
        self.send_bytes(self.upgrade_answer())
        with self._lock:
            self.is_open = True

    def refuse_upgrade(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        """Answer the upgrade with a status instead."""
        self.read_upgrade()
        lines = {"Content-Length": "0"} | dict(headers or {})
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.send_bytes(f"HTTP/1.1 {status} Scripted\r\n{head}\r\n".encode())

    # --- sending ------------------------------------------------------------------------------------

    def send_bytes(self, data: bytes) -> None:
        with self._send_lock:
            self._connection.sendall(data)

    def send(self, *documents: Document) -> None:
        for document in documents:
            self.send_text(json.dumps(document))

    def send_text(self, text: str | bytes) -> None:
        self.send_bytes(frame_bytes(text.encode() if isinstance(text, str) else text))

    def ping(self) -> None:
        self.send_bytes(frame_bytes(b"heartbeat", PING))

    def close(self, code: int) -> None:
        self.send_bytes(frame_bytes(struct.pack("!H", code), CLOSE))

    def reset(self) -> None:
        """End the connection with a TCP reset, without a close frame."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with self._lock:
            self._is_reset = True
        # Sends nothing, but wakes the script, whose end closes the socket.
        self._connection.shutdown(socket.SHUT_RD)

    def shut_down(self) -> None:
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is closed already

    def end(self) -> None:
        with self._lock:
            is_reset = self._is_reset
        if not is_reset:
            self.shut_down()
        self._reader.close()

    def trickle(self, data: bytes, every_s: float = 0.01) -> None:
        """Send one byte at a time, each well inside any receive time-out."""
        for index in range(len(data)):
            if self.stop.wait(every_s):
                return
            self.send_bytes(data[index : index + 1])

    # --- receiving ----------------------------------------------------------------------------------

    def read_frame(self) -> tuple[int, bytes]:
        """The next frame of the client. Raises ConnectionError at the end of the stream."""
        first, second = self._read(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self._read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self._read(8))
        assert second & 0x80, "a client has to mask its frames (RFC 6455, section 5.1)"
        mask = self._read(4)
        data = bytes(b ^ mask[i % 4] for i, b in enumerate(self._read(length)))
        if first & 0xF == PONG:
            with self._lock:
                self._pongs.append(data)
        return first & 0xF, data

    def _read(self, count: int) -> bytes:
        data = self._reader.read(count)
        if len(data) < count:
            raise ConnectionError("the client is gone")
        return data

    def next_command(self) -> dict[str, Any]:
        """The next command of the client. Raises ConnectionError when it leaves."""
        while True:
            opcode, data = self.read_frame()
            if opcode == CLOSE:
                raise ConnectionError("the client said goodbye")
            if opcode == TEXT:
                command: dict[str, Any] = json.loads(data)
                with self._lock:
                    self._commands.append(command)
                return command

    def read_on(self) -> None:
        """Read and keep what the client says, answer nothing, until it leaves."""
        while not self.stop.is_set():
            self.next_command()

    # --- what a test asks ---------------------------------------------------------------------------

    @property
    def commands(self) -> list[dict[str, Any]]:
        with self._lock:
            return list(self._commands)

    @property
    def pongs(self) -> list[bytes]:
        with self._lock:
            return list(self._pongs)

    def asked(self, channel: str) -> set[str]:
        """The tickers that were asked for on this connection, by subscribe or add_markets."""
        tickers: set[str] = set()
        for command in self.commands:
            params = command["params"]
            is_update = params.get("action") == "add_markets" and SIDS[channel] in params["sids"]
            if is_update or channel in params.get("channels", ()):
                tickers.update(params.get("market_tickers", ()))
        return tickers

    def named(self, action: str) -> list[set[str]]:
        """The tickers of every update with this action."""
        return [
            set(c["params"]["market_tickers"]) for c in self.commands if c["params"].get("action") == action
        ]


Script = Callable[[Peer], None]

SIDS = {
    "fill": 1,
    "user_orders": 2,
    "market_positions": 3,
    "market_lifecycle_v2": 4,
    "ticker": 5,
    "orderbook_delta": 6,
}


class Obedient:
    """Acknowledges every command and sends what it asks for, until the client leaves.

    Numbers its book messages like the exchange: one counter for the subscription, control replies
    included (recorded 2026-08-07).
    """

    def __init__(self, *, with_prices: bool = True) -> None:
        self._with_prices = with_prices
        self._lock = threading.Lock()  # guards the field below
        self._seq = 0

    def __call__(self, peer: Peer) -> None:
        with self._lock:
            self._seq = 0
        peer.accept_upgrade()
        while not peer.stop.is_set():
            peer.send(*self.answer(peer.next_command()))

    def next_seq(self) -> int:
        with self._lock:
            self._seq += 1
            return self._seq

    def restart(self) -> None:
        with self._lock:
            self._seq = 0

    def answer(self, command: dict[str, Any]) -> list[Document]:
        params = command["params"]
        tickers: list[str] = params.get("market_tickers", [])
        if command["cmd"] == "subscribe":
            replies: list[Document] = []
            for channel in params["channels"]:
                replies.append(
                    {
                        "id": command["id"],
                        "type": "subscribed",
                        "msg": {"channel": channel, "sid": SIDS[channel]},
                    }
                )
                replies += self._initial(SIDS[channel], tickers)
            return replies
        sid = params["sids"][0]
        if params["action"] == "get_snapshot":
            return [{"id": command["id"], **self.snapshot(t)} for t in tickers]
        ok: dict[str, Any] = {"id": command["id"], "sid": sid, "type": "ok", "msg": {}}
        if sid == SIDS["orderbook_delta"]:
            ok["seq"] = self.next_seq()
        return [ok, *(self._initial(sid, tickers) if params["action"] == "add_markets" else [])]

    def _initial(self, sid: int, tickers: Iterable[str]) -> list[Document]:
        if not self._with_prices:
            return []
        if sid == SIDS["ticker"]:
            return [ticker(t) for t in tickers]
        if sid == SIDS["orderbook_delta"]:
            return [self.snapshot(t) for t in tickers]
        return []

    def snapshot(
        self,
        market: str,
        yes: Iterable[tuple[str, str]] = (("0.4000", "100.00"),),
        no: Iterable[tuple[str, str]] = (("0.5500", "100.00"),),
    ) -> Document:
        return {
            "type": "orderbook_snapshot",
            "sid": SIDS["orderbook_delta"],
            "seq": self.next_seq(),
            "msg": {
                "market_ticker": market,
                "yes_dollars_fp": [list(level) for level in yes],
                "no_dollars_fp": [list(level) for level in no],
            },
        }

    def delta(self, market: str, side: str, price: str, change: str, ts_ms: int) -> Document:
        return {
            "type": "orderbook_delta",
            "sid": SIDS["orderbook_delta"],
            "seq": self.next_seq(),
            "msg": {
                "market_ticker": market,
                "price_dollars": price,
                "delta_fp": change,
                "side": side,
                "ts_ms": ts_ms,
            },
        }


def ticker(
    market: str,
    bid: str = "0.4000",
    ask: str = "0.4500",
    ts_ms: int = 1_790_000_000_000,
    size: str = "100.00",
) -> Document:
    """A `ticker` frame in the exchange's present form."""
    return {
        "type": "ticker",
        "sid": SIDS["ticker"],
        "msg": {
            "market_ticker": market,
            "price_dollars": bid,
            "yes_bid_dollars": bid,
            "yes_ask_dollars": ask,
            "yes_bid_size_fp": size,
            "yes_ask_size_fp": size,
            "ts_ms": ts_ms,
        },
    }


# --- scripts that end badly -------------------------------------------------------------------------


def never_answer(peer: Peer) -> None:
    """Take the connection and say nothing."""
    peer.stop.wait(30)


def trickle_upgrade(peer: Peer) -> None:
    """Answer the upgrade byte by byte, without end."""
    peer.read_upgrade()
    peer.trickle(b"HTTP/1.1 101 Switching Protocols\r\nX-Endless: " + b"x" * 100_000, every_s=0.02)


def half_frame(peer: Peer) -> None:
    """Open, send one frame and half of the next, and fall silent."""
    peer.accept_upgrade()
    peer.ping()
    peer.send_bytes(frame_bytes(b'{"type":"ticker"}')[:9])
    peer.stop.wait(30)


def trickle_frame(peer: Peer) -> None:
    """Open, send one frame, and the next one byte by byte, without end."""
    peer.accept_upgrade()
    peer.ping()
    peer.trickle(frame_bytes(b"x" * 60_000), every_s=0.02)


def stay_silent(peer: Peer) -> None:
    """Open, send one frame, and nothing more; the socket stays open."""
    peer.accept_upgrade()
    peer.ping()
    peer.read_on()


def close_with(code: int) -> Script:
    """Open, send one frame, and close with this code."""

    def script(peer: Peer) -> None:
        peer.accept_upgrade()
        peer.ping()
        peer.close(code)
        peer.read_on()

    return script


def reset_after_first_frame(peer: Peer) -> None:
    peer.accept_upgrade()
    peer.ping()
    peer.next_command()
    peer.reset()


def refuse_with(status: int, **headers: str) -> Script:
    """Answer the upgrade with this status; underscores in header names stand for dashes."""

    def script(peer: Peer) -> None:
        peer.refuse_upgrade(status, {name.replace("_", "-"): value for name, value in headers.items()})

    return script


def open_and_send(data: bytes) -> Script:
    """Open, send these raw bytes, and read on."""

    def script(peer: Peer) -> None:
        peer.accept_upgrade()
        peer.send_bytes(data)
        peer.read_on()

    return script


class StreamServer:
    """Runs one script a connection, in order; then repeats the last."""

    def __init__(
        self, *scripts: Script, tls: ssl.SSLContext | None = None, receive_buffer_bytes: int | None = None
    ) -> None:
        self._scripts = list(scripts)
        self._tls = tls
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer_bytes is not None:
            # Small segments too: the client's own send buffer is sized by them.
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(16)
        self.port: int = self._listener.getsockname()[1]
        self._stop = threading.Event()
        self._lock = threading.Lock()  # guards the fields below
        self._peers: list[Peer] = []
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="scripted-stream", daemon=True)]

    @property
    def url(self) -> str:
        scheme, host = ("ws", "127.0.0.1") if self._tls is None else ("wss", "localhost")
        return f"{scheme}://{host}:{self.port}/trade-api/ws/v2"

    @property
    def peers(self) -> list[Peer]:
        with self._lock:
            return list(self._peers)

    @property
    def connections(self) -> int:
        """TCP connections so far, TLS or not."""
        with self._lock:
            return len(self._open)

    def peer(self, number: int) -> Peer:
        """The `number`-th connection (from 0), once it has been upgraded."""
        eventually(lambda: len(self.peers) > number and self.peers[number].is_open)
        return self.peers[number]

    def __enter__(self) -> StreamServer:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            connections, peers, threads = list(self._open), list(self._peers), list(self._threads)
        for peer in peers:
            peer.shut_down()
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it is closed already
        for thread in threads:
            thread.join(WAIT_S_MAX)

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.append(connection)
                script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
                thread = threading.Thread(target=self._serve, args=(connection, script), daemon=True)
                self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, script: Script) -> None:
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            peer = Peer(connection, self._stop)
            with self._lock:
                self._peers.append(peer)
            try:
                script(peer)
            finally:
                peer.end()
        except (OSError, ValueError):
            return  # the client is gone, or the script closed the connection
        finally:
            connection.close()
