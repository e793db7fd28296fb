"""Channels that work, fail and hang; what the library says; what the log brings; the end."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from base.app.alert_channel import SEND_S_MAX, Channel
from base.app.alert_facts import Kind
from base.app.alert_rules import Message, Phase, Sender
from base.app.alerts import ERRORS_WAITING_MAX, Alerts, ErrorCollector, open_notifiers, secret_parts
from base.app.key_watch import RETRY_S, KeyWatch
from base.app.last_run import LastRun
from base.clock import SystemClock
from base.errors import ConfigError, ExitCode, TransientError
from base.kalshi.account_documents import ApiKeys
from base.log import log_event
from tests.fakes.clock import FakeClock

# Services that the library loads with all others import a module that Python is about to drop.
loads_library = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
SENDER = Sender("demo", True, "vps1")
WELL: dict[str, Any] = {"trading_state": "active", "health": {"ok": True, "reasons": []}, "positions": []}


class FakeNotifier:
    """Takes what it is sent; fails with `why`, raises `error`, or waits for `gate`."""

    gap_s = 0.0

    def __init__(self, name: str = "fake-1") -> None:
        self.name = name
        self.why = ""
        self.error: Exception | None = None
        self.gate: threading.Event | None = None
        self.taken: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()

    def send(self, title: str, text: str, *, is_urgent: bool, is_good: bool) -> str:
        if self.gate is not None:
            assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        if not self.why:
            self.taken.put((title, text))
        return self.why


def message(text: str = "KX: no_bid") -> Message:
    return Message(Kind.UNPROTECTED, Phase.NEW, 1, (text,), ())


class Rig:
    """A channel with its worker; `settle` lets the worker come back."""

    def __init__(self, notifier: FakeNotifier) -> None:
        self.notifier = notifier
        self.clock = FakeClock()
        self.finished: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.channel = Channel(notifier, SENDER, self.clock, lambda: self.finished.put(None))
        self.channel.start()

    def step(self) -> None:
        self.channel.step(self.clock.monotonic())

    def settle(self) -> None:
        self.finished.get(timeout=5)
        self.step()


def test_a_channel_that_works_sends_and_counts() -> None:
    rig = Rig(FakeNotifier())
    rig.channel.outbox.put(message())
    rig.step()
    rig.settle()
    title, text = rig.notifier.taken.get(timeout=5)
    assert (title, text) == ("[PAPER vps1] position UNPROTECTED", "KX: no_bid")
    assert (rig.channel.counts.sent, rig.channel.counts.failed, rig.channel.is_empty) == (1, 0, True)


@pytest.mark.parametrize("raises", [False, True], ids=["says why", "raises"])
def test_what_failed_is_counted_kept_and_sent_later(raises: bool) -> None:
    rig = Rig(FakeNotifier())
    rig.notifier.why = "" if raises else "refused"
    rig.notifier.error = ZeroDivisionError("refused") if raises else None
    rig.channel.outbox.put(message())
    rig.step()
    rig.settle()
    assert rig.channel.counts.failed == 1
    assert "refused" in rig.channel.counts.last_error
    rig.step()
    assert rig.finished.empty(), "it waits before it tries again"
    rig.notifier.why, rig.notifier.error = "", None
    rig.clock.advance(5.0)
    rig.step()
    rig.settle()
    assert rig.channel.counts.sent == 1


def test_a_channel_that_hangs_is_counted_once_and_given_nothing_until_it_comes_back() -> None:
    notifier = FakeNotifier()
    notifier.gate = threading.Event()
    rig = Rig(notifier)
    rig.channel.outbox.put(message("first"))
    rig.step()
    rig.channel.outbox.put(message("second"))
    for _ in range(100):
        rig.clock.advance(SEND_S_MAX)
        rig.step()
    counts = rig.channel.counts
    assert (counts.is_hanging, counts.failed, counts.waiting, counts.sent) == (True, 1, 1, 0)
    notifier.gate.set()
    rig.settle()
    rig.settle()
    assert (rig.channel.counts.is_hanging, rig.channel.counts.sent) == (False, 2)
    assert [notifier.taken.get(timeout=5)[1] for _ in range(2)] == ["first", "second"]


def test_a_channel_that_hung_and_then_failed_has_failed_once() -> None:
    notifier = FakeNotifier()
    notifier.gate, notifier.why = threading.Event(), "refused"
    rig = Rig(notifier)
    rig.channel.outbox.put(message())
    rig.step()
    rig.clock.advance(SEND_S_MAX + 1)
    rig.step()
    notifier.gate.set()
    rig.settle()
    assert (rig.channel.counts.failed, rig.channel.counts.waiting) == (1, 1)


def alerts_of(*notifiers: FakeNotifier, document: Callable[[], dict[str, Any]] = lambda: WELL) -> Alerts:
    return Alerts(notifiers, document, document, list, SENDER, SystemClock())


@pytest.fixture
def notifier() -> FakeNotifier:
    return FakeNotifier()


def test_the_start_an_error_and_the_end_are_told(notifier: FakeNotifier) -> None:
    alerts = alerts_of(notifier)
    alerts.start("the daemon has started", LastRun.AS_ASKED)
    assert "daemon started" in notifier.taken.get(timeout=5)[0]
    log_event(logging.getLogger("base.store.journal"), logging.CRITICAL, "journal_replaced", path="j")
    assert "journal_replaced" in notifier.taken.get(timeout=5)[1]
    assert alerts.health() is not None
    alerts.stop(ExitCode.OK)
    assert alerts.join()
    assert "daemon stopped" in notifier.taken.get(timeout=5)[0]
    assert alerts.health() is None


def test_the_end_waits_no_longer_than_it_may_for_a_channel_that_hangs(notifier: FakeNotifier) -> None:
    hanging = FakeNotifier("fake-2")
    hanging.gate = threading.Event()
    alerts = alerts_of(notifier, hanging)
    alerts.start("the daemon has started")
    notifier.taken.get(timeout=5)
    clock = SystemClock()
    began = clock.monotonic()
    alerts.stop(ExitCode.OK)
    assert not alerts.join()
    assert clock.monotonic() - began < 3.0
    assert "daemon stopped" in notifier.taken.get(timeout=5)[0]
    flushers = [thread for thread in threading.enumerate() if thread.name == "alerts-flush"]
    for thread in flushers:
        thread.join(1.0)
    assert not any(thread.is_alive() for thread in flushers), "it gives up, too"
    hanging.gate.set()


def test_the_end_names_what_nobody_watches_any_more_even_when_the_status_cannot_be_built(
    notifier: FakeNotifier,
) -> None:
    held = [{"ticker": "KX", "market_status": "active"}, {"ticker": "KY", "market_status": "determined"}]
    alerts = alerts_of(notifier, document=lambda: WELL | {"positions": held})
    alerts.start("started")
    notifier.taken.get(timeout=5)
    alerts.stop(ExitCode.OK)
    assert "1 open position is watched by nobody" in notifier.taken.get(timeout=5)[1]

    def broken() -> dict[str, Any]:
        raise ZeroDivisionError("no document")

    blind = alerts_of(notifier, document=broken)
    blind.start("started")
    assert "started" in notifier.taken.get(timeout=5)[0], "what is due goes out even when the look failed"
    blind.stop(ExitCode.OK)
    assert blind.join()
    told = [notifier.taken.get(timeout=5)[1] for _ in range(notifier.taken.qsize())]
    assert "what is held is not known" in told[-1]


def test_without_urls_there_is_neither_thread_nor_library() -> None:
    def load() -> ModuleType:
        raise AssertionError("nobody wants it")

    alerts = Alerts(open_notifiers((), load), dict, dict, list, SENDER, FakeClock())
    alerts.start("started")
    assert (alerts.is_on, alerts.service.is_alive, alerts.health()) == (False, False, None)
    alerts.stop(ExitCode.OK)
    assert alerts.join()


@pytest.mark.parametrize(
    ("before", "title", "words"),
    [
        (LastRun.NONE, "daemon started", "the daemon has started, "),
        (LastRun.AS_ASKED, "daemon started", "the run before ended as asked: its alerts are void"),
        (LastRun.CONFIG, "daemon started", "its configuration was wrong"),
        (LastRun.BROKEN, "daemon started, unexpectedly", "did not end as asked (crash, kill or power cut)"),
        (
            LastRun.UNSAFE,
            "daemon started, unexpectedly",
            "could not keep running safely: its alerts",
        ),
    ],
)
def test_a_start_says_how_the_run_before_ended(
    notifier: FakeNotifier, before: LastRun, title: str, words: str
) -> None:
    alerts = alerts_of(notifier)
    alerts.start("the daemon has started", before)
    head, text = notifier.taken.get(timeout=5)
    assert head == f"[PAPER vps1] {title}"
    assert words in text
    alerts.stop(ExitCode.OK)
    assert alerts.join()


@pytest.mark.parametrize(
    ("code", "words", "remedy"),
    [
        (ExitCode.OK, "the daemon has stopped as asked: 1 open position is watched by", "start it again, or"),
        (ExitCode.CONFIG, "its configuration is wrong", "start it, or close by hand"),
        (ExitCode.UNSAFE, "it could not keep running safely: 1 open", "systemd starts it again"),
    ],
)
def test_an_end_says_why(notifier: FakeNotifier, code: ExitCode, words: str, remedy: str) -> None:
    held = [{"ticker": "KX", "market_status": "active", "count": "10", "entry_price": "0.60"}]
    alerts = alerts_of(notifier, document=lambda: WELL | {"positions": held})
    alerts.start("started")
    notifier.taken.get(timeout=5)
    alerts.stop(code)
    assert alerts.join()
    text = notifier.taken.get(timeout=5)[1]
    assert words in text.splitlines()[0]
    assert "worth 6.00 dollars" in text
    assert remedy in text.splitlines()[-1]


def test_a_missing_library_says_how_to_install_it() -> None:
    def load() -> ModuleType:
        raise ModuleNotFoundError("no", name="apprise")

    with pytest.raises(ConfigError, match=r"pip install -e '\.\[alerts\]'"):
        open_notifiers(["json://127.0.0.1/"], load)


@loads_library
def test_urls_are_understood_or_named_without_their_secrets() -> None:
    pytest.importorskip("apprise")
    urls = ["tgram://123456789:abcdefghijkl_mno/12345", "nosuch://secret-0123456789", "mailto://"]
    with pytest.raises(ConfigError) as caught:
        open_notifiers(urls)
    assert [problem.partition(" is not")[0] for problem in caught.value.problems] == [
        "ALERT_URLS: number 2 (nosuch-2)",
        "ALERT_URLS: number 3 (mailto-3)",
    ]
    assert "secret" not in str(caught.value)
    names = [
        notifier.name
        for notifier in open_notifiers(
            [
                urls[0],
                "discord://123456789012345678/abcdefghijklmnopqrstuvwxyz0123456789",
                "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
                "mailto://user:pass@example.org",
                "ntfy://topic",
                "json://127.0.0.1:1/hook",
            ]
        )
    ]
    assert names == ["tgram-1", "discord-2", "slack-3", "mailto-4", "ntfy-5", "json-6"]


@loads_library
def test_a_send_that_fails_says_why_without_the_url() -> None:
    pytest.importorskip("apprise")
    (notifier,) = open_notifiers(["json://127.0.0.1:9/0123456789abcdef"])
    why = notifier.send("title", "text", is_urgent=True, is_good=False)
    assert why
    assert "0123456789abcdef" not in why


@loads_library
def test_what_the_library_says_of_a_failure_is_repeated_without_the_url_and_is_no_log_line() -> None:
    pytest.importorskip("apprise")
    open_notifiers(["json://127.0.0.1/"])  # from here on the library's log lines are kept back
    heard: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]

    class Wordy:
        def __init__(self, asset: object = None) -> None:
            self.url = ""

        @staticmethod
        def instantiate(url: str, **options: object) -> SimpleNamespace:
            return SimpleNamespace(request_rate_per_sec=0, url=url)

        def add(self, service: SimpleNamespace) -> None:
            self.url = service.url

        def notify(self, **message: object) -> bool:
            logging.getLogger("apprise").warning("cannot reach %s or 0123456789abcdef", self.url)
            return False

    kinds = SimpleNamespace(WARNING=1, FAILURE=2, SUCCESS=3)
    library: Any = SimpleNamespace(
        Apprise=Wordy,
        AppriseAsset=lambda **options: None,
        OverflowMode=SimpleNamespace(TRUNCATE=1),
        NotifyType=kinds,
        NotifyFormat=SimpleNamespace(TEXT=1),
    )
    (notifier,) = open_notifiers(["json://host/0123456789abcdef"], lambda: library)
    logging.getLogger().addHandler(listener)
    try:
        why = notifier.send("title", "text", is_urgent=False, is_good=True)
    finally:
        logging.getLogger().removeHandler(listener)
    assert why == "cannot reach [redacted] or [redacted]"
    assert heard == []


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("tgram://123456789:AAH-abcdefghi9/12345", ["AAH-abcdefghi9"]),
        ("discord://123456789012345678/token-0123456", ["123456789012345678", "token-0123456"]),
        ("mailto://me:hunter22hunter22@mail1.example.org", ["hunter22hunter22"]),
        ("json://192.168.100.200:8080/notifications", []),
        ("jsons://host.example.org/?key=0123456789abcdef", ["0123456789abcdef"]),
    ],
    ids=["bot token", "webhook", "password, not the host", "an address and a plain word", "query"],
)
def test_which_parts_of_a_url_are_secret(url: str, parts: list[str]) -> None:
    assert secret_parts(url) == parts


def test_errors_of_the_log_are_taken_and_a_flood_is_dropped_and_counted() -> None:
    collector = ErrorCollector()
    logger = logging.Logger("base.somewhere")
    logger.addHandler(collector)
    log_event(logger, logging.WARNING, "only_a_warning")
    log_event(logger, logging.ERROR, "exit_blocked", ticker="KX")
    logger.error("no event at all")
    log_event(logger, logging.CRITICAL, "thread_died", thread="pauses", action="restarted once")
    log_event(logger, logging.ERROR, "rejected", path="/j", why='it said "no"', remedy="ask again")
    log_event(logger, logging.ERROR, "check_failed", exc_info=ZeroDivisionError("by 0"), ticker="KX")
    log_event(logger, logging.ERROR, "strategy_traceback", exc_info=ZeroDivisionError("by 0"))
    quiet = logging.Logger("base.app.alerts")
    quiet.addHandler(collector)
    log_event(quiet, logging.ERROR, "alert_channel_failed")
    look = "look at the log around this time: journalctl -u backstop -p warning"
    assert collector.take() == [
        ("base.somewhere", "base.somewhere: no event at all", look),
        (
            "thread_died",
            "thread_died: thread pauses, action restarted once",
            "protection goes on; restart the daemon when no exit is under way",
        ),
        ("rejected", 'rejected: it said "no"', "ask again"),
        ("check_failed", "check_failed: ticker KX: ZeroDivisionError: by 0", look),
    ]
    for _ in range(ERRORS_WAITING_MAX + 7):
        log_event(logger, logging.ERROR, "feed_error")
    assert len(collector.take()) == ERRORS_WAITING_MAX
    assert collector.dropped == 7
    assert collector.take() == []


def test_the_key_s_end_is_read_and_an_answer_that_stays_out_is_asked_for_again() -> None:
    answers: list[ApiKeys | TransientError] = [TransientError("503"), ApiKeys((), 1_800_000_000)]

    def read() -> ApiKeys:
        answer = answers.pop(0)
        if isinstance(answer, TransientError):
            raise answer
        return answer

    watch = KeyWatch(read, FakeClock())
    assert watch.run_once() == RETRY_S
    assert watch.ends_at() is None
    assert watch.run_once() is None
    assert watch.ends_at() == 1_800_000_000.0
