"""Every finding of `check` provoked for real: the command as a process, against a sandbox, with real sockets,
disks, locks and clocks. A finding that no case provokes fails the last test."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from base.app.config import load_config
from base.app.findings import Verdict
from base.app.loop import journal_path
from base.app.preflight_codes import Code
from base.clock import SystemClock
from base.model.market import BookSide
from base.model.order import TimeInForce
from base.sandbox.records import NewOrder, SelfTradePrevention
from base.sandbox.scenario import parse_scenario
from base.sandbox.server import SandboxServer
from tests.fakes.stream_server import Obedient, StreamServer, ticker
from tests.integration.rig import PROJECT, Daemon, environment_of, free_port
from tests.integration.test_disk import fill
from tests.sandbox.client import Client

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
EXIT_ID = "bs" + "0" * 20 + "-1"
CHECK_S_MAX = 90.0
NAMESERVER = "127.0.0.77"
COMMAND = (sys.executable, str(PROJECT / "run_bot.py"), "check")

FAIL, WARN, OK = Verdict.FAIL, Verdict.WARN, Verdict.OK


class SkewedClock(SystemClock):
    """The exchange's clock, set otherwise than this machine's."""

    def __init__(self, ahead_s: float) -> None:
        self._ahead_s = ahead_s

    def now(self) -> float:
        return super().now() + self._ahead_s


@dataclass(frozen=True)
class Line:
    """One finding as it was printed."""

    verdict: str
    text: str
    code: str

    @classmethod
    def read(cls, line: str) -> Line:
        text, _, code = line[6:].rpartition("  [")
        return cls(line[:4].strip(), text, code.removesuffix("]"))


@dataclass(frozen=True)
class Report:
    """What the command printed, and how it ended."""

    exit_code: int
    lines: list[Line]
    summary: str

    def about(self, code: Code, says: str) -> Line:
        found = [line for line in self.lines if line.code == code and says in line.text]
        assert found, (code, says, self.lines)
        return found[0]


@dataclass
class Desk:
    """Where the command is run: an account of a sandbox, and the machine around it."""

    server: SandboxServer | None
    directory: Path
    stack: ExitStack
    settings: dict[str, str] = field(default_factory=dict)
    env_file: str = ""
    packages: list[Path] = field(default_factory=list)
    """Directories with modules that stand in for installed ones."""
    wrapper: tuple[str, ...] = ()
    mend: Callable[[], object] = lambda: None
    """Called when all has been printed, before the process is waited for."""

    @property
    def account(self) -> SandboxServer:
        assert self.server is not None
        return self.server

    @property
    def state_dir(self) -> Path:
        return self.directory / "state"

    def fault(self, path: str, **more: object) -> None:
        """What the next reads of an endpoint are answered with."""
        self.account.set_faults(calls=[{"method": "GET", "path": path, "times": 9, **more}])

    def answer(self, path: str, body: object) -> None:
        self.fault(path, action="status", status=200, body=body)

    def environment(self) -> dict[str, str]:
        env = environment_of(self.directory, self.server) | {"UI_PORT": "0"} | self.settings
        return env | {"PYTHONPATH": os.pathsep.join([*map(str, self.packages), str(PROJECT)])}

    def check(self) -> Report:
        if self.env_file:
            (self.directory / ".env").write_text(self.env_file)
        process = subprocess.Popen(
            [*self.wrapper, *COMMAND],
            cwd=self.directory,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        timer = threading.Timer(CHECK_S_MAX, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            printed: list[str] = []
            for line in process.stdout:
                printed.append(line.rstrip("\n"))
                if len(printed) > 1 and not printed[-2]:  # the line after the empty one is the last
                    self.mend()
            _, errors = process.communicate()
        finally:
            timer.cancel()
        assert len(printed) > 2, errors
        return Report(process.returncode, [Line.read(line) for line in printed[:-2]], printed[-1])


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    with SandboxServer(parse_scenario(SCENARIO), enforce_limits=False) as running:
        yield running


@pytest.fixture
def desk(server: SandboxServer, tmp_path: Path) -> Iterator[Desk]:
    server.clear_faults()
    (tmp_path / "state").mkdir(mode=0o700)
    with ExitStack() as stack:
        yield Desk(server, tmp_path, stack)
    server.clear_faults()
    server.call(lambda venue: venue.exchange.orders.cancel_all(venue.clock.now()))
    server.set_market(YES, bid="0.52", ask="0.54", bid_size="100", ask_size="100", status="active")


# --- what is broken ---------------------------------------------------------------------------------------

Break = Callable[[Desk], object]


def nothing(desk: Desk) -> None:
    """All is as it should be."""


def all_of(*breaks: Break) -> Break:
    def break_all(desk: Desk) -> None:
        for break_it in breaks:
            break_it(desk)

    return break_all


def fault(**fields: object) -> Break:
    return lambda desk: desk.account.set_faults(**fields)


def down(*paths: str) -> Break:
    calls = [{"method": "GET", "path": path, "times": 9, "action": "503"} for path in paths]
    return lambda desk: desk.account.set_faults(calls=calls)


def answered(path: str, body: object) -> Break:
    return lambda desk: desk.answer(path, body)


def scopes(*names: str, listed: bool = True) -> Break:
    """The account's keys, as the exchange tells them."""

    def tell(desk: Desk) -> None:
        key = {"api_key_id": desk.account.key_id if listed else "other", "name": "", "scopes": list(names)}
        desk.answer("/api_keys", {"api_keys": [key], "api_key_region_expiration_ts": None})

    return tell


def another_exchange(scenario: str, ahead_s: float = 0.0) -> Break:
    def start(desk: Desk) -> None:
        clock = SkewedClock(ahead_s)
        other = SandboxServer(parse_scenario(scenario), clock=clock, enforce_limits=False)
        desk.server = desk.stack.enter_context(other)

    return start


def clock_ahead(ahead_s: float) -> Break:
    """This machine's clock is as far ahead of the exchange's as that one is behind."""
    return another_exchange(SCENARIO, -ahead_s)


def market(**fields: str) -> Break:
    return lambda desk: desk.account.set_market(YES, **fields)


def configured(**settings: str) -> Break:
    return lambda desk: desk.settings.update(settings)


def rest(client_order_id: str, in_market: str = FLAT) -> Break:
    """A purchase that rests in the account's name."""
    how, gtc = SelfTradePrevention.TAKER_AT_CROSS, TimeInForce.GOOD_TILL_CANCELED
    new = NewOrder(in_market, BookSide.BID, Decimal(1), Decimal("0.05"), gtc, how, client_order_id)
    return lambda desk: desk.account.call(lambda v: v.exchange.orders.place(new, v.clock.now()))


def another_key(desk: Desk) -> None:
    path = desk.directory / "other.pem"
    path.touch(mode=0o600)
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    desk.settings["KALSHI_PRIVATE_KEY_PATH"] = str(path)


def without(path: str, rows: str, name: str, value: object = ...) -> Break:
    """The exchange's own answer, one field of its rows taken away or changed."""

    def take(desk: Desk) -> None:
        with Client(desk.account) as client:
            document: dict[str, Any] = client.get(path)
        for row in document[rows]:
            del row[name]
            row |= {} if value is ... else {name: value}
        desk.answer(path, document)

    return take


def at_port(desk: Desk, port: int) -> None:
    desk.settings |= {
        "KALSHI_REST_URL": f"http://127.0.0.1:{port}/trade-api/v2",
        "KALSHI_WS_URL": f"ws://127.0.0.1:{port}/trade-api/ws/v2",
    }


def nowhere(desk: Desk) -> None:
    at_port(desk, free_port())


def silence(desk: Desk) -> None:
    """An exchange that accepts connections and never answers."""
    listener = desk.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    at_port(desk, listener.getsockname()[1])


def tickers(**change: object) -> Break:
    """A stream whose tickers have changed."""

    class Changed(Obedient):
        def _initial(self, sid: int, names: Any) -> list[Any]:
            return [{**ticker(t), "msg": _changed(ticker(t)["msg"], change)} for t in names]

    def start(desk: Desk) -> None:
        port = desk.stack.enter_context(StreamServer(Changed())).url.rpartition(":")[2].partition("/")[0]
        desk.settings["KALSHI_WS_URL"] = f"ws://127.0.0.1:{port}/trade-api/ws/v2"

    return start


def _changed(body: Mapping[str, Any], change: Mapping[str, object]) -> dict[str, object]:
    return {k: v for k, v in {**body, **change}.items() if v is not ...}


def resolver(*, is_there: bool) -> Break:
    """A name server of this process's own, which never answers or is not there: no name leaves here."""

    def start(desk: Desk) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root may give a process a name server of its own")
        if is_there:
            mute = desk.stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            mute.bind((NAMESERVER, 53))
        path = desk.directory / "resolv.conf"
        path.write_text(f"nameserver {NAMESERVER}\noptions timeout:30\n")
        mounted = f'mount --bind {path} /etc/resolv.conf && exec "$@"'
        desk.wrapper = ("unshare", "-m", "sh", "-c", mounted, "sh")
        desk.settings |= DEMO | {"KALSHI_REST_URL": "", "KALSHI_WS_URL": ""}

    return start


def missing_package(name: str) -> Break:
    """A module found in its place says that it is not installed."""

    def hide(desk: Desk) -> None:
        directory = desk.directory / "packages"
        directory.mkdir(exist_ok=True)
        text = f'raise ModuleNotFoundError("No module named {name!r}", name={name!r})\n'
        (directory / f"{name}.py").write_text(text)
        desk.packages.append(directory)

    return hide


def no_zone_data(desk: Desk) -> None:
    """No zone but UTC is known, neither to the system nor to the package beside it."""
    zones = desk.directory / "zones"
    zones.mkdir()
    (zones / "UTC").write_bytes(resources.files("tzdata").joinpath("zoneinfo/UTC").read_bytes())
    missing_package("tzdata")(desk)
    desk.settings |= {"PYTHONTZPATH": str(zones), "TRADING_TIMEZONE": "UTC"}


def state_dir_in_a_file(desk: Desk) -> None:
    (desk.directory / "file").touch()
    desk.settings["STATE_DIR"] = str(desk.directory / "file" / "state")


def record_of_another_kind(desk: Desk) -> None:
    journal_path(load_config(desk.environment(), desk.directory)).mkdir()


def mount(desk: Desk, *how: str) -> Path:
    """A file system of this test's own; skips where that is not allowed."""
    directory = desk.directory / "disk"
    directory.mkdir(mode=0o700)
    done = subprocess.run(["mount", *how, str(directory)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a file system here: {done.stderr.strip()}")
    desk.stack.callback(subprocess.run, ["umount", "-l", str(directory)], check=True)
    directory.chmod(0o700)
    return directory


def small_disk(*, is_full: bool) -> Break:
    def make(desk: Desk) -> None:
        disk = mount(desk, "-t", "tmpfs", "-o", "size=1500000,mode=0700", "tmpfs")
        if is_full:
            fill(disk)
        desk.settings["STATE_DIR"] = str(disk)

    return make


def frozen_disk(variable: str) -> Break:
    """A disk on which every write hangs, until all has been printed."""

    def freeze(desk: Desk) -> None:
        image = desk.directory / "image"
        with image.open("wb") as file:
            file.truncate(16 * 1024**2)
        if subprocess.run(["mkfs.ext4", "-q", str(image)], capture_output=True, check=False).returncode:
            pytest.skip("cannot make a file system here")
        disk = mount(desk, "-o", "loop", str(image))
        frozen = subprocess.run(["fsfreeze", "-f", str(disk)], capture_output=True, text=True, check=False)
        if frozen.returncode:
            pytest.skip(f"cannot freeze a file system here: {frozen.stderr.strip()}")
        thaw = ExitStack()
        thaw.callback(subprocess.run, ["fsfreeze", "-u", str(disk)], check=True)
        desk.stack.push(thaw)
        desk.mend = thaw.close
        desk.settings[variable] = str(disk)

    return freeze


def rules(text: str) -> Break:
    def write(desk: Desk) -> None:
        path = desk.directory / "rules.toml"
        path.write_text(text)
        desk.settings["RULES_FILE"] = str(path)

    return write


def strategy(constructor: str) -> Break:
    """A strategy of the user's own, beside their .env."""

    def write(desk: Desk) -> None:
        source = (
            f"import os, threading\nclass Mine:\n    def __init__(self, settings):\n        {constructor}\n"
        )
        (desk.directory / "mine.py").write_text(source + "    def decide(self, view):\n        return []\n")
        desk.settings["STRATEGY"] = "mine:Mine"

    return write


def taken_port(desk: Desk) -> None:
    listener = desk.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    desk.settings["UI_PORT"] = str(listener.getsockname()[1])


def a_daemon(desk: Desk) -> None:
    """The daemon itself, with the same key and the same port."""
    daemon = desk.stack.enter_context(Daemon(desk.directory, desk.account))
    daemon.until(lambda: daemon.is_covered(2), "both positions are protected")
    desk.settings["UI_PORT"] = daemon.page_url.rpartition(":")[2].strip("/")


def readable_secrets(desk: Desk) -> None:
    desk.env_file = "UI_TOKEN=short\n"
    (desk.directory / ".env").touch(mode=0o644)


def no_account(desk: Desk) -> None:
    desk.server = None


def state(name: str) -> Break:
    return lambda desk: (desk.state_dir / name).touch()


@dataclass(frozen=True)
class Seen:
    """A finding that must come."""

    code: Code
    verdict: Verdict
    says: str = ""


@dataclass(frozen=True)
class Case:
    name: str
    break_it: Break
    seen: tuple[Seen, ...]


def case(name: str, break_it: Break, verdict: Verdict, code: Code, says: str = "", *more: Seen) -> Case:
    return Case(name, break_it, (Seen(code, verdict, says), *more))


def also(verdict: Verdict, code: Code, says: str = "") -> Seen:
    return Seen(code, verdict, says)


THREAD = "threading.Thread(target=threading.Event().wait).start()"
ALL_WELL = (
    Code.CONFIGURATION, Code.DISK, Code.ZONES, Code.INSTANCE, Code.PAGE, Code.STRATEGY, Code.DEAD_MAN,
    Code.ALERTS_NOT_NEEDED, Code.KEY_FILE, Code.CONNECTION, Code.CLOCK, Code.CREDENTIALS, Code.KEY,
    Code.POSITIONS, Code.PAUSE_NONE, Code.SHARDS, Code.POSITION, Code.RESTING, Code.TIER, Code.FEED,
    Code.FIELDS,
)  # fmt: skip
STATUS = {"exchange_active": True, "trading_active": True}
MARKETS = "fields: GET /markets"

CASES = [
    Case("all is well", scopes("read", "write::trade"),
         (*(Seen(code, OK) for code in ALL_WELL), also(OK, Code.POSITION, "10 yes at 0.60"),
          also(OK, Code.POSITION, "5 no at 0.55"))),
    case("no configuration at all", all_of(no_account, configured(ALERT_URLS="")), OK, Code.SANDBOX, "`run`",
         also(OK, Code.FEED, "ws://127.0.0.1")),
    # this machine
    case("secrets that everybody can read, a short token", readable_secrets, WARN, Code.CONFIGURATION_ODD,
         "`chmod 600 /", also(WARN, Code.CONFIGURATION_ODD, "UI_TOKEN is short")),
    case("a state directory that cannot be made", state_dir_in_a_file, FAIL, Code.DISK_UNWRITABLE, "refuses"),
    case("a disk that is nearly full", small_disk(is_full=False), WARN, Code.DISK_LOW, "1 MB are free"),
    case("a disk that is full", small_disk(is_full=True), FAIL, Code.DISK_FULL, "free disk space"),
    case("a disk that hangs", frozen_disk("STATE_DIR"), FAIL, Code.DISK_SLOW, "hangs",
         also(OK, Code.FIELDS, "GET /markets")),
    case("a disk with the locks that hangs", frozen_disk("XDG_RUNTIME_DIR"), FAIL, Code.NO_END,
         "this machine: nothing more came", also(OK, Code.FIELDS, "GET /markets")),
    case("a record that cannot be opened", record_of_another_kind, FAIL, Code.RECORD_UNUSABLE, "chown"),
    case("a log file without a directory", configured(LOG_FILE="no/such/log"), FAIL,
         Code.LOG_FILE_UNWRITABLE, "`mkdir -p /"),
    case("the kill switch", state("halted"), FAIL, Code.HALTED, "`rm /"),
    case("flatten's mark, in a directory for everybody",
         all_of(state("entries-blocked"), lambda d: d.state_dir.chmod(0o755)), WARN, Code.ENTRIES_BLOCKED,
         "`rm /", also(WARN, Code.DISK_OPEN, "`chmod 700 /")),
    case("no zone data", no_zone_data, WARN, Code.ZONES_MISSING, "tzdata"),
    case("a lock that cannot be taken", lambda d: (d.directory / "backstop").touch(), FAIL,
         Code.INSTANCE_LOCK, "remove it"),
    case("beside a daemon", a_daemon, WARN, Code.INSTANCE_RUNNING, "process", also(OK, Code.PAGE_IN_USE)),
    case("a port that somebody has", taken_port, FAIL, Code.PAGE_UNUSABLE, "UI_PORT"),
    case("a page of no address of this machine", configured(UI_HOST="192.0.2.1", UI_TOKEN="x" * 20), FAIL,
         Code.PAGE_UNUSABLE, "UI_HOST"),
    case("a strategy that there is not", configured(STRATEGY="nobody.knows:It"), FAIL, Code.STRATEGY_REFUSED,
         "nobody"),
    case("settings that the strategy refuses, an alert that nobody understands",
         configured(**VALUE | {"STRATEGY_EDGE": "2", "ALERT_URLS": "nonsense://x"}), FAIL,
         Code.STRATEGY_REFUSED, "STRATEGY_EDGE", also(FAIL, Code.ALERTS_REFUSED, "not understood")),
    case("a strategy of one's own that leaves a thread behind", strategy(THREAD), OK, Code.STRATEGY,
         "mine:Mine"),
    case("a strategy that raises", strategy("1 / 0"), WARN, Code.STRATEGY_RAISES, "ZeroDivisionError"),
    case("a strategy that exits", strategy("raise SystemExit"), WARN, Code.STRATEGY_RAISES, "SystemExit"),
    case("a strategy that never ends", strategy("threading.Event().wait()"), WARN, Code.STRATEGY_SLOW, "15 s",
         also(OK, Code.FIELDS)),
    case("a strategy that ends the process", strategy("os._exit(0)"), FAIL, Code.STRATEGY_ENDS, "code 0"),
    case("alerts without their package", all_of(missing_package("apprise"), configured(ALERT_URLS="ntfy://x")),
         FAIL, Code.ALERTS_REFUSED, "install"),
    case("nobody to alert", configured(**DEMO), WARN, Code.ALERTS_NONE, "ALERT_URLS",
         also(WARN, Code.SHARD_EMPTY, "no dollars")),
    case("a sandbox without its package", all_of(no_account, missing_package("aiohttp")), FAIL,
         Code.SANDBOX_DEAD, "install"),
    # the exchange and the key
    case("no name server", resolver(is_there=False), FAIL, Code.NAME_UNKNOWN, "getent hosts external-api"),
    case("a name server that never answers", resolver(is_there=True), FAIL, Code.NAME_SLOW, "within 10 s"),
    case("nobody answers", nowhere, FAIL, Code.CONNECTION_FAILED, "see that it runs"),
    case("somebody who never answers", all_of(silence, configured(**DEMO)), FAIL, Code.CONNECTION_FAILED,
         "network"),
    case("an answer of somebody else", answered("/exchange/status", {"hello": 1}), FAIL,
         Code.CONNECTION_FAILED),
    case("trading is paused", fault(trading_active=False), WARN, Code.CONNECTION_PAUSED, "paused"),
    case("the clock is 5 s behind", clock_ahead(-5), WARN, Code.CLOCK_OFF, "behind"),
    case("the clock is 5 s ahead", clock_ahead(5), WARN, Code.CLOCK_OFF, "ahead"),
    case("the clock is 5 minutes ahead", clock_ahead(300), FAIL, Code.CLOCK_WRONG, "set-ntp",
         also(OK, Code.CREDENTIALS)),
    case("no time is told", fault(date=False), WARN, Code.CLOCK_UNKNOWN, "set-ntp"),
    case("a timestamp out of the window", fault(auth="skewed"), FAIL, Code.CREDENTIALS_EXPIRED, "clock"),
    case("a key of somebody else", another_key, FAIL, Code.CREDENTIALS_REFUSED, "belong together"),
    case("a key id of somebody else", configured(KALSHI_API_KEY_ID="other"), FAIL, Code.CREDENTIALS_REFUSED,
         "belong together"),
    case("a key of the other environment", all_of(fault(auth="dead"), configured(**DEMO)), FAIL,
         Code.CREDENTIALS_REFUSED, "KALSHI_ENV=demo"),
    case("a balance that is not told", down("/portfolio/balance"), FAIL, Code.CREDENTIALS_UNKNOWN, "again"),
    case("a key that may read only", scopes("read"), FAIL, Code.KEY_CANNOT_TRADE, "cannot send exits"),
    case("a key that may read only, on paper", all_of(scopes("read"), configured(KALSHI_ENV="demo")), WARN,
         Code.KEY_CANNOT_TRADE_LATER, "PAPER", also(WARN, Code.POSITIONS_ON_PAPER, "TRADING_MODE=live")),
    case("a key that moves money", scopes("read", "write::trade", "write::transfer"), WARN,
         Code.KEY_MOVES_MONEY, "move money"),
    case("a key that is not listed", scopes("read", listed=False), WARN, Code.KEY_UNLISTED, "write::trade"),
    case("an attestation that has ended", fault(attestation_ends_in_s=-60), WARN, Code.ATTESTATION_ENDED,
         "expired"),
    case("an attestation that ends soon", fault(attestation_ends_in_s=86_400), WARN, Code.ATTESTATION_ENDS,
         "renew"),
    case("an attestation for weeks", fault(attestation_ends_in_s=2e6), OK, Code.ATTESTATION),
    case("a tier that takes long for what is held", another_exchange(FLEET), WARN, Code.TIER_SLOW,
         "120 exits at once take 11 s"),
    case("keys, tier, schedule and resting orders that are not told",
         down("/api_keys", "/account/limits", "/exchange/schedule", "/portfolio/orders"),
         WARN, Code.KEY_UNKNOWN, "again", also(WARN, Code.TIER_UNKNOWN, "again"),
         also(WARN, Code.SCHEDULE_UNKNOWN, "again"), also(WARN, Code.RESTING_UNKNOWN, "again")),
    # limits on entries
    case("limits that fit, and alerts", configured(**FITTING, ALERT_URLS="ntfy://topic,json://host"), OK,
         Code.LIMITS, "", also(OK, Code.ALERTS, "2 services")),
    case("a daily loss and an exposure above the account",
         configured(**FITTING | {"MAX_DAILY_LOSS_DOLLARS": "5000", "MAX_TOTAL_EXPOSURE_DOLLARS": "5000"}),
         WARN, Code.LIMIT_DAY, "before the limit", also(WARN, Code.LIMIT_EXPOSURE, "limits nothing")),
    case("an order above a position", configured(**FITTING | {"MAX_ORDER_COST_DOLLARS": "21"}), WARN,
         Code.LIMIT_ORDER, "never reached"),
    case("a limit of nothing", configured(**FITTING | {"MAX_EVENT_COST_DOLLARS": "0"}), WARN,
         Code.LIMIT_ZERO, "guard"),
    case("more held than may be",
         configured(**VALUE | {"MAX_TOTAL_EXPOSURE_DOLLARS": "8", "MAX_POSITION_COST_DOLLARS": "8",
                               "MAX_ORDER_COST_DOLLARS": "8", "MAX_DAILY_LOSS_DOLLARS": "8"}),
         WARN, Code.LIMIT_REACHED, "8.75"),
    # what is held
    case("positions that are not told", down("/portfolio/positions"), FAIL, Code.POSITIONS_UNKNOWN, "again"),
    case("a position that cannot be read",
         without("/portfolio/positions", "market_positions", "position_fp", 1), FAIL,
         Code.POSITION_UNREADABLE, "by hand"),
    case("prices that are not told", down("/markets"), FAIL, Code.PRICES_UNKNOWN, "again",
         also(WARN, Code.FIELDS_UNKNOWN, "again")),
    case("a market that the exchange does not know", answered("/markets", {"markets": [], "cursor": ""}),
         FAIL, Code.POSITION_WITHOUT_PRICE, YES),
    case("positions of others left alone", configured(ADOPT_POSITIONS="no"), WARN,
         Code.POSITIONS_NOT_ADOPTED, "ADOPT_POSITIONS=yes"),
    case("no rule that can ever sell", configured(STOP_LOSS_PCT=""), FAIL, Code.POSITION_WITHOUT_STOP,
         "STOP_LOSS_PCT=25"),
    case("a position that is watched only", rules(f'[[rule]]\nmatch = "{YES}"\nprotect = false\n'), OK,
         Code.POSITION_WATCHED, "by choice"),
    case("a rule that matches nothing", rules('[[rule]]\nmatch = "KXCHEK-*"\nstop_loss_pct = 10\n'), WARN,
         Code.RULE_UNUSED, "KXCHEK-*"),
    case("a stop that has been passed", market(bid="0.40", ask="0.43"), WARN, Code.POSITION_PAST_STOP,
         "at once"),
    case("nobody bids", market(bid="0", ask="0.43"), WARN, Code.POSITION_WITHOUT_BID, YES),
    case("a bid below the floor", configured(EXIT_FLOOR_DOLLARS="0.53"), WARN, Code.POSITION_BELOW_FLOOR,
         YES),
    case("a market that is paused", market(status="inactive"), WARN, Code.POSITION_PAUSED, "until it trades"),
    case("a market that has closed", all_of(another_exchange(SCENARIO), market(status="closed")), OK,
         Code.POSITION_SETTLING, "settlement"),
    case("a part of the exchange that is paused, and without money",
         fault(shard_active={"2": False}, shard_balance={"2": "0"}), WARN, Code.SHARD_PAUSED, "resumes",
         also(WARN, Code.SHARD_EMPTY, "transfer")),
    case("a pause within a day", fault(maintenance_windows=[{"start_in_s": 3_600, "end_in_s": 7_200}]), WARN,
         Code.PAUSE_SOON, "2 positions cannot be sold"),
    case("a pause days ahead", fault(maintenance_windows=[{"start_in_s": 200_000, "end_in_s": 207_200}]), OK,
         Code.PAUSE_AHEAD, "2 positions cannot be sold"),
    case("a pause under way", fault(maintenance_windows=[{"start_in_s": -60, "end_in_s": 600}]), WARN,
         Code.PAUSE_NOW, "2 positions"),
    case("an entry, an exit and an order by hand in the way that rest",
         all_of(rest("backstop-entry-1"), rest(EXIT_ID), rest("by-hand", YES)), WARN, Code.RESTING_ENTRIES,
         "1 of this program", also(WARN, Code.RESTING_EXITS, "must not be"),
         also(WARN, Code.RESTING_IN_THE_WAY, "1 of others")),
    case("an order by hand elsewhere", rest("mine"), OK, Code.RESTING, "1 of others"),
    # the stream, and the fields
    case("a stream that is refused", fault(refuse_ws={"for_s": 60, "status": 503}), FAIL, Code.FEED_DOWN,
         "HTTP 503"),
    case("a stream that never answers", fault(refuse_ws={"for_s": 60}), FAIL, Code.FEED_DOWN, "firewall"),
    case("a stream without prices", fault(mute_tickers=True), WARN, Code.FEED_WITHOUT_PRICE, "no price"),
    case("a stream that is switched off", configured(WEBSOCKET_ENABLED="no"), WARN, Code.FEED_OFF, "60 s"),
    case("a market without its bid", without("/markets", "markets", "yes_bid_dollars"), FAIL,
         Code.FIELD_CHANGED, f"{MARKETS}: yes_bid_dollars is missing",
         also(WARN, Code.POSITION_WITHOUT_QUOTE, "stream")),
    case("a market whose size is a number", without("/markets", "markets", "yes_bid_size_fp", 100), FAIL,
         Code.FIELD_CHANGED, f"{MARKETS}: yes_bid_size_fp"),
    case("a market in a state that nobody knows", without("/markets", "markets", "status", "napping"), OK,
         Code.FIELDS, "status=napping"),
    case("positions without what they cost",
         without("/portfolio/positions", "market_positions", "market_exposure_dollars"), FAIL,
         Code.FIELD_CHANGED, "no stop can be placed"),
    case("tickers without a bid", tickers(yes_bid_dollars=...), FAIL, Code.FIELD_CHANGED,
         "ticker frame: yes_bid_dollars"),
    case("tickers without a time", tickers(ts_ms=...), FAIL, Code.FIELD_CHANGED, "ticker frame: ts_ms"),
    case("tickers whose size is a number", tickers(yes_ask_size_fp=5), FAIL, Code.FIELD_CHANGED,
         "ticker frame: yes_ask_size_fp"),
    case("nothing held and nothing listed",
         answered("/*", {"market_positions": [], "markets": [], "cursor": "", **STATUS, "balance": 1}),
         OK, Code.FIELDS_NOTHING, "GET /markets", also(OK, Code.FEED_WITHOUT_MARKET)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_finding(case: Case, desk: Desk) -> None:
    case.break_it(desk)
    report = desk.check()
    for seen in case.seen:
        line = report.about(seen.code, seen.says)
        assert line.verdict == seen.verdict, line
    has_failed = FAIL in {line.verdict for line in report.lines}
    assert report.exit_code == (5 if has_failed else 0)
    assert ("do not rely on `run`" in report.summary) is has_failed
    for line in report.lines:
        assert (" — " in line.text) is (line.verdict != OK), "what is not in order comes with its remedy"


def test_every_finding_is_provoked() -> None:
    assert {seen.code for case in CASES for seen in case.seen} == set(Code)


def test_all_is_well(desk: Desk) -> None:
    before = desk.account.ledger()
    report = desk.check()
    assert (report.exit_code, {line.verdict for line in report.lines}) == (0, {OK}), report.lines
    after = desk.account.ledger()
    assert (after["orders"], after["positions"]) == (before["orders"], before["positions"])
    assert list(desk.state_dir.iterdir()) == [], "nothing is left behind"


def test_beside_a_daemon_nothing_has_failed(desk: Desk) -> None:
    a_daemon(desk)
    assert desk.check().exit_code == 0


def test_without_configuration_nothing_is_left_behind(desk: Desk) -> None:
    no_account(desk)
    desk.state_dir.rmdir()
    assert desk.check().exit_code == 0
    assert os.listdir(desk.directory) in ([], ["backstop"]), "nothing but its lock's directory is left"


def test_what_is_wrong_with_the_files_is_said_before_anything_is_looked_at(desk: Desk) -> None:
    rules("[[rule]]\nmatch = ")(desk)
    another_key(desk)
    Path(desk.settings["KALSHI_PRIVATE_KEY_PATH"]).write_text("no key")
    done = subprocess.run(
        COMMAND, cwd=desk.directory, env=desk.environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("rules.toml:")
    assert "other.pem" in done.stderr


def test_on_a_terminal_no_line_is_longer_than_it_but_for_what_is_to_be_copied(desk: Desk) -> None:
    state("halted")(desk)
    reader, writer = pty.openpty()
    with subprocess.Popen(
        COMMAND, cwd=desk.directory, env=desk.environment() | {"COLUMNS": "80"}, stdout=writer, stderr=writer
    ) as process:
        os.close(writer)
        text = b""
        try:
            while chunk := os.read(reader, 65_536):
                text += chunk
        except OSError:  # how a terminal ends on Linux
            os.close(reader)
        assert process.wait() == 5
    lines = text.decode().splitlines()
    assert any(line.startswith(f"      → `rm {desk.state_dir / 'halted'}`") for line in lines)
    assert [line for line in lines if len(line) > 80 and "`" not in line and " " in line.strip()] == []
