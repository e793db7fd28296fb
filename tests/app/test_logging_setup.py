"""One event, one line, in either format; no secret comes through, whatever brings it."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import stat
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from base.app.logging_setup import (
    configure_logging,
    flush_logs,
    log_stacks,
    redact,
    register_key_file,
    register_secret,
    reload_level,
)
from base.errors import ConfigError
from base.log import log_event

TOKEN = "a-long-and-secret-token"
KEY_ID = "11111111-2222-3333-4444-555555556789"
SIGNATURE = "c2lnbmF0dXJl+/c2lnbmF0dXJlc2lnbmF0dXJl=="
MARKET = "KXHIGHNY-26NOV22-T50"


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.raiseExceptions)
    hooks = (threading.excepthook, sys.unraisablehook)
    yield
    for handler in set(root.handlers) - set(before[0]):
        root.removeHandler(handler)
        handler.close()
    root.handlers[:], logging.raiseExceptions = before[0], before[2]
    root.setLevel(before[1])
    threading.excepthook, sys.unraisablehook = hooks
    logging.captureWarnings(False)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


logger = logging.getLogger("base.risk.stop_loss")


def test_text_line(stream: io.StringIO) -> None:
    configure_logging("INFO", "text", None, stream=stream, queued=False)
    log_event(
        logger, logging.INFO, "exit_triggered", ticker=MARKET, reason="stop_loss", price=Decimal("0.39")
    )
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO     MainThread     "
        rf"event=exit_triggered ticker={MARKET} reason=stop_loss price=0\.39\n",
        stream.getvalue(),
    )


def test_json_line_carries_the_same_fields(stream: io.StringIO) -> None:
    configure_logging("INFO", "json", None, stream=stream, queued=False)
    log_event(
        logger,
        logging.WARNING,
        "unprotected",
        ticker=MARKET,
        price=Decimal("0.3900"),
        age_s=1.25,
        why=None,
        tickers=["A", "B"],
        ok=True,
        rate=float("nan"),
        time="a field of that name",
    )
    (line,) = stream.getvalue().splitlines()
    document = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document.pop("time"))
    assert document == {
        "level": "WARNING",
        "thread": "MainThread",
        "logger": "base.risk.stop_loss",
        "event": "unprotected",
        "ticker": MARKET,
        "price": "0.3900",
        "age_s": 1.25,
        "why": None,
        "tickers": ["A", "B"],
        "ok": True,
        "rate": "nan",
        "time_": "a field of that name",
    }


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_every_event_bears_the_marks_once_and_plain_messages_none(fmt: str, stream: io.StringIO) -> None:
    configure_logging("INFO", fmt, None, stream=stream, queued=False, marks={"mode": "PAPER"})
    log_event(logger, logging.INFO, "exit_filled", ticker=MARKET)
    log_event(logger, logging.INFO, "summary", mode="PAPER", state="active")
    logger.info("a plain message")
    exits, summary, plain = stream.getvalue().splitlines()
    mark = '"mode": "PAPER"' if fmt == "json" else "mode=PAPER"
    assert [line.count(mark) for line in (exits, summary, plain)] == [1, 1, 0]


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_a_plain_message_stays_one_line(fmt: str, stream: io.StringIO) -> None:
    configure_logging("INFO", fmt, None, stream=stream, queued=False)
    logger.info("market %s\n2026-11-22T15:00:00.123Z INFO forged event=stopped\x1b[2J", MARKET)
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("level", ["INFO", "WARNING", "CRITICAL"])
@pytest.mark.parametrize("thread", ["exit-1", "stop-loss", "ThreadPoolExecutor-12_3"])
def test_columns_keep_their_width(level: str, thread: str, stream: io.StringIO) -> None:
    configure_logging("INFO", "text", None, stream=stream, queued=False)
    number = logging.getLevelNamesMapping()[level]
    worker = threading.Thread(target=log_event, args=(logger, number, "exit_sent"), name=thread)
    worker.start()
    worker.join()
    assert stream.getvalue().index("event=exit_sent") == len(
        "2026-11-22T15:00:00.123Z WARNING  stop-loss      "
    )


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_what_a_library_says_is_an_event_too(fmt: str, stream: io.StringIO) -> None:
    configure_logging("INFO", fmt, None, stream=stream, queued=False)
    logging.getLogger("urllib3.connectionpool").warning("Connection pool is full: %s", "host")
    line = stream.getvalue()
    if fmt == "json":
        said = json.loads(line)
        assert (said["event"], said["logger"]) == ("message", "urllib3.connectionpool")
        assert said["text"] == "Connection pool is full: host"
    else:
        assert 'event=message text="Connection pool is full: host" logger=urllib3.connectionpool' in line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "fmt", "is_colored"),
    [
        pytest.param({"TERM": "xterm"}, "text", True, id="a terminal"),
        pytest.param({"TERM": "dumb"}, "text", False, id="a terminal without colors"),
        pytest.param({"TERM": "xterm", "NO_COLOR": "1"}, "text", False, id="a user without them"),
        pytest.param({"TERM": "xterm"}, "json", False, id="JSON"),
    ],
)
def test_colors_are_for_terminals(
    environment: dict[str, str], fmt: str, is_colored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    configure_logging("INFO", fmt, None, stream=terminal, queued=False)
    log_event(logger, logging.WARNING, "unprotected", ticker=MARKET)
    assert ("\x1b[" in terminal.getvalue()) is is_colored


def test_nothing_but_a_terminal_gets_colors(stream: io.StringIO) -> None:
    configure_logging("INFO", "text", None, stream=stream, queued=False)
    log_event(logger, logging.CRITICAL, "unprotected", ticker=MARKET)
    assert "\x1b" not in stream.getvalue()


class TestLevel:
    def test_is_read_again_from_the_file(self, stream: io.StringIO, tmp_path: Path) -> None:
        configure_logging("INFO", "json", None, stream=stream, queued=False)
        (tmp_path / ".env").write_text("LOG_LEVEL=DEBUG\n")
        reload_level({}, tmp_path)
        log_event(logger, logging.DEBUG, "detail")
        (tmp_path / ".env").write_text("LOG_LEVEL=ERROR\n")
        reload_level({}, tmp_path)
        log_event(logger, logging.WARNING, "no longer")
        told = [json.loads(line) for line in stream.getvalue().splitlines()]
        assert [(t["event"], t.get("level_"), t.get("was"), t.get("source")) for t in told] == [
            ("log_level", "DEBUG", "INFO", ".env line 1"),
            ("detail", None, None, None),
            ("log_level", "ERROR", "DEBUG", ".env line 1"),
        ]

    def test_is_said_even_where_it_was_and_stays_above_what_says_it(
        self, stream: io.StringIO, tmp_path: Path
    ) -> None:
        configure_logging("ERROR", "json", None, stream=stream, queued=False)
        reload_level({"LOG_LEVEL": "CRITICAL"}, tmp_path)
        (line,) = stream.getvalue().splitlines()
        assert (json.loads(line)["level_"], json.loads(line)["source"]) == ("CRITICAL", "environment")
        assert logging.getLogger().level == logging.CRITICAL

    def test_that_is_none_is_refused_and_the_one_in_force_stays(
        self, stream: io.StringIO, tmp_path: Path
    ) -> None:
        configure_logging("INFO", "json", None, stream=stream, queued=False)
        (tmp_path / ".env").write_text("LOG_LEVEL=LOUD\n")
        reload_level({}, tmp_path)
        (line,) = stream.getvalue().splitlines()
        assert json.loads(line)["event"] == "log_level_refused"
        assert logging.getLogger().level == logging.INFO

    def test_of_libraries_stays_quiet(self, stream: io.StringIO, tmp_path: Path) -> None:
        configure_logging("INFO", "text", None, stream=stream, queued=False)
        reload_level({"LOG_LEVEL": "DEBUG"}, tmp_path)
        logging.getLogger("urllib3.connectionpool").debug("GET /path with headers")
        assert "GET /path" not in stream.getvalue()


class Pipe:
    """A pipe to log to."""

    def __init__(self) -> None:
        self._reading, writing = os.pipe()
        self.writing = os.fdopen(writing, "w", encoding="utf-8")

    def written(self) -> list[str]:
        flush_logs()
        self.writing.close()
        with os.fdopen(self._reading, encoding="utf-8") as reading:
            return reading.read().splitlines()


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


class TestDaemon:
    """Queued, and for all that would otherwise be printed."""

    def test_a_thread_that_dies_is_logged_without_secrets(self, pipe: Pipe) -> None:
        register_secret(TOKEN)
        configure_logging("INFO", "json", None, stream=pipe.writing)

        def die() -> None:
            raise RuntimeError(f"refused: {TOKEN}")

        thread = threading.Thread(target=die, name="user-thread")
        thread.start()
        thread.join()
        (line,) = pipe.written()
        told = json.loads(line)
        assert (told["event"], told["of"]) == ("thread_crashed", "user-thread")
        assert "RuntimeError: refused: [redacted]" in told["traceback"]

    def test_an_exception_that_nobody_can_catch_is_logged_without_secrets(self, pipe: Pipe) -> None:
        register_secret(TOKEN)
        configure_logging("INFO", "json", None, stream=pipe.writing)

        class Bad:
            def __del__(self) -> None:
                raise RuntimeError(f"refused: {TOKEN}")

        bad = Bad()
        del bad
        (line,) = pipe.written()
        assert json.loads(line)["event"] == "exception_ignored"
        assert TOKEN not in line
        assert "refused" in line

    def test_a_warning_is_logged_without_secrets(self, pipe: Pipe) -> None:
        register_secret(TOKEN)
        configure_logging("INFO", "json", None, stream=pipe.writing)
        warnings.showwarning(f"old: {TOKEN}", DeprecationWarning, "user.py", 1)
        (line,) = pipe.written()
        assert "old: [redacted]" in json.loads(line)["text"]

    def test_stacks_name_every_thread(self, pipe: Pipe) -> None:
        configure_logging("INFO", "json", None, stream=pipe.writing)
        release = threading.Event()
        thread = threading.Thread(target=release.wait, name="stop-loss")
        thread.start()
        log_stacks()
        release.set()
        thread.join()
        stacks = {t["of"]: t["stack"] for t in map(json.loads, pipe.written())}
        assert "threading.py" in stacks["stop-loss"]
        assert "log_stacks" in stacks["MainThread"]


def test_traceback_cannot_pass_for_an_event(stream: io.StringIO) -> None:
    configure_logging("INFO", "text", None, stream=stream, queued=False)
    try:
        raise ValueError("bad\n2026-11-22T15:00:00.123Z INFO  x event=stopped")
    except ValueError:
        log_event(logger, logging.ERROR, "pass_failed", exc_info=True)
    first, *rest = stream.getvalue().splitlines()
    assert "event=pass_failed" in first
    assert rest
    assert all(line.startswith("    | ") for line in rest)


def test_level_is_obeyed_and_libraries_are_quiet(stream: io.StringIO) -> None:
    configure_logging("DEBUG", "text", None, stream=stream, queued=False)
    logging.getLogger("urllib3.connectionpool").info("https://host/path")
    logging.getLogger("websocket").debug("headers")
    logging.getLogger("waitress").info("serving")
    assert stream.getvalue() == ""
    logger.debug("ours")
    assert "ours" in stream.getvalue()


def test_configuring_again_replaces_the_handlers(stream: io.StringIO) -> None:
    before = io.StringIO()
    configure_logging("INFO", "text", None, stream=before, queued=False)
    configure_logging("INFO", "text", None, stream=stream, queued=False)
    logger.info("once")
    assert before.getvalue() == ""
    assert stream.getvalue().count("once") == 1


class TestFile:
    def test_is_written_beside_the_stream_and_only_for_its_owner(
        self, stream: io.StringIO, tmp_path: Path
    ) -> None:
        path = tmp_path / "logs" / "backstop.log"
        configure_logging("INFO", "text", path, stream=stream, queued=False)
        logger.info("both")
        flush_logs()
        assert path.read_text() == stream.getvalue()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_that_cannot_be_opened_is_a_configuration_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="LOG_FILE"):
            configure_logging("INFO", "text", tmp_path / "file" / "backstop.log")


def test_a_closed_stream_stops_nothing_and_floods_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    class Closed(io.StringIO):
        def write(self, text: str, /) -> int:
            raise BrokenPipeError

    configure_logging("INFO", "text", None, stream=Closed(), queued=False)
    logger.info("nobody listens")
    assert capsys.readouterr().err == ""


def pem_rsa() -> str:
    key = generate_private_key(public_exponent=65_537, key_size=2_048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


def pem_ed25519() -> str:
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


HEADERS = {
    "KALSHI-ACCESS-KEY": KEY_ID,
    "KALSHI-ACCESS-TIMESTAMP": "1790000000123",
    "KALSHI-ACCESS-SIGNATURE": SIGNATURE,
}
SECRETS: list[tuple[str, Callable[[], object], tuple[str, ...]]] = [
    ("headers as a dict", lambda: HEADERS, (SIGNATURE, "1790000000123", KEY_ID)),
    ("headers as pairs", lambda: list(HEADERS.items()), (SIGNATURE, "1790000000123")),
    ("headers as sent", lambda: "\r\n".join(f"{k}: {v}" for k, v in HEADERS.items()), (SIGNATURE, KEY_ID)),
    ("headers as bytes", lambda: {k.encode(): v.encode() for k, v in HEADERS.items()}, (SIGNATURE,)),
    ("headers in lower case", lambda: {k.lower(): v for k, v in HEADERS.items()}, (SIGNATURE,)),
    ("headers as JSON", lambda: json.dumps(json.dumps(HEADERS)), (SIGNATURE, "1790000000123")),
    ("a bearer token", lambda: "curl -H 'Authorization: Bearer c2VjcmV0LXRva2Vu'", ("c2VjcmV0LXRva2Vu",)),
    ("a basic password", lambda: {"Authorization": "Basic dXNlcjpwYXNz"}, ("dXNlcjpwYXNz",)),
    ("a password in a URL", lambda: "https://bob:hunter22@example.org/x", ("hunter22",)),
    ("the registered token", lambda: f"/?token={TOKEN}&x=1", (TOKEN,)),
    ("the full key id", lambda: f"key {KEY_ID} is unknown", (KEY_ID,)),
]


def emit_field(secret: object) -> None:
    log_event(logger, logging.INFO, "request_failed", detail=secret)


def emit_message(secret: object) -> None:
    logger.warning("request failed: %s", secret)


def emit_traceback(secret: object) -> None:
    try:
        try:
            raise ValueError(secret)
        except ValueError as exc:
            raise RuntimeError("while signing") from exc
    except RuntimeError:
        log_event(logger, logging.ERROR, "request_failed", exc_info=True)


@pytest.mark.parametrize("fmt", ["text", "json"])
@pytest.mark.parametrize("emit", [emit_field, emit_message, emit_traceback])
@pytest.mark.parametrize(("name", "make", "hidden"), SECRETS, ids=[case[0] for case in SECRETS])
def test_secret_never_reaches_a_line(
    name: str,
    make: Callable[[], object],
    hidden: tuple[str, ...],
    emit: Callable[[object], None],
    fmt: str,
    stream: io.StringIO,
    tmp_path: Path,
) -> None:
    register_secret(TOKEN)
    register_secret(KEY_ID)
    path = tmp_path / "backstop.log"
    configure_logging("INFO", fmt, path, stream=stream, queued=False)
    emit(make())
    flush_logs()
    for written in (stream.getvalue(), path.read_text()):
        assert "request" in written
        for secret in hidden:
            assert secret not in written


@pytest.mark.parametrize("fmt", ["text", "json"])
@pytest.mark.parametrize("emit", [emit_field, emit_message, emit_traceback])
@pytest.mark.parametrize("make", [pem_rsa, pem_ed25519])
@pytest.mark.parametrize("lines_lost", [0, 1], ids=["whole key", "key without its end"])
def test_private_key_never_reaches_a_line(
    make: Callable[[], str], lines_lost: int, emit: Callable[[object], None], fmt: str, stream: io.StringIO
) -> None:
    lines = make().strip().splitlines()
    pem = "\n".join(lines[: len(lines) - lines_lost])
    configure_logging("INFO", fmt, None, stream=stream, queued=False)
    emit(pem)
    for line in lines[1:-1]:
        assert line not in stream.getvalue()
    if fmt == "json":
        assert json.loads(stream.getvalue())


def test_field_named_like_a_secret_header_is_hidden_in_json(stream: io.StringIO) -> None:
    configure_logging("INFO", "json", None, stream=stream, queued=False)
    log_event(
        logger, logging.INFO, "request", authorization="dXNlcjpwYXNz", kalshi_access_signature=SIGNATURE
    )
    assert "dXNlcjpwYXNz" not in stream.getvalue()
    assert SIGNATURE not in stream.getvalue()


def test_ordinary_lines_are_untouched() -> None:
    for text in (f"event=subscribed count=3 tickers={MARKET}", "GET https://host/trade-api/v2/markets 200"):
        assert redact(text) == text


def test_short_secrets_do_not_blank_out_ordinary_words() -> None:
    register_secret("no")
    assert redact("why=no_bid") == "why=no_bid"


@pytest.mark.parametrize("make", [pem_rsa, pem_ed25519])
def test_a_line_of_the_private_key_is_hidden_without_its_marks(
    make: Callable[[], str], stream: io.StringIO, tmp_path: Path
) -> None:
    path = tmp_path / "key.pem"
    path.write_text(make())
    register_key_file(path)
    configure_logging("INFO", "text", None, stream=stream, queued=False)
    body = make_lines(path)
    for line in body:
        log_event(logger, logging.INFO, "read", line=line)
    assert stream.getvalue().count("[redacted]") == len(body)
    assert not [line for line in body if line in stream.getvalue()]


def make_lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("-") and len(line) >= 16]


def test_a_key_that_cannot_be_read_is_somebody_elses_complaint(tmp_path: Path) -> None:
    register_key_file(tmp_path / "missing.pem")
    register_key_file(None)
    assert redact("missing.pem") == "missing.pem"


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param("mailto://bob:pass%20phrase@example.org/x", id="the URL"),
        pytest.param("login as bob with pass%20phrase refused", id="its password"),
        pytest.param("login as bob with 'pass phrase' refused", id="its password, decoded"),
        pytest.param(
            "GET /?to=mailto%3A%2F%2Fbob%3Apass%2520phrase%40example.org%2Fx", id="the URL in a URL"
        ),
    ],
)
def test_the_password_of_an_alert_url_is_hidden(shown: str) -> None:
    register_secret("mailto://bob:pass%20phrase@example.org/x")
    assert "phrase" in shown
    assert "phrase" not in redact(shown)
