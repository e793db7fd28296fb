"""The sandbox as a running server: its event loop, and a thread around it for tests."""

from __future__ import annotations

import asyncio
import concurrent.futures
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from aiohttp import web

from base.clock import Clock, SystemClock
from base.sandbox.faults import parse_faults
from base.sandbox.rest import build_app
from base.sandbox.rest_market_data import PREFIX
from base.sandbox.scenario import Scenario, default_scenario
from base.sandbox.signatures import KeyPair, open_key_dir
from base.sandbox.stream import PING_INTERVAL_S, WS_PATH, Stream
from base.sandbox.venue import Player, Venue

HOST = "127.0.0.1"
STEP_S = 0.02
START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0
CALL_TIMEOUT_S = 10.0
SHUTDOWN_GRACE_S = 0.2  # for answers under way when the server stops
DEFAULT_SEED = 7
_T = TypeVar("_T")


async def serve(
    venue: Venue,
    keys: KeyPair,
    stop: asyncio.Event,
    on_ready: Callable[[int], None],
    *,
    port: int = 0,
    enforce_limits: bool = True,
    ping_interval_s: float = PING_INTERVAL_S,
) -> None:
    """Serve on loopback until `stop` is set; `on_ready` is told the port. Raises OSError when it is taken."""
    stream = Stream(venue, keys, ping_interval_s)
    app = build_app(venue, keys, stream, enforce_limits=enforce_limits)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_GRACE_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, port)
        await site.start()
        on_ready(int(runner.addresses[0][1]))
        while not stop.is_set():
            venue.step()
            await asyncio.sleep(STEP_S)
    finally:
        stream.cut()
        await runner.cleanup()


class SandboxServer:
    """The sandbox in a thread of its own, on a free loopback port; use it as a context manager.

    Every method may be called from any thread: it runs on the server's loop and returns when it is
    done there. With a clock of the test's own, quotes and lifecycles move when that clock does.
    """

    def __init__(
        self,
        scenario: Scenario | None = None,
        *,
        seed: int = DEFAULT_SEED,
        clock: Clock | None = None,
        key_dir: Path | None = None,
        players: Sequence[Callable[[Venue], Player]] = (),
        enforce_limits: bool = True,
        ping_interval_s: float = PING_INTERVAL_S,
        port: int = 0,
    ) -> None:
        self._own_key_dir = None if key_dir else tempfile.TemporaryDirectory(prefix="sandbox-keys-")
        directory = key_dir or Path(self._own_key_dir.name if self._own_key_dir else "")
        self._keys = open_key_dir(directory)
        self._venue = Venue(scenario or default_scenario(), clock=clock or SystemClock(), seed=seed)
        for make in players:
            self._venue.add_player(make(self._venue))
        self._enforce_limits = enforce_limits
        self._ping_interval_s = ping_interval_s
        self._wanted_port = port
        self._port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="sandbox", daemon=True)

    @property
    def key_id(self) -> str:
        return self._keys.key_id

    @property
    def key_file(self) -> Path:
        return self._keys.key_file

    @property
    def port(self) -> int:
        return self._port

    @property
    def rest_url(self) -> str:
        return rest_url(self._port)

    @property
    def ws_url(self) -> str:
        return ws_url(self._port)

    @property
    def control_url(self) -> str:
        return f"http://{HOST}:{self._port}/sandbox"

    def start(self) -> None:
        self._thread.start()
        if not self._started.wait(START_TIMEOUT_S):
            raise TimeoutError(f"the sandbox did not start within {START_TIMEOUT_S:.0f} s")
        if self._failure is not None:
            self.stop()

    def stop(self) -> None:
        """Stop serving; raises what broke the server's loop, if anything did."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STOP_TIMEOUT_S)
        if self._own_key_dir is not None:
            self._own_key_dir.cleanup()
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # Control, from any thread

    def call(self, act: Callable[[Venue], _T]) -> _T:
        """Run something on the server's loop with its venue, and return what it returns."""
        if self._loop is None:
            raise RuntimeError("the sandbox is not running: start it first")

        async def run() -> _T:
            return act(self._venue)

        future: concurrent.futures.Future[_T] = asyncio.run_coroutine_threadsafe(run(), self._loop)
        return future.result(CALL_TIMEOUT_S)

    def ledger(self) -> dict[str, object]:
        return self.call(lambda venue: venue.ledger())

    def set_market(self, ticker: str, **fields: object) -> None:
        """`bid`, `ask`, `bid_size`, `ask_size` (strings), `status`, `close_in_s`, `result`."""
        self.call(lambda venue: venue.set_market(ticker, fields))

    def add_position(self, ticker: str, side: str, count: str, price: str) -> None:
        """Credit a position as if bought by hand at `price` of that side."""
        body = {"ticker": ticker, "side": side, "count": count, "price": price}
        self.call(lambda venue: venue.add_position(body))

    def set_faults(self, **fields: object) -> None:
        """The fields of `POST /sandbox/faults`."""
        request = parse_faults(fields)
        self.call(lambda venue: venue.set_faults(request))

    def clear_faults(self) -> None:
        self.set_faults()

    def cut_sockets(self) -> None:
        self.set_faults(cut_sockets=True)

    # The thread

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as exc:
            # Top of the thread: whatever broke the loop is raised where the server was started or stopped.
            self._failure = exc
        finally:
            self._started.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        await serve(
            self._venue,
            self._keys,
            self._stop,
            self._note_ready,
            port=self._wanted_port,
            enforce_limits=self._enforce_limits,
            ping_interval_s=self._ping_interval_s,
        )

    def _note_ready(self, port: int) -> None:
        self._port = port
        self._started.set()


def rest_url(port: int) -> str:
    return f"http://{HOST}:{port}{PREFIX}"


def ws_url(port: int) -> str:
    return f"ws://{HOST}:{port}{WS_PATH}"
