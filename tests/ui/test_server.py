"""The HTTP surface over real loopback connections."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest

from base.clock import Clock
from base.errors import ConfigError
from base.ui.metrics import render_metrics
from base.ui.server import CONNECTION_AGE_MAX_S, CONNECTIONS_MAX, CROWD, CROWDED_AGE_MAX_S, UiServer
from tests.fakes.clock import FakeClock
from tests.ui.documents import EVALUATIONS, covered_status, example_status

TOKEN = "token-of-the-test"
PATHS = (
    "/", "/verdicts.js", "/tables.js", "/charts.js", "/app.js", "/app.css", "/healthz", "/metrics",
    "/api/status", "/api/history", "/api/explain/KX-A",
)  # fmt: skip
TIMEOUT_S = 5.0
HISTORY = {"positions": {"KX-A": {"values": [5000], "stops": [[1, 3900]]}}}


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Daemon:
    """What the server asks; a test changes the fields."""

    status: Callable[[], Mapping[str, Any]] = example_status
    rows: list[dict[str, Any]] | None = field(default_factory=lambda: EVALUATIONS)

    exits: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def explain(self, ticker: str) -> list[dict[str, Any]] | None:
        return self.rows if ticker == "KX-A" else None

    def metrics(self) -> bytes:
        return render_metrics(self.status())


@contextmanager
def serving(
    daemon: Daemon | None = None, *, token: str = "", port: int = 0, clock: Clock | None = None
) -> Iterator[UiServer]:
    daemon = daemon or Daemon()
    server = UiServer(
        "127.0.0.1",
        port,
        token,
        lambda: daemon.status(),
        daemon.explain,
        daemon.metrics,
        history=lambda: HISTORY,
        exits=lambda ticker: daemon.exits.get(ticker, []),
        clock=clock,
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()
        assert server.join(TIMEOUT_S)


def ask(server: UiServer, path: str, method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def raising() -> Mapping[str, Any]:
    raise RuntimeError("scripted failure of the status document")


def test_the_status_document_is_served_as_built() -> None:
    with serving() as server:
        answer = ask(server, "/api/status")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == example_status()


def test_what_the_page_draws_is_served_apart_from_the_status() -> None:
    with serving() as server:
        assert ask(server, "/api/history").json() == HISTORY


@pytest.mark.parametrize(
    ("path", "accepted", "is_compressed"),
    [
        ("/api/status", "gzip, deflate, br", True),
        ("/app.js", "gzip", True),
        ("/api/status", "", False),
        ("/api/status", "gzip;q=0, identity", False),
        ("/api/history", "gzip", False),
    ],
    ids=["a browser", "a script", "curl", "one that refuses it", "too short to be worth it"],
)
def test_a_long_answer_is_compressed_for_who_takes_that(
    path: str, accepted: str, is_compressed: bool
) -> None:
    with serving() as server:
        plain = ask(server, path)
        answer = ask(server, path, **{"Accept-Encoding": accepted})
        head = ask(server, path, method="HEAD", **{"Accept-Encoding": accepted})
    assert plain.headers["Content-Encoding"] is None
    assert (answer.headers["Content-Encoding"] == "gzip") == is_compressed
    assert (gzip.decompress(answer.body) if is_compressed else answer.body) == plain.body
    assert (len(answer.body) < len(plain.body) / 2) == is_compressed
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert head.headers["Content-Length"] == str(len(answer.body))


def test_exact_decimals_reach_the_reader_as_strings() -> None:
    with serving(Daemon(status=lambda: {"price": Decimal("0.5200")})) as server:
        assert ask(server, "/api/status").json() == {"price": "0.5200"}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param(covered_status(), (200, {"ok": True, "reasons": []}), id="all protected"),
        pytest.param(example_status(), (503, example_status()["health"]), id="one not protected"),
        pytest.param({"health": {}}, (503, {"ok": False, "reasons": []}), id="no verdict is not a good one"),
        pytest.param(
            {"health": {"ok": "yes", "reasons": None}},
            (503, {"ok": False, "reasons": []}),
            id="not a boolean",
        ),
    ],
)
def test_health_answers_200_only_when_told_so(document: dict[str, Any], expected: tuple[int, Any]) -> None:
    with serving(Daemon(status=lambda: document)) as server:
        answer = ask(server, "/healthz")
    assert (answer.status, answer.json()) == expected


def test_a_document_without_health_is_not_healthy() -> None:
    with serving(Daemon(status=dict)) as server:
        answer = ask(server, "/healthz")
    assert answer.status == 503
    assert answer.json()["reasons"]


def test_a_status_that_cannot_be_built_is_bad_health_and_no_traceback() -> None:
    with serving(Daemon(status=raising)) as server:
        health, status = ask(server, "/healthz"), ask(server, "/api/status")
    assert (health.status, health.json()["ok"]) == (503, False)
    assert status.status == 500
    assert b"scripted" not in health.body + status.body


def test_a_number_that_json_cannot_carry_fails_visibly() -> None:
    with serving(Daemon(status=lambda: {"age_s": float("nan")})) as server:
        assert ask(server, "/api/status").status == 500


def test_metrics_are_prometheus_text() -> None:
    with serving() as server:
        answer = ask(server, "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b"\nbackstop_positions_open 3.0\n" in answer.body


def test_explain_tells_the_evaluations_of_one_ticker() -> None:
    with serving() as server:
        assert ask(server, "/api/explain/KX-A").json() == {
            "ticker": "KX-A",
            "trading_mode": example_status()["trading_mode"],
            "rows": EVALUATIONS,
            "exits": [],
        }


def test_what_a_run_before_has_sold_is_explained_although_nobody_remembers_its_looks() -> None:
    daemon = Daemon(exits={"KX-SOLD": [{"ticker": "KX-SOLD", "reason": "stop_loss"}]})
    with serving(daemon) as server:
        told = ask(server, "/api/explain/KX-SOLD").json()
        assert (told["rows"], told["exits"]) == ([], [{"ticker": "KX-SOLD", "reason": "stop_loss"}])


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("kxfeddecision-26dec-h0", "did you mean KXFEDDECISION-26DEC-H0?"),
        ("KXFEDDECISION-26DEC-HO", "did you mean KXFEDDECISION-26DEC-H0?"),
        ("ZZZ", "nothing is known of ZZZ: The command status"),
    ],
    ids=["lower case", "a letter for a digit", "nothing like it"],
)
def test_a_mistyped_ticker_is_answered_with_what_is_held(asked: str, says: str) -> None:
    with serving() as server:
        answer = ask(server, f"/api/explain/{asked}")
    assert answer.status == 404
    assert says in answer.json()["error"]
    assert "/api" not in answer.json()["error"], "for somebody at a terminal"


def test_a_ticker_in_lower_case_is_one_market_and_not_its_neighbors_too() -> None:
    held = [{"ticker": "KXA-1-T1"}, {"ticker": "KXA-1-T2"}]
    with serving(Daemon(status=lambda: example_status() | {"positions": held})) as server:
        assert "did you mean KXA-1-T1? " in ask(server, "/api/explain/kxa-1-t1").json()["error"]
        assert "did you mean KXA-1-T2 or KXA-1-T1? " in ask(server, "/api/explain/KXA-1-T2X").json()["error"]


@pytest.mark.parametrize(
    "path", ["/api/explain/KX-B", "/api/explain/KX%2FA", "/api/explain/", "/nothing", "/api//status"]
)
def test_what_is_not_there_is_404(path: str) -> None:
    with serving() as server:
        assert ask(server, path).status == 404


def test_a_ticker_that_no_market_can_have_is_never_looked_up() -> None:
    asked: list[str] = []

    def explain(ticker: str) -> list[dict[str, Any]]:
        asked.append(ticker)
        return []

    server = UiServer("127.0.0.1", 0, "", example_status, explain, bytes)
    server.start()
    try:
        statuses = [
            ask(server, f"/api/explain/{name}").status for name in ("KX-A", "%3Cb%3E", "A" * 200, "a%20b")
        ]
    finally:
        server.stop()
        server.join(TIMEOUT_S)
    assert statuses == [200, 404, 404, 404]
    assert asked == ["KX-A"]


@pytest.mark.parametrize("path", PATHS)
def test_every_path_refuses_to_be_written_to(path: str) -> None:
    with serving(token=TOKEN) as server:
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            answer = ask(server, path, method)
            assert answer.status == 405
            assert answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", PATHS)
def test_head_is_get_without_a_body(path: str) -> None:
    with serving(Daemon(status=covered_status)) as server:
        assert ask(server, path, "HEAD").status == ask(server, path).status == 200
        assert ask(server, path, "HEAD").body == b""


@pytest.mark.parametrize("path", PATHS)
def test_every_path_but_health_wants_the_token(path: str) -> None:
    password = base64.b64encode(f"me:{TOKEN}".encode()).decode()
    with serving(Daemon(status=covered_status), token=TOKEN) as server:
        bare = ask(server, path)
        assert bare.status == (200 if path == "/healthz" else 401)
        assert ("WWW-Authenticate" in bare.headers) == (path != "/healthz")
        assert ask(server, path, Authorization="Bearer wrong").status == bare.status
        assert ask(server, path, Authorization=f"Bearer {TOKEN}").status == 200
        assert ask(server, path, Authorization=f"Basic {password}").status == 200


@pytest.mark.parametrize("path", PATHS)
def test_a_foreign_host_name_gets_nothing(path: str) -> None:
    with serving() as server:
        answer = ask(server, path, Host=f"evil.example:{server.port}")
    assert answer.status == 421
    assert set(answer.json()) == {"error"}


def test_a_request_without_host_is_refused() -> None:
    with serving() as server, socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S) as client:
        client.sendall(b"GET /api/status HTTP/1.0\r\n\r\n")
        assert client.recv(64).startswith(b"HTTP/1.0 421 ")


@pytest.mark.parametrize(
    ("path", "host", "status"), [("/", "", 200), ("/nothing", "", 404), ("/", "evil.example", 421)]
)
def test_every_answer_carries_the_security_headers(path: str, host: str, status: int) -> None:
    with serving() as server:
        answer = ask(server, path, **({"Host": host} if host else {}))
    assert answer.status == status
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert not any(name.startswith("Access-Control") for name in answer.headers)


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html"),
        ("/verdicts.js", "text/javascript"),
        ("/tables.js", "text/javascript"),
        ("/charts.js", "text/javascript"),
        ("/app.js", "text/javascript"),
        ("/app.css", "text/css"),
    ],
)
def test_the_page_comes_whole_from_this_server(path: str, content_type: str) -> None:
    with serving() as server:
        answer = ask(server, path)
    assert answer.headers["Content-Type"] == f"{content_type}; charset=utf-8"
    assert len(answer.body) > 500
    # The one address is the name of SVG's namespace, which no browser fetches.
    assert b"http://" not in answer.body.replace(b'"http://www.w3.org/2000/svg"', b"")
    assert b"https://" not in answer.body


def test_a_large_body_is_refused() -> None:
    with serving() as server, socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
        assert client.recv(64).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_dribbles_its_request_is_cut_off() -> None:
    clock = FakeClock()
    with serving(clock=clock) as server, socket.create_connection(("127.0.0.1", server.port), 3.0) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: local")
        assert ask(server, "/healthz").status == 503  # the dribbling connection is now known to the server
        clock.advance(CONNECTION_AGE_MAX_S + 1)
        assert client.recv(64) == b""


def test_a_crowd_of_connections_that_ask_nothing_keeps_nobody_from_health() -> None:
    with serving() as server, contextlib.ExitStack() as crowd:
        for _ in range(CONNECTIONS_MAX + 60):
            client = crowd.enter_context(socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S))
            client.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(3):
            assert ask(server, "/healthz").status == 503


def test_the_oldest_of_a_crowd_goes_first_and_a_few_may_stay() -> None:
    clock = FakeClock()
    with serving(clock=clock) as server, contextlib.ExitStack() as stack:
        crowd = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 3.0))
            for _ in range(CROWD + 5)
        ]
        assert ask(server, "/healthz").status == 503  # all of them are known to the server now
        clock.advance(CROWDED_AGE_MAX_S + 0.1)
        assert [client.recv(64) for client in crowd[:5]] == [b""] * 5
        crowd[-1].sendall(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert crowd[-1].recv(64).startswith(b"HTTP/1.0 503 ")


def test_a_request_in_work_outlives_the_age_limit() -> None:
    clock, asked, go_on = FakeClock(), threading.Event(), threading.Event()

    def slow_status() -> Mapping[str, Any]:
        asked.set()
        go_on.wait(TIMEOUT_S)
        return example_status()

    with (
        serving(Daemon(status=slow_status), clock=clock) as server,
        socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S) as client,
    ):
        client.sendall(b"GET /api/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert asked.wait(TIMEOUT_S)
        clock.advance(CONNECTION_AGE_MAX_S + 1)
        assert ask(server, "/").status == 200  # so the loop has made a pass at the new time
        go_on.set()
        assert client.recv(64).startswith(b"HTTP/1.1 200 ")


def test_a_taken_port_is_a_configuration_error_that_says_what_to_do() -> None:
    with serving() as server, pytest.raises(ConfigError) as caught, serving(port=server.port):
        pytest.fail("a second server must not start on the same port")
    assert len(caught.value.problems) == 1
    assert f"UI_PORT {server.port}" in caught.value.problems[0]
    assert "free port" in caught.value.problems[0]


def test_an_address_of_another_machine_is_a_configuration_error() -> None:
    server = UiServer("192.0.2.1", 0, TOKEN, example_status, lambda _: None, bytes)
    with pytest.raises(ConfigError, match="UI_HOST"):
        server.start()


def test_other_machines_are_not_served_without_a_token() -> None:
    server = UiServer("0.0.0.0", 0, "", example_status, lambda _: None, bytes)
    with pytest.raises(ConfigError, match="UI_TOKEN"):
        server.start()


def test_stopping_frees_the_port_and_ends_the_thread() -> None:
    with serving() as server:
        assert ask(server, "/").status == 200
        assert server.is_alive
        assert "ui-http" in {thread.name for thread in threading.enumerate()}
        port = server.port
        server.stop()
        assert server.join(TIMEOUT_S)
        assert not server.is_alive
    with serving(port=port) as successor:
        assert ask(successor, "/").status == 200


def test_stop_before_start_and_twice_is_harmless() -> None:
    server = UiServer("127.0.0.1", 0, "", example_status, lambda _: None, bytes)
    server.stop()
    assert server.join(0.0)
    with serving() as started:
        started.stop()
        assert started.join(TIMEOUT_S)
        started.stop()


def test_a_hanging_status_does_not_hold_up_the_stop() -> None:
    asked, go_on, returned = threading.Event(), threading.Event(), threading.Event()

    def hanging_status() -> Mapping[str, Any]:
        asked.set()
        go_on.wait(TIMEOUT_S)
        returned.set()
        return example_status()

    server = UiServer("127.0.0.1", 0, "", hanging_status, lambda _: None, bytes)
    server.start()
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S) as client:
        client.sendall(b"GET /api/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert asked.wait(TIMEOUT_S)
        server.stop()
        ended = server.join(3.0)
        go_on.set()
        assert ended
        assert returned.wait(TIMEOUT_S)
