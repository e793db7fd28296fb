"""One event, one line, in either format; no secret comes through, whatever brings it."""

from __future__ import annotations

import io
import json
import logging
import re
import stat
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from base.app.logging_setup import FILES_KEPT, configure_logging, redact, register_secret
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
    yield
    for handler in set(root.handlers) - set(before[0]):
        root.removeHandler(handler)
        handler.close()
    root.handlers[:], logging.raiseExceptions = before[0], before[2]
    root.setLevel(before[1])


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


logger = logging.getLogger("base.risk.stop_loss")


def test_text_line(stream: io.StringIO) -> None:
    configure_logging("INFO", "text", None, stream=stream)
    log_event(
        logger, logging.INFO, "exit_triggered", ticker=MARKET, reason="stop_loss", price=Decimal("0.39")
    )
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO  MainThread   "
        rf"event=exit_triggered ticker={MARKET} reason=stop_loss price=0\.39\n",
        stream.getvalue(),
    )


def test_json_line_carries_the_same_fields(stream: io.StringIO) -> None:
    configure_logging("INFO", "json", None, stream=stream)
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
def test_a_plain_message_stays_one_line(fmt: str, stream: io.StringIO) -> None:
    configure_logging("INFO", fmt, None, stream=stream)
    logger.info("market %s\n2026-11-22T15:00:00.123Z INFO forged event=stopped\x1b[2J", MARKET)
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


def test_traceback_cannot_pass_for_an_event(stream: io.StringIO) -> None:
    configure_logging("INFO", "text", None, stream=stream)
    try:
        raise ValueError("bad\n2026-11-22T15:00:00.123Z INFO  x event=stopped")
    except ValueError:
        log_event(logger, logging.ERROR, "pass_failed", exc_info=True)
    first, *rest = stream.getvalue().splitlines()
    assert "event=pass_failed" in first
    assert rest
    assert all(line.startswith("    | ") for line in rest)


def test_level_is_obeyed_and_libraries_are_quiet(stream: io.StringIO) -> None:
    configure_logging("DEBUG", "text", None, stream=stream)
    logging.getLogger("urllib3.connectionpool").info("https://host/path")
    logging.getLogger("websocket").debug("headers")
    logging.getLogger("waitress").info("serving")
    assert stream.getvalue() == ""
    logger.debug("ours")
    assert "ours" in stream.getvalue()


def test_configuring_again_replaces_the_handlers(stream: io.StringIO) -> None:
    before = io.StringIO()
    configure_logging("INFO", "text", None, stream=before)
    configure_logging("INFO", "text", None, stream=stream)
    logger.info("once")
    assert before.getvalue() == ""
    assert stream.getvalue().count("once") == 1


class TestFile:
    def test_is_written_beside_the_stream_and_only_for_its_owner(
        self, stream: io.StringIO, tmp_path: Path
    ) -> None:
        path = tmp_path / "logs" / "backstop.log"
        configure_logging("INFO", "text", path, stream=stream)
        logger.info("both")
        assert path.read_text() == stream.getvalue()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_rotates_and_keeps_five(self, stream: io.StringIO, tmp_path: Path) -> None:
        path = tmp_path / "backstop.log"
        configure_logging("INFO", "text", path, stream=stream)
        (handler,) = (h for h in logging.getLogger().handlers if hasattr(h, "maxBytes"))
        assert handler.maxBytes == 10_000_000
        handler.maxBytes = 200
        for number in range(50):
            logger.info("line number %d", number)
        assert len(list(tmp_path.iterdir())) == FILES_KEPT
        assert "line number 49" in path.read_text()

    def test_that_cannot_be_opened_is_a_configuration_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="LOG_FILE"):
            configure_logging("INFO", "text", tmp_path / "file" / "backstop.log")


def test_a_closed_stream_stops_nothing_and_floods_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    class Closed(io.StringIO):
        def write(self, text: str, /) -> int:
            raise BrokenPipeError

    configure_logging("INFO", "text", None, stream=Closed())
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
    configure_logging("INFO", fmt, path, stream=stream)
    emit(make())
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
    configure_logging("INFO", fmt, None, stream=stream)
    emit(pem)
    for line in lines[1:-1]:
        assert line not in stream.getvalue()
    if fmt == "json":
        assert json.loads(stream.getvalue())


def test_field_named_like_a_secret_header_is_hidden_in_json(stream: io.StringIO) -> None:
    configure_logging("INFO", "json", None, stream=stream)
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
