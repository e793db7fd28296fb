"""`check` finds what would go wrong later, says what to do, and fails only for what prevents protection."""

from __future__ import annotations

import ast
import errno
import io
import json
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import format_datetime
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from base.app import preflight_codes
from base.app.config import Config, load_config
from base.app.findings import Finding, Verdict, summary
from base.app.instance_lock import InstanceLock
from base.app.loop import journal_path
from base.app.preflight import Resolve, StartSandbox, run_checks
from base.app.preflight_bounds import bounded, resolve
from base.app.preflight_codes import Code, fail, ok, warn
from base.app.preflight_feed import FeedLook
from base.app.preflight_machine import DiskLook, Machine, look_at_disk
from base.app.preflight_strategy import Making, make_strategy
from base.app.sandbox_process import SandboxAddress
from base.clock import Clock
from base.errors import AuthError, ConfigError, TransientError, WireError
from base.kalshi.account_documents import ApiKey, ApiKeys, Balance, ExchangeStatus
from base.kalshi.documents import MarketSnapshot, PositionRow, UnreadableRow
from base.kalshi.rate_limit import AccountLimits, Quota
from base.kalshi.rest_client import UnreadablePositions
from base.kalshi.server_clock import ServerClock
from base.kalshi.signing import Signer
from base.model.market import BookSide, Market, MarketStatus, PriceSource, Quote
from base.model.order import Order, OrderStatus
from base.model.schedule import ExchangeSchedule
from tests.fakes.clock import FakeClock
from tests.fakes.stream_server import ticker as ticker_frame
from tests.kalshi.bodies import MARKET as MARKET_BODY
from tests.kalshi.bodies import POSITION as POSITION_BODY
from tests.kalshi.bodies import but

# A plugin of the alerts' library imports a module that Python 3.13 drops.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

T = TypeVar("T")

KEY_ID = "11111111-2222-3333-4444-555555556789"
MARKET = "KXHIGHNY-26NOV22-T50"
NOW = 1_790_000_000.0


MARKETS, POSITIONS = "/markets", "/portfolio/positions"
CONFIRMED = FeedLook(True, True, json.dumps(ticker_frame(MARKET)).encode(), "", 0.3)


def row(count: str = "10", entry: str = "0.52", ticker: str = MARKET, shard: int = 0) -> PositionRow:
    signed = Decimal(count)
    return PositionRow(ticker, signed, abs(signed) * Decimal(entry), Decimal(0), shard, NOW)


def resting(client_order_id: str, ticker: str = MARKET) -> Order:
    return Order(
        order_id="1", client_order_id=client_order_id, ticker=ticker, book_side=BookSide.BID,
        status=OrderStatus.RESTING, price=Decimal("0.40"), initial_count=Decimal(5), fill_count=Decimal(0),
        remaining_count=Decimal(5), fill_cost=Decimal(0), fees=Decimal(0), exchange_index=0, created_ts_ms=0,
    )  # fmt: skip


def money(by_shard: dict[int, Decimal]) -> Balance:
    return Balance(Decimal("98.0186"), Decimal(0), by_shard, 0)


def pages(market: dict[str, Any] = MARKET_BODY, position: dict[str, Any] = POSITION_BODY) -> dict[str, Any]:
    return {
        MARKETS: {"markets": [market], "cursor": ""},
        POSITIONS: {"market_positions": [position], "cursor": ""},
    }


def snapshot(
    bid: str = "0.50", ask: str = "0.55", status: MarketStatus = MarketStatus.ACTIVE, ticker: str = MARKET
) -> MarketSnapshot:
    quote = Quote(
        ticker, Decimal(bid), Decimal(ask), Decimal(5), Decimal(5), None, 0, 1.0, NOW, PriceSource.REST
    )
    return MarketSnapshot(Market(ticker, status=status), quote)


def keys(*scopes: str, key_id: str = KEY_ID, expires_at: int | None = None) -> ApiKeys:
    return ApiKeys((ApiKey(key_id, "bot", scopes, None),), expires_at)


def window(start_in_s: float, end_in_s: float) -> ExchangeSchedule:
    return ExchangeSchedule((), ((NOW + start_in_s, NOW + end_in_s),))


@dataclass
class FakeExchange:
    """Answers with what it holds; an exception in a field is raised instead."""

    status: ExchangeStatus | Exception = field(default_factory=lambda: ExchangeStatus(True, True, None, {}))
    balance: Balance | Exception = field(
        default_factory=lambda: Balance(Decimal("98.0186"), Decimal(0), {}, 0)
    )
    limits: AccountLimits | Exception = field(
        default_factory=lambda: AccountLimits(Quota(600, 200), Quota(100, 100), "basic")
    )
    api_keys: ApiKeys | Exception = field(default_factory=lambda: keys("read", "write::trade"))
    positions: list[PositionRow] | Exception = field(default_factory=list)
    markets: list[MarketSnapshot] | Exception = field(default_factory=lambda: [snapshot()])
    schedule: ExchangeSchedule | Exception = field(default_factory=ExchangeSchedule)
    documents: dict[str, Any] | Exception = field(default_factory=pages)
    orders: list[Order] | Exception = field(default_factory=list)
    date_offset_s: float | None = 0.0
    asked: list[str] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)

    def connect(self, rest_url: str, signer: Signer, clock: Clock, server_clock: ServerClock) -> FakeExchange:
        self.seen.append((rest_url, signer.algorithm))
        if self.date_offset_s is not None:
            moment = datetime.fromtimestamp(clock.now() + self.date_offset_s, UTC)
            server_clock.observe_date(format_datetime(moment, usegmt=True))
        return self

    def get_exchange_status(self) -> ExchangeStatus:
        return self._answer("status", self.status)

    def get_balance(self) -> Balance:
        return self._answer("balance", self.balance)

    def get_account_limits(self) -> AccountLimits:
        return self._answer("limits", self.limits)

    def get_api_keys(self) -> ApiKeys:
        return self._answer("api_keys", self.api_keys)

    def get_positions(self) -> list[PositionRow]:
        return self._answer("positions", self.positions)

    def get_markets(self, tickers: Sequence[str]) -> list[MarketSnapshot]:
        return self._answer("markets", self.markets)

    def get_exchange_schedule(self) -> ExchangeSchedule:
        return self._answer("schedule", self.schedule)

    def get_document(self, path: str, params: Mapping[str, str]) -> dict[str, Any]:
        document: dict[str, Any] = self._answer("fields", self.documents)[path]
        return document

    def get_orders(self, ticker: str | None = None, status: str | None = None) -> list[Order]:
        assert status == "resting"
        return self._answer("orders", self.orders)

    def _answer(self, name: str, value: T | Exception) -> T:
        self.asked.append(name)
        if isinstance(value, Exception):
            raise value
        return value


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "key.pem"
    path.touch(mode=0o600)
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return {
        "KALSHI_ENV": "demo",
        "TRADING_MODE": "live",
        "KALSHI_API_KEY_ID": KEY_ID,
        "KALSHI_PRIVATE_KEY_PATH": str(path),
        "UI_PORT": "0",
        "ALERT_URLS": "ntfy://topic",
    }


@pytest.fixture
def check(environ: dict[str, str], tmp_path: Path) -> Callable[..., tuple[int, list[tuple[str, str]]]]:
    def run(
        exchange: FakeExchange, look: FeedLook = CONFIRMED, machine: Machine | None = None, **more: str
    ) -> tuple[int, list[tuple[str, str]]]:
        return run_with(load_config(environ | more, tmp_path), exchange, look=look, machine=machine)

    return run


def run_with(
    config: Config,
    exchange: FakeExchange,
    start_sandbox: StartSandbox | None = None,
    look: FeedLook = CONFIRMED,
    machine: Machine | None = None,
    resolve: Resolve = lambda host: None,
) -> tuple[int, list[tuple[str, str]]]:
    """The exit code and the findings as (verdict, rest of the line)."""
    out = io.StringIO()
    code = run_checks(
        config,
        out,
        connect=exchange.connect,
        start_sandbox=start_sandbox or no_sandbox,
        clock=FakeClock(now=NOW),
        machine=machine or roomy(config),
        look_at_feed=lambda *asked: look,
        resolve=resolve,
    )
    *lines, empty, last = out.getvalue().splitlines()
    assert (empty, "FAIL" in last) == ("", code == 5)
    return code, [(line[:4].strip(), line[6:]) for line in lines]


def roomy(config: Config) -> Machine:
    """A machine with nothing wrong, whose locks lie beside the test's files."""
    return Machine(
        lock=lambda key: InstanceLock(key, config.state_dir.parent / "locks"),
        look_at_disk=lambda directory: DiskLook(free_bytes=10**12),
    )


@contextmanager
def no_sandbox(clock: Clock) -> Iterator[SandboxAddress]:
    raise ConfigError(["it did not start; install its extra"])
    yield  # what makes it a context manager


def about(lines: list[tuple[str, str]], start: str) -> tuple[str, str]:
    (found,) = [line for line in lines if line[1].startswith(start)]
    return found


def test_all_well(check: Callable[..., tuple[int, list[tuple[str, str]]]]) -> None:
    exchange = FakeExchange(positions=[row()])
    code, lines = check(exchange)
    assert code == 0
    assert {verdict for verdict, _ in lines} == {"OK"}
    assert exchange.asked == [
        "status", "balance", "api_keys", "positions", "markets", "schedule", "orders", "limits", "markets",
        "fields", "fields",
    ]  # fmt: skip
    assert "98.02 dollars" in about(lines, "credentials")[1]
    assert "tier basic, 200 read and 100 write" in about(lines, "account limits")[1]
    held = about(lines, MARKET)[1]
    assert "10 yes at 0.52" in held
    assert "stop 0.39" in held
    assert "bid 0.50" in held
    ((rest_url, algorithm),) = exchange.seen
    assert rest_url.endswith("kalshi.co/trade-api/v2")
    assert algorithm in about(lines, "key file")[1]
    assert not any(KEY_ID in text for _, text in lines)


def test_embedded_sandbox_is_started_checked_and_stopped(environ: dict[str, str], tmp_path: Path) -> None:
    stopped = threading.Event()

    @contextmanager
    def sandbox(clock: Clock) -> Iterator[SandboxAddress]:
        yield SandboxAddress(
            "http://127.0.0.1:1/trade-api/v2",
            "ws://127.0.0.1:1/trade-api/ws/v2",
            KEY_ID,
            Path(environ["KALSHI_PRIVATE_KEY_PATH"]),
        )
        stopped.set()

    exchange = FakeExchange()
    code, lines = run_with(load_config({"UI_PORT": "0"}, tmp_path), exchange, sandbox)
    assert code == 0
    assert {verdict for verdict, _ in lines} == {"OK"}
    assert exchange.seen[0][0] == "http://127.0.0.1:1/trade-api/v2"
    assert about(lines, "trading pauses")[1] == "trading pauses: none is known ahead  [pause-none]"
    assert stopped.is_set()


def test_embedded_sandbox_that_does_not_start_is_a_failure(tmp_path: Path) -> None:
    code, lines = run_with(load_config({"UI_PORT": "0"}, tmp_path), FakeExchange())
    assert code == 5
    assert ("FAIL", "sandbox: it did not start — install its extra  [sandbox-dead]") in lines


@dataclass(frozen=True)
class Case:
    name: str
    exchange: Callable[[], FakeExchange]
    start: str
    verdict: str
    says: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    look: FeedLook = CONFIRMED


VALUE = {"STRATEGY": "value", "STRATEGY_FAIR_PRICES": f"{MARKET}=0.62"}


@pytest.mark.parametrize(
    "case",
    [
        Case("no network", lambda: FakeExchange(status=TransientError("timed out")), "connection", "FAIL",
             "network"),
        Case("an answer that is not the exchange's", lambda: FakeExchange(status=WireError("html")),
             "connection", "FAIL"),
        Case("maintenance", lambda: FakeExchange(status=ExchangeStatus(True, False, None, {})), "connection",
             "WARN", "paused"),
        Case("a clock 1 s off", lambda: FakeExchange(date_offset_s=-1.0), "clock", "OK"),
        Case("a clock 5 s behind", lambda: FakeExchange(date_offset_s=5.0), "clock", "WARN", "behind"),
        Case("a clock 5 s ahead", lambda: FakeExchange(date_offset_s=-5.0), "clock", "WARN", "ahead"),
        Case("a clock 40 s off", lambda: FakeExchange(date_offset_s=-40.0), "clock", "FAIL",
             "set-ntp"),
        Case("no Date header", lambda: FakeExchange(date_offset_s=None), "clock", "WARN"),
        Case("a key of the other environment",
             lambda: FakeExchange(balance=AuthError("NOT_FOUND", status=401, code="authentication_error")),
             "credentials", "FAIL", "KALSHI_ENV"),
        Case("a time stamp out of the window",
             lambda: FakeExchange(balance=AuthError("x", status=401, code="header_timestamp_expired")),
             "credentials", "FAIL", "clock"),
        Case("a balance that cannot be read", lambda: FakeExchange(balance=TransientError("503")),
             "credentials", "FAIL", "again"),
        Case("limits that cannot be read", lambda: FakeExchange(limits=TransientError("503")),
             "account limits", "WARN"),
        Case("a key that may not list keys", lambda: FakeExchange(api_keys=AuthError("x", status=403)),
             "API key", "WARN"),
        Case("a read-only key in live mode", lambda: FakeExchange(api_keys=keys("read")), "API key", "FAIL",
             "cannot send exits"),
        Case("orders that are simulated", FakeExchange, "configuration", "OK", "PAPER orders (simulated",
             settings={"TRADING_MODE": "paper"}),
        Case("orders that are not", FakeExchange, "configuration", "OK", "live orders"),
        Case("a read-only key in paper mode", lambda: FakeExchange(api_keys=keys("read")), "API key", "WARN",
             settings={"TRADING_MODE": "paper"}),
        Case("a key with full write", lambda: FakeExchange(api_keys=keys("read", "write")),
             "API key", "OK"),
        Case("a key that can move money",
             lambda: FakeExchange(api_keys=keys("read", "write::trade", "write::transfer")),
             "API key", "WARN", "move money"),
        Case("a key that is not listed", lambda: FakeExchange(api_keys=keys("read", key_id="other")),
             "API key", "WARN"),
        Case("an expired attestation",
             lambda: FakeExchange(api_keys=keys("write", expires_at=int(NOW) - 1)),
             "location", "WARN", "expired"),
        Case("an attestation that ends soon",
             lambda: FakeExchange(api_keys=keys("write", expires_at=int(NOW) + 86_400)), "location", "WARN",
             "renew"),
        Case("an attestation for a year",
             lambda: FakeExchange(api_keys=keys("write", expires_at=int(NOW) + 31_536_000)),
             "location", "OK"),
        Case("positions that cannot be read", lambda: FakeExchange(positions=TransientError("503")),
             "positions", "FAIL"),
        Case("nothing held", lambda: FakeExchange(), "positions", "OK", "0 held"),
        Case("a flat row", lambda: FakeExchange(positions=[row("0")]), "positions", "OK", "0 held"),
        Case("a position without a stop", lambda: FakeExchange(positions=[row()]), MARKET, "FAIL",
             "STOP_LOSS_PCT", settings={"STOP_LOSS_PCT": "", "TAKE_PROFIT_PCT": ""}),
        Case("a stop that has been passed",
             lambda: FakeExchange(positions=[row()], markets=[snapshot("0.39")]), MARKET, "WARN", "at once"),
        Case("a stop one cent away", lambda: FakeExchange(positions=[row()], markets=[snapshot("0.40")]),
             MARKET, "OK"),
        Case("a NO position by its own bid",
             lambda: FakeExchange(positions=[row("-10")], markets=[snapshot("0.10", "0.61")]),
             MARKET, "WARN", "bid 0.39"),
        Case("a take-profit that has been passed",
             lambda: FakeExchange(positions=[row()], markets=[snapshot("0.80")]), MARKET, "WARN", "at once",
             settings={"TAKE_PROFIT_PCT": "50"}),
        Case("nobody bids", lambda: FakeExchange(positions=[row()], markets=[snapshot("0")]), MARKET, "WARN",
             "nobody bids"),
        Case("no price at all", lambda: FakeExchange(positions=[row()], markets=[]), MARKET, "FAIL",
             "no market"),
        Case("a market without its price",
             lambda: FakeExchange(positions=[row()], markets=[replace(snapshot(), quote=None,
                                                                      why_no_quote="no price: no yes_bid")]),
             MARKET, "WARN", "no yes_bid"),
        Case("a settled market",
             lambda: FakeExchange(positions=[row()], markets=[snapshot("0", status=MarketStatus.DETERMINED)]),
             MARKET, "OK", "settlement"),
        Case("a pause days ahead", lambda: FakeExchange(positions=[row()]), "trading pauses", "OK",
             "Thu 03:00 ET in 2 d 16 h: 1 position cannot be sold until Thu 05:00 ET"),
        Case("a pause within a day", lambda: FakeExchange(positions=[row(), row(ticker="KXB")],
                                                          schedule=window(11_520, 20_000)),
             "trading pauses", "WARN", "in 3 h 12 min: 2 positions cannot be sold until"),
        Case("a pause under way", lambda: FakeExchange(positions=[row()], schedule=window(-60, 60)),
             "trading is paused", "WARN", "1 position"),
        Case("a pause that touches nobody", lambda: FakeExchange(schedule=window(3_600, 7_200)),
             "trading pauses", "OK", "in 1 h 0 min, until"),
        Case("a pause and a position that waits for settlement",
             lambda: FakeExchange(positions=[row()], schedule=window(3_600, 7_200),
                                  markets=[snapshot("0", status=MarketStatus.DETERMINED)]),
             "trading pauses", "OK", "in 1 h 0 min, until"),
        Case("a schedule that cannot be read",
             lambda: FakeExchange(positions=[row()], schedule=TransientError("503")),
             "trading pauses: the", "WARN", "not known (503)"),
        Case("the weekly pause all the same",
             lambda: FakeExchange(positions=[row()], schedule=TransientError("503")), "trading pauses Thu",
             "OK", "03:00 ET"),
        Case("prices that cannot be read",
             lambda: FakeExchange(positions=[row()], markets=TransientError("503")), "positions: their",
             "FAIL", "not known (503)"),
        Case("a real position and simulated exits", lambda: FakeExchange(positions=[row()]),
             "positions: on PAPER", "WARN", "TRADING_MODE=live", settings={"TRADING_MODE": "paper"}),
        Case("a tier that takes long for what is held",
             lambda: FakeExchange(positions=[row(ticker=f"KX{n}") for n in range(120)],
                                  markets=[snapshot(ticker=f"KX{n}") for n in range(120)]),
             "account limits", "WARN", "120 exits at once take 11 s"),
        Case("a position that cannot be read",
             lambda: FakeExchange(positions=UnreadablePositions((row(),), (UnreadableRow("KXODD", "why"),))),
             "positions: KXODD", "FAIL", "by hand"),
        Case("the readable rows beside it",
             lambda: FakeExchange(positions=UnreadablePositions((row(),), (UnreadableRow("KXODD", "why"),))),
             "positions: 1", "OK"),
        Case("a bid below the floor",
             lambda: FakeExchange(positions=[row()], markets=[snapshot("0.02")]), MARKET, "WARN", "floor",
             settings={"EXIT_FLOOR_DOLLARS": "0.03"}),
        Case("a paused market",
             lambda: FakeExchange(positions=[row()], markets=[snapshot(status=MarketStatus.INACTIVE)]),
             MARKET, "WARN", "until it trades again"),
        Case("a shard without money",
             lambda: FakeExchange(positions=[row(shard=2)],
                                  balance=money({0: Decimal(98), 2: Decimal(0)})),
             "shard 2", "WARN", "insufficient_balance"),
        Case("a shard that is not in the balance",
             lambda: FakeExchange(positions=[row(shard=2)], balance=money({0: Decimal(98)})),
             "shard 2", "WARN", "no dollars"),
        Case("a shard that is paused",
             lambda: FakeExchange(positions=[row(shard=2)],
                                  status=ExchangeStatus(True, True, None, {2: (True, False)})),
             "shard 2", "WARN", "does not trade"),
        Case("shards in order",
             lambda: FakeExchange(positions=[row(shard=2)], balance=money({0: Decimal(8), 2: Decimal(1)})),
             "shards", "OK", "2 trade"),
        Case("an entry that the last run has left",
             lambda: FakeExchange(orders=[resting("backstop-entry-1")]),
             "resting orders", "WARN", "1 of this program"),
        Case("an exit that rests", lambda: FakeExchange(orders=[resting("bs" + "0" * 20 + "-1")]),
             "resting orders", "WARN", "must not be"),
        Case("an order by hand where something is held",
             lambda: FakeExchange(positions=[row()], orders=[resting("mine")]),
             "resting orders", "WARN", "1 of others"),
        Case("an order by hand elsewhere", lambda: FakeExchange(orders=[resting("mine")]),
             "resting orders", "OK", "1 of others"),
        Case("resting orders that cannot be read", lambda: FakeExchange(orders=TransientError("503")),
             "resting orders", "WARN", "again"),
        Case("a daily loss of more than there is", FakeExchange, "limits: MAX_DAILY", "WARN", "98.0186",
             settings=VALUE),
        Case("an exposure of more than there is", FakeExchange, "limits: MAX_TOTAL", "WARN", "limits nothing",
             settings=VALUE),
        Case("limits in no order", FakeExchange, "limits: an order", "WARN", "never reached",
             settings=VALUE | {"MAX_ORDER_COST_DOLLARS": "300"}),
        Case("a limit of 0", FakeExchange, "limits: one", "WARN", "nothing is opened",
             settings=VALUE | {"MAX_ORDER_COST_DOLLARS": "0"}),
        Case("as much held as may be", lambda: FakeExchange(positions=[row()]), "limits: what", "WARN",
             "5.20", settings=VALUE | {"MAX_TOTAL_EXPOSURE_DOLLARS": "5"}),
        Case("limits that fit", FakeExchange, "limits", "OK",
             settings=VALUE | {"MAX_ORDER_COST_DOLLARS": "5", "MAX_POSITION_COST_DOLLARS": "20",
                               "MAX_TOTAL_EXPOSURE_DOLLARS": "60", "MAX_DAILY_LOSS_DOLLARS": "10"}),
        Case("a stream that cannot be reached", FakeExchange, "feed", "FAIL", "firewall",
             look=FeedLook(False, False, None, "timed out", 2.0)),
        Case("a stream that says nothing", FakeExchange, "feed", "FAIL", "within 8 s",
             look=FeedLook(False, False, None, "", 8.1)),
        Case("a subscription without a price", FakeExchange, "feed", "WARN", "no price",
             look=FeedLook(True, False, None, "", 8.1)),
        Case("a stream that is switched off", FakeExchange, "feed", "WARN", "60 s old",
             settings={"WEBSOCKET_ENABLED": "no"}),
        Case("no open market to subscribe to",
             lambda: FakeExchange(documents=pages() | {MARKETS: {"markets": [], "cursor": ""}}),
             "feed", "OK", "no open market"),
        Case("no market to look at",
             lambda: FakeExchange(documents=pages() | {MARKETS: {"markets": [], "cursor": ""}}),
             "fields: GET /markets", "OK", "nothing there"),
        Case("a market without its bid",
             lambda: FakeExchange(documents=pages(but(MARKET_BODY, yes_bid_dollars=...))),
             "fields: GET /markets", "FAIL", "yes_bid_dollars is missing"),
        Case("a position in another form",
             lambda: FakeExchange(documents=pages(position=but(POSITION_BODY, position_fp=3))),
             "fields: GET /portfolio", "FAIL", "position_fp is 3, not"),
        Case("a ticker without its size", FakeExchange, "fields: ticker", "FAIL", "yes_bid_size_fp",
             look=replace(CONFIRMED, sample=(CONFIRMED.sample or b"").replace(b"yes_bid_size_fp", b"size"))),
        Case("a market with a new field",
             lambda: FakeExchange(documents=pages(but(MARKET_BODY, tomorrow="1", status="napping"))),
             "fields: GET /markets", "OK", "status=napping, tomorrow"),
        Case("fields that cannot be read", lambda: FakeExchange(documents=TransientError("503")), "fields",
             "WARN", "again"),
        Case("an alert that nobody understands", FakeExchange, "alerts", "FAIL", "not understood",
             settings={"ALERT_URLS": "nonsense://x"}),
        Case("nobody to alert", FakeExchange, "alerts", "WARN", "ALERT_URLS", settings={"ALERT_URLS": ""}),
        Case("a strategy with a setting missing", FakeExchange, "strategy", "FAIL", "refuses to start",
             settings={"STRATEGY": "nobody.knows:It"}),
        Case("positions of others left alone", lambda: FakeExchange(positions=[row()]),
             "positions: those", "WARN", "ADOPT_POSITIONS", settings={"ADOPT_POSITIONS": "no"}),
    ],
    ids=lambda c: c.name,
)  # fmt: skip
def test_finding(case: Case, check: Callable[..., tuple[int, list[tuple[str, str]]]]) -> None:
    code, lines = check(case.exchange(), case.look, **case.settings)
    verdict, text = about(lines, case.start)
    assert verdict == case.verdict
    assert case.says in text
    assert code == (5 if "FAIL" in {v for v, _ in lines} else 0)
    if verdict != "OK":
        assert " — " in text, "what is not in order comes with its remedy"


def test_nothing_is_asked_after_a_failure_that_explains_the_rest(
    check: Callable[..., tuple[int, list[tuple[str, str]]]],
) -> None:
    unreachable = FakeExchange(status=TransientError("timed out"))
    check(unreachable)
    assert unreachable.asked == ["status"]
    refused = FakeExchange(balance=AuthError("x", status=401))
    check(refused)
    assert refused.asked == ["status", "balance"]


def test_warnings_of_the_configuration_are_shown(
    check: Callable[..., tuple[int, list[tuple[str, str]]]],
) -> None:
    code, lines = check(FakeExchange(), UI_TOKEN="short")
    assert code == 0
    assert any(verdict == "WARN" and "UI_TOKEN" in text for verdict, text in lines)


def test_a_line_of_the_exchange_cannot_forge_a_finding(
    check: Callable[..., tuple[int, list[tuple[str, str]]]],
) -> None:
    _, lines = check(FakeExchange(status=TransientError("bad\nOK    all is well")))
    assert not any(text.startswith("all is well") for _, text in lines)


def test_rules_of_the_file_are_used(
    check: Callable[..., tuple[int, list[tuple[str, str]]]], tmp_path: Path
) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(f'[[rule]]\nmatch = "{MARKET}"\nprotect = false\n')
    _, lines = check(FakeExchange(positions=[row()]), RULES_FILE=str(path))
    assert "by choice" in about(lines, MARKET)[1]


def test_a_bad_rules_file_and_a_bad_key_are_told_at_once(environ: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text("[[rule]]\nmatch = ")
    Path(environ["KALSHI_PRIVATE_KEY_PATH"]).write_text("not a key")
    exchange = FakeExchange()
    with pytest.raises(ConfigError) as raised:
        run_with(load_config(environ | {"RULES_FILE": str(path)}, tmp_path), exchange)
    assert ["rules.toml" in problem for problem in raised.value.problems] == [True, False]
    assert exchange.asked == []


@pytest.mark.parametrize(
    ("match", "told"),
    [("KXHIGHNY-*", False), (MARKET, False), ("KXHIGNY-*", True), ("series:KXFED", True)],
    ids=["a glob that fits", "the ticker", "a glob with a slip", "another series"],
)
def test_a_rule_that_nothing_held_matches(
    check: Callable[..., tuple[int, list[tuple[str, str]]]], tmp_path: Path, match: str, told: bool
) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(f'[[rule]]\nmatch = "{match}"\nstop_loss_pct = 10\n')
    _, lines = check(FakeExchange(positions=[row()]), RULES_FILE=str(path))
    assert any(v == "WARN" and match in text for v, text in lines) is told
    _, lines = check(FakeExchange(), RULES_FILE=str(path))
    assert all(v == "OK" for v, _ in lines), "with nothing held every rule waits"


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (TimeoutError("no answer within 10 s"), "[name-slow]"),
        (socket.gaierror(-2, "Name or service not known"), "[name-unknown]"),
    ],
    ids=["a resolver that hangs", "no such name"],
)
def test_nobody_is_connected_to_without_an_address(
    environ: dict[str, str], tmp_path: Path, failure: OSError, says: str
) -> None:
    def fail(host: str) -> None:
        assert host.endswith("kalshi.co")
        raise failure

    exchange = FakeExchange()
    code, lines = run_with(load_config(environ, tmp_path), exchange, resolve=fail)
    assert (code, exchange.asked) == (5, [])
    assert says in about(lines, "connection")[1]


def test_an_address_is_looked_up_within_a_time() -> None:
    release = threading.Event()
    resolve("localhost")
    with pytest.raises(OSError, match="label"):
        resolve("a" * 64 + ".localhost")
    with pytest.raises(TimeoutError):
        resolve("localhost", 0.05, lambda host, port: release.wait(30.0))
    release.set()


def finding(what: str) -> Finding:
    return ok(Code.POSITION, what)


def test_what_comes_no_more_is_the_last_finding() -> None:
    release = threading.Event()

    def find() -> Iterator[Finding]:
        yield finding("one")
        release.wait(30.0)

    first, last = bounded("this machine", find, 0.1)
    release.set()
    assert (first.what, last.verdict, last.code) == ("one", Verdict.FAIL, Code.NO_END)
    assert 'within 0.1 s after "one"' in last.what


def test_what_ends_in_time_is_told_whole_and_raised_where_it_is_told() -> None:
    def find() -> Iterator[Finding]:
        yield finding("one")
        yield finding("two")
        raise ConfigError(["three"])

    told = bounded("this machine", find, 5.0)
    assert [next(told).what, next(told).what] == ["one", "two"]
    with pytest.raises(ConfigError):
        next(told)


def test_who_stops_listening_ends_what_was_started() -> None:
    stopped = threading.Event()

    def find() -> Iterator[Finding]:
        try:
            while True:
                yield finding("one")
        finally:
            stopped.set()

    told = bounded("the exchange", find, 5.0)
    next(told)
    told.close()
    assert stopped.wait(5.0)


@pytest.mark.parametrize(
    ("body", "making", "says"),
    [
        ("pass", Making.MADE, ""),
        ("print(settings)", Making.MADE, ""),
        ("threading.Thread(target=threading.Event().wait).start()", Making.MADE, ""),
        ("raise KeyError(settings['STRATEGY_X'])", Making.RAISED, "KeyError: 'y'"),
        ("raise SystemExit(3)", Making.RAISED, "SystemExit: 3"),
        ("while True: pass", Making.SLOW, "after 2 s"),
        ("signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals)); threading.Event().wait()",
         Making.SLOW, "after 2 s"),
        ("os._exit(0)", Making.ENDED, "code 0"),
        ("os.kill(os.getpid(), 9)", Making.ENDED, "signal 9"),
    ],
    ids=["all right", "prints", "leaves a thread", "raises", "exits", "computes for ever", "blocks signals",
         "ends the process", "is killed"],
)  # fmt: skip
def test_a_strategy_is_made_where_it_can_do_no_harm(
    tmp_path: Path, body: str, making: Making, says: str
) -> None:
    imports = "import os, signal, threading"
    text = f"{imports}\nclass Mine:\n    def __init__(self, settings):\n        {body}\n"
    (tmp_path / "its_own_module.py").write_text(text + "    def decide(self, view): return []\n")
    path = [str(tmp_path), *sys.path]
    patience_s = 2.0 if making is Making.SLOW else 30.0
    made = make_strategy("its_own_module:Mine", {"STRATEGY_X": "y"}, patience_s, path)
    assert made.making is making
    assert says in made.why


def test_a_disk_is_written_to_and_nothing_stays(tmp_path: Path) -> None:
    look = look_at_disk(tmp_path)
    assert (look.free_bytes or 0) > 0
    assert look_at_disk(tmp_path / "nowhere").errno == errno.ENOENT
    assert look_at_disk(tmp_path, patience_s=0.0) == DiskLook(), "as if it hung"
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".backstop-check-")] == []


def test_each_finding_is_made_in_one_place() -> None:
    """So that one case that provokes it has provoked it."""
    uses: Counter[str] = Counter()
    for path in (Path(preflight_codes.__file__).parent).glob("preflight*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "Code":
                uses[node.attr] += 1
    assert uses == Counter({code.name: 1 for code in Code})


def test_a_terminal_gets_the_remedy_on_lines_of_its_own_and_commands_whole() -> None:
    told = fail(
        Code.DISK_OPEN, "disk: " + "word " * 20, "run: `chmod 700 /var/lib/backstop/a/long/directory`"
    )
    lines = told.wrapped(50).splitlines()
    assert lines[0].startswith("FAIL  disk: word")
    assert all(line.startswith("      ") for line in lines[1:])
    assert lines[-1].strip() == "`chmod 700 /var/lib/backstop/a/long/directory`"
    assert max(len(line) for line in lines if "`" not in line) <= 50
    assert "[disk-open]" in told.wrapped(50)
    assert "[" not in ok(Code.DISK, "disk").wrapped(50)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ([ok(Code.DISK, "")], "1 OK: nothing keeps"),
        ([ok(Code.DISK, ""), warn(Code.DISK_LOW, "", "")], "1 WARN, 1 OK: nothing keeps"),
        ([ok(Code.DISK, ""), fail(Code.DISK_FULL, "", "")], "1 FAIL, 1 OK: do not rely on `run`"),
    ],
    ids=["all well", "a warning", "a failure"],
)
def test_the_last_line_says_what_it_comes_to(made: list[Finding], says: str) -> None:
    assert summary(made).startswith(says)


def test_what_is_wrong_with_this_machine(
    check: Callable[..., tuple[int, list[tuple[str, str]]]], environ: dict[str, str], tmp_path: Path
) -> None:
    """Disk, marks, zone data, locks and ports, each broken for real."""
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    (state / "halted").touch()
    (state / "entries-blocked").touch()

    def no_zones(name: str) -> ZoneInfo:
        raise ZoneInfoNotFoundError(name)

    def locks(key: str) -> InstanceLock:
        return InstanceLock(key, tmp_path / "locks")

    machine = Machine(lock=locks, load_zone=no_zones, look_at_disk=lambda directory: DiskLook(1024**2))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, lines = check(
            FakeExchange(), machine=machine, UI_PORT=port, LOG_FILE=str(tmp_path / "no" / "log")
        )
        held = locks(KEY_ID)
        with held:
            beside = check(FakeExchange(), machine=machine, UI_PORT=port)[1]
    assert code == 5
    assert about(lines, "disk: STATE_DIR")[0] == "WARN"
    assert about(lines, "disk: other users")[0] == "WARN"
    assert about(lines, "disk: LOG_FILE")[0] == "FAIL"
    assert about(lines, "kill switch")[0] == "FAIL"
    assert about(lines, "entries")[0] == "WARN"
    assert about(lines, "time zones")[0] == "WARN"
    assert about(lines, "instance")[0] == "OK"
    assert about(lines, "page")[0] == "FAIL"
    assert about(beside, "instance")[0] == "WARN"
    assert about(beside, "page")[0] == "OK", "it is the running instance's own"


def test_limits_on_entries_are_nothing_to_a_strategy_that_opens_nothing(
    check: Callable[..., tuple[int, list[tuple[str, str]]]],
) -> None:
    _, lines = check(FakeExchange(), MAX_DAILY_LOSS_DOLLARS="0")
    assert not any(text.startswith("limits") for _, text in lines)


def test_a_record_that_cannot_be_opened(
    check: Callable[..., tuple[int, list[tuple[str, str]]]], environ: dict[str, str], tmp_path: Path
) -> None:
    config = load_config(environ, tmp_path)
    config.state_dir.mkdir(mode=0o700)
    journal_path(config).mkdir()
    code, lines = check(FakeExchange())
    assert code == 5
    assert about(lines, "disk: the record")[0] == "FAIL"
    assert list(config.state_dir.iterdir()) == [journal_path(config)], "the write test leaves nothing behind"


def test_an_interpreter_that_this_user_may_not_run_costs_only_what_it_was_wanted_for(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.touch(mode=0o600)
    look = look_at_disk(tmp_path, python=str(python))
    assert (look.errno, "cannot be run" in look.why) == (errno.EACCES, True)
    made = make_strategy("some.module:Strategy", {}, python=str(python))
    assert (made.making, "cannot be run" in made.why) == (Making.RAISED, True)
