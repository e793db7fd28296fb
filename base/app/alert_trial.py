"""The command `alerts`: which channels there are, and with `--test` whether each of them takes a message.

What is tried is what the daemon does: the same URLs, the same library, one dead-man call. Each is given
`SEND_S_MAX`, all channels at once; one that hangs is left behind with the process.
"""

from __future__ import annotations

import http.client
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from base.app.alert_channel import SEND_S_MAX, Notifier
from base.app.alert_rules import Sender, clock_text
from base.app.alerts import open_notifiers
from base.app.config import Config, TradingMode
from base.app.deadman import get, without_url
from base.app.findings import Finding, Verdict, fail, ok, warn
from base.app.logging_setup import redact
from base.clock import Clock, SystemClock

OPEN_REMEDY = "compare its URL with this service's page in the documentation of Apprise"
CALL_REMEDY = "compare DEADMAN_URL with what its service shows"
TEXT = "A test of this daemon's alerts, asked for at {at}: what it has to say arrives here.\nTo do: nothing"


def run_alerts(
    config: Config,
    is_test: bool,
    out: TextIO,
    *,
    clock: Clock | None = None,
    open_channels: Callable[[Sequence[str]], list[Notifier]] = open_notifiers,
    call: Callable[[str, Clock], None] = get,
) -> int:
    """Print one line a channel; return 0 when none failed, else 5. Raises ConfigError."""
    clock = clock or SystemClock()
    notifiers = open_channels(config.alert_urls)
    findings = _try_all(config, notifiers, clock, call) if is_test else _list(config, notifiers)
    failed = False
    for finding in findings:
        print(redact(str(finding)), file=out, flush=True)
        failed = failed or finding.verdict is Verdict.FAIL
    return 5 if failed else 0


def _list(config: Config, notifiers: Sequence[Notifier]) -> Iterator[Finding]:
    for notifier in notifiers:
        yield ok(f"{notifier.name}: understood; run_bot.py alerts --test sends a message to it")
    if config.deadman_url:
        yield ok(f"DEADMAN_URL: called every {config.deadman_interval_s:.0f} s while all is well")
    yield from _missing(config, notifiers)


def _missing(config: Config, notifiers: Sequence[Notifier]) -> Iterator[Finding]:
    if not notifiers:
        yield warn("ALERT_URLS is empty: nobody is told anything", "name a channel, .env.example shows how")
    if not config.deadman_url:
        yield warn("DEADMAN_URL is empty: nobody notices that this machine is gone", "name a URL to call")


def _try_all(
    config: Config, notifiers: Sequence[Notifier], clock: Clock, call: Callable[[str, Clock], None]
) -> Iterator[Finding]:
    is_paper = config.effective_trading_mode is TradingMode.PAPER
    title = f"[{Sender(config.env.value, is_paper, socket.gethostname())}] test message"
    text = TEXT.format(at=clock_text(clock.now()))
    waiting = [(notifier.name, _begin(notifier, title, text)) for notifier in notifiers]
    give_up_at = clock.monotonic() + SEND_S_MAX
    for name, answer in waiting:
        try:
            why = answer.get(timeout=max(0.01, give_up_at - clock.monotonic()))
        except queue.Empty:
            why = f"no answer for {SEND_S_MAX:.0f} s"
        yield fail(f"{name}: {why}", OPEN_REMEDY) if why else ok(f"{name}: a test message was taken")
    if config.deadman_url:
        yield _try_call(config.deadman_url, clock, call)
    yield from _missing(config, notifiers)


def _begin(notifier: Notifier, title: str, text: str) -> queue.SimpleQueue[str]:
    """Send on a thread of its own; the queue gets why it failed, "" when it did not."""
    answer: queue.SimpleQueue[str] = queue.SimpleQueue()

    def send() -> None:
        try:
            why = notifier.send(title, text, is_urgent=False, is_good=True)
        except Exception as exc:  # safety net: whatever the library raises is this channel's failure
            why = f"{type(exc).__name__}: {exc}"
        answer.put(redact(why))

    threading.Thread(target=send, name=f"test-{notifier.name}", daemon=True).start()
    return answer


def _try_call(url: str, clock: Clock, call: Callable[[str, Clock], None]) -> Finding:
    try:
        call(url, clock)
    except (OSError, http.client.HTTPException) as exc:
        return fail(f"DEADMAN_URL: {without_url(exc, url)}", CALL_REMEDY)
    return ok("DEADMAN_URL: called once, and answered")
