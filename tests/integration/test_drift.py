"""The daemon when the exchange's answers lose a field: nothing is opened, it says so, and stops go on."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from base.model.market import OutcomeSide
from base.sandbox.scenario import Scenario
from base.sandbox.server import SandboxServer
from tests.benchmarks import judge
from tests.benchmarks.judge import CRASHED, Holding
from tests.integration.rig import Daemon
from tests.sandbox.client import Client

YES = Holding("KXDRIFT-YES", OutcomeSide.YES, Decimal("10.50"))
CALM = Holding("KXDRIFT-CALM", OutcomeSide.YES, Decimal(5))


def without(server: SandboxServer, path: str, rows: str, name: str, ticker: str = "") -> dict[str, Any]:
    """A fault: the exchange's own answer of now, for good, without one field (in one row, or in all)."""
    with Client(server) as client:
        document = client.get(path)
    for row in document[rows]:
        if ticker in ("", row["ticker"]):
            del row[name]
    return {"method": "GET", "path": path, "action": "status", "status": 200, "body": document, "times": 9999}


def is_told(daemon: Daemon, name: str) -> bool:
    """Whether `/healthz` answers 503 and names the field."""
    code, document = daemon.health()
    return code == 503 and any(name in reason for reason in document["reasons"])


def is_named(events: list[dict[str, str]], name: str) -> bool:
    return any(name in event.get("why", "") for event in events)


@pytest.mark.parametrize(
    "name", ["close_time", "yes_bid_size_fp"], ids=["no close", "no size behind the bid"]
)
def test_a_daemon_that_misses_a_field_opens_nothing_and_sells_all_the_same(tmp_path: Path, name: str) -> None:
    with SandboxServer(Scenario(tuple(judge.plan(h) for h in (YES, CALM)))) as server:
        server.set_faults(calls=[without(server, "/markets", "markets", name)])
        with Daemon(tmp_path, server) as daemon:
            event = daemon.wait_for("api_drift", field=name)
            assert event["where"] == "GET /markets"
            daemon.until(lambda: daemon.is_covered(2), "2 protected")
            daemon.until(lambda: is_told(daemon, name), "named in /healthz")
            daemon.until(lambda: name in daemon.status()["trading_state_why"], "the state names it")
            daemon.until(lambda: is_named(daemon.events("trading_state"), name), "and so does the log")
            assert daemon.status()["trading_state"] == "reducing"
            judge.quote(server, [YES], CRASHED)
            daemon.until(lambda: judge.left(server, YES) == 0, "sold all the same", 10)
            assert daemon.terminate() == 0
            assert not [line for line in daemon.lines() if "state=active" in line]


def test_where_only_the_answers_lack_a_price_the_stream_protects(tmp_path: Path) -> None:
    with SandboxServer(Scenario(tuple(judge.plan(h) for h in (YES, CALM)))) as server:
        server.set_faults(calls=[without(server, "/markets", "markets", "yes_bid_dollars")])
        with Daemon(tmp_path, server) as daemon:
            daemon.wait_for("api_drift", field="yes_bid_dollars")
            daemon.until(lambda: daemon.is_covered(2), "the answers tell the status, the stream the price")
            position = daemon.position(CALM.ticker)
            assert position is not None
            assert (position["market_status"], position["price_source"]) == ("active", "ws")
            assert is_told(daemon, "yes_bid_dollars")
            judge.quote(server, [YES], CRASHED)
            daemon.until(lambda: judge.left(server, YES) == 0, "sold by the stream's price", 10)


def test_without_a_price_from_anywhere_nothing_is_protected_and_that_is_loud(tmp_path: Path) -> None:
    with SandboxServer(Scenario((judge.plan(CALM),))) as server:
        server.set_faults(calls=[without(server, "/markets", "markets", "yes_bid_dollars")])
        with Daemon(tmp_path, server, WEBSOCKET_ENABLED="no") as daemon:
            daemon.wait_for("unprotected", ticker=CALM.ticker, why="no_price")
            daemon.until(lambda: is_told(daemon, "yes_bid_dollars"), "named in /healthz")
            position = daemon.position(CALM.ticker)
            assert position is not None
            assert position["market_status"] == "active"
            server.clear_faults()
            daemon.until(lambda: daemon.is_covered(1), "protected as soon as the price is there again")


def test_a_market_that_loses_its_price_costs_no_other_market_of_the_answer_its_own(tmp_path: Path) -> None:
    with SandboxServer(Scenario(tuple(judge.plan(h) for h in (YES, CALM)))) as server:
        server.set_faults(calls=[without(server, "/markets", "markets", "yes_bid_dollars", YES.ticker)])
        with Daemon(tmp_path, server, WEBSOCKET_ENABLED="no") as daemon:
            daemon.wait_for("unprotected", ticker=YES.ticker, why="no_price")
            position = daemon.position(CALM.ticker)
            assert position is not None
            assert (position["protected"], position["price_source"]) == (True, "rest")


@contextmanager
def renaming(server: SandboxServer, old: bytes, new: bytes) -> Iterator[str]:
    """The sandbox's stream with one name for another in all that it sends; the address to connect to."""
    assert len(old) == len(new), "so that no length changes"
    rest = urlsplit(server.ws_url)
    assert rest.hostname is not None
    assert rest.port is not None
    exchange = (rest.hostname, rest.port)

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(exchange) as upstream:
                other = threading.Thread(target=copy, args=(self.request, upstream), daemon=True)
                other.start()
                copy(upstream, self.request, old, new)
                other.join(5)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Relay) as relay:
        relay.daemon_threads = True
        thread = threading.Thread(target=relay.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield rest._replace(netloc=f"127.0.0.1:{relay.server_address[1]}").geturl()
        finally:
            relay.shutdown()
            thread.join(5)


def copy(source: socket.socket, target: socket.socket, old: bytes = b"", new: bytes = b"") -> None:
    """Until either end closes. What could be the beginning of `old` waits for what follows it."""
    kept = b""
    try:
        while data := source.recv(65_536):
            data = (kept + data).replace(old, new) if old else data
            begun = next((n for n in range(len(old) - 1, 0, -1) if data.endswith(old[:n])), 0)
            kept = data[len(data) - begun :]
            target.sendall(data[: len(data) - begun])
    except OSError:
        kept = b""  # one end is gone: so is the other
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "count",
    [
        pytest.param(1, id="one frame in all", marks=pytest.mark.slow),
        pytest.param(2, id="one frame a market"),
    ],
)
@pytest.mark.parametrize("name", ["yes_bid_dollars", "market_ticker"])
def test_a_stream_that_lacks_a_field_from_the_start_is_told_in_a_quiet_market_and_stops_go_on(
    tmp_path: Path, name: str, count: int
) -> None:
    """After the subscription no other ticker comes: nothing moves."""
    holdings = (YES, CALM)[:count]
    with (
        SandboxServer(Scenario(tuple(judge.plan(h) for h in holdings))) as server,
        renaming(server, f'"{name}"'.encode(), f'"{name[:-1]}_"'.encode()) as address,
        Daemon(tmp_path, server, KALSHI_WS_URL=address) as daemon,
    ):
        event = daemon.wait_for("api_drift", 60.0, field=name)
        assert event["where"] == "ticker frame"
        daemon.until(lambda: is_told(daemon, name), "named in /healthz")
        daemon.until(lambda: daemon.status()["trading_state"] == "reducing", "entries are off")
        daemon.until(lambda: daemon.is_covered(count), "protected all the same", 40)
        judge.quote(server, [YES], CRASHED)
        daemon.until(lambda: judge.left(server, YES) == 0, "sold all the same", 30)


def test_a_daemon_whose_exchange_has_all_fields_is_armed_at_once(tmp_path: Path) -> None:
    with SandboxServer(Scenario((judge.plan(CALM),))) as server, Daemon(tmp_path, server) as daemon:
        took_s = daemon.until(lambda: daemon.status().get("trading_state") == "active", "armed")
        assert took_s < 10
        assert daemon.events("api_drift") == []
        assert daemon.events("api_news") == []
