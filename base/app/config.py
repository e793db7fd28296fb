"""Configuration: every environment variable of the contract, checked once, all errors at a time.

The variables come from the real environment and from `.env` in the working directory; the real
environment wins. What python-dotenv would drop or change silently (a line without `=`, an unterminated
quote, a name given twice) is an error here: a mistyped stop must not be silently ignored.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from io import StringIO
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar
from zoneinfo import ZoneInfo

from dotenv.parser import Binding, parse_stream

from base.app import config_values as values
from base.app.config_names import (
    DEFAULTS,
    EMPTY_SWITCHES_OFF,
    ENVIRONMENT_PREFIXES,
    FILE_PREFIXES,
    SECRET_NAMES,
    STRATEGY_PREFIX,
    mistaken_for,
)
from base.app.config_values import HostKind, host_kind
from base.errors import ConfigError
from base.log import escape
from base.model.rules import ExitRule

T = TypeVar("T")

_EXCHANGE = {
    "demo": (
        "https://external-api.demo.kalshi.co/trade-api/v2",
        "wss://external-api-ws.demo.kalshi.co/trade-api/ws/v2",
    ),
    "prod": (
        "https://external-api.kalshi.com/trade-api/v2",
        "wss://external-api-ws.kalshi.com/trade-api/ws/v2",
    ),
}  # docs.kalshi.com, API environments


class Environment(StrEnum):
    """Which exchange."""

    SANDBOX = "sandbox"
    """A local one that `run` starts and stops itself, unless URLs point at one that already runs."""
    DEMO = "demo"
    PROD = "prod"


class TradingMode(StrEnum):
    """Whether orders leave the process."""

    PAPER = "paper"
    LIVE = "live"


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    INFO = "INFO"
    DEBUG = "DEBUG"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


@dataclass(frozen=True)
class Config:
    """The effective configuration. Its repr shows no secret.

    Fields are named like their variables; paths are absolute when the directory given was.
    """

    env: Environment
    rest_url: str | None
    """None for the embedded sandbox until it runs, like `ws_url`; see `with_exchange`."""
    ws_url: str | None
    urls_overridden: bool
    api_key_id: str = field(repr=False)
    """Empty for the embedded sandbox until it runs, like `private_key_path` (None)."""
    private_key_path: Path | None
    trading_mode: TradingMode
    live_armed: bool
    state_dir: Path
    strategy: str
    strategy_settings: Mapping[str, str] = field(repr=False)
    """The other STRATEGY_* variables by their full names; they may hold secrets."""
    strategy_interval_s: float
    stop_loss_interval_s: float
    ui_interval_s: float
    reconcile_interval_s: float
    price_stale_after_s: float
    reconnect_delay_initial_s: float
    reconnect_delay_max_s: float
    websocket_enabled: bool
    orderbook_feed: bool
    feed_silent_after_s: float
    default_rule: ExitRule
    rules_file: Path | None
    adopt_positions: bool
    max_order_cost_dollars: Decimal
    max_position_cost_dollars: Decimal
    max_total_exposure_dollars: Decimal
    max_daily_loss_dollars: Decimal
    max_event_cost_dollars: Decimal
    max_entries_per_minute: int
    entry_collar_dollars: Decimal
    entry_min_time_left_s: float
    paper_latency_ms: int
    trading_timezone: ZoneInfo
    ui_host: str
    ui_port: int
    ui_token: str = field(repr=False)
    """Empty when none is set."""
    log_level: LogLevel
    log_format: LogFormat
    log_file: Path | None
    exit_floor_dollars: Decimal
    exit_steps_through: tuple[int, ...]
    alert_urls: tuple[str, ...] = field(repr=False)
    deadman_url: str = field(repr=False)
    """Empty when none is set."""
    deadman_interval_s: float
    sources: Mapping[str, str] = field(repr=False)
    """Where each variable's value came from: `default`, `.env line 3` or `environment`."""
    warnings: tuple[str, ...]
    """What is legal and yet probably not meant, for the start-up log and `check`."""

    @property
    def effective_trading_mode(self) -> TradingMode:
        """The sandbox is always live against itself."""
        return TradingMode.LIVE if self.env is Environment.SANDBOX else self.trading_mode

    @property
    def runs_embedded_sandbox(self) -> bool:
        """Whether `run` has to start the local exchange itself."""
        return self.env is Environment.SANDBOX and not self.urls_overridden

    def with_exchange(self, rest_url: str, ws_url: str, key_id: str, key_path: Path) -> Config:
        """The same configuration, pointed at an embedded sandbox that now runs."""
        return replace(
            self, rest_url=rest_url, ws_url=ws_url, api_key_id=key_id, private_key_path=Path(key_path)
        )


def load_config(environ: Mapping[str, str], directory: Path) -> Config:
    """Read and check the whole configuration. Raises ConfigError with every problem, one line each."""
    file = _read_env_file(directory / ".env")
    reader = _Reader(environ, file)
    reader.problems += _unknown_names(environ, file)
    config = _build(reader, directory)
    _check_together(config, reader)
    if reader.problems:
        raise ConfigError(reader.problems)
    return replace(config, warnings=tuple(_warnings(config, file)))


def read_log_level(environ: Mapping[str, str], directory: Path) -> tuple[LogLevel, str]:
    """LOG_LEVEL as it is written now, and where. Raises ConfigError.

    What else has changed in the file does not matter to it.
    """
    reader = _Reader(environ, _read_env_file(directory / ".env"))
    level = reader.get("LOG_LEVEL", values.choice(LogLevel))
    if reader.problems:
        raise ConfigError(reader.problems)
    return level, reader.sources["LOG_LEVEL"]


def changed_names(running: Config, written: Config) -> list[str]:
    """The variables that are written differently now and that only a restart takes in."""
    # The level is taken in while running; an embedded exchange gives itself its address and key.
    own = {"LOG_LEVEL", *(n for n in DEFAULTS if n.startswith("KALSHI_") and running.runs_embedded_sandbox)}
    names = [n for n in DEFAULTS if n not in own and _value(running, n) != _value(written, n)]
    before, now = running.strategy_settings, written.strategy_settings
    return names + sorted(n for n in {*before, *now} if before.get(n) != now.get(n))


def describe(config: Config) -> list[str]:
    """The effective configuration for the start-up log: one `NAME=value (source)` a line, secrets hidden."""
    lines = [f"{name}={_shown(config, name)} ({config.sources[name]})" for name in DEFAULTS]
    lines += [f"{name}=(hidden) ({config.sources[name]})" for name in config.strategy_settings]
    return [escape(line) for line in lines]


@dataclass(frozen=True)
class _EnvFile:
    """What `.env` says: name -> (value, line), and what is wrong with it."""

    path: Path
    lines: Mapping[str, tuple[str, int]]
    problems: list[str]
    is_private: bool = True
    """Whether only its owner can read it."""


class _Reader:
    """Looks variables up, parses them, and collects what is wrong instead of stopping at the first."""

    def __init__(self, environ: Mapping[str, str], file: _EnvFile) -> None:
        self._environ = environ
        self._file = file
        self.problems = list(file.problems)
        self.sources: dict[str, str] = {}
        self.failed: set[str] = set()

    def text(self, name: str) -> str:
        """The value as written, or the default."""
        found = self._environ.get(name)
        source = "environment"
        if found is None and name in self._file.lines:
            found, line = self._file.lines[name]
            source = f".env line {line}"
        text = None if found is None else found.strip()
        if text or (text is not None and name in EMPTY_SWITCHES_OFF):
            self.sources[name] = source
            return text
        self.sources[name] = "default"
        return DEFAULTS[name]

    def get(self, name: str, parse: Callable[[str], T]) -> T:
        """The parsed value; after a problem that of the default, so that the other checks can go on."""
        text = self.text(name)
        try:
            return parse(text)
        except ValueError as exc:
            self.complain(name, str(exc), text)
            return parse(DEFAULTS[name])

    def optional(self, name: str, parse: Callable[[str], T]) -> T | None:
        """The parsed value, None when it is empty or wrong."""
        text = self.text(name)
        if not text:
            return None
        try:
            return parse(text)
        except ValueError as exc:
            self.complain(name, str(exc), text)
            return None

    def settings(self) -> dict[str, str]:
        """The STRATEGY_* variables that are the strategy's own."""
        merged = {name: (value, f".env line {line}") for name, (value, line) in self._file.lines.items()}
        merged |= {name: (value, "environment") for name, value in self._environ.items()}
        own = {n: v for n, v in merged.items() if n.startswith(STRATEGY_PREFIX) and n not in DEFAULTS}
        self.sources |= {name: source for name, (_, source) in own.items()}
        return {name: value for name, (value, _) in sorted(own.items())}

    def complain(self, name: str, remedy: str, text: str | None = None) -> None:
        """Add a problem with a value; secrets and what may hold one are not repeated."""
        self.failed.add(name)
        if text is None:
            text = self.text(name)
        self.problems.append(escape(f"{name}={_echo(name, text)} ({self.sources[name]}): {remedy}"))


def _build(reader: _Reader, directory: Path) -> Config:
    """Parse every variable by itself."""
    env = reader.get("KALSHI_ENV", values.choice(Environment))
    rest_url = reader.optional("KALSHI_REST_URL", values.endpoint(values.REST_PATH, ("https", "http")))
    ws_url = reader.optional("KALSHI_WS_URL", values.endpoint(values.WS_PATH, ("wss", "ws")))
    urls_overridden = rest_url is not None or ws_url is not None
    if not urls_overridden:
        rest_url, ws_url = _EXCHANGE.get(env.value, (None, None))
    delay_initial_s = reader.get("RECONNECT_DELAY_INITIAL_S", values.seconds("0.01", "60"))
    delay_max_s = reader.get("RECONNECT_DELAY_MAX_S", values.seconds("0.01", "3600"))
    if reader.sources["RECONNECT_DELAY_INITIAL_S"] == "default":
        delay_initial_s = min(delay_initial_s, delay_max_s)
    path = values.path_below(directory)
    cost = values.number("0", "1000000000", decimals=4)
    return Config(
        env=env,
        rest_url=rest_url,
        ws_url=ws_url,
        urls_overridden=urls_overridden,
        api_key_id=reader.optional("KALSHI_API_KEY_ID", values.key_id) or "",
        private_key_path=reader.optional("KALSHI_PRIVATE_KEY_PATH", path),
        trading_mode=reader.get("TRADING_MODE", values.choice(TradingMode)),
        live_armed=reader.get("LIVE_ARMED", values.exactly_yes_or_no),
        state_dir=reader.get("STATE_DIR", path),
        strategy=reader.get("STRATEGY", values.strategy_name),
        strategy_settings=MappingProxyType(reader.settings()),
        strategy_interval_s=reader.get("STRATEGY_INTERVAL_S", values.seconds("0.1", "86400")),
        stop_loss_interval_s=reader.get("STOP_LOSS_INTERVAL_S", values.seconds("0.1", "60")),
        ui_interval_s=reader.get("UI_INTERVAL_S", values.seconds("0.1", "60")),
        reconcile_interval_s=reader.get("RECONCILE_INTERVAL_S", values.seconds("0.1", "3600")),
        price_stale_after_s=reader.get("PRICE_STALE_AFTER_S", values.seconds("0.1", "3600")),
        reconnect_delay_initial_s=delay_initial_s,
        reconnect_delay_max_s=delay_max_s,
        websocket_enabled=reader.get("WEBSOCKET_ENABLED", values.yes_or_no),
        orderbook_feed=reader.get("ORDERBOOK_FEED", values.yes_or_no),
        feed_silent_after_s=reader.get("FEED_SILENT_AFTER_S", values.seconds("0.5", "300")),
        default_rule=ExitRule(
            stop_loss_pct=reader.optional("STOP_LOSS_PCT", values.percent("99.99")),
            take_profit_pct=reader.optional("TAKE_PROFIT_PCT", values.percent("100000")),
            trailing_stop_pct=reader.optional("TRAILING_STOP_PCT", values.percent("99.99")),
        ),
        rules_file=reader.optional("RULES_FILE", path),
        adopt_positions=reader.get("ADOPT_POSITIONS", values.yes_or_no),
        max_order_cost_dollars=reader.get("MAX_ORDER_COST_DOLLARS", cost),
        max_position_cost_dollars=reader.get("MAX_POSITION_COST_DOLLARS", cost),
        max_total_exposure_dollars=reader.get("MAX_TOTAL_EXPOSURE_DOLLARS", cost),
        max_daily_loss_dollars=reader.get("MAX_DAILY_LOSS_DOLLARS", cost),
        max_event_cost_dollars=reader.get("MAX_EVENT_COST_DOLLARS", cost),
        max_entries_per_minute=reader.get("MAX_ENTRIES_PER_MINUTE", values.whole(0, 100_000)),
        entry_collar_dollars=reader.get("ENTRY_COLLAR_DOLLARS", values.number("0", "1", decimals=4)),
        entry_min_time_left_s=reader.get("ENTRY_MIN_TIME_LEFT_S", values.seconds("0", "31536000")),
        paper_latency_ms=reader.get("PAPER_LATENCY_MS", values.whole(0, 60_000)),
        trading_timezone=reader.get("TRADING_TIMEZONE", values.time_zone),
        ui_host=reader.get("UI_HOST", values.host),
        ui_port=reader.get("UI_PORT", values.port),
        ui_token=reader.optional("UI_TOKEN", values.token) or "",
        log_level=reader.get("LOG_LEVEL", values.choice(LogLevel)),
        log_format=reader.get("LOG_FORMAT", values.choice(LogFormat)),
        log_file=reader.optional("LOG_FILE", path),
        exit_floor_dollars=reader.get("EXIT_FLOOR_DOLLARS", values.number("0", "0.99", decimals=4)),
        exit_steps_through=reader.get("EXIT_STEPS_THROUGH", values.growing_steps),
        alert_urls=reader.optional("ALERT_URLS", values.alert_urls) or (),
        deadman_url=reader.optional("DEADMAN_URL", values.ping_url) or "",
        deadman_interval_s=reader.get("DEADMAN_INTERVAL_S", values.seconds("5", "3600")),
        sources=MappingProxyType(reader.sources),
        warnings=(),
    )


def _check_together(config: Config, reader: _Reader) -> None:
    """Check what makes sense only in combination, and what depends on the file system."""
    if "KALSHI_ENV" not in reader.failed:
        _check_urls(config, reader)
        if not config.runs_embedded_sandbox:
            _check_key(config, reader)
    live_in_prod = config.env is Environment.PROD and config.trading_mode is TradingMode.LIVE
    if live_in_prod and not config.live_armed and "LIVE_ARMED" not in reader.failed:
        reader.complain(
            "LIVE_ARMED", "live orders in production need LIVE_ARMED=yes; or choose TRADING_MODE=paper"
        )
    if config.reconnect_delay_initial_s > config.reconnect_delay_max_s:
        reader.complain(
            "RECONNECT_DELAY_INITIAL_S",
            f"longer than RECONNECT_DELAY_MAX_S={config.reconnect_delay_max_s:g}; make it shorter",
        )
    if not values.is_loopback(config.ui_host) and not config.ui_token and "UI_TOKEN" not in reader.failed:
        reader.complain(
            "UI_HOST", "other machines could open the page; set UI_TOKEN, or use UI_HOST=127.0.0.1"
        )
    if config.rules_file is not None and not os.path.isfile(config.rules_file):
        reader.complain("RULES_FILE", "no such file; write the path of a TOML file, or remove the line")
    if os.path.lexists(config.state_dir) and not os.path.isdir(config.state_dir):
        reader.complain(
            "STATE_DIR", "is not a directory; write another path, it is created at the first start"
        )
    if config.log_file is not None and os.path.isdir(config.log_file):
        reader.complain("LOG_FILE", "is a directory; write the path of a file")


def _check_urls(config: Config, reader: _Reader) -> None:
    """An environment's credentials, orders and prices must all belong to the same exchange."""
    names = ("KALSHI_REST_URL", "KALSHI_WS_URL")
    if not config.urls_overridden or reader.failed.intersection(names):
        return
    if config.rest_url is None or config.ws_url is None:
        missing, given = names if config.rest_url is None else reversed(names)
        reader.complain(missing, f"must be set together with {given}; set both, or remove both")
        return
    kinds = (host_kind(config.rest_url), host_kind(config.ws_url))
    foreign = {
        Environment.SANDBOX: {HostKind.OTHER, HostKind.DEMO, HostKind.PROD},
        Environment.DEMO: {HostKind.PROD},
        Environment.PROD: {HostKind.DEMO},
    }[config.env]
    wrong = [(name, kind) for name, kind in zip(names, kinds, strict=True) if kind in foreign]
    for name, kind in wrong:
        if config.env is Environment.SANDBOX:
            remedy = (
                "the sandbox trades on this machine only; use a loopback address, or KALSHI_ENV=demo or prod"
            )
        else:
            remedy = f"a {kind.value} host; remove both URLs, or set KALSHI_ENV={kind.value}"
        reader.complain(name, remedy)
    if not wrong and kinds[0] is not kinds[1]:
        reader.complain(
            "KALSHI_WS_URL",
            f"{kinds[1].value} host, KALSHI_REST_URL {kinds[0].value}; set both to the same exchange",
        )


def _check_key(config: Config, reader: _Reader) -> None:
    """Orders and portfolio reads are signed: the key must be there, and nobody else's."""
    why = f"needed with KALSHI_ENV={config.env.value}"
    if config.env is Environment.SANDBOX:
        why = "needed with KALSHI_REST_URL and KALSHI_WS_URL (`sandbox` prints them)"
    if not config.api_key_id and "KALSHI_API_KEY_ID" not in reader.failed:
        reader.complain(
            "KALSHI_API_KEY_ID", f"{why}; create a key on the exchange's API key page and copy its id"
        )
    if config.private_key_path is None:
        if "KALSHI_PRIVATE_KEY_PATH" not in reader.failed:
            reader.complain("KALSHI_PRIVATE_KEY_PATH", f"{why}; write the path of the key's PEM file")
        return
    problem = values.private_file_problem(config.private_key_path, os.geteuid())
    if problem:
        reader.complain("KALSHI_PRIVATE_KEY_PATH", problem)


def _read_env_file(path: Path) -> _EnvFile:
    """Read `.env` with the parser underneath python-dotenv's loader.

    The loader itself skips bad lines with a log line, lets the last of two values win, and expands `${…}`
    even inside single quotes; the parser does none of that and knows line numbers.
    """
    if not os.path.lexists(path):
        return _EnvFile(path, {}, [])
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8-sig") if stat.S_ISREG(mode) else None
    except PermissionError:
        remedy = f"permission denied; run this command as the user whose file it is ({_owner(path)})"
        return _EnvFile(path, {}, [f".env: {remedy}"])
    except (OSError, UnicodeDecodeError):
        text = None
    if text is None:
        remedy = "not a readable UTF-8 text file; repair it, or remove it to run on the environment alone"
        return _EnvFile(path, {}, [f".env: {remedy}"])
    lines: dict[str, tuple[str, int]] = {}
    problems: list[str] = []
    for binding in parse_stream(StringIO(text)):
        line = _line_number(binding)
        problem = _binding_problem(binding, lines)
        if problem:
            problems.append(escape(f".env line {line}: {problem}"))
        elif binding.key is not None and binding.value is not None:
            lines[binding.key] = (binding.value, line)
    return _EnvFile(path, lines, problems, is_private=not mode & 0o077)


def _binding_problem(binding: Binding, lines: Mapping[str, tuple[str, int]]) -> str | None:
    """What is wrong with one statement of `.env`; its value is never repeated, it may be a secret."""
    if binding.error:
        return "cannot be read; write NAME=value, with every quote closed on the same line"
    if binding.key is None:
        return None
    name = binding.key
    if binding.value is None:
        return f"{name} has no value; write {name}=value, or put # before it"
    if name in lines:
        return f"{name} is already set on line {lines[name][1]}; keep one of the two"
    if not binding.value.isprintable():
        return f"{name} holds a line break or control character; close its quote on the same line"
    if "${" in binding.value:
        return f"{name} holds ${{…}}, which is not expanded; write the value itself"
    return None


def _line_number(binding: Binding) -> int:
    """The line of the statement itself; the parser counts the blank lines before it as part of it."""
    text = binding.original.string
    blank = text[: len(text) - len(text.lstrip())]
    return binding.original.line + blank.replace("\r\n", "\n").replace("\r", "\n").count("\n")


def _unknown_names(environ: Mapping[str, str], file: _EnvFile) -> list[str]:
    """Names that are none of ours and look as if they should be."""
    problems = []
    for name, (_, line) in file.lines.items():
        if known := mistaken_for(name, FILE_PREFIXES):
            problems.append(escape(f".env line {line}: {name} is unknown; did you mean {known}?"))
    for name in sorted(environ):
        if known := mistaken_for(name, ENVIRONMENT_PREFIXES):
            problems.append(
                escape(f"environment: {name} is unknown; did you mean {known}? Otherwise unset it")
            )
    return problems


def _warnings(config: Config, file: _EnvFile) -> list[str]:
    """What is legal and yet probably not meant."""
    warnings = []
    if not config.default_rule.is_armed and config.rules_file is None:
        warnings.append("no stop by default and no RULES_FILE: positions are watched, not protected")
    if config.runs_embedded_sandbox and config.api_key_id:
        warnings.append("KALSHI_API_KEY_ID is not used: KALSHI_ENV is sandbox")
    if config.ui_token and len(config.ui_token) < 16:
        warnings.append("UI_TOKEN is short: make one of 16 characters or more")
    if config.feed_silent_after_s < 11 and not _on_this_machine(config):
        warnings.append(
            "FEED_SILENT_AFTER_S is below the exchange's ping interval of 10 s: the feed will flap"
        )
    if config.rest_url and host_kind(config.rest_url) is HostKind.OTHER:
        warnings.append("KALSHI_REST_URL is none of the exchange's own hosts")
    in_file = [n for n in ("UI_TOKEN", "ALERT_URLS", "DEADMAN_URL") if config.sources[n].startswith(".env")]
    if in_file and not file.is_private:
        warnings.append(f".env holds secrets and other users can read it; run: chmod 600 {file.path}")
    return warnings


def _on_this_machine(config: Config) -> bool:
    return config.rest_url is None or host_kind(config.rest_url) is HostKind.LOOPBACK


def _owner(path: Path) -> str:
    try:
        return values.user_name(path.stat().st_uid)
    except OSError:
        return "its owner"


def _echo(name: str, text: str) -> str:
    """A value as an error may repeat it."""
    if not text:
        return ""
    if name in SECRET_NAMES or values.holds_key(text) or "@" in text or len(text) > 300:
        return "(hidden)"
    return text


def _value(config: Config, name: str) -> object:
    attribute = name.removeprefix("KALSHI_").lower()
    holder = config if hasattr(config, attribute) else config.default_rule
    return getattr(holder, attribute)


def _shown(config: Config, name: str) -> str:
    """A variable's effective value for the start-up log."""
    value = _value(config, name)
    if name == "TRADING_MODE":
        value = config.effective_trading_mode
    if value is None or value in ("", ()):
        return "-"
    if name == "KALSHI_API_KEY_ID":
        return f"…{config.api_key_id[-4:]}" if len(config.api_key_id) > 8 else "(hidden)"
    if name in SECRET_NAMES:
        return "(hidden)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
