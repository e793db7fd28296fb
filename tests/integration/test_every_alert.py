"""Every kind of alert, sent because what it tells of has really happened, and told again when it is over.

The daemon runs as a process of its own, the sandbox is the exchange, a webhook on loopback takes what is
sent. A kind that no provocation claims fails `test_every_kind_is_provoked`.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import TZPATH

import pytest
from _pytest.mark.structures import ParameterSet

from base.app.alert_facts import Kind
from base.app.alert_rules import Phase
from base.app.last_run import LastRun
from base.clock import SystemClock
from base.sandbox.server import SandboxServer
from tests.integration.rig import PROJECT, Daemon
from tests.integration.test_daemon import CALM, HELD, YES, crash, held, scenario
from tests.integration.test_disk import set_file_size_limit
from tests.integration.test_drift import without
from tests.integration.webhook import Webhook, webhook
from tests.sandbox.client import Client

pytest.importorskip("apprise", reason="the extra `alerts` is not installed")

MIDNIGHT_IN_S = 30
PREFIX = {Phase.NEW: "", Phase.LASTS: "STILL ", Phase.OVER: "resolved: "}
ORDERS = "/portfolio/events/orders"

# A strategy is somebody else's code in the same process: what the file of its name says, it does.
WAYWARD = """
import os
import threading


class Wayward:
    def __init__(self, settings):
        self._file = settings["STRATEGY_ORDERS_FILE"]
        self._never = threading.Event()

    def decide(self, view):
        while (order := self._order()) == "hang":
            self._never.wait(0.1)
        if order == "raise":
            raise ZeroDivisionError("no price to divide by")
        if order == "freeze":
            _service("stop-loss")._swept = self._never.wait
        if order == "stall":
            _service("pauses")._run_once = self._never.wait
        if order == "kill":
            os.remove(self._file)
            _die_once(_service("pauses"))
        return []

    def _order(self):
        try:
            with open(self._file) as file:
                return file.read()
        except OSError:
            return ""


def _service(name):
    return next(t for t in threading.enumerate() if t.name == name)._target.__self__


def _die_once(service):
    run_once = service._run_once

    def die():
        service._run_once = run_once
        raise SystemExit

    service._run_once = die
    service.wake()
"""


@dataclass
class Scene:
    """One daemon with three protected positions, and everything that it said."""

    directory: Path
    server: SandboxServer
    service: Webhook
    daemon: Daemon
    seen: set[tuple[Kind, Phase]] = field(default_factory=set)

    def says(
        self, kind: Kind, *words: str, phase: Phase = Phase.NEW, timeout_s: float = 45.0
    ) -> dict[str, str]:
        """Wait for a message of this kind with all of the words."""

        def found() -> list[dict[str, str]]:
            return [m for m in self.service.about(*words) if tells_of(m, kind, phase)]

        self.daemon.until(lambda: bool(found()), f"{phase} {kind} {words}", timeout_s)
        self.seen.add((kind, phase))
        return found()[0]

    def says_after_its_end(self, kind: Kind, *words: str) -> dict[str, str]:
        """The one message of this kind with all of the words, of a daemon that has ended."""
        (message,) = [m for m in self.service.about(*words) if tells_of(m, kind, Phase.NEW)]
        self.seen.add((kind, Phase.NEW))
        return message

    def ends(self, kind: Kind, *words: str) -> None:
        self.says(kind, *words, phase=Phase.OVER)

    def refuse_orders(self, code: str = "trading_is_paused") -> None:
        body = {"error": {"code": code, "message": code}}
        refusal = {"method": "POST", "path": f"{ORDERS}*", "times": 9999, "action": "status", "status": 409}
        self.server.set_faults(calls=[refusal | {"body": body}])

    @property
    def orders(self) -> Path:
        """The file that `Wayward` obeys."""
        return self.directory / "orders"


def tells_of(message: dict[str, str], kind: Kind, phase: Phase) -> bool:
    """Whether one of the headlines in the title is of this kind, for any number of them."""
    heads = message["title"].partition("] ")[2]
    heads = re.sub(r"^\d+ alerts: ", "", heads)
    wanted = {PREFIX[phase] + kind.headline(count) for count in range(1, 20)}
    return not wanted.isdisjoint(heads.split("; "))


def nothing(server: SandboxServer) -> None:
    """Nothing is wrong before the daemon starts."""


@dataclass(frozen=True)
class Provocation:
    """What happens, and the kinds that have to be told of it, at its beginning and at its end."""

    name: str
    play: Callable[[Scene], None]
    told: tuple[Kind, ...]
    over: tuple[Kind, ...] = ()
    before: Callable[[SandboxServer], None] = nothing
    environment: tuple[tuple[str, str], ...] = ()
    is_covered: bool = True
    """Everything is protected before it happens."""

    @property
    def param(self) -> ParameterSet:
        return pytest.param(self, id=self.name, marks=[pytest.mark.slow] if self.name in SLOW else [])


def play_a_stop_and_the_end(scene: Scene) -> None:
    started = scene.says(Kind.STARTED)
    assert started["title"].startswith("[SANDBOX ")
    assert "the run before" not in started["message"]
    crash(scene.server, YES)
    assert "stop_loss" in scene.says(Kind.EXIT_TRIGGERED, YES)["message"]
    assert "sold 10.00 at 0.4000" in scene.says(Kind.EXIT_FILLED, YES)["message"]
    assert scene.daemon.terminate() == 0
    stopped = [m for m in scene.service.received() if tells_of(m, Kind.STOPPED, Phase.NEW)]
    assert len(stopped) == 1
    assert "2 open positions are watched by nobody" in stopped[0]["message"]
    assert "has stopped as asked" in stopped[0]["message"]
    assert "To do: start it again" in stopped[0]["message"]
    scene.seen.add((Kind.STOPPED, Phase.NEW))


def play_a_kill_and_an_end_as_asked(scene: Scene) -> None:
    scene.daemon.restart()  # kill -9
    message = scene.says(Kind.RESTARTED, "did not end as asked (crash, kill or power cut)")
    assert message["type"] != "success"
    assert "its alerts are void" in message["message"]
    assert scene.daemon.events("started", why=LastRun.BROKEN.value)
    scene.daemon.until(lambda: scene.daemon.is_covered(3), "3 protected again", 40)
    assert scene.daemon.terminate() == 0
    scene.says_after_its_end(Kind.STOPPED, "as asked")
    scene.daemon.restart()
    scene.says(Kind.STARTED, "the run before ended as asked")


def play_a_paused_market(scene: Scene) -> None:
    scene.server.set_market(CALM, status="inactive")
    message = scene.says(Kind.UNPROTECTED, f"{CALM}: paused")
    assert message["type"] == "failure"
    scene.server.set_market(CALM, status="active")
    scene.ends(Kind.UNPROTECTED, f"{CALM}: protected again")


def play_an_empty_book(scene: Scene) -> None:
    scene.server.set_market(CALM, bid="0.00", ask="0.52", ask_size="100")
    scene.says(Kind.UNPROTECTED, f"{CALM}: no_bid")


def play_refused_orders(scene: Scene) -> None:
    scene.refuse_orders()
    crash(scene.server, YES)
    blocked = scene.says(Kind.EXIT_BLOCKED, f"{YES}: stop_loss at 0.45", "paused")
    assert blocked["type"] == "failure"
    scene.server.clear_faults()
    scene.says(Kind.EXIT_FILLED, YES)
    scene.ends(Kind.EXIT_BLOCKED, YES)


def play_a_dead_key(scene: Scene) -> None:
    scene.server.set_faults(auth="dead")
    crash(scene.server, YES)
    scene.says(Kind.EXIT_BLOCKED, YES, "auth")
    # No read of positions is due for ten minutes: the refused exit asks for one.
    scene.daemon.wait_for("unprotected", ticker=CALM, why="auth")
    told = scene.service.received()
    blocked_at = next(n for n, m in enumerate(told) if tells_of(m, Kind.EXIT_BLOCKED, Phase.NEW))
    after = [m for m in told[blocked_at:] if tells_of(m, Kind.EXIT_TRIGGERED, Phase.NEW)]
    assert after == [], "what is known to be blocked is not told to be under way"
    assert "key" in scene.says(Kind.UNPROTECTED, f"{CALM}: auth")["message"]
    scene.server.set_faults(auth="ok")
    scene.ends(Kind.UNPROTECTED, f"{CALM}: protected again")
    scene.says(Kind.EXIT_FILLED, YES)
    scene.ends(Kind.EXIT_BLOCKED, YES)


def play_a_lost_answer(scene: Scene) -> None:
    lost = {"method": "POST", "path": f"{ORDERS}*", "times": 9999, "action": "reset_before"}
    unread = {"method": "GET", "path": "/portfolio/orders*", "times": 9999, "action": "503"}
    scene.server.set_faults(calls=[lost, unread])
    crash(scene.server, YES)
    assert scene.says(Kind.EXIT_FAILED, YES)["type"] == "failure"
    scene.server.clear_faults()
    scene.says(Kind.EXIT_FILLED, YES)
    scene.ends(Kind.EXIT_FAILED, YES)
    assert held(scene.server, YES) == 0


def play_a_market_that_closes_first(scene: Scene) -> None:
    scene.refuse_orders()
    crash(scene.server, YES)
    scene.says(Kind.EXIT_BLOCKED, YES)
    scene.server.set_market(YES, status="closed")
    message = scene.says(Kind.EXIT_FAILED, YES, "nothing was sold")
    assert message["type"] == "failure"
    assert held(scene.server, YES) == 10


def play_a_sale_by_hand(scene: Scene) -> None:
    scene.refuse_orders()
    crash(scene.server, YES)
    scene.says(Kind.EXIT_BLOCKED, YES)
    scene.server.add_position(YES, "no", "10", "0.60")
    scene.says(Kind.EXIT_ENDED, YES)
    assert held(scene.server, YES) == 0


def play_the_kill_switch(scene: Scene) -> None:
    mark = scene.daemon.state_dir / "halted"
    mark.touch()
    assert scene.says(Kind.HALTED)["type"] == "failure"
    scene.says(Kind.UNPROTECTED, YES)
    mark.unlink()
    scene.ends(Kind.HALTED)
    scene.ends(Kind.UNPROTECTED, YES)


def play_the_loss_of_the_day(scene: Scene) -> None:
    crash(scene.server, YES)
    message = scene.says(Kind.DAILY_LOSS, timeout_s=MIDNIGHT_IN_S)
    assert "entries resume on the next trading day" in message["message"]
    scene.ends(Kind.DAILY_LOSS, "a new trading day")


def play_blocked_entries(scene: Scene) -> None:
    mark = scene.daemon.state_dir / "entries-blocked"
    mark.touch()
    scene.says(Kind.ENTRIES_OFF, "flatten")
    mark.unlink()
    scene.ends(Kind.ENTRIES_OFF, "flatten")


def play_too_much_held(scene: Scene) -> None:
    scene.says(Kind.ENTRIES_OFF, "MAX_TOTAL_EXPOSURE_DOLLARS")
    for ticker in (YES, CALM):
        crash(scene.server, ticker)
    scene.server.set_market(CALM, bid="0.30", ask="0.32")
    scene.ends(Kind.ENTRIES_OFF, "MAX_TOTAL_EXPOSURE_DOLLARS")


def play_no_feed(scene: Scene) -> None:
    scene.server.set_faults(cut_sockets=True, refuse_ws={"for_s": 300, "status": 503})
    assert "REST meanwhile" in scene.says(Kind.FEED_DOWN)["message"]
    scene.server.clear_faults()
    scene.ends(Kind.FEED_DOWN)


def play_a_disk_that_takes_nothing(scene: Scene) -> None:
    set_file_size_limit(scene.daemon, 0)
    crash(scene.server, YES)
    scene.says(Kind.EXIT_FILLED, YES)
    scene.says(Kind.JOURNAL)
    set_file_size_limit(scene.daemon, resource.RLIM_INFINITY)
    scene.ends(Kind.JOURNAL)


def play_bad_rules(scene: Scene) -> None:
    rules = scene.directory / "rules.toml"
    rules.write_text('[[rule]]\nmatch = "KX*"\nstop_loss_prize = "0.40"\n', encoding="utf-8")
    scene.daemon.process.send_signal(signal.SIGHUP)
    scene.says(Kind.UNHEALTHY, "the rules before it hold", "stop_loss_prize", timeout_s=10.0)
    rules.write_text("", encoding="utf-8")
    scene.daemon.process.send_signal(signal.SIGHUP)
    scene.ends(Kind.UNHEALTHY, "the rules before it hold")


def play_a_strategy_that_fails(scene: Scene) -> None:
    scene.orders.write_text("raise", encoding="utf-8")
    scene.says(Kind.ERROR, "no price to divide by")
    scene.says(Kind.UNHEALTHY, "no price to divide by")
    scene.orders.unlink()
    scene.ends(Kind.UNHEALTHY, "no price to divide by")


def play_a_strategy_that_hangs(scene: Scene) -> None:
    scene.orders.write_text("hang", encoding="utf-8")
    scene.says(Kind.UNHEALTHY, "strategy")
    scene.orders.unlink()
    scene.ends(Kind.UNHEALTHY, "strategy")


def play_a_thread_that_dies(scene: Scene) -> None:
    scene.orders.write_text("kill", encoding="utf-8")
    scene.says(Kind.ERROR, "pauses")
    scene.says(Kind.ENTRIES_OFF, "a thread has died")
    scene.daemon.until(lambda: scene.daemon.is_covered(3), "protected all the same")


def play_a_frozen_checker(scene: Scene) -> None:
    scene.orders.write_text("freeze", encoding="utf-8")
    scene.says(Kind.UNPROTECTED, "not_checked")
    scene.says(Kind.UNHEALTHY, "thread stop-loss is late")
    assert scene.daemon.wait(100.0) == 4
    stopped = scene.says_after_its_end(Kind.STOPPED, "it could not keep running safely")
    assert "3 open positions are watched by nobody" in stopped["message"]
    scene.orders.unlink()
    scene.daemon.restart()
    scene.says(Kind.RESTARTED, "the run before ended itself: it could not keep running safely")


def play_another_instance(scene: Scene) -> None:
    """On this machine a second one refuses to start: this is what another machine would send."""
    with Client(scene.server) as elsewhere:
        sold = elsewhere.order(YES, "ask", "10", "0.60", client_order_id=f"bs{'0' * 20}-1", reduce_only=True)
    assert sold.status_code == 201
    scene.says(Kind.UNHEALTHY, "another instance trades with this account")
    assert held(scene.server, YES) == 0


def play_a_lost_field(scene: Scene) -> None:
    scene.says(Kind.UNHEALTHY, "close_time", "GET /markets")
    scene.daemon.until(lambda: scene.daemon.status()["trading_state"] == "reducing", "entries are off")
    scene.server.clear_faults()
    scene.says(Kind.UNHEALTHY, "close_time", phase=Phase.OVER, timeout_s=90.0)


def play_unread_positions(scene: Scene) -> None:
    scene.says(Kind.ENTRIES_OFF, "positions have not been compared")
    scene.says(Kind.UNPROTECTED, "positions have not been read")
    scene.server.clear_faults()
    scene.ends(Kind.ENTRIES_OFF, "positions have not been compared")
    scene.ends(Kind.UNPROTECTED, "known again")


def play_maintenance_ahead(scene: Scene) -> None:
    message = scene.says(Kind.PAUSE_AHEAD, "20 min")
    assert "3 open positions" in message["message"]


def play_the_key_s_last_day(scene: Scene) -> None:
    scene.says(Kind.KEY_EXPIRY, "ends in 20 h")


def play_the_key_s_end(scene: Scene) -> None:
    scene.says(Kind.KEY_EXPIRY, "has ended")


K = Kind
WAYWARD_ENVIRONMENT = (("STRATEGY", "wayward:Wayward"), ("STRATEGY_INTERVAL_S", "0.2"))
PROVOCATIONS = (
    Provocation(
        "a stop is sold and the daemon is stopped", play_a_stop_and_the_end,
        (K.STARTED, K.EXIT_TRIGGERED, K.EXIT_FILLED, K.STOPPED),
    ),
    Provocation(
        "it is killed, and then stopped as asked", play_a_kill_and_an_end_as_asked,
        (K.RESTARTED, K.STOPPED, K.STARTED),
    ),
    Provocation("a market pauses", play_a_paused_market, (K.UNPROTECTED,), (K.UNPROTECTED,)),
    Provocation("nobody bids", play_an_empty_book, (K.UNPROTECTED,)),
    Provocation(
        "orders are refused", play_refused_orders, (K.EXIT_BLOCKED, K.EXIT_FILLED), (K.EXIT_BLOCKED,)
    ),
    Provocation(
        "the key is dead", play_a_dead_key, (K.EXIT_BLOCKED, K.UNPROTECTED, K.EXIT_FILLED),
        (K.EXIT_BLOCKED, K.UNPROTECTED), environment=(("RECONCILE_INTERVAL_S", "600"),),
    ),
    Provocation(
        "an order's answer is lost", play_a_lost_answer, (K.EXIT_FAILED, K.EXIT_FILLED), (K.EXIT_FAILED,)
    ),
    Provocation(
        "a market closes before the exit", play_a_market_that_closes_first, (K.EXIT_BLOCKED, K.EXIT_FAILED)
    ),
    Provocation("the user sells first", play_a_sale_by_hand, (K.EXIT_BLOCKED, K.EXIT_ENDED)),
    Provocation(
        "the kill switch", play_the_kill_switch, (K.HALTED, K.UNPROTECTED), (K.HALTED, K.UNPROTECTED)
    ),
    Provocation(
        "the loss of the day, until midnight", play_the_loss_of_the_day, (K.DAILY_LOSS,), (K.DAILY_LOSS,),
        environment=(("MAX_DAILY_LOSS_DOLLARS", "1"), ("TRADING_TIMEZONE", "Test/Soon")),
    ),
    Provocation("entries are blocked by hand", play_blocked_entries, (K.ENTRIES_OFF,), (K.ENTRIES_OFF,)),
    Provocation(
        "more is held than may be", play_too_much_held, (K.ENTRIES_OFF,), (K.ENTRIES_OFF,),
        environment=(("MAX_TOTAL_EXPOSURE_DOLLARS", "16"),),
    ),
    Provocation(
        "the stream is refused", play_no_feed, (K.FEED_DOWN,), (K.FEED_DOWN,),
        environment=(("RECONNECT_DELAY_MAX_S", "1"),),
    ),
    Provocation(
        "the disk takes no writes", play_a_disk_that_takes_nothing, (K.EXIT_FILLED, K.JOURNAL), (K.JOURNAL,)
    ),
    Provocation(
        "a mistake in the rules file", play_bad_rules, (K.UNHEALTHY,), (K.UNHEALTHY,),
        environment=(("RULES_FILE", "rules.toml"),),
    ),
    Provocation(
        "a strategy fails", play_a_strategy_that_fails, (K.ERROR, K.UNHEALTHY), (K.UNHEALTHY,),
        environment=WAYWARD_ENVIRONMENT,
    ),
    Provocation(
        "a strategy never returns", play_a_strategy_that_hangs, (K.UNHEALTHY,), (K.UNHEALTHY,),
        environment=WAYWARD_ENVIRONMENT,
    ),
    Provocation(
        "a thread dies", play_a_thread_that_dies, (K.ERROR, K.ENTRIES_OFF), environment=WAYWARD_ENVIRONMENT
    ),
    Provocation(
        "the checker freezes", play_a_frozen_checker,
        (K.UNPROTECTED, K.UNHEALTHY, K.STOPPED, K.RESTARTED),
        environment=WAYWARD_ENVIRONMENT,
    ),
    Provocation("another machine trades with this account", play_another_instance, (K.UNHEALTHY,)),
    Provocation(
        "the exchange's answers lack a field", play_a_lost_field, (K.UNHEALTHY,), (K.UNHEALTHY,),
        before=lambda server: server.set_faults(calls=[without(server, "/markets", "markets", "close_time")]),
    ),
    Provocation(
        "positions cannot be read", play_unread_positions, (K.ENTRIES_OFF, K.UNPROTECTED),
        (K.ENTRIES_OFF, K.UNPROTECTED), is_covered=False,
        before=lambda server: server.set_faults(
            calls=[{"method": "GET", "path": "/portfolio/positions", "times": 9999, "action": "503"}]
        ),
    ),
    Provocation(
        "maintenance in 20 minutes", play_maintenance_ahead, (K.PAUSE_AHEAD,),
        before=lambda server: server.set_faults(
            maintenance_windows=[{"start_in_s": 1220, "end_in_s": 8420}]
        ),
    ),
    Provocation(
        "the key's last day", play_the_key_s_last_day, (K.KEY_EXPIRY,),
        before=lambda server: server.set_faults(attestation_ends_in_s=20 * 3600 + 60),
    ),
    Provocation(
        "the key's end", play_the_key_s_end, (K.KEY_EXPIRY,),
        before=lambda server: server.set_faults(attestation_ends_in_s=-60),
    ),
)  # fmt: skip

SLOW = {
    "nobody bids", "the key is dead", "an order's answer is lost", "the kill switch",
    "the loss of the day, until midnight", "the stream is refused", "a strategy fails",
    "a strategy never returns", "the checker freezes", "the exchange's answers lack a field",
    "positions cannot be read",
}  # fmt: skip
"""What takes more than 20 s, because it waits for a trouble to have lasted."""


@contextmanager
def scene_of(provocation: Provocation, directory: Path) -> Iterator[Scene]:
    (directory / "wayward.py").write_text(WAYWARD, encoding="utf-8")
    (directory / "rules.toml").touch()
    midnight_soon(directory / "zones" / "Test" / "Soon")
    environment = {
        "PYTHONPATH": f"{PROJECT}{os.pathsep}{directory}",
        "PYTHONTZPATH": os.pathsep.join([str(directory / "zones"), *TZPATH]),
        "STRATEGY_ORDERS_FILE": str(directory / "orders"),
    }
    with SandboxServer(scenario(HELD)) as server, webhook() as service:
        provocation.before(server)
        environment |= {"ALERT_URLS": service.url} | dict(provocation.environment)
        with Daemon(directory, server, **environment) as daemon:
            if provocation.is_covered:
                daemon.until(lambda: daemon.is_covered(3), "3 protected", 40)
            yield Scene(directory, server, service, daemon)


def midnight_soon(path: Path) -> None:
    """A time zone in which the next day begins `MIDNIGHT_IN_S` from now (RFC 8536, version 1)."""
    path.parent.mkdir(parents=True)
    offset_s = -int(SystemClock().now() + MIDNIGHT_IN_S) % 86_400
    header = b"TZif" + bytes(16) + struct.pack(">6l", 0, 0, 0, 0, 1, 4)
    path.write_bytes(header + struct.pack(">lbb", offset_s, 0, 0) + b"TST\0")


@pytest.mark.timeout(150)
@pytest.mark.parametrize("provocation", [provocation.param for provocation in PROVOCATIONS])
def test_what_happens_is_told_and_so_is_its_end(provocation: Provocation, tmp_path: Path) -> None:
    with scene_of(provocation, tmp_path) as scene:
        provocation.play(scene)
        told = {(kind, Phase.NEW) for kind in provocation.told}
        assert scene.seen == told | {(kind, Phase.OVER) for kind in provocation.over}


ENDS = {
    Kind.UNPROTECTED, Kind.EXIT_BLOCKED, Kind.EXIT_FAILED, Kind.HALTED, Kind.DAILY_LOSS, Kind.ENTRIES_OFF,
    Kind.FEED_DOWN, Kind.JOURNAL, Kind.UNHEALTHY,
}  # fmt: skip
"""Kinds whose trouble lasts: its end is told too."""


def test_every_kind_is_provoked() -> None:
    assert {provocation.name for provocation in PROVOCATIONS} >= SLOW
    assert {kind for provocation in PROVOCATIONS for kind in provocation.told} == set(Kind)
    assert {kind for provocation in PROVOCATIONS for kind in provocation.over} == ENDS
