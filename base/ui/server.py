"""The read-only HTTP server: page, status, health, metrics (Flask on waitress).

It decides nothing and holds no state of the daemon: it calls what it is given. Its threads are few and
its own, so that a slow or hostile client delays other readers at worst, never a stop.
"""

from __future__ import annotations

import errno
import gzip
import json
import logging
import re
import socket
import threading
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from flask import Flask, Response, request
from waitress import create_server, wasyncore  # type: ignore[import-untyped]
from waitress.channel import HTTPChannel  # type: ignore[import-untyped]

from base.clock import Clock, SystemClock
from base.errors import ConfigError
from base.log import log_event
from base.ui.access import OPEN_PATH, AccessPolicy, is_loopback
from base.ui.document import items, rows
from base.ui.metrics import METRICS_CONTENT_TYPE

logger = logging.getLogger(__name__)

WORKER_THREADS = 4
CONNECTIONS_MAX = 128
CROWD = 16
"""From so many connections on, those that keep a request back make room, the oldest first: a stranger who
opens connections and sends nothing must not keep `/healthz` from whoever watches it."""
CROWDED_AGE_MAX_S = 0.5
CONNECTION_AGE_MAX_S = 15.0
"""A connection without a request in work is closed at this age. waitress alone counts only idle time, so
that a client sending one byte now and then would hold its place for ever."""
IDLE_TIMEOUT_S = 5
LOOP_PASS_S = 1
HEADER_BYTES_MAX = 16 * 1024
BODY_BYTES_MAX = 64 * 1024
WORKERS_STOP_TIMEOUT_S = 1.0
COMPRESSED_BYTES_MIN = 1024
COMPRESSION_LEVEL = 3
"""With 200 positions a status is 150 kB a second, a twelfth of that when compressed: what a phone behind a
tunnel can bear. A higher level saves little and costs the daemon's processor."""

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_ASSETS = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/verdicts.js": ("verdicts.js", "text/javascript; charset=utf-8"),
    "/tables.js": ("tables.js", "text/javascript; charset=utf-8"),
    "/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/app.css": ("app.css", "text/css; charset=utf-8"),
}
_TICKER = re.compile(r"[A-Za-z0-9._-]{1,128}")


class UiServer:
    """The thread `ui-http` and its few workers.

    `status` returns the status document, `explain` the evaluations of one ticker (None: not watched),
    `metrics` Prometheus text, `history` what the page draws, `exits` the exits of one ticker. They are
    called from any worker, several at a time.
    """

    def __init__(
        self,
        host: str,
        port: int,
        token: str,
        status: Callable[[], Mapping[str, Any]],
        explain: Callable[[str], list[dict[str, Any]] | None],
        metrics: Callable[[], bytes],
        *,
        history: Callable[[], Mapping[str, Any]] = dict,
        exits: Callable[[str], list[dict[str, Any]]] = lambda ticker: [],
        clock: Clock | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._policy = AccessPolicy(host, token)
        self._app = _build_app(self._policy, status, explain, metrics, history, exits)
        self._clock = clock or SystemClock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._first_seen: dict[HTTPChannel, float] = {}  # owned by ui-http; monotonic seconds
        self._sockets: dict[int, Any] = {}  # waitress's table of open descriptors; owned by ui-http
        self._lock = threading.Lock()  # guards the field below
        self._wakeable: Any = None  # the waitress server while its wake-up pipe is open

    def start(self) -> None:
        """Bind and serve, once; raise ConfigError when the address cannot be had."""
        assert self._thread is None, "a UiServer starts once; make a new one"
        if not self._policy.token and not is_loopback(self._host):
            raise ConfigError(
                [f"UI_HOST {self._host} is open to other machines: set UI_TOKEN, or UI_HOST to 127.0.0.1"]
            )
        listener = _bind(self._host, self._port)
        self._port = listener.getsockname()[1]
        server = create_server(
            self._app,
            map=self._sockets,
            sockets=[listener],
            threads=WORKER_THREADS,
            connection_limit=CONNECTIONS_MAX + 2,  # waitress counts the listener and its wake-up pipe too
            channel_timeout=IDLE_TIMEOUT_S,
            cleanup_interval=LOOP_PASS_S,
            max_request_header_size=HEADER_BYTES_MAX,
            max_request_body_size=BODY_BYTES_MAX,
            log_socket_errors=False,
            ident=None,
        )
        with self._lock:
            self._wakeable = server
        self._thread = threading.Thread(target=self._run, args=(server,), name="ui-http", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port in use once started; before that the one asked for (0 = any)."""
        return self._port

    @property
    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        """Ask the server to end; requests in work are finished first, for a bounded time."""
        self._stopping.set()
        with self._lock:
            if self._wakeable is not None:
                self._wakeable.pull_trigger()  # one byte into a pipe that the loop empties

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; return whether it was reached in time."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self.is_alive

    def _run(self, server: Any) -> None:
        try:
            while not self._stopping.is_set():
                # A pass ends when a socket is ready, or after LOOP_PASS_S. poll(), because select() fails
                # for descriptors above 1,023.
                wasyncore.loop(timeout=LOOP_PASS_S, use_poll=True, map=self._sockets, count=1)
                self._close_old_connections(server)
        except Exception:  # safety net: the page may die, the daemon lives and its supervisor sees it
            log_event(logger, logging.ERROR, "page_server_ended", exc_info=True)
        finally:
            self._close(server)

    def _close_old_connections(self, server: Any) -> None:
        now = self._clock.monotonic()
        open_channels = list(server.active_channels.values())
        # In the order in which they came.
        first_seen = {c: since for c, since in self._first_seen.items() if c in open_channels}
        self._first_seen = first_seen | {c: now for c in open_channels if c not in first_seen}
        to_go = len(open_channels) - CROWD
        for channel, since in self._first_seen.items():
            age_max_s = CROWDED_AGE_MAX_S if to_go > 0 else CONNECTION_AGE_MAX_S
            if now - since > age_max_s and not channel.requests:
                channel.will_close = True
                to_go -= 1

    def _close(self, server: Any) -> None:
        with self._lock:
            self._wakeable = None
        server.task_dispatcher.shutdown(timeout=WORKERS_STOP_TIMEOUT_S)
        if server.task_dispatcher.threads:
            log_event(logger, logging.WARNING, "ui_request_abandoned", why="it did not end in time")
        # A worker that still hangs in a callback would, when it comes back, write to the wake-up pipe by
        # descriptor number; closed below, that number may by then be the journal's.
        server.pull_trigger = _do_not_wake
        wasyncore.close_all(self._sockets, ignore_all=True)


def _do_not_wake() -> None:
    """Take the place of waitress's wake-up once its loop has ended."""


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=CONNECTIONS_MAX)
    except socket.gaierror as error:
        raise ConfigError(
            [f"UI_HOST {host} is not a name or address that resolves ({error}): correct it"]
        ) from error
    except OSError as error:
        raise ConfigError([_bind_problem(error, host, port)]) from error


def _bind_problem(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"UI_PORT {port} on {host} is taken by another program: stop it, or set UI_PORT to a free port"
    if error.errno == errno.EACCES:
        return f"UI_PORT {port} needs privileges that this user lacks: set UI_PORT to 1024 or more"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"UI_HOST {host} is no address of this machine: set UI_HOST to one that is, such as 127.0.0.1"
    return f"cannot listen on UI_HOST {host} UI_PORT {port} ({error.strerror}): correct them"


def _build_app(
    policy: AccessPolicy,
    status: Callable[[], Mapping[str, Any]],
    explain: Callable[[str], list[dict[str, Any]] | None],
    metrics: Callable[[], bytes],
    history: Callable[[], Mapping[str, Any]],
    exits: Callable[[str], list[dict[str, Any]]],
) -> Flask:
    app = Flask(__name__, static_folder=None)
    app.debug = False  # FLASK_DEBUG in the environment must not show tracebacks to readers
    app.url_map.merge_slashes = False

    @app.before_request
    def check_access() -> Response | None:
        refusal = policy.refuse(
            request.method,
            request.path,
            request.environ.get("HTTP_HOST", ""),
            request.headers.get("Authorization", ""),
        )
        if refusal is None:
            return None
        response = _error(refusal.status, refusal.message)
        response.headers.extend(dict(refusal.headers))
        return response

    @app.after_request
    def add_security_headers(response: Response) -> Response:
        response.headers.update(SECURITY_HEADERS)
        response.headers["Vary"] = "Accept-Encoding"
        body = response.get_data()
        if len(body) >= COMPRESSED_BYTES_MIN and request.accept_encodings.quality("gzip") > 0:
            response.set_data(gzip.compress(body, COMPRESSION_LEVEL, mtime=0))
            response.headers["Content-Encoding"] = "gzip"
        return response

    @app.errorhandler(404)
    def answer_unknown_path(_error_: Exception) -> Response:
        return _error(404, "No such path: / /healthz /metrics /api/status /api/history /api/explain/<ticker>")

    @app.errorhandler(500)
    def answer_failure(_error_: Exception) -> Response:
        # Flask has logged the traceback. A health that cannot be told is bad health.
        if request.path == OPEN_PATH:
            return _json({"ok": False, "reasons": ["the status cannot be built: see the daemon's log"]}, 503)
        return _error(500, "The daemon could not build this answer: see its log.")

    for path, (file_name, content_type) in _ASSETS.items():
        _add_asset(app, path, (Path(__file__).parent / file_name).read_bytes(), content_type)

    @app.get(OPEN_PATH)
    def answer_health() -> Response:
        health = _health(status())
        return _json(health, 200 if health["ok"] else 503)

    @app.get("/metrics")
    def answer_metrics() -> Response:
        return Response(metrics(), content_type=METRICS_CONTENT_TYPE)

    @app.get("/api/status")
    def answer_status() -> Response:
        return _json(status())

    @app.get("/api/history")
    def answer_history() -> Response:
        return _json(history())

    @app.get("/api/explain/<ticker>")
    def answer_explain(ticker: str) -> Response:
        if not _TICKER.fullmatch(ticker):
            return _error(404, "No market has such a ticker: the command status lists what is held.")
        looks, left = explain(ticker), exits(ticker)
        document = status()
        if looks is None and not left:
            return _error(404, _unknown_ticker(ticker, document))
        mode = document.get("trading_mode")
        return _json({"ticker": ticker, "trading_mode": mode, "rows": looks or [], "exits": left})

    return app


def _add_asset(app: Flask, path: str, content: bytes, content_type: str) -> None:
    def answer_asset() -> Response:
        return Response(content, content_type=content_type)

    app.add_url_rule(path, endpoint=path, view_func=answer_asset, methods=["GET"])


def _health(document: Mapping[str, Any]) -> dict[str, Any]:
    health = document.get("health")
    if not isinstance(health, Mapping):
        return {"ok": False, "reasons": ["the daemon has not judged its health yet"]}
    return {"ok": health.get("ok") is True, "reasons": items(health.get("reasons"))}


def _unknown_ticker(ticker: str, document: Mapping[str, Any]) -> str:
    """For somebody who has mistyped a ticker, or asks after what is held no more."""
    listed = [*rows(document.get("positions")), *rows(document.get("exits"))]
    known = sorted({str(row.get("ticker")) for row in listed})
    same = [name for name in known if name.upper() == ticker.upper()]
    near = same or get_close_matches(ticker.upper(), known, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"nothing is known of {ticker}: {hint}The command status lists what is held and was lately left."


def _error(status: int, message: str) -> Response:
    return _json({"error": message}, status)


def _json(value: Mapping[str, Any], status: int = 200) -> Response:
    # NaN is not JSON: a browser would drop the whole document. It fails here instead, visibly.
    text = json.dumps(value, allow_nan=False, default=str)
    return Response(text, status=status, content_type="application/json")
