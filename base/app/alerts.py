"""Alerts: the thread that decides what is worth one, and the channels that carry them.

The thread `alerts` looks at the status document each second and sends nothing itself: each channel has a
worker thread of its own, which may hang for as long as it likes. It is then counted, and given nothing more
until it comes back. Nothing of trading waits for any of this, and no lock is shared with it: exits are read
as everybody reads them, and errors of the log come through a bounded queue that drops when it is full.

Delivery is at least once: what was cut off in mid-answer is sent again.

A dead channel is no reason for `/healthz` to fail: it says whether positions are protected, a monitor that
restarts what is unhealthy could mend nothing, and the dead man's switch would raise the alarm for a service
that has nothing to do with the positions. The log and `/api/status` say it.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from base.app.alert_channel import Channel, Notifier
from base.app.alert_facts import Document, Fact, Kind, open_positions, worth_of
from base.app.alert_rules import AlertRules, Sender
from base.app.alert_words import error_words
from base.app.last_run import LastRun
from base.app.logging_setup import HIDDEN, register_secret
from base.app.services import PeriodicService
from base.app.ui_metrics import ThreadHealth
from base.clock import Clock
from base.errors import ConfigError, ExitCode
from base.execution.exits import EpisodeView
from base.log import FIELDS_ATTRIBUTE, escape, log_event, text_of

logger = logging.getLogger(__name__)

LOOK_S = 1.0
LATE_S = 30.0
FLUSH_S = 2.0
"""At the stop, how long what has not been sent may still go out."""
FLUSH_STEP_S = 0.02
ERRORS_WAITING_MAX = 256
TEXT_CHARACTERS_MAX = 400
SECRET_PART_CHARACTERS_MIN = 12

TOLD_OTHERWISE = frozenset(
    {
        "exit_blocked", "exit_unknown", "exit_unresolved", "trading_state", "unprotected", "journal_down",
        "api_drift", "rules_refused", "foreign_instance",
        "strategy_traceback", "strategy_traceback_unprintable", "thread_stack",
    }
)  # fmt: skip
"""Errors of the log that the status document shows for as long as they last, and those that only explain
the line before them."""


def open_notifiers(urls: Sequence[str], load: Callable[[], ModuleType] | None = None) -> list[Notifier]:
    """Understand every URL; nothing is sent. Raises ConfigError, without repeating a URL."""
    if not urls:
        return []
    try:
        apprise = (load or _load_apprise)()
    except ModuleNotFoundError as exc:
        remedy = "run `.venv/bin/pip install -e '.[alerts]'`, or remove the line"
        raise ConfigError([f"ALERT_URLS: the package {exc.name} is missing; {remedy}"]) from exc
    asset = apprise.AppriseAsset(
        app_id="Backstop",
        app_desc="stop-loss daemon",
        app_url="",
        # Both make it send on the thread that asks: its own pool would be waited for at the exit.
        async_mode=False,
        service_timeout=0,
    )
    notifiers: list[Notifier] = []
    problems = []
    for number, url in enumerate(urls, 1):
        scheme = url.partition("://")[0]
        name = f"{scheme}-{number}" if re.fullmatch(r"[A-Za-z0-9]{1,20}", scheme) else f"channel-{number}"
        for part in secret_parts(url):
            register_secret(part)
        service = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
        if service is None:
            remedy = "compare it with this service's page in the documentation of Apprise"
            problems.append(f"ALERT_URLS: number {number} ({escape(name)}) is not understood; {remedy}")
        else:
            notifiers.append(_AppriseNotifier(apprise, asset, service, name, url))
    if problems:
        raise ConfigError(problems)
    return notifiers


def secret_parts(url: str) -> list[str]:
    """What in an alert URL looks like a token by itself: services put them into paths, users and hosts, and
    a library's message may repeat a part without the rest."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return []
    found = [*re.split(r"[/:@]", parts.netloc), *parts.path.split("/"), parts.fragment]
    found += [value for _, value in parse_qsl(parts.query)]
    found += [unquote(part) for part in found]
    return [
        part
        for part in dict.fromkeys(found)
        if len(part) >= SECRET_PART_CHARACTERS_MIN and re.search(r"\d", part) and not _is_host(part)
    ]


def _is_host(text: str) -> bool:
    """Whether this is a name or address that every other log line may show too."""
    return re.fullmatch(r"\d+(\.\d+){3}|([A-Za-z0-9-]+\.)+[A-Za-z]{2,}", text) is not None


class ErrorCollector(logging.Handler):
    """Takes errors of the log to the thread `alerts`: it never waits, and counts what it could not take."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._waiting: queue.Queue[tuple[str, str, str]] = queue.Queue(ERRORS_WAITING_MAX)
        self.dropped = 0  # a count that two threads may write at once: one too few is no harm

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("base.app.alert"):
            return  # an alert about an alert that failed would feed itself
        fields = getattr(record, FIELDS_ATTRIBUTE, None)
        event = str(fields["event"]) if fields else record.name
        if event in TOLD_OTHERWISE:
            return
        what, remedy = error_words(fields or {"event": record.name, "why": record.getMessage()})
        if record.exc_info and (exc := record.exc_info[1]) is not None:
            what += f": {type(exc).__name__}: {text_of(exc)}"
        try:
            self._waiting.put_nowait((event, what[:TEXT_CHARACTERS_MAX], remedy))
        except queue.Full:
            self.dropped += 1

    def take(self) -> list[tuple[str, str, str]]:
        """What has come since the last time: event, what happened, what to do."""
        taken = []
        for _ in range(ERRORS_WAITING_MAX):
            try:
                taken.append(self._waiting.get_nowait())
            except queue.Empty:
                break
        return taken


class Alerts:
    """All channels and the thread that feeds them; without channels it does nothing and has no thread.

    `latest` is the document of the moment, for what is said at the end: the last exit may just have filled.
    """

    def __init__(
        self,
        notifiers: Sequence[Notifier],
        document: Callable[[], Document],
        latest: Callable[[], Document],
        exits: Callable[[], list[EpisodeView]],
        sender: Sender,
        clock: Clock,
    ) -> None:
        self._document = document
        self._latest = latest
        self._exits = exits
        self._clock = clock
        # Owned by the thread `alerts`, and after it by the one that flushes.
        self._rules = AlertRules(clock.now())
        self.service = PeriodicService("alerts", LOOK_S, self.run_once, clock)
        self._channels = [Channel(n, sender, clock, self._wake) for n in notifiers]
        self.errors = ErrorCollector()
        self._errors_lost = 0
        self._started_at: float | None = None
        self._wakened = threading.Event()
        self._flusher: threading.Thread | None = None
        self._stopped_at = 0.0
        self._exit_code: int = ExitCode.OK

    @property
    def is_on(self) -> bool:
        return bool(self._channels)

    def start(self, what: str, before: LastRun = LastRun.NONE) -> None:
        """Say that the daemon has started, and how the run before ended, and begin to look."""
        if not self.is_on:
            return
        self._started_at = self._clock.monotonic()
        self._rules.note(_greeting(what, before), self._clock.now())
        logging.getLogger().addHandler(self.errors)
        for channel in self._channels:
            channel.start()
        self.service.start()
        log_event(logger, logging.INFO, "alerts_on", channels=[channel.name for channel in self._channels])

    def run_once(self) -> None:
        """One look; what is due goes to the channels even when the looking failed."""
        now, wall = self._clock.monotonic(), self._clock.now()
        try:
            for event, what, remedy in self.errors.take():
                self._rules.note_error(event, what, remedy, now, wall)
            lost, self._errors_lost = self.errors.dropped - self._errors_lost, self.errors.dropped
            if lost:
                what = f"errors_dropped: {lost} errors of the log came too fast to be told"
                remedy = "look at the log: journalctl -u backstop -p warning"
                self._rules.note_error("errors_dropped", what, remedy, now, wall)
            self._rules.look(self._document(), self._exits(), now, wall)
        finally:
            self._hand_out(now, wall)

    def stop(self, code: int) -> None:
        """Begin to end with this exit code: what waits and the last message go out meanwhile; `join` says
        when."""
        if self._started_at is None or self._flusher is not None:
            return
        logging.getLogger().removeHandler(self.errors)
        self.service.stop()
        self._stopped_at = self._clock.monotonic()
        self._exit_code = code
        self._flusher = threading.Thread(target=self._flush, name="alerts-flush", daemon=True)
        self._flusher.start()

    def join(self) -> bool:
        """Wait for the end of `stop`, till `FLUSH_S` after its beginning; return whether all was sent."""
        if self._flusher is None:
            return True
        self._flusher.join(max(0.0, self._stopped_at + FLUSH_S - self._clock.monotonic()))
        return not self._flusher.is_alive() and all(channel.is_empty for channel in self._channels)

    def health(self) -> ThreadHealth | None:
        """Of the thread, not of the channels; None while there is none."""
        if self._started_at is None or self._flusher is not None:
            return None
        last = self.service.last_pass_at
        since = self._started_at if last is None else last
        return ThreadHealth(self.service.is_alive, self._clock.monotonic() - since, LATE_S)

    def status(self) -> dict[str, Any]:
        """For `/api/status`: no secret in it."""
        return {
            "on": self.is_on,
            "errors_dropped": self.errors.dropped,
            "channels": [channel.status() for channel in self._channels],
        }

    def _hand_out(self, now: float, wall: float, *, at_once: bool = False) -> None:
        for message in self._rules.take(now, wall, at_once=at_once):
            for channel in self._channels:
                channel.outbox.put(message)
        for channel in self._channels:
            channel.step(now, at_once=at_once)

    def _wake(self) -> None:
        """A worker has come back: the next message need not wait for the next second."""
        self.service.wake()
        self._wakened.set()

    def _flush(self) -> None:
        began = self._clock.monotonic()
        self.service.join(FLUSH_S / 2)
        if self.service.is_alive:
            return  # the rules are still its own; nothing can be said any more
        try:
            self.run_once()
            self._rules.note(_farewell(self._latest(), self._exit_code), self._clock.now())
        except Exception:  # safety net: the end is said even when nothing else can be
            log_event(logger, logging.ERROR, "alerts_last_look_failed", exc_info=True)
            self._rules.note(_farewell({}, self._exit_code), self._clock.now())
        failed_before = [channel.counts.failed for channel in self._channels]
        self._hand_out(self._clock.monotonic(), self._clock.now(), at_once=True)
        while self._clock.monotonic() - began < FLUSH_S:
            if all(channel.is_empty for channel in self._channels):
                return
            self._clock.wait(self._wakened, FLUSH_STEP_S)
            self._wakened.clear()
            now = self._clock.monotonic()
            for channel, failed in zip(self._channels, failed_before, strict=True):
                channel.step(now, at_once=channel.counts.failed == failed)  # one try each
        log_event(
            logger,
            logging.WARNING,
            "alerts_unsent",
            channels=[channel.name for channel in self._channels if not channel.is_empty],
        )


_ENDED: dict[int, tuple[str, str]] = {
    ExitCode.OK: ("the daemon has stopped as asked", "start it when you want it"),
    ExitCode.CONFIG: (
        "the daemon has stopped: its configuration is wrong, and it does not start again by itself",
        "mend what journalctl -u backstop names and start it",
    ),
    ExitCode.UNSAFE: (
        "the daemon has ended itself: it could not keep running safely",
        "systemd starts it again; start it yourself if no 'daemon started' follows within a minute",
    ),
}


def _farewell(document: Mapping[str, Any], code: int) -> Fact:
    what, remedy = _ENDED.get(code, _ENDED[ExitCode.UNSAFE])
    count = open_positions(document)
    if not document:
        held = "what is held is not known"
    elif not count:
        return Fact(Kind.STOPPED, "", f"{what}, nothing is held", remedy)
    else:
        held = f"{count} open position{'s are' if count > 1 else ' is'} watched by nobody from now on"
        held = f"{held}, worth {worth_of(document):.2f} dollars"
    if code == ExitCode.OK:
        remedy = "start it again"
    return Fact(Kind.STOPPED, "", f"{what}: {held}", f"{remedy}, or close by hand what is held")


def _greeting(what: str, before: LastRun) -> Fact:
    if before is LastRun.NONE:
        return Fact(Kind.STARTED, "", what, "")
    what = f"{what}; {before}: its alerts are void, what holds now follows"
    if not before.is_unexpected:
        return Fact(Kind.STARTED, "", what, "")
    return Fact(
        Kind.RESTARTED, "", what, "look at what is held (run_bot.py status), then why: journalctl -u backstop"
    )


class _AppriseNotifier:
    """One service of Apprise. It may hang: its time-outs bound each receive, not the call."""

    def __init__(self, apprise: ModuleType, asset: Any, service: Any, name: str, url: str) -> None:
        self.name = name
        self.gap_s = float(service.request_rate_per_sec)
        service.request_rate_per_sec = 0  # it would sleep; the outbox keeps the gap instead
        service.overflow_mode = apprise.OverflowMode.TRUNCATE
        self._url = url
        self._kinds = apprise.NotifyType
        self._text = apprise.NotifyFormat.TEXT
        self._apprise = apprise.Apprise(asset=asset)
        self._apprise.add(service)

    def send(self, title: str, text: str, *, is_urgent: bool, is_good: bool) -> str:
        kind = self._kinds.WARNING
        if is_urgent:
            kind = self._kinds.FAILURE
        elif is_good:
            kind = self._kinds.SUCCESS
        _LIBRARY_LOG.words.last = ""
        if self._apprise.notify(body=text, title=title, notify_type=kind, body_format=self._text):
            return ""
        why = getattr(_LIBRARY_LOG.words, "last", "") or "the service did not take it"
        for secret in (self._url, *secret_parts(self._url)):
            why = why.replace(secret, HIDDEN)
        return why[:TEXT_CHARACTERS_MAX]


class _LibraryLog(logging.Filter):
    """Keeps the library's own log lines out of ours, where they would repeat URLs, and remembers the last
    warning of each thread: the only place where the library says why a message failed."""

    def __init__(self) -> None:
        super().__init__()
        self.words = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            self.words.last = record.getMessage()
        return False


_LIBRARY_LOG = _LibraryLog()


def _load_apprise() -> ModuleType:
    """The library, loaded only where it is wanted: it brings two hundred services along."""
    import apprise

    logging.getLogger("apprise").addFilter(_LIBRARY_LOG)
    return apprise
