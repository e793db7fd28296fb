"""Tick-to-order latency beside a raw-socket echo floor, and message throughput, in one run on loopback.

    .venv/bin/python -m tests.benchmarks.latency [--samples 300] [--messages 200000] [--journal DIRECTORY]
        [--log FILE]

Latency is from the ticker frame that crosses the stop leaving the exchange's process to the first bytes
of the order arriving there, through the real stream client, cache, checker, exit desk and order
connection; with `--journal` each order is written to a journal on that directory's disk before it leaves,
without it the durable write is left out. Times differ from machine to machine; the ratios are what to
compare.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import websocket
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from base.app.instruments import Instruments
from base.app.live_gateway import LiveGateway
from base.app.logging_setup import configure_logging
from base.clock import SystemClock
from base.execution.exits import ExitDesk
from base.execution.gateway import OrderLookup, PriceView
from base.kalshi.feed import FeedSettings, FeedState
from base.kalshi.order_connection import OrderConnection
from base.kalshi.rate_limit import Quota, RateLimiter, RequestStats
from base.kalshi.rest_client import RestClient
from base.kalshi.server_clock import ServerClock
from base.kalshi.signing import load_signer
from base.kalshi.websocket_client import WebsocketClient
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.model.events import Lifecycle, OrderUpdate, PositionUpdate
from base.model.market import Market, MarketStatus, OutcomeSide
from base.model.position import Fill, Position
from base.model.rules import ExitRule
from base.risk.stop_loss import CheckerSettings, StopLossChecker
from base.store.journal import Journal
from base.store.portfolio import Portfolio
from base.store.records import NoRecorder, Recorder

QUIET = [f"KXLOAD-{i:04}" for i in range(100)]


class Stub:
    """The exchange's process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.exchange_stub"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self.port = int(self._out.readline().split()[1])

    def do(self, what: str, **fields: Any) -> dict[str, Any]:
        self._in.write(json.dumps({"do": what, **fields}) + "\n")
        self._in.flush()
        answer: dict[str, Any] = json.loads(self._out.readline())
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.wait(5)


class Listener:
    """Nobody needs the private messages here."""

    def fill(self, fill: Fill) -> None: ...
    def order_update(self, update: OrderUpdate) -> None: ...
    def position_update(self, update: PositionUpdate) -> None: ...
    def lifecycle(self, event: Lifecycle) -> None: ...
    def feed_changed(self, state: FeedState) -> None: ...


@dataclass
class Machine:
    """The parts between a frame and an order, wired as the daemon wires them."""

    feed: WebsocketClient
    cache: WebsocketPriceCache
    checker: StopLossChecker
    desk: ExitDesk
    portfolio: Portfolio

    def stop(self) -> None:
        self.desk.stop(2.0)
        self.checker.stop()
        self.feed.stop()
        self.checker.join(2.0)
        self.feed.join(2.0)


def build(port: int, key: Path, held: list[str], recorder: Recorder) -> Machine:
    clock = SystemClock()
    signer = load_signer("bench-key", key)
    server_clock = ServerClock(clock)
    cache = WebsocketPriceCache(clock, 3600.0)
    portfolio = Portfolio(clock)
    positions = {t: Position(t, OutcomeSide.YES, Decimal(10), Decimal("0.60")) for t in held}
    portfolio.apply_read(positions, clock.monotonic())
    cache.require([*held, *QUIET], held)
    for ticker in [*held, *QUIET]:
        cache.apply_market(Market(ticker, status=MarketStatus.ACTIVE))
    limiter = RateLimiter(clock, Quota(1e6, 1e6), Quota(1e6, 1e6))
    stats = RequestStats(clock)
    rest_url = f"http://127.0.0.1:{port}/trade-api/v2"
    feed = WebsocketClient(
        FeedSettings(f"ws://127.0.0.1:{port}/trade-api/ws/v2", orderbook_feed=False),
        lambda method, path: signer.headers(method, path, server_clock.now_ms()),
        server_clock,
        cache,
        Listener(),
        clock,
        random.Random(1),
    )

    def view(ticker: str) -> PriceView | None:
        entry = cache.get(ticker)
        if entry is None:
            return None
        return PriceView(entry.market, entry.quote, entry.age_s(clock.monotonic()), feed.is_confirmed(ticker))

    class BenchGateway(LiveGateway):
        """Sends for real; look-ups are not part of this measurement."""

        def __init__(self) -> None:
            self._clock = clock
            self._rest = RestClient(rest_url, signer, clock, server_clock, limiter, stats=stats)
            self._open_connection = lambda: OrderConnection(
                rest_url, signer, server_clock, clock, limiter, stats=stats
            )

        def find_orders(self, client_order_ids: Mapping[str, str], since: float) -> OrderLookup:
            raise AssertionError("an answer was lost on loopback")

    measures = Instruments()
    desk = ExitDesk(
        BenchGateway(), portfolio, view, lambda: None, clock, recorder=recorder, measures=measures
    )
    rule = ExitRule(stop_loss_pct=Decimal(25))
    checker = StopLossChecker(
        CheckerSettings(2.0, 3600.0, Decimal("0.01")),
        cache,
        portfolio,
        feed,
        lambda ticker: rule,
        desk,
        lambda refresh: None,
        lambda: None,
        clock,
        recorder,
        measures=measures,
    )
    feed.set_required([*held, *QUIET], held)
    desk.start()
    feed.start()
    checker.start()
    machine = Machine(feed, cache, checker, desk, portfolio)
    wait_until(lambda: len(feed.status().confirmed) == len(held) + len(QUIET), "all confirmed")
    return machine


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    never = threading.Event()
    give_up = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > give_up:
            raise TimeoutError(what)
        never.wait(0.01)


def percentiles(ns: list[int]) -> tuple[float, float, float]:
    """p50, p90, p99 in milliseconds."""
    cuts = statistics.quantiles(ns, n=100, method="inclusive")
    return cuts[49] / 1e6, cuts[89] / 1e6, cuts[98] / 1e6


def measure_floor(stub: Stub, samples: int) -> list[int]:
    """Frame-sized bytes out, order-sized bytes back, raw sockets on both ends."""
    sock = socket.create_connection(("127.0.0.1", stub.port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(b"ECHO")
    sock.recv(2)
    order = b"y" * 600
    result = []
    never = threading.Event()
    for _ in range(samples):
        sock.sendall(b"g")
        sock.recv(65536)
        sock.sendall(order)
        never.wait(0.003)  # as idle in between as the other measurement
        result.append(int(stub.do("echo")["ns"]))
    sock.close()
    return result


def measure_orders(stub: Stub, held: list[str], rate: int) -> list[int]:
    """One crossing tick after the other, with `rate` other ticks a second beside them."""
    never = threading.Event()
    if rate:
        stub.do("load", rate=rate, tickers=QUIET)
        never.wait(0.5)
    result = []
    for ticker in held:
        result.append(int(stub.do("cross", ticker=ticker)["ns"]))
        never.wait(0.003)
    stub.do("quiet")
    return result


def measure_bare(port: int, stub: Stub, messages: int, *, skip_utf8: bool) -> float:
    """Messages a second of a websocket-client receive loop that decodes nothing."""
    stub.do("forget")
    ws = websocket.create_connection(
        f"ws://127.0.0.1:{port}/trade-api/ws/v2", skip_utf8_validation=skip_utf8, timeout=20
    )
    threading.Thread(target=lambda: stub.do("blast", count=messages, tickers=QUIET), daemon=True).start()
    ws.recv()
    started = time.perf_counter()
    for _ in range(messages - 1):
        ws.recv()
    took = time.perf_counter() - started
    ws.close(timeout=1)
    return messages / took


def measure_throughput(machine: Machine, stub: Stub, messages: int) -> float:
    """Messages a second received, decoded and cached by the real client."""
    before = machine.feed.status().messages
    started = time.perf_counter()
    stub.do("blast", count=messages, tickers=QUIET)
    wait_until(lambda: machine.feed.status().messages - before >= messages, "all frames taken in", 120)
    return messages / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="where the log goes, at INFO")
    parser.add_argument("--journal", type=Path, help="directory on the disk to write to")
    options = parser.parse_args()
    sys.setswitchinterval(0.0005)  # as the daemon does
    with options.log.open("a") as log, tempfile.TemporaryDirectory() as directory:
        configure_logging("INFO", "text", None, stream=log)
        key = Path(directory) / "key.pem"
        pem = rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        key.touch(mode=0o600)
        key.write_bytes(pem)
        stub = Stub()
        try:
            with recording(options.journal) as recorder:
                run(stub, key, options.samples, options.messages, recorder)
        finally:
            stub.close()


@contextmanager
def recording(directory: Path | None) -> Iterator[Recorder]:
    """A journal in `directory`, or none."""
    if directory is None:
        yield NoRecorder()
        return
    path = directory / "benchmark-journal.sqlite"
    journal = Journal.open(path, SystemClock(), account="benchmark", fresh=True)
    journal.start()
    try:
        yield journal
    finally:
        journal.stop()
        journal.join(2.0)
        for file in directory.glob("benchmark-journal.sqlite*"):
            file.unlink()


def run(stub: Stub, key: Path, samples: int, messages: int, recorder: Recorder) -> None:
    rates = (0, 2_000, 10_000)
    # Each in an event of its own: one of nine hundred positions is no account's.
    held = [[f"KXHELD{r}E{i:04}-YES" for i in range(samples)] for r in rates]
    everything = [t for group in held for t in group]
    floor = percentiles(measure_floor(stub, samples))
    print(f"raw-socket floor            p50 {floor[0]:.3f} ms  p90 {floor[1]:.3f}  p99 {floor[2]:.3f}")
    machine = build(stub.port, key, everything, recorder)
    gc.collect()
    gc.freeze()
    for rate, group in zip(rates, held, strict=True):
        p = percentiles(measure_orders(stub, group, rate))
        print(
            f"tick to order, {rate:>6} msg/s  p50 {p[0]:.3f} ms  p90 {p[1]:.3f}  p99 {p[2]:.3f}"
            f"   p50/floor {p[0] / floor[0]:.1f}  p90/floor {p[1] / floor[1]:.1f}"
        )
    ours = measure_throughput(machine, stub, messages)
    machine.stop()
    plain = measure_bare(stub.port, stub, max(1000, messages // 10), skip_utf8=False)
    skipping = measure_bare(stub.port, stub, messages, skip_utf8=True)
    print(f"receive, decode and cache   {ours:,.0f} messages/s")
    print(f"bare websocket-client       {plain:,.0f} messages/s as it comes   ours/bare {ours / plain:.1f}")
    print(f"bare, skip_utf8_validation  {skipping:,.0f} messages/s   ours/bare {ours / skipping:.2f}")


if __name__ == "__main__":
    main()
