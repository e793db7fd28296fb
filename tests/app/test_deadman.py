"""The dead man's switch: called while, and only while, all is well."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from base.app.deadman import CALL_S_MAX, STARTING_S, DeadMan, get
from base.clock import Clock, SystemClock
from tests.fakes.clock import FakeClock

URL = "https://ping.example.org/0123-secret"


class Calls:
    def __init__(self) -> None:
        self.urls: list[str] = []
        self.error: OSError | None = None

    def __call__(self, url: str, clock: Clock) -> None:
        self.urls.append(url)
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    ("document", "calls"),
    [
        ({"health": {"ok": True, "reasons": []}}, 1),
        ({"health": {"ok": False, "reasons": ["KX unprotected: no_bid"]}}, 0),
        ({"health": {"ok": "yes"}}, 0),
        ({"health": {}}, 0),
        ({}, 0),
    ],
    ids=["all well", "unprotected", "a word for yes", "not judged", "nothing known"],
)
def test_it_calls_only_when_all_is_well(document: dict[str, Any], calls: int) -> None:
    called, clock = Calls(), FakeClock()
    dead_man = DeadMan(URL, 60.0, lambda: document, clock, called)
    clock.advance(STARTING_S)
    wait_s = dead_man.run_once()
    assert called.urls == [URL] * calls
    assert wait_s == (None if calls else 10.0), "a doubt is looked at again soon"


def test_that_not_all_is_well_yet_at_the_start_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    called, clock = Calls(), FakeClock()
    health: dict[str, Any] = {"ok": False, "reasons": ["thread ui-metrics is starting"]}
    dead_man = DeadMan(URL, 60.0, lambda: {"health": health}, clock, called)
    assert dead_man.run_once() == 1.0
    assert (called.urls, caplog.records) == ([], [])
    clock.advance(STARTING_S)
    dead_man.run_once()
    assert len(caplog.records) == 1, "now it is"
    health |= {"ok": True}
    dead_man.run_once()
    assert called.urls == [URL]


def test_a_failed_call_is_counted_without_the_url_and_tried_again_soon() -> None:
    called = Calls()
    called.error = OSError(f"no route to {URL} (/0123-secret)")
    dead_man = DeadMan(URL, 60.0, lambda: {"health": {"ok": True}}, FakeClock(), called)
    assert dead_man.run_once() == 10.0
    status = dead_man.status()
    assert (status["calls"], status["failures"]) == (0, 1)
    assert "0123-secret" not in status["last_error"]
    called.error = None
    assert dead_man.run_once() is None
    assert (dead_man.status()["calls"], dead_man.status()["last_error"]) == (1, "")


def test_without_a_url_there_is_no_thread() -> None:
    dead_man = DeadMan("", 60.0, dict, FakeClock(), Calls())
    dead_man.start()
    assert not dead_man.is_on
    assert not dead_man.service.is_alive


class Server:
    """Answers one request with these bytes, the later ones one by one while `trickle_s` passes between."""

    def __init__(self, answer: bytes, *, trickles: bool = False) -> None:
        self.request = b""
        self._answer = answer
        self._trickles = trickles
        self._stop = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            self.request = connection.recv(65_536)
            connection.sendall(self._answer)
            while self._trickles and not self._stop.wait(0.01):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self._socket.close()


def test_it_is_a_get_of_the_url_as_it_stands() -> None:
    server = Server(b"HTTP/1.1 204 No Content\r\n\r\n")
    try:
        get(f"http://127.0.0.1:{server.port}/a/b?c=d", SystemClock())
    finally:
        server.close()
    assert server.request.startswith(b"GET /a/b?c=d HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{server.port}\r\n".encode() in server.request


@pytest.mark.parametrize("answer", [b"HTTP/1.1 500 No\r\n\r\n", b"HTTP/1.1 302 Moved\r\nLocation: /\r\n\r\n"])
def test_what_is_no_success_is_a_failure(answer: bytes) -> None:
    server = Server(answer)
    try:
        with pytest.raises(OSError, match="HTTP status"):
            get(f"http://127.0.0.1:{server.port}/", SystemClock())
    finally:
        server.close()


class HurriedClock(SystemClock):
    """A hundred seconds of it are one."""

    def monotonic(self) -> float:
        return 100 * super().monotonic()


def test_an_answer_that_trickles_ends_by_the_deadline() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\nX: ", trickles=True)
    clock = SystemClock()
    began = clock.monotonic()
    try:
        with pytest.raises(OSError, match=r"deadline|timed out"):
            get(f"http://127.0.0.1:{server.port}/", HurriedClock())
    finally:
        server.close()
    assert clock.monotonic() - began < CALL_S_MAX / 2
