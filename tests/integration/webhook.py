"""A service on loopback that takes alerts and dead-man calls: the other end of ALERT_URLS and DEADMAN_URL."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET_PATH = "0123456789abcdef"


class Webhook:
    """A service that takes messages, refuses them, or hangs in mid-answer; and counts plain GETs."""

    def __init__(self) -> None:
        self.status = self.call_status = 200
        self.hangs = False
        self.release = threading.Event()
        self._lock = threading.Lock()  # guards the fields below
        self._received: list[dict[str, str]] = []
        self._calls = 0
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if webhook.hangs:
                    # A byte now and then keeps every time-out of the library's from passing.
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                    while not webhook.release.wait(0.5):
                        self.wfile.write(b"X")
                    return
                with webhook._lock:
                    if webhook.status == 200:
                        webhook._received.append(body)
                self.send_response(webhook.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                with webhook._lock:
                    webhook._calls += 1
                self.send_response(webhook.call_status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Not on the test's output."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self._server.server_port}/{SECRET_PATH}"

    @property
    def get_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/ping/{SECRET_PATH}"

    @property
    def calls(self) -> int:
        with self._lock:
            return self._calls

    def received(self) -> list[dict[str, str]]:
        with self._lock:
            return list(self._received)

    def about(self, *words: str) -> list[dict[str, str]]:
        """The messages that say all of this, in title or text."""
        return [m for m in self.received() if all(w in f"{m['title']}\n{m['message']}" for w in words)]

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@contextmanager
def webhook() -> Iterator[Webhook]:
    running = Webhook()
    try:
        yield running
    finally:
        running.close()
