"""A loopback HTTP server that does what a script says, network failures included."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType


@dataclass(frozen=True)
class Received:
    """One request as it came in."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


Step = Callable[[socket.socket, Received, threading.Event], bool]
"""What to do with one request; returns whether the connection stays open."""


def answer(status: int, document: object = None, *, headers: Mapping[str, str] | None = None) -> Step:
    """Answer with a JSON document (or with these bytes)."""

    def step(connection: socket.socket, request: Received, stop: threading.Event) -> bool:
        connection.sendall(response_bytes(status, document, headers))
        return True

    return step


def echo_order(filled: str = "1.00", remaining: str = "0.00") -> Step:
    """Answer a create order with 201 and its own client order id."""

    def step(connection: socket.socket, request: Received, stop: threading.Event) -> bool:
        order = json.loads(request.body)
        document = {
            "order_id": f"X-{order['client_order_id']}",
            "client_order_id": order["client_order_id"],
            "fill_count": filled,
            "remaining_count": remaining,
            "average_fill_price": "0.5200",
            "average_fee_paid": "0.0175",
            "ts_ms": 1_781_159_370_164,
        }
        connection.sendall(response_bytes(201, document))
        return True

    return step


def then_close(step: Step) -> Step:
    """Do `step`, then close the connection without announcing it (an idle time-out of the server)."""

    def closing(connection: socket.socket, request: Received, stop: threading.Event) -> bool:
        step(connection, request, stop)
        return False

    return closing


def then_reset(step: Step) -> Step:
    """Do `step`, then drop the connection with a TCP reset."""

    def resetting(connection: socket.socket, request: Received, stop: threading.Event) -> bool:
        step(connection, request, stop)
        return reset(connection, request, stop)

    return resetting


def then_hang(step: Step) -> Step:
    """Do `step`, then look at the connection no more."""

    def hanging(connection: socket.socket, request: Received, stop: threading.Event) -> bool:
        step(connection, request, stop)
        return hang(connection, request, stop)

    return hanging


def close_without_answer(connection: socket.socket, request: Received, stop: threading.Event) -> bool:
    return False


def reset(connection: socket.socket, request: Received, stop: threading.Event) -> bool:
    """Answer with a TCP reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def hang(connection: socket.socket, request: Received, stop: threading.Event) -> bool:
    """Never answer."""
    stop.wait(30)
    return False


def trickle(data: bytes, every_s: float = 0.05) -> Step:
    """Send `data` one byte at a time, each well inside any receive time-out."""

    def step(connection: socket.socket, request: Received, stop: threading.Event) -> bool:
        for index in range(len(data)):
            if stop.wait(every_s):
                break
            connection.sendall(data[index : index + 1])
        return False

    return step


def raw(data: bytes) -> Step:
    """Send these bytes and close."""

    def step(connection: socket.socket, request: Received, stop: threading.Event) -> bool:
        connection.sendall(data)
        return False

    return step


def response_bytes(status: int, document: object = None, headers: Mapping[str, str] | None = None) -> bytes:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    lines = {"Content-Type": "application/json", "Content-Length": str(len(body))} | dict(headers or {})
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} Scripted\r\n{head}\r\n".encode() + body


class ScriptedServer:
    """Serves its steps in order, one a request, over as many connections as come; then repeats the last."""

    def __init__(self, *steps: Step, tls: ssl.SSLContext | None = None) -> None:
        self._steps = list(steps)
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._stop = threading.Event()
        self._lock = threading.Lock()  # guards the fields below
        self.requests: list[Received] = []
        self.connections = 0
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="scripted-http", daemon=True)]

    @property
    def base_url(self) -> str:
        host = "127.0.0.1" if self._tls is None else "localhost"
        return f"{'http' if self._tls is None else 'https'}://{host}:{self.port}/trade-api/v2"

    def __enter__(self) -> ScriptedServer:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            connections, threads = list(self._open), list(self._threads)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it is closed already
        for thread in threads:
            thread.join(5)

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.append(connection)
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as reader:
                while request := _read_request(reader):
                    with self._lock:
                        self.requests.append(request)
                        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
                    if not step(connection, request, self._stop):
                        return
        except OSError:
            connection.close()


def _read_request(reader) -> Received | None:  # type: ignore[no-untyped-def]
    first = reader.readline().decode("ascii").split()
    if len(first) != 3:
        return None
    headers: dict[str, str] = {}
    while line := reader.readline().decode("ascii").strip():
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    body = reader.read(int(headers.get("content-length", "0")))
    return Received(first[0], first[1], headers, body)
