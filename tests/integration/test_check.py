"""Every finding of `check` provoked for real: against a sandbox, real sockets, a real disk, real locks."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from base.app.config import load_config
from base.app.instance_lock import InstanceLock
from base.app.loop import journal_path
from base.app.preflight import run_checks
from base.app.preflight_feed import look_at_feed
from base.app.preflight_machine import Machine
from base.clock import SystemClock
from base.model.market import BookSide
from base.model.order import TimeInForce
from base.sandbox.records import NewOrder, SelfTradePrevention
from base.sandbox.scenario import parse_scenario
from base.sandbox.server import SandboxServer
from tests.fakes.stream_server import Obedient, StreamServer, ticker
from tests.integration.rig import PROJECT, environment_of, free_port
from tests.integration.test_disk import disk as small_disk
from tests.integration.test_disk import fill
from tests.sandbox.client import Client

# A plugin of the alerts' library imports a module that Python 3.13 drops.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

YES, NO, FLAT = "KXCHECK-1-YES", "KXCHECK-2-NO", "KXCHECK-3-FLAT"
SCENARIO = f"""
balance = "1000"
[[market]]
ticker = "{YES}"
bid = "0.52"
ask = "0.54"
position = {{ side = "yes", count = "10", entry = "0.60" }}
[[market]]
ticker = "{NO}"
bid = "0.40"
ask = "0.42"
exchange_index = 2
position = {{ side = "no", count = "5", entry = "0.55" }}
[[market]]
ticker = "{FLAT}"
bid = "0.30"
ask = "0.33"
"""
FLEET = """
[[fleet]]
count = 120
mode = "quiet"
"""
VALUE = {"STRATEGY": "value", "STRATEGY_FAIR_PRICES": f"{FLAT}=0.62"}
FITTING = VALUE | {
    "MAX_ORDER_COST_DOLLARS": "5", "MAX_POSITION_COST_DOLLARS": "20", "MAX_TOTAL_EXPOSURE_DOLLARS": "60",
    "MAX_DAILY_LOSS_DOLLARS": "10",
}  # fmt: skip
DEMO = {"KALSHI_ENV": "demo", "TRADING_MODE": "live"}
FEED_PATIENCE_S = 0.6
EXIT_ID = "bs" + "0" * 20 + "-1"

disk = small_disk  # the fixture of a small disk of its own


class SkewedClock(SystemClock):
    """This machine's clock, set wrong."""

    def __init__(self, ahead_s: float) -> None:
        self._ahead_s = ahead_s

    def now(self) -> float:
        return super().now() + self._ahead_s


@dataclass
class Desk:
    """Where `check` is run: an account of a sandbox, and the machine around it."""

    server: SandboxServer
    directory: Path
    clock: SystemClock = field(default_factory=SystemClock)
    machine: Machine = field(default_factory=Machine)
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.machine = replace(self.machine, lock=self.lock)

    @property
    def state_dir(self) -> Path:
        return self.directory / "state"

    def lock(self, key: str) -> InstanceLock:
        return InstanceLock(key, self.directory / "locks")

    def fault(self, path: str, **more: object) -> None:
        """What the next reads of an endpoint are answered with."""
        self.server.set_faults(calls=[{"method": "GET", "path": path, "times": 9, **more}])

    def answer(self, path: str, body: object) -> None:
        self.fault(path, action="status", status=200, body=body)

    def environment(self) -> dict[str, str]:
        account = environment_of(self.directory, self.server)
        ours = {k: v for k, v in account.items() if k.startswith(("KALSHI_", "STATE_DIR"))}
        return ours | {"UI_PORT": "0"} | self.settings

    def check(self, **more: str) -> tuple[int, list[tuple[str, str]]]:
        """The exit code, and the findings as (verdict, rest of the line)."""
        out = io.StringIO()
        code = run_checks(
            load_config(self.environment() | more, self.directory),
            out,
            clock=self.clock,
            machine=self.machine,
            look_at_feed=partial(look_at_feed, patience_s=FEED_PATIENCE_S),
        )
        return code, [(line[:4].strip(), line[6:]) for line in out.getvalue().splitlines()]


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    with SandboxServer(parse_scenario(SCENARIO), enforce_limits=False) as running:
        yield running


@pytest.fixture
def desk(server: SandboxServer, tmp_path: Path) -> Iterator[Desk]:
    server.clear_faults()
    (tmp_path / "state").mkdir(mode=0o700)
    yield Desk(server, tmp_path)
    server.clear_faults()
    server.call(lambda venue: venue.exchange.orders.cancel_all(venue.clock.now()))
    server.set_market(YES, bid="0.52", ask="0.54", bid_size="100", ask_size="100", status="active")


def about(lines: list[tuple[str, str]], start: str) -> tuple[str, str]:
    found = [line for line in lines if line[1].startswith(start)]
    assert len(found) == 1, (start, lines)
    return found[0]


# --- what is broken ---------------------------------------------------------------------------------------

Break = Callable[[Desk], object]


def nothing(desk: Desk) -> None:
    """All is as it should be."""


def fault(**fields: object) -> Break:
    return lambda desk: desk.server.set_faults(**fields)


def down(path: str) -> Break:
    return lambda desk: desk.fault(path, action="503")


def answered(path: str, body: object) -> Break:
    return lambda desk: desk.answer(path, body)


def keys(*scopes: str, listed: bool = True, expires_in_s: float | None = None) -> Break:
    """The account's keys, as the exchange tells them."""

    def tell(desk: Desk) -> None:
        key = {"api_key_id": desk.server.key_id if listed else "other", "name": "", "scopes": list(scopes)}
        expires = None if expires_in_s is None else int(desk.clock.now() + expires_in_s)
        desk.answer("/api_keys", {"api_keys": [key], "api_key_region_expiration_ts": expires})

    return tell


def skewed(ahead_s: float) -> Break:
    def set_clock(desk: Desk) -> None:
        desk.clock = SkewedClock(ahead_s)

    return set_clock


def market(**fields: str) -> Break:
    return lambda desk: desk.server.set_market(YES, **fields)


def configured(**settings: str) -> Break:
    return lambda desk: desk.settings.update(settings)


def rest(client_order_id: str, in_market: str = FLAT) -> Break:
    """A purchase that rests in the account's name."""
    how, gtc = SelfTradePrevention.TAKER_AT_CROSS, TimeInForce.GOOD_TILL_CANCELED
    new = NewOrder(in_market, BookSide.BID, Decimal(1), Decimal("0.05"), gtc, how, client_order_id)
    return lambda desk: desk.server.call(lambda v: v.exchange.orders.place(new, v.clock.now()))


def another_key(desk: Desk) -> None:
    path = desk.directory / "other.pem"
    path.touch(mode=0o600)
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    desk.settings["KALSHI_PRIVATE_KEY_PATH"] = str(path)


def without(path: str, rows: str, name: str, value: object = ...) -> Break:
    """The exchange's own answer, one field of its rows taken away or changed."""

    def take(desk: Desk) -> None:
        document = raw(desk, path)
        for row in document[rows]:
            del row[name]
            row |= {} if value is ... else {name: value}
        desk.answer(path, document)

    return take


def raw(desk: Desk, path: str) -> dict[str, Any]:
    with Client(desk.server) as client:
        document: dict[str, Any] = client.get(path)
        return document


def nowhere(desk: Desk) -> None:
    port = free_port()
    desk.settings |= {
        "KALSHI_REST_URL": f"http://127.0.0.1:{port}/trade-api/v2",
        "KALSHI_WS_URL": f"ws://127.0.0.1:{port}/trade-api/ws/v2",
    }


def state_dir_in_a_file(desk: Desk) -> None:
    (desk.directory / "file").touch()
    desk.settings["STATE_DIR"] = str(desk.directory / "file" / "state")


def record_of_another_kind(desk: Desk) -> None:
    journal_path(load_config(desk.environment(), desk.directory)).mkdir()


def no_zone_data(desk: Desk) -> None:
    def load(name: str) -> tzinfo:
        raise ZoneInfoNotFoundError(name)

    desk.machine = replace(desk.machine, load_zone=load)


def rules(text: str) -> Break:
    def write(desk: Desk) -> None:
        path = desk.directory / "rules.toml"
        path.write_text(text)
        desk.settings["RULES_FILE"] = str(path)

    return write


def raises_when_made(settings: Mapping[str, str]) -> object:
    """A strategy of the user's own that cannot be made; `check` loads it by its name."""
    raise ZeroDivisionError("nothing to divide by")


@dataclass(frozen=True)
class Case:
    name: str
    break_it: Break
    start: str
    verdict: str
    says: str = ""


STATUS = {"exchange_active": True, "trading_active": True}
WORST_PRICE = "GET /markets: yes_bid_dollars"

CASES = [
    # this machine
    Case("a state directory that cannot be made", state_dir_in_a_file, "disk: STATE_DIR", "FAIL", "refuses"),
    Case("a state directory for everybody",
         lambda d: d.state_dir.chmod(0o755), "disk: other", "WARN", "chmod"),
    Case("a record that cannot be opened", record_of_another_kind, "disk: the record", "FAIL", "chown"),
    Case("a log file without a directory", configured(LOG_FILE="no/such/log"), "disk: LOG_FILE", "FAIL"),
    Case("the kill switch", lambda d: (d.state_dir / "halted").touch(), "kill switch", "WARN", "remove"),
    Case("flatten's mark", lambda d: (d.state_dir / "entries-blocked").touch(), "entries", "WARN", "remove"),
    Case("no zone data", no_zone_data, "time zones", "WARN", "tzdata"),
    Case("zone data", nothing, "time zones", "OK"),
    Case("no other instance", nothing, "instance", "OK"),
    Case("a lock that cannot be taken", lambda d: (d.directory / "locks").touch(), "instance", "FAIL"),
    Case("a page of no address of this machine", configured(UI_HOST="192.0.2.1", UI_TOKEN="x" * 20), "page",
         "FAIL", "UI_HOST"),
    Case("a free port", nothing, "page", "OK"),
    Case("a strategy that there is not",
         configured(STRATEGY="nobody.knows:It"), "strategy", "FAIL", "STRATEGY"),
    Case("settings that the strategy refuses",
         configured(**VALUE | {"STRATEGY_EDGE": "2"}), "strategy", "FAIL"),
    Case("a strategy that raises", configured(STRATEGY=f"{__name__}:raises_when_made"), "strategy",
         "WARN", "opens nothing"),
    Case("a strategy that can be made", configured(**VALUE), "strategy", "OK"),
    Case("alerts", configured(ALERT_URLS="ntfy://topic,json://host"), "alerts", "OK", "2 services"),
    Case("no alerts on a local exchange", nothing, "alerts", "OK", "none"),
    Case("an alert that nobody understands", configured(ALERT_URLS="nonsense://x"), "alerts", "FAIL"),
    Case("a dead man's switch", nothing, "dead man's switch", "OK"),
    Case("nobody to alert", configured(**DEMO), "alerts", "WARN", "ALERT_URLS"),
    Case("a short token", configured(UI_TOKEN="short"), "configuration — UI_TOKEN", "WARN"),
    # the exchange and the key
    Case("nobody answers", nowhere, "connection", "FAIL", "network"),
    Case("an answer of somebody else", answered("/exchange/status", {"hello": 1}), "connection", "FAIL"),
    Case("trading is paused", fault(trading_active=False), "connection", "WARN", "paused"),
    Case("the clock is right", nothing, "clock", "OK"),
    Case("the clock is 5 s behind", skewed(-5), "clock", "WARN", "behind"),
    Case("the clock is 5 s ahead", skewed(5), "clock", "WARN", "ahead"),
    Case("the clock is 100 s ahead", skewed(100), "clock", "FAIL", "NTP"),
    Case("a timestamp out of the window", fault(auth="skewed"), "credentials", "FAIL", "clock"),
    Case("a key of somebody else", another_key, "credentials", "FAIL", "belong together"),
    Case("a key id of somebody else", configured(KALSHI_API_KEY_ID="other"), "credentials", "FAIL",
         "belong together"),
    Case("a key that was withdrawn", fault(auth="dead"), "credentials", "FAIL", "KALSHI_ENV"),
    Case("a balance that is not told", down("/portfolio/balance"), "credentials", "FAIL", "again"),
    Case("a key that may read only", keys("read"), "API key", "FAIL", "cannot send exits"),
    Case("a key that moves money", keys("read", "write::trade", "write::transfer"), "API key", "WARN",
         "move money"),
    Case("a key that trades", keys("read", "write::trade"), "API key", "OK"),
    Case("a key that is not listed", keys("read", listed=False), "API key", "WARN"),
    Case("keys that cannot be listed", down("/api_keys"), "API key", "WARN", "again"),
    Case("an attestation that has ended", keys("write", expires_in_s=-60), "location", "WARN", "expired"),
    Case("an attestation that ends soon", keys("write", expires_in_s=86_400), "location", "WARN", "renew"),
    Case("an attestation for a year", keys("write", expires_in_s=3e7), "location", "OK"),
    Case("the tier", nothing, "account limits", "OK", "tier basic, 200 read and 100 write"),
    Case("a tier that is not told", down("/account/limits"), "account limits", "WARN", "again"),
    # limits on entries
    Case("limits that fit", configured(**FITTING), "limits", "OK"),
    Case("a daily loss above the account", configured(**FITTING | {"MAX_DAILY_LOSS_DOLLARS": "5000"}),
         "limits: MAX_DAILY", "WARN", "before the limit"),
    Case("an exposure above the account", configured(**FITTING | {"MAX_TOTAL_EXPOSURE_DOLLARS": "5000"}),
         "limits: MAX_TOTAL", "WARN", "limits nothing"),
    Case("an order above a position", configured(**FITTING | {"MAX_ORDER_COST_DOLLARS": "21"}),
         "limits: an order", "WARN", "never reached"),
    Case("a limit of nothing",
         configured(**FITTING | {"MAX_EVENT_COST_DOLLARS": "0"}), "limits: one", "WARN"),
    Case("more held than may be",
         configured(**VALUE | {"MAX_TOTAL_EXPOSURE_DOLLARS": "8", "MAX_POSITION_COST_DOLLARS": "8",
                               "MAX_ORDER_COST_DOLLARS": "8", "MAX_DAILY_LOSS_DOLLARS": "8"}),
         "limits", "WARN", "8.75"),
    # what is held
    Case("what is held", nothing, YES, "OK", "10 yes at 0.60"),
    Case("the other side", nothing, NO, "OK", "5 no at 0.55"),
    Case("positions that are not told", down("/portfolio/positions"), "positions", "FAIL", "again"),
    Case("a position that cannot be read",
         without("/portfolio/positions", "market_positions", "position_fp", 1),
         f"positions: {YES}", "FAIL", "by hand"),
    Case("prices that are not told", down("/markets"), "positions: not", "FAIL", "again"),
    Case("a market that the exchange does not know", answered("/markets", {"markets": [], "cursor": ""}), YES,
         "WARN", "no price"),
    Case("positions of others left alone", configured(ADOPT_POSITIONS="no"), "positions: those", "WARN"),
    Case("no rule that can ever sell", configured(STOP_LOSS_PCT=""), YES, "WARN", "give it a stop"),
    Case("a position that is watched only", rules(f'[[rule]]\nmatch = "{YES}"\nprotect = false\n'), YES, "OK",
         "by choice"),
    Case("a stop that has been passed", market(bid="0.40", ask="0.43"), YES, "WARN", "at once"),
    Case("nobody bids", market(bid="0", ask="0.43"), YES, "WARN", "nobody bids"),
    Case("a bid below the floor", configured(EXIT_FLOOR_DOLLARS="0.53"), YES, "WARN", "floor"),
    Case("a market that is paused", market(status="inactive"), YES, "WARN", "until it trades"),
    Case("a part of the exchange that is paused",
         fault(shard_active={"2": False}), "shard 2", "WARN", "resumes"),
    Case("a part of the exchange without money",
         fault(shard_balance={"2": "0"}), "shard 2", "WARN", "transfer"),
    Case("parts of the exchange in order", nothing, "shards: 0, 2", "OK"),
    Case("a part of the exchange without a balance", configured(**DEMO), "shard 2", "WARN", "no dollars"),
    Case("a pause ahead", fault(maintenance_windows=[{"start_in_s": 3_600, "end_in_s": 7_200}]),
         "trading pauses", "WARN", "2 positions cannot be sold"),
    Case("a pause under way", fault(maintenance_windows=[{"start_in_s": -60, "end_in_s": 600}]),
         "trading is paused", "WARN", "2 positions"),
    Case("no pause", nothing, "trading pauses", "OK", "none"),
    Case("a schedule that is not told", down("/exchange/schedule"), "trading pauses", "OK", "not known"),
    Case("an entry that was left over",
         rest("backstop-entry-1"), "resting orders", "WARN", "of this program"),
    Case("an exit that rests", rest(EXIT_ID), "resting orders", "WARN", "must not be"),
    Case("an order by hand in the way", rest("by-hand", YES), "resting orders", "WARN", "of others"),
    Case("an order by hand elsewhere", rest("mine"), "resting orders", "OK", "1 of others"),
    Case("resting orders that are not told", down("/portfolio/orders"), "resting orders", "WARN", "again"),
    # the stream, and the fields
    Case("a stream that answers", nothing, "feed", "OK", YES),
    Case("a stream that is refused",
         fault(refuse_ws={"for_s": 60, "status": 503}), "feed", "FAIL", "HTTP 503"),
    Case("a stream that never answers", fault(refuse_ws={"for_s": 60}), "feed", "FAIL", "nothing came"),
    Case("a stream without acknowledgements", fault(drop_acks=99), "feed", "WARN", "no price"),
    Case("a stream without prices", fault(mute_tickers=True), "feed", "WARN", "no price"),
    Case("a stream that is switched off", configured(WEBSOCKET_ENABLED="no"), "feed", "WARN", "60 s old"),
    Case("markets with all that is needed", nothing, "fields: GET /markets", "OK"),
    Case("positions with all that is needed", nothing, "fields: GET /portfolio/positions", "OK"),
    Case("tickers with all that is needed", nothing, "fields: ticker frame", "OK"),
    Case("a market without its bid",
         without("/markets", "markets", "yes_bid_dollars"), f"fields: {WORST_PRICE}",
         "FAIL", "is missing"),
    Case("a market whose size is a number", without("/markets", "markets", "yes_bid_size_fp", 100),
         "fields: GET /markets: yes_bid_size_fp", "FAIL", "opens nothing"),
    Case("a market in a state that nobody knows", without("/markets", "markets", "status", "napping"),
         "fields: GET /markets", "OK", "status=napping"),
    Case("positions without what they cost",
         without("/portfolio/positions", "market_positions", "market_exposure_dollars"),
         "fields: GET /portfolio/positions: market_exposure_dollars", "FAIL", "no stop can be placed"),
    Case("nothing held and nothing listed",
         answered("/*", {"market_positions": [], "markets": [], "cursor": "", **STATUS, "balance": 1}),
         "fields: GET /markets", "OK", "nothing there"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_finding(case: Case, desk: Desk) -> None:
    case.break_it(desk)
    code, lines = desk.check()
    verdict, text = about(lines, case.start)
    assert verdict == case.verdict, text
    assert case.says in text
    assert code == (5 if "FAIL" in {v for v, _ in lines} else 0)
    if verdict != "OK":
        assert " — " in text, "what is not in order comes with its remedy"


def test_all_is_well(desk: Desk) -> None:
    before = desk.server.ledger()
    code, lines = desk.check()
    assert (code, {verdict for verdict, _ in lines}) == (0, {"OK"}), lines
    after = desk.server.ledger()
    assert (after["orders"], after["positions"]) == (before["orders"], before["positions"])
    assert list(desk.state_dir.iterdir()) == [], "nothing is left behind"


def test_beside_a_running_instance(desk: Desk) -> None:
    """Its lock is held and its port in use: told, and no failure."""
    with desk.lock(desk.server.key_id), socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, lines = desk.check(UI_PORT=port)
        assert code == 0
        assert about(lines, "instance")[0] == "WARN"
        assert about(lines, "page")[0] == "OK"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, lines = desk.check(UI_PORT=str(taken.getsockname()[1]))
    assert code == 5
    assert about(lines, "page")[0] == "FAIL"


def test_a_full_disk_and_one_that_is_nearly_full(desk: Desk, disk: Path) -> None:
    verdict, text = about(desk.check(STATE_DIR=str(disk))[1], "disk: STATE_DIR")
    assert (verdict, "1 MB are free" in text) == ("WARN", True)
    fill(disk)
    code, lines = desk.check(STATE_DIR=str(disk))
    assert code == 5
    verdict, text = about(lines, "disk: STATE_DIR")
    assert verdict == "FAIL"
    assert "free disk space" in text


def test_a_tier_that_takes_long_for_all_that_is_held(tmp_path: Path) -> None:
    with SandboxServer(parse_scenario(FLEET), enforce_limits=False) as server:
        _, lines = Desk(server, tmp_path).check()
    verdict, text = about(lines, "account limits")
    assert verdict == "WARN"
    assert "120 exits at once take 11 s" in text


@contextmanager
def stream(change: Mapping[str, object]) -> Iterator[StreamServer]:
    """A stream whose tickers have changed."""

    class Changed(Obedient):
        def _initial(self, sid: int, tickers: Any) -> list[Any]:
            return [{**ticker(t), "msg": _changed(ticker(t)["msg"], change)} for t in tickers]

    with StreamServer(Changed()) as running:
        yield running


def _changed(body: Mapping[str, Any], change: Mapping[str, object]) -> dict[str, object]:
    return {k: v for k, v in {**body, **change}.items() if v is not ...}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"yes_bid_dollars": ...}, "yes_bid_dollars"),
        ({"ts_ms": ...}, "ts_ms"),
        ({"yes_ask_size_fp": 5}, "yes_ask_size_fp"),
    ],
    ids=["no bid", "no time", "a size as a number"],
)
def test_tickers_that_have_changed(desk: Desk, change: dict[str, object], field: str) -> None:
    with stream(change) as other:
        port = other.url.rpartition(":")[2].partition("/")[0]
        code, lines = desk.check(KALSHI_WS_URL=f"ws://127.0.0.1:{port}/trade-api/ws/v2")
    assert code == 5
    assert about(lines, "fields: ticker frame")[0] == "FAIL"
    assert field in about(lines, "fields: ticker frame")[1]


def test_the_command_itself_with_a_sandbox_of_its_own(tmp_path: Path) -> None:
    """No configuration at all: a sandbox is started for the checks, and stopped."""
    env = environment_of(tmp_path, None) | {"UI_PORT": "0"}
    done = subprocess.run(
        [sys.executable, str(PROJECT / "run_bot.py"), "check"],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "feed: ws://127.0.0.1:" in done.stdout
    assert "FAIL" not in done.stdout
    assert os.listdir(tmp_path) in ([], ["backstop"]), "nothing but its lock's directory is left"
    assert not [t for t in threading.enumerate() if t.name == "websocket"]
