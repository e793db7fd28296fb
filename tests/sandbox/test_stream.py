"""The WebSocket over loopback: upgrade, frames, heartbeats, and the faults of a bad line."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import websocket

from base.sandbox.scenario import Scenario
from base.sandbox.server import SandboxServer
from tests.fakes.clock import FakeClock
from tests.sandbox.client import Client

YES, NO = "KXA-1-YES", "KXA-1-NO"


def test_an_unsigned_upgrade_is_refused(client: Client) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        client.stream(headers={})
    assert refused.value.status_code == 401


def test_a_changed_quote_arrives_as_ticker_and_delta(client: Client, server: SandboxServer) -> None:
    with client.stream() as stream:
        stream.subscribe(
            "ticker", "orderbook_delta", market_tickers=[YES], send_initial_snapshot=True, use_yes_price=False
        )
        first = stream.expect("ticker")
        stream.expect("orderbook_snapshot")
        server.set_market(YES, bid="0.45", ask="0.47")
        delta = stream.expect("orderbook_delta")
        second = stream.expect("ticker")
    assert first["msg"]["yes_bid_dollars"] == "0.5200"
    assert delta["seq"] == 2
    assert second["msg"]["yes_bid_dollars"] == "0.4500"
    assert second["msg"]["ts_ms"] > first["msg"]["ts_ms"]
    assert all("sending_ts_ms" in frame for frame in stream.seen)


def test_a_post_is_followed_by_its_private_frames(client: Client, server: SandboxServer) -> None:
    with client.stream() as stream:
        stream.subscribe("fill", "user_orders", "market_positions")
        for _ in range(3):
            stream.expect("subscribed")
        client.order(YES, "ask", "4", "0.01", reduce_only=True, client_order_id="mine")
        kinds = [stream.receive()["type"] for _ in range(3)]
        server.add_position(NO, "no", "3", "0.55")
        by_hand = stream.expect("fill")
    assert kinds == ["fill", "market_position", "user_order"]
    assert by_hand["msg"]["post_position_fp"] == "-8.00"


def test_heartbeats_carry_their_word_and_client_pings_are_answered(quiet: Scenario, key_dir: Path) -> None:
    with (
        SandboxServer(quiet, key_dir=key_dir, ping_interval_s=0.05) as server,
        Client(server) as client,
        client.stream() as stream,
    ):
        opcode, frame = stream.socket.recv_data_frame(control_frame=True)
        assert (opcode, frame.data) == (websocket.ABNF.OPCODE_PING, b"heartbeat")
        stream.socket.ping("hello")
        for _ in range(50):
            opcode, frame = stream.socket.recv_data_frame(control_frame=True)
            if opcode == websocket.ABNF.OPCODE_PONG:
                break
        assert (opcode, frame.data) == (websocket.ABNF.OPCODE_PONG, b"hello")


def test_cut_sockets_end_without_a_goodbye(client: Client, server: SandboxServer) -> None:
    with client.stream() as stream:
        stream.subscribe("ticker", market_tickers=[YES])
        stream.expect("subscribed")
        server.cut_sockets()
        with pytest.raises((ConnectionError, websocket.WebSocketConnectionClosedException)):
            stream.receive()


def test_refused_upgrades_answer_or_hang(quiet: Scenario, key_dir: Path) -> None:
    clock = FakeClock()
    with SandboxServer(quiet, key_dir=key_dir, clock=clock) as server, Client(server, clock.now) as client:
        server.set_faults(refuse_ws={"for_s": 5, "status": 503})
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            client.stream()
        assert refused.value.status_code == 503
        server.set_faults(refuse_ws={"for_s": 5})
        failed = threading.Event()

        def upgrade() -> None:
            try:
                client.stream()
            except (ConnectionError, websocket.WebSocketException):
                failed.set()

        thread = threading.Thread(target=upgrade)
        thread.start()
        assert not failed.wait(0.1)
        clock.advance(6)
        assert failed.wait(5)
        thread.join(5)
        with client.stream() as stream:
            stream.subscribe("fill")
            stream.expect("subscribed")


def test_silence_loses_frames_but_keeps_the_socket(quiet: Scenario, key_dir: Path) -> None:
    clock = FakeClock()
    with SandboxServer(quiet, key_dir=key_dir, clock=clock) as server, Client(server, clock.now) as client:
        with client.stream() as stream:
            stream.subscribe("orderbook_delta", market_tickers=[YES], use_yes_price=False)
            stream.expect("orderbook_snapshot")
            server.set_faults(silent_s=30)
            server.set_market(YES, bid="0.45", ask="0.47")
            clock.advance(31)
            server.set_market(YES, bid="0.44", ask="0.47")
            late = stream.expect("orderbook_delta")
        assert late["seq"] > 2


def test_swallowed_frames(client: Client, server: SandboxServer) -> None:
    server.set_faults(drop_acks=1, mute_tickers=[YES])
    with client.stream() as stream:
        stream.subscribe("ticker", market_tickers=[YES, NO], send_initial_snapshot=True)
        assert stream.receive()["msg"]["market_ticker"] == NO
        stream.subscribe("orderbook_delta", market_tickers=[YES], use_yes_price=False, command_id=2)
        stream.expect("orderbook_snapshot")
        server.set_faults(drop_book_frames=1)
        server.set_market(YES, bid="0.45", ask="0.47")
        assert stream.expect("orderbook_delta")["seq"] == 3
        server.clear_faults()
        stream.subscribe("ticker", market_tickers=[YES], send_initial_snapshot=True, command_id=3)
        assert stream.expect("ticker")["msg"]["market_ticker"] == YES


def test_garbage_frames_are_broken(client: Client, server: SandboxServer) -> None:
    with client.stream() as stream:
        stream.subscribe("fill")
        stream.expect("subscribed")
        server.set_faults(garbage_frames=2)
        for _ in range(2):
            with pytest.raises(json.JSONDecodeError):
                json.loads(stream.socket.recv())
