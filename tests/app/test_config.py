"""Every variable has its default, every mistake is named at once, and no secret is shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from pathlib import Path

import pytest

from base.app.config import Config, Environment, LogFormat, TradingMode, describe, load_config
from base.app.config_names import DEFAULTS, edit_distance
from base.app.config_values import authority, private_file_problem, time_zone
from base.errors import ConfigError

PROJECT = Path(__file__).parents[2]
KEY_ID = "11111111-2222-3333-4444-555555556789"
LOOPBACK = {
    "KALSHI_REST_URL": "http://127.0.0.1:9001/trade-api/v2",
    "KALSHI_WS_URL": "ws://127.0.0.1:9001/trade-api/ws/v2",
}


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key.pem"
    path.write_text("-----BEGIN PRIVATE KEY-----\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def demo(key_file: Path) -> dict[str, str]:
    return {
        "KALSHI_ENV": "demo",
        "KALSHI_API_KEY_ID": KEY_ID,
        "KALSHI_PRIVATE_KEY_PATH": str(key_file),
    }


def problems(environ: Mapping[str, str], directory: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(environ, directory)
    return caught.value.problems


def problems_in_file(text: str, directory: Path) -> list[str]:
    (directory / ".env").write_text(text, encoding="utf-8")
    return problems({}, directory)


class TestDefaults:
    def test_nothing_set_is_the_sandbox_with_the_documented_defaults(self, tmp_path: Path) -> None:
        config = load_config({}, tmp_path)
        assert config.env is Environment.SANDBOX
        assert (config.rest_url, config.ws_url, config.urls_overridden) == (None, None, False)
        assert (config.api_key_id, config.private_key_path) == ("", None)
        assert config.runs_embedded_sandbox
        assert config.trading_mode is TradingMode.PAPER
        assert config.live_armed is False
        assert config.state_dir == tmp_path / "state"
        assert config.strategy == "guard"
        assert config.strategy_settings == {}
        assert config.strategy_interval_s == 30.0
        assert config.stop_loss_interval_s == 2.0
        assert config.ui_interval_s == 1.0
        assert config.reconcile_interval_s == 30.0
        assert config.price_stale_after_s == 60.0
        assert (config.reconnect_delay_initial_s, config.reconnect_delay_max_s) == (0.5, 60.0)
        assert config.websocket_enabled is True
        assert config.orderbook_feed is True
        assert config.feed_silent_after_s == 25.0
        assert config.default_rule.stop_loss_pct == Decimal(25)
        assert config.default_rule.take_profit_pct is None
        assert config.default_rule.trailing_stop_pct is None
        assert config.rules_file is None
        assert config.adopt_positions is True
        assert config.max_order_cost_dollars == Decimal(50)
        assert config.max_position_cost_dollars == Decimal(200)
        assert config.max_total_exposure_dollars == Decimal(1000)
        assert config.max_daily_loss_dollars == Decimal(100)
        assert config.max_event_cost_dollars == Decimal(400)
        assert (config.max_entries_per_minute, config.entry_min_time_left_s) == (30, 300.0)
        assert config.entry_collar_dollars == Decimal("0.10")
        assert config.paper_latency_ms == 50
        assert config.trading_timezone.key == "America/New_York"
        assert (config.ui_host, config.ui_port, config.ui_token) == ("127.0.0.1", 8787, "")
        assert (config.log_level, config.log_format, config.log_file) == ("INFO", LogFormat.TEXT, None)
        assert config.exit_floor_dollars == Decimal("0.01")
        assert config.exit_steps_through == (2, 4, 8, 16)
        assert config.alert_urls == ()
        assert (config.deadman_url, config.deadman_interval_s) == ("", 60.0)
        assert config.warnings == ()

    def test_empty_means_default_for_all_but_the_stop(self, tmp_path: Path) -> None:
        empty = load_config(dict.fromkeys(DEFAULTS, ""), tmp_path)
        plain = load_config({}, tmp_path)
        assert empty.default_rule.stop_loss_pct is None
        different = {f.name for f in fields(Config) if getattr(empty, f.name) != getattr(plain, f.name)}
        assert different == {"default_rule", "sources", "warnings"}

    def test_sandbox_is_always_live_against_itself(self, tmp_path: Path) -> None:
        assert load_config({}, tmp_path).effective_trading_mode is TradingMode.LIVE

    @pytest.mark.parametrize(("env", "domain"), [("demo", "kalshi.co"), ("prod", "kalshi.com")])
    def test_urls_follow_the_environment(
        self, env: str, domain: str, demo: dict[str, str], tmp_path: Path
    ) -> None:
        config = load_config(demo | {"KALSHI_ENV": env}, tmp_path)
        assert re.fullmatch(rf"https://[a-z.-]+\.{domain}/trade-api/v2", config.rest_url or "")
        assert re.fullmatch(rf"wss://[a-z.-]+\.{domain}/trade-api/ws/v2", config.ws_url or "")
        assert config.effective_trading_mode is TradingMode.PAPER

    def test_pointing_at_a_started_sandbox_changes_only_the_exchange(self, tmp_path: Path) -> None:
        before = load_config({}, tmp_path)
        after = before.with_exchange("http://127.0.0.1:1/trade-api/v2", "ws://x", "key", tmp_path / "k")
        assert (after.rest_url, after.ws_url) == ("http://127.0.0.1:1/trade-api/v2", "ws://x")
        assert (after.api_key_id, after.private_key_path) == ("key", tmp_path / "k")
        assert after.state_dir == before.state_dir


class TestSources:
    def test_environment_wins_over_file(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("UI_PORT=1111\nSTOP_LOSS_PCT=10\n")
        config = load_config({"UI_PORT": "2222"}, tmp_path)
        assert config.ui_port == 2222
        assert config.default_rule.stop_loss_pct == Decimal(10)
        assert config.sources["UI_PORT"] == "environment"
        assert config.sources["STOP_LOSS_PCT"] == ".env line 2"
        assert config.sources["UI_HOST"] == "default"

    def test_an_empty_stop_in_the_environment_wins_too(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("STOP_LOSS_PCT=10\n")
        assert load_config({"STOP_LOSS_PCT": ""}, tmp_path).default_rule.stop_loss_pct is None

    def test_file_of_a_parent_directory_is_not_read(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("UI_PORT=1111\n")
        (tmp_path / "below").mkdir()
        assert load_config({}, tmp_path / "below").ui_port == 8787

    def test_forms_of_a_line(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_bytes(
            b"\xef\xbb\xbf# comment\r\n\r\nexport UI_PORT = 1111\r\n"
            b"UI_TOKEN='abc$def#ghi1234567'  # the token\r\nSTRATEGY=\"maker\"\n"
        )
        config = load_config({}, tmp_path)
        assert (config.ui_port, config.ui_token, config.strategy) == (1111, "abc$def#ghi1234567", "maker")
        assert config.sources["UI_PORT"] == ".env line 3"

    def test_relative_paths_start_at_the_directory(self, tmp_path: Path) -> None:
        (tmp_path / "rules.toml").write_text("")
        config = load_config({"RULES_FILE": "rules.toml", "LOG_FILE": "/var/log/b.log"}, tmp_path)
        assert config.rules_file == tmp_path / "rules.toml"
        assert config.log_file == Path("/var/log/b.log")

    def test_strategy_gets_its_own_variables_by_full_name(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("STRATEGY_EDGE=0.02\nSTRATEGY_SIZE=5\n")
        environ = {"STRATEGY_SIZE": "7", "STRATEGY_INTERVAL_S": "5", "STRATEGY": "maker"}
        config = load_config(environ, tmp_path)
        assert config.strategy_settings == {"STRATEGY_EDGE": "0.02", "STRATEGY_SIZE": "7"}
        assert config.strategy_interval_s == 5.0


@dataclass(frozen=True)
class BadFile:
    name: str
    text: str
    says: tuple[str, ...]
    hides: str = "\0"


@pytest.mark.parametrize(
    "case",
    [
        BadFile("a name without a value", "\n\nSTOP_LOSS_PCT\n", ("line 3", "STOP_LOSS_PCT=value")),
        BadFile("an unterminated quote", 'UI_PORT=1\nUI_TOKEN="hunter22\n', ("line 2", "quote"), "hunter22"),
        BadFile(
            "a quote that swallows the next line",
            'UI_TOKEN="hunter22\nSTOP_LOSS_PCT=40"\n',
            ("line 1", "UI_TOKEN", "line break"),
            "hunter22",
        ),
        BadFile("the same name twice", "UI_PORT=1\nUI_PORT=2\n", ("line 2", "already set on line 1")),
        BadFile("text after a closed quote", "UI_PORT='1' 2\n", ("line 1",)),
        BadFile("an expansion", "STATE_DIR=${HOME}/state\n", ("line 1", "not expanded")),
        BadFile("a stop with a typo", "STOP_LOSS_PC=40\n", ("line 1", "STOP_LOSS_PC ", "STOP_LOSS_PCT?")),
        BadFile("a name in lower case", "stop_loss_pct=40\n", ("line 1", "STOP_LOSS_PCT?")),
        BadFile("an unknown name that starts like ours", "MAX_TRADES=4\n", ("MAX_TRADES", "MAX_")),
        BadFile("a missing unit", "STRATEGY_INTERVAL=4\n", ("STRATEGY_INTERVAL_S?",)),
        BadFile("two letters swapped at the start", "TSOP_LOSS_PCT=4\n", ("STOP_LOSS_PCT?",)),
        BadFile("the key itself", "KALSHI_PRIVATE_KEY=c2VjcmV0\n", ("KALSHI_PRIVATE_KEY_PATH?",), "c2VjcmV0"),
        BadFile("a bad value", "UI_PORT=80000\n", ("UI_PORT=80000", ".env line 1", "65535")),
    ],
    ids=lambda c: c.name,
)
def test_bad_file_is_refused_with_its_line(case: BadFile, tmp_path: Path) -> None:
    found = problems_in_file(case.text, tmp_path)
    assert len(found) == 1
    for part in case.says:
        assert part in found[0]
    assert case.hides not in found[0]


def test_multi_line_key_in_the_file_is_refused_without_showing_it(tmp_path: Path) -> None:
    pem = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC=\n-----END PRIVATE KEY-----"
    found = "\n".join(problems_in_file(f"KALSHI_PRIVATE_KEY_PATH={pem}\n", tmp_path))
    assert found
    assert "-----BEGIN" not in found.partition("KALSHI_PRIVATE_KEY_PATH=")[2]


@pytest.mark.parametrize("content", [b"UI_HOST=\xff\xfe\n", None], ids=["not UTF-8", "a directory"])
def test_unreadable_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.mkdir() if content is None else path.write_bytes(content)
    (found,) = problems({}, tmp_path)
    assert found.startswith(".env: not a readable UTF-8 text file")


@pytest.mark.parametrize(
    "name",
    [
        "KALSHI_KEY",
        "EXIT_STEPS_DOWN",
        "STOP_LOSS_PERCENT",
        "UI_PROT",
        "UI_THEME",
        "LOG_LEVE",
        "MAX_ORDER_COST",
        "STATE_DIRR",
    ],
)
def test_unknown_name_of_ours_in_the_environment_is_an_error(name: str, tmp_path: Path) -> None:
    (found,) = problems({name: "c2VjcmV0"}, tmp_path)
    assert name in found
    assert "c2VjcmV0" not in found


@pytest.mark.parametrize(
    "name",
    [
        "STATE_DIRECTORY",
        "LOGS_DIRECTORY",
        "LOG_DIR",
        "MAX_JOBS",
        "FEED_TITLE",
        "PATH",
        "EXIT_CODE",
        "EXIT_STATUS",
        "LIVE_RELOAD",
    ],
)
def test_names_of_other_programs_in_the_environment_are_left_alone(name: str, tmp_path: Path) -> None:
    load_config({name: "x"}, tmp_path)


@dataclass(frozen=True)
class BadValue:
    name: str
    environ: dict[str, str]
    complains_about: str
    hides: str = "\0"
    says: str = ""
    with_key: bool = field(default=False)


NUMBERS = [
    BadValue(f"{variable} is {value!r}", {variable: value}, variable)
    for variable, bad in {
        "STOP_LOSS_PCT": ("0", "-5", "100", "nan", "inf", "1_0", "0x10", "1e1", "25%", "٢٥"),
        "TAKE_PROFIT_PCT": ("0", "NaN", "many"),
        "TRAILING_STOP_PCT": ("0", "100"),
        "STRATEGY_INTERVAL_S": ("0", "100000"),
        "STOP_LOSS_INTERVAL_S": ("0", "61", "2s"),
        "UI_INTERVAL_S": ("0", "61"),
        "RECONCILE_INTERVAL_S": ("0", "4000"),
        "PRICE_STALE_AFTER_S": ("0", "Infinity"),
        "FEED_SILENT_AFTER_S": ("0", "301"),
        "RECONNECT_DELAY_INITIAL_S": ("0", "61"),
        "RECONNECT_DELAY_MAX_S": ("0", "4000"),
        "MAX_ORDER_COST_DOLLARS": ("-1", "$50", "1,000", "0.00001"),
        "MAX_POSITION_COST_DOLLARS": ("-1",),
        "MAX_TOTAL_EXPOSURE_DOLLARS": ("-1",),
        "MAX_DAILY_LOSS_DOLLARS": ("-1",),
        "MAX_EVENT_COST_DOLLARS": ("-1",),
        "MAX_ENTRIES_PER_MINUTE": ("-1", "1.5", "100001", "many"),
        "ENTRY_COLLAR_DOLLARS": ("1.01", "-0.01", "0.00001"),
        "ENTRY_MIN_TIME_LEFT_S": ("-1", "5m"),
        "PAPER_LATENCY_MS": ("-1", "0.5", "60001"),
        "TRADING_TIMEZONE": ("Mars/Olympus", "../../etc/passwd", "EDT5", "America/"),
        "EXIT_FLOOR_DOLLARS": ("1", "-0.01", "0.00001"),
        "EXIT_STEPS_THROUGH": ("2;4", "2,,4", "-1", "1.5", "2,100", "4,2", "2,2", "1,2,3,4,5,6,7,8,9", "٢,٤"),
        "UI_PORT": ("-1", "65536", "80.5", "http"),
    }.items()
    for value in bad
]


@pytest.mark.parametrize(
    "case",
    [
        *NUMBERS,
        BadValue("an unknown exchange", {"KALSHI_ENV": "production"}, "KALSHI_ENV",
                 says="sandbox, demo or prod"),
        BadValue("an unknown mode", {"TRADING_MODE": "real"}, "TRADING_MODE", says="paper or live"),
        BadValue("armed by another word", {"LIVE_ARMED": "true"}, "LIVE_ARMED", says="yes"),
        BadValue("a switch that is neither", {"ADOPT_POSITIONS": "maybe"}, "ADOPT_POSITIONS",
                 says="yes or no"),
        BadValue("a strategy that is no name", {"STRATEGY": "../x.py"}, "STRATEGY"),
        BadValue("a level that is none", {"LOG_LEVEL": "loud"}, "LOG_LEVEL", says="INFO"),
        BadValue("a format that is none", {"LOG_FORMAT": "xml"}, "LOG_FORMAT", says="text or json"),
        BadValue("an open page", {"UI_HOST": "0.0.0.0"}, "UI_HOST", says="UI_TOKEN"),
        BadValue("an open page by IPv6", {"UI_HOST": "::"}, "UI_HOST", says="UI_TOKEN"),
        BadValue("a host with a port", {"UI_HOST": "http://127.0.0.1:80"}, "UI_HOST"),
        BadValue("a token with a space", {"UI_TOKEN": "hunter 22"}, "UI_TOKEN", hides="hunter"),
        BadValue("an alert that is no URL", {"ALERT_URLS": "bob@example.org"}, "ALERT_URLS", hides="bob"),
        BadValue("a dead man's switch in the open", {"DEADMAN_URL": "http://ping.example.org/hunter22"},
                 "DEADMAN_URL", says="https", hides="hunter22"),
        BadValue("a dead man's switch that is no URL", {"DEADMAN_URL": "hunter22"}, "DEADMAN_URL",
                 says="https", hides="hunter22"),
        BadValue("a dead man's switch with a password", {"DEADMAN_URL": "https://u:hunter22@ping.example.org/"},
                 "DEADMAN_URL", hides="hunter22"),
        BadValue("steps that do not grow", {"EXIT_STEPS_THROUGH": "8,4"}, "EXIT_STEPS_THROUGH",
                 says="larger than the last"),
        BadValue("rules that are not there", {"RULES_FILE": "none.toml"}, "RULES_FILE"),
        BadValue("state where a file is", {"STATE_DIR": "key.pem"}, "STATE_DIR"),
        BadValue("a log where a directory is", {"LOG_FILE": "."}, "LOG_FILE"),
        BadValue("the key in place of its path", {"KALSHI_PRIVATE_KEY_PATH": "-----BEGIN RSA"},
                 "KALSHI_PRIVATE_KEY_PATH", hides="BEGIN"),
        BadValue("the key's body without its first line", {
            "KALSHI_PRIVATE_KEY_PATH": "MC4CAQAwBQYDK2VwBCIEIJ8fsEwNSDiQbCTmzT6xFHcnTZWvCEVS2n0qLbVXyzAb"},
                 "KALSHI_PRIVATE_KEY_PATH", hides="MC4C"),
        BadValue("a long body of a key", {"KALSHI_PRIVATE_KEY_PATH": "MIIEvQ" + "Ab0/" * 700},
                 "KALSHI_PRIVATE_KEY_PATH", hides="MIIEvQ"),
        BadValue("a key id with a space", {"KALSHI_API_KEY_ID": "abc def"}, "KALSHI_API_KEY_ID", hides="abc"),
        BadValue("one URL of two", {"KALSHI_REST_URL": LOOPBACK["KALSHI_REST_URL"]}, "KALSHI_WS_URL",
                 says="KALSHI_REST_URL", with_key=True),
        BadValue("the other URL of two", {"KALSHI_WS_URL": LOOPBACK["KALSHI_WS_URL"]}, "KALSHI_REST_URL",
                 says="KALSHI_WS_URL", with_key=True),
        BadValue("plain http to elsewhere", LOOPBACK | {"KALSHI_REST_URL": "http://192.0.2.1/trade-api/v2"},
                 "KALSHI_REST_URL", says="https", with_key=True),
        BadValue("plain ws to a name like loopback",
                 LOOPBACK | {"KALSHI_WS_URL": "ws://127.0.0.1.example.org/trade-api/ws/v2"},
                 "KALSHI_WS_URL", says="wss", with_key=True),
        BadValue("another scheme", LOOPBACK | {"KALSHI_REST_URL": "ftp://127.0.0.1/trade-api/v2"},
                 "KALSHI_REST_URL", says="https", with_key=True),
        BadValue("another path", LOOPBACK | {"KALSHI_REST_URL": "http://127.0.0.1/v2"},
                 "KALSHI_REST_URL", says="/trade-api/v2", with_key=True),
        BadValue("a query", LOOPBACK | {"KALSHI_WS_URL": "ws://127.0.0.1/trade-api/ws/v2?a=b"},
                 "KALSHI_WS_URL", with_key=True),
        BadValue("a password in a URL", LOOPBACK | {"KALSHI_REST_URL": "https://u:hunter22@127.0.0.1/trade-api/v2"},
                 "KALSHI_REST_URL", hides="hunter22", with_key=True),
        BadValue("a port that is none", LOOPBACK | {"KALSHI_REST_URL": "http://127.0.0.1:port/trade-api/v2"},
                 "KALSHI_REST_URL", with_key=True),
        BadValue("a line break in a URL", LOOPBACK | {"KALSHI_REST_URL": "http://127.0.0.1\n/trade-api/v2"},
                 "KALSHI_REST_URL", with_key=True),
        BadValue("a sandbox without a key", LOOPBACK | {"KALSHI_PRIVATE_KEY_PATH": "key.pem"},
                 "KALSHI_API_KEY_ID"),
        BadValue("a sandbox without a key file", LOOPBACK | {"KALSHI_API_KEY_ID": KEY_ID},
                 "KALSHI_PRIVATE_KEY_PATH"),
        BadValue("a delay longer than the longest",
                 {"RECONNECT_DELAY_INITIAL_S": "5", "RECONNECT_DELAY_MAX_S": "4"},
                 "RECONNECT_DELAY_INITIAL_S", says="RECONNECT_DELAY_MAX_S"),
    ],
    ids=lambda c: c.name,
)  # fmt: skip
def test_bad_value_is_refused_with_its_remedy(case: BadValue, demo: dict[str, str], tmp_path: Path) -> None:
    environ = case.environ
    if case.with_key:
        environ = {n: v for n, v in demo.items() if n != "KALSHI_ENV"} | environ
    (found,) = problems(environ, tmp_path)
    assert found.startswith(f"{case.complains_about}=")
    assert case.says in found
    assert case.hides not in found
    assert found.isprintable(), "one line, no control characters"


@dataclass(frozen=True)
class Hosts:
    name: str
    env: str
    rest: str
    ws: str
    complains_about: tuple[str, ...] = ()


@pytest.mark.parametrize(
    "case",
    [
        Hosts("demo on production hosts", "demo", "https://api.elections.kalshi.com",
              "wss://api.elections.kalshi.com", ("KALSHI_REST_URL", "KALSHI_WS_URL")),
        Hosts("prod on demo hosts", "prod", "https://demo-api.kalshi.co", "wss://demo-api.kalshi.co",
              ("KALSHI_REST_URL", "KALSHI_WS_URL")),
        Hosts("prod with the demo stream", "prod", "https://external-api.kalshi.com",
              "wss://demo-api.kalshi.co", ("KALSHI_WS_URL",)),
        Hosts("prod with a local stream", "prod", "https://external-api.kalshi.com", "ws://127.0.0.1:1",
              ("KALSHI_WS_URL",)),
        Hosts("sandbox on demo hosts", "sandbox", "https://demo-api.kalshi.co", "wss://demo-api.kalshi.co",
              ("KALSHI_REST_URL", "KALSHI_WS_URL")),
        Hosts("sandbox elsewhere", "sandbox", "https://example.org", "wss://example.org",
              ("KALSHI_REST_URL", "KALSHI_WS_URL")),
        Hosts("the other production hosts", "prod", "https://api.elections.kalshi.com",
              "wss://api.elections.kalshi.com"),
        Hosts("the other demo hosts", "demo", "https://demo-api.kalshi.co", "wss://demo-api.kalshi.co"),
        Hosts("demo against a local fake", "demo", "http://127.0.0.1:1", "ws://127.0.0.1:1"),
        Hosts("prod against a local fake", "prod", "http://[::1]:1", "ws://localhost:1"),
        Hosts("a running sandbox", "sandbox", "http://localhost:1", "ws://localhost:1"),
        Hosts("a name that only ends alike", "demo", "https://notkalshi.com", "wss://notkalshi.com"),
    ],
    ids=lambda c: c.name,
)  # fmt: skip
def test_environment_and_hosts_must_belong_together(
    case: Hosts, demo: dict[str, str], tmp_path: Path
) -> None:
    environ = demo | {
        "KALSHI_ENV": case.env,
        "KALSHI_REST_URL": f"{case.rest}/trade-api/v2",
        "KALSHI_WS_URL": f"{case.ws}/trade-api/ws/v2",
    }
    if not case.complains_about:
        config = load_config(environ, tmp_path)
        assert config.urls_overridden
        assert config.rest_url == f"{case.rest}/trade-api/v2"
        assert not config.runs_embedded_sandbox
        return
    assert tuple(p.partition("=")[0] for p in problems(environ, tmp_path)) == case.complains_about


def test_urls_never_make_the_key_optional(tmp_path: Path) -> None:
    found = problems({"KALSHI_ENV": "demo"} | LOOPBACK, tmp_path)
    assert [p.partition("=")[0] for p in found] == ["KALSHI_API_KEY_ID", "KALSHI_PRIVATE_KEY_PATH"]


def test_live_in_production_must_be_armed(demo: dict[str, str], tmp_path: Path) -> None:
    live = demo | {"KALSHI_ENV": "prod", "TRADING_MODE": "live"}
    (found,) = problems(live, tmp_path)
    assert found.startswith("LIVE_ARMED=no")
    armed = load_config(live | {"LIVE_ARMED": "yes"}, tmp_path)
    assert armed.effective_trading_mode is TradingMode.LIVE
    assert load_config(live | {"KALSHI_ENV": "demo"}, tmp_path).effective_trading_mode is TradingMode.LIVE


@pytest.mark.parametrize(
    ("text", "steps"),
    [("0", (0,)), ("0, 1 ,99", (0, 1, 99)), ("1,2,3,4,5,6,7,8", (1, 2, 3, 4, 5, 6, 7, 8)), ("02,4", (2, 4))],
    ids=["at the bid and no deeper", "with spaces", "eight of them", "with a leading zero"],
)
def test_steps_of_an_exit(text: str, steps: tuple[int, ...], tmp_path: Path) -> None:
    config = load_config({"EXIT_STEPS_THROUGH": text}, tmp_path)
    assert config.exit_steps_through == steps
    shown = ",".join(map(str, steps))
    assert f"EXIT_STEPS_THROUGH={shown} (environment)" in describe(config)


def test_a_short_longest_delay_shortens_the_default_first_one(tmp_path: Path) -> None:
    config = load_config({"RECONNECT_DELAY_MAX_S": "0.2"}, tmp_path)
    assert (config.reconnect_delay_initial_s, config.reconnect_delay_max_s) == (0.2, 0.2)


def test_open_page_with_a_token_is_allowed(tmp_path: Path) -> None:
    token = "a-long-and-secret-token"
    assert load_config({"UI_HOST": "0.0.0.0", "UI_TOKEN": token}, tmp_path).ui_token == token


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("UI_PORT\nSTOP_LOS_PCT=1\nUI_INTERVAL_S=x\n")
    found = problems({"KALSHI_ENV": "demo", "TRADING_MODE": "x", "STOP_LOSS_PCT": "x"}, tmp_path)
    assert len(found) == 7, found


class TestKeyFile:
    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o610, 0o601])
    def test_open_to_others_is_refused(self, mode: int, key_file: Path) -> None:
        key_file.chmod(mode)
        assert f"chmod 600 {key_file}" in (private_file_problem(key_file, os.geteuid()) or "")

    @pytest.mark.parametrize("mode", [0o600, 0o400])
    def test_closed_to_others_is_fine(self, mode: int, key_file: Path) -> None:
        key_file.chmod(mode)
        assert private_file_problem(key_file, os.geteuid()) is None

    def test_of_another_user_is_refused(self, key_file: Path) -> None:
        user_id = os.geteuid()
        if user_id == 0:  # only root can give a file away; files of root itself are trusted
            os.chown(key_file, 12_345, -1)
        else:
            user_id += 1
        problem = private_file_problem(key_file, user_id) or ""
        assert "sudo -u" in problem, "a service that runs as that user must keep its key"
        assert "chown" in problem

    def test_link_directory_and_nothing_are_refused(self, key_file: Path, tmp_path: Path) -> None:
        link = tmp_path / "link.pem"
        link.symlink_to(key_file)
        for path in (link, tmp_path, tmp_path / "none.pem"):
            assert private_file_problem(path, os.geteuid()) is not None

    def test_is_checked_on_loading(self, demo: dict[str, str], key_file: Path, tmp_path: Path) -> None:
        key_file.chmod(0o644)
        (found,) = problems(demo, tmp_path)
        assert "chmod 600" in found


class TestWarnings:
    @pytest.mark.parametrize(
        ("environ", "about"),
        [
            ({"STOP_LOSS_PCT": ""}, "not protected"),
            ({"KALSHI_API_KEY_ID": KEY_ID}, "KALSHI_API_KEY_ID"),
            ({"UI_TOKEN": "short"}, "UI_TOKEN"),
        ],
    )
    def test_legal_but_hardly_meant(self, environ: dict[str, str], about: str, tmp_path: Path) -> None:
        (warning,) = load_config(environ, tmp_path).warnings
        assert about in warning

    def test_secrets_in_a_readable_file(self, tmp_path: Path) -> None:
        path = tmp_path / ".env"
        path.write_text("UI_TOKEN=a-long-and-secret-token\n")
        path.chmod(0o644)
        (warning,) = load_config({}, tmp_path).warnings
        assert f"chmod 600 {path}" in warning
        path.chmod(0o600)
        assert load_config({}, tmp_path).warnings == ()

    def test_silence_shorter_than_a_ping_matters_only_on_the_real_exchange(
        self, demo: dict[str, str], tmp_path: Path
    ) -> None:
        assert load_config({"FEED_SILENT_AFTER_S": "3"}, tmp_path).warnings == ()
        (warning,) = load_config(demo | {"FEED_SILENT_AFTER_S": "3"}, tmp_path).warnings
        assert "FEED_SILENT_AFTER_S" in warning


def test_no_secret_in_repr_or_description(demo: dict[str, str], tmp_path: Path) -> None:
    secrets = {
        "UI_TOKEN": "a-long-and-secret-token",
        "ALERT_URLS": "mailto://user:pass@example.org",
        "DEADMAN_URL": "https://ping.example.org/0123-4567",
        "STRATEGY_PASSWORD": "correct-horse",
        "KALSHI_API_KEY_ID": KEY_ID,
    }
    config = load_config(demo | secrets, tmp_path)
    shown = "\n".join([repr(config), str(config), *describe(config)])
    for secret in secrets.values():
        assert secret not in shown
    assert "…6789" in shown, "the end of the key id tells which key it is"


def test_description_names_every_variable_with_value_and_source(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("STOP_LOSS_INTERVAL_S=1.5\n")
    lines = describe(load_config({"STRATEGY_EDGE": "1"}, tmp_path))
    assert [line.partition("=")[0] for line in lines] == [*DEFAULTS, "STRATEGY_EDGE"]
    assert "STOP_LOSS_INTERVAL_S=1.5 (.env line 1)" in lines
    assert "STOP_LOSS_PCT=25 (default)" in lines
    assert "TRADING_MODE=live (default)" in lines, "the effective value: the sandbox is always live"
    assert "LIVE_ARMED=no (default)" in lines
    assert "UI_TOKEN=- (default)" in lines


class TestExampleFile:
    text = (PROJECT / ".env.example").read_text(encoding="utf-8")
    assignments = re.findall(r"^#([A-Z_]+)=(.*)$", text, re.MULTILINE)

    def test_names_every_variable_once_with_its_default(self) -> None:
        assert sorted(self.assignments) == sorted(DEFAULTS.items())

    def test_copied_it_changes_nothing(self, tmp_path: Path) -> None:
        plain = load_config({}, tmp_path)
        (tmp_path / ".env").write_text(self.text, encoding="utf-8")
        assert load_config({}, tmp_path) == plain

    def test_uncommented_it_holds_the_defaults(self, tmp_path: Path) -> None:
        plain = load_config({}, tmp_path)
        uncommented = re.sub(r"^#(?=[A-Z_]+=)", "", self.text, flags=re.MULTILINE)
        (tmp_path / ".env").write_text(uncommented, encoding="utf-8")
        config = load_config({}, tmp_path)
        different = {f.name for f in fields(Config) if getattr(config, f.name) != getattr(plain, f.name)}
        assert different == {"sources"}

    def test_every_variable_has_its_comment(self) -> None:
        for name, _ in self.assignments:
            before = self.text.partition(f"\n#{name}=")[0].splitlines()
            block = before[len(before) - before[::-1].index("") :] if "" in before else before
            assert any(line.startswith("# ") for line in block), name


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("", "", 0), ("", "ab", 2), ("abc", "abc", 0), ("abc", "abd", 1), ("abc", "bc", 1), ("ab", "ba", 2)],
)
def test_edit_distance(a: str, b: str, distance: int) -> None:
    assert edit_distance(a, b) == edit_distance(b, a) == distance


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", "127.0.0.1:8787"), ("::1", "[::1]:8787"), ("localhost", "localhost:8787")],
)
def test_an_ipv6_address_stands_in_brackets_in_a_url(host: str, expected: str) -> None:
    assert authority(host, 8787) == expected


@pytest.mark.parametrize(
    ("known", "remedy"), [((), "tzdata"), (("UTC",), "America/New_York")], ids=["no zone data", "a slip"]
)
def test_a_time_zone_that_is_not_found_has_the_remedy_of_its_cause(
    known: tuple[str, ...], remedy: str
) -> None:
    with pytest.raises(ValueError, match=remedy):
        time_zone("America/Newyork", lambda: known)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_env_file_is_not_to_be_removed() -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\n"
        "from base.app.config import load_config\nfrom base.errors import ConfigError\n"
        "os.setuid(12_345)\n"
        "try:\n    load_config({}, Path(sys.argv[1]))\n"
        "except ConfigError as exc:\n    print(exc)\n"
    )
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / ".env").write_text("KALSHI_ENV=demo\n", encoding="utf-8")
        (directory / ".env").chmod(0o600)
        told = subprocess.run(
            [sys.executable, "-c", script, name],
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert "as the user whose file it is (root)" in told.stdout, told.stderr
    assert "remove" not in told.stdout
