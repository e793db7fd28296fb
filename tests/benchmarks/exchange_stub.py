"""A bare exchange for measurements: raw sockets, no validation, its own process.

    python -m tests.benchmarks.exchange_stub

prints `PORT n` and serves one WebSocket, REST and an echo on that port. The driver speaks to it in JSON
lines over standard input and reads JSON lines from standard output. Time stamps are taken in this process
on both ends of the way, so that no two clocks are compared.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import sys
import threading
import time
from typing import Any

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
ECHO_BYTES = 459


def frame(payload: bytes) -> bytes:
    """One unmasked text frame."""
    head = struct.pack("!BB", 0x81, len(payload)) if len(payload) < 126 else b""
    return (head or struct.pack("!BBH", 0x81, 126, len(payload))) + payload


def ticker(name: str, bid: str, ask: str, ts_ms: int) -> bytes:
    """A ticker frame of the recorded size (459 bytes)."""
    message = {
        "type": "ticker",
        "sid": 1,
        "msg": {
            "market_ticker": name,
            "market_id": "4ac7cb26-aacc-420e-860e-5e7f054d8aa8",
            "price_dollars": "0.5000",
            "yes_bid_dollars": bid,
            "yes_ask_dollars": ask,
            "volume_fp": "759.86",
            "open_interest_fp": "666.18",
            "dollar_volume": 379,
            "dollar_open_interest": 333,
            "yes_bid_size_fp": "500.00",
            "yes_ask_size_fp": "500.00",
            "last_trade_size_fp": "0.09",
            "ts": ts_ms // 1000,
            "ts_ms": ts_ms,
            "time": "2026-09-21T05:00:00Z",
        },
    }
    return frame(json.dumps(message, separators=(",", ":")).encode())


class Stub:
    """Serves; every connection has a thread of its own."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.stream: socket.socket | None = None
        self.has_stream = threading.Event()
        self.send_lock = threading.Lock()  # serializes frames on the stream
        self.sent_at: dict[str, int] = {}
        self.echoed = threading.Event()
        self.echo_ns = 0
        self.ordered = threading.Event()
        self.order_ns = 0
        self.load_stop = threading.Event()

    def serve(self) -> None:
        while True:
            sock, _ = self.listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.connection, args=(sock,), daemon=True).start()

    def connection(self, sock: socket.socket) -> None:
        try:
            first = sock.recv(65536)
            if first.startswith(b"ECHO"):
                self.echo(sock)
            elif b"Upgrade: websocket" in first:
                self.websocket(sock, first)
            else:
                self.rest(sock, first)
        except OSError:
            sock.close()  # the measured side has hung up

    def echo(self, sock: socket.socket) -> None:
        """The floor: bytes out, bytes back, nothing else."""
        payload = b"x" * ECHO_BYTES
        sock.sendall(b"OK")
        while command := sock.recv(1):
            if command == b"q":
                return
            started = time.perf_counter_ns()
            sock.sendall(payload)
            sock.recv(65536)
            self.echo_ns = time.perf_counter_ns() - started
            self.echoed.set()

    def websocket(self, sock: socket.socket, request: bytes) -> None:
        key = next(
            line for line in request.decode().split("\r\n") if line.lower().startswith("sec-websocket-key")
        )
        accept = base64.b64encode(hashlib.sha1((key.split(": ")[1] + GUID).encode()).digest()).decode()
        sock.sendall(
            f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        self.stream = sock
        self.has_stream.set()
        buffer = b""
        while data := sock.recv(65536):
            buffer += data
            while (message := self.unmask(buffer)) is not None:
                payload, buffer = message
                self.answer(payload)

    @staticmethod
    def unmask(buffer: bytes) -> tuple[bytes, bytes] | None:
        if len(buffer) < 2:
            return None
        length, at = buffer[1] & 0x7F, 2
        if length == 126:
            length, at = struct.unpack("!H", buffer[2:4])[0], 4
        if len(buffer) < at + 4 + length:
            return None
        mask, at = buffer[at : at + 4], at + 4
        data = bytes(b ^ mask[i % 4] for i, b in enumerate(buffer[at : at + length]))
        return data, buffer[at + length :]

    def answer(self, payload: bytes) -> None:
        """Acknowledge a subscription and send each ticker's first price."""
        try:
            command = json.loads(payload)
        except ValueError:
            return  # a pong or close frame's payload
        params = command.get("params", {})
        sock = self.stream
        assert sock is not None
        with self.send_lock:
            for n, channel in enumerate(params.get("channels", ["ticker"])):
                ack = {"id": command["id"], "type": "subscribed", "msg": {"channel": channel, "sid": n + 1}}
                sock.sendall(frame(json.dumps(ack).encode()))
            for name in params.get("market_tickers", []):
                sock.sendall(ticker(name, "0.6000", "0.6200", int(time.time() * 1000)))

    def rest(self, sock: socket.socket, buffer: bytes) -> None:
        while True:
            arrived = time.perf_counter_ns()
            if buffer.startswith(b"POST"):
                self.order_ns = arrived
                self.ordered.set()
            while b"\r\n\r\n" not in buffer:
                buffer += self.more(sock)
            head, _, body = buffer.partition(b"\r\n\r\n")
            length = next(
                (
                    int(h.split(b":")[1])
                    for h in head.split(b"\r\n")
                    if h.lower().startswith(b"content-length")
                ),
                0,
            )
            while len(body) < length:
                body += self.more(sock)
            answer = b'{"exchange_active":true,"trading_active":true}'
            status = b"200 OK"
            if head.startswith(b"POST"):
                order = json.loads(body)
                status = b"201 Created"
                answer = json.dumps(
                    {
                        "order_id": "o-" + order["client_order_id"],
                        "client_order_id": order["client_order_id"],
                        "fill_count": order["count"],
                        "remaining_count": "0.00",
                        "average_fill_price": "0.4000",
                        "average_fee_paid": "0.0168",
                        "ts_ms": int(time.time() * 1000),
                    }
                ).encode()
            sock.sendall(
                b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\nContent-Length: "
                + str(len(answer)).encode() + b"\r\n\r\n" + answer
            )  # fmt: skip
            buffer = self.more(sock)

    @staticmethod
    def more(sock: socket.socket) -> bytes:
        data = sock.recv(65536)
        if not data:
            raise ConnectionError("closed")
        return data

    # --- what the driver asks for -------------------------------------------------------------------

    def cross(self, name: str) -> int:
        """Send the tick that crosses the stop; return the nanoseconds until the order's first bytes."""
        assert self.stream is not None
        data = ticker(name, "0.4000", "0.4200", int(time.time() * 1000))
        self.ordered.clear()
        with self.send_lock:
            started = time.perf_counter_ns()
            self.stream.sendall(data)
        if not self.ordered.wait(5.0):
            raise TimeoutError(f"no order for {name}")
        return self.order_ns - started

    def load(self, rate: int, names: list[str]) -> None:
        """Tick other markets at `rate` messages a second until stopped."""
        assert self.stream is not None
        batch = max(1, rate // 1000)
        pause = batch / rate
        count = 0
        due = time.perf_counter()
        while not self.load_stop.is_set():
            data = b""
            for _ in range(batch):
                cents = 50 + count % 5
                data += ticker(
                    names[count % len(names)], f"0.{cents}00", f"0.{cents + 2}00", int(time.time() * 1000)
                )
                count += 1
            with self.send_lock:
                self.stream.sendall(data)
            due += pause
            self.load_stop.wait(max(0.0, due - time.perf_counter()))

    def blast(self, count: int, names: list[str]) -> None:
        """Send `count` frames as fast as they go."""
        assert self.stream is not None
        frames = [
            ticker(n, f"0.{50 + i % 5}00", f"0.{52 + i % 5}00", int(time.time() * 1000))
            for i, n in enumerate(names)
        ]
        chunk = b"".join(frames[i % len(frames)] for i in range(1000))
        with self.send_lock:
            for _ in range(count // 1000):
                self.stream.sendall(chunk)


def main() -> None:
    stub = Stub()
    threading.Thread(target=stub.serve, daemon=True).start()
    print(f"PORT {stub.listener.getsockname()[1]}", flush=True)
    loader: threading.Thread | None = None
    for line in sys.stdin:
        command: dict[str, Any] = json.loads(line)
        result: dict[str, Any] = {}
        match command["do"]:
            case "cross":
                result["ns"] = stub.cross(command["ticker"])
            case "echo":
                result["ns"] = stub.echo_ns
            case "load":
                stub.load_stop.clear()
                loader = threading.Thread(
                    target=stub.load, args=(command["rate"], command["tickers"]), daemon=True
                )
                loader.start()
            case "quiet":
                stub.load_stop.set()
                if loader is not None:
                    loader.join(5.0)
            case "blast":
                stub.has_stream.wait(5.0)
                stub.blast(command["count"], command["tickers"])
            case "forget":
                stub.has_stream.clear()
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
