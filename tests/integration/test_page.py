"""The page in a real browser, in front of a real daemon that trades at the sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from base.sandbox.faults import AuthFault
from base.sandbox.scenario import parse_scenario
from base.sandbox.server import SandboxServer
from tests.integration.browser import CHROMIUM, Browser
from tests.integration.rig import Daemon, held_market

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

YES = "KXTEST-YES-A"
NO = "KXTEST-NO-B"
HELD = held_market(YES, "0.60", "0.62", side="yes", count="10", entry="0.60") + held_market(
    NO, "0.38", "0.40", side="no", count="12.50", entry="0.60"
)
GREEN = "document.querySelector('#coverage.good') !== null"
RED = "document.querySelector('#coverage.bad') !== null"
NOT_KNOWN = "document.querySelector('#coverage.unknown') !== null"


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    with SandboxServer(parse_scenario(HELD, "test.toml")) as running:
        yield running


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as running:
        yield running
        assert running.errors == [], "the page did something wrong, or broke its content security policy"


def row_of(table: str, ticker: str) -> str:
    """The row of a market, as a JavaScript expression."""
    return (
        f"[...document.querySelectorAll('#{table} tbody tr')]"
        f".find((row) => row.querySelector('button')?.textContent === '{ticker}')"
    )


def headline_is(text: str) -> str:
    return f"document.querySelector('#coverage-headline').textContent === '{text}'"


def opened(daemon: Daemon, browser: Browser) -> None:
    """Open the page before anything is known of the account, and see it go green."""
    browser.open(daemon.page_url)
    browser.until(GREEN, "green")
    assert browser.text("#coverage-headline") == "All 2 open positions are protected"


def test_it_goes_green_and_then_red_on_a_position_that_is_not_protected(
    server: SandboxServer, browser: Browser, tmp_path: Path
) -> None:
    with Daemon(tmp_path, server) as daemon:
        opened(daemon, browser)
        assert "SANDBOX" in browser.text("#mode")
        assert "protected" in browser.text("#positions tbody tr")
        assert "Budget, write" in browser.text("#rest")
        server.set_faults(pause_market=YES)
        browser.until(RED, "red", 10)
        assert browser.text("#coverage-headline") == "1 of 2 open positions NOT protected"
        assert browser.text("#coverage-list") == f"{YES}: trading in its market is paused"
        assert browser.ask(row_of("positions", YES) + ".className") == "alarm"
        assert browser.ask("document.title").startswith("1/2 protected")
        server.set_faults(resume_market=YES)
        browser.until(GREEN, "green again", 10)


def test_it_shows_a_stop_being_hit_from_the_fall_to_the_fill(
    server: SandboxServer, browser: Browser, tmp_path: Path
) -> None:
    with Daemon(tmp_path, server) as daemon:
        opened(daemon, browser)
        row = row_of("positions", YES)
        browser.until(
            f"{row}.querySelector('.spark path.value').getAttribute('d')?.length > 2", "a sparkline"
        )
        assert browser.ask(f"{row}.querySelector('.spark path.stop').getAttribute('d').length") > 2
        assert "stop 0.45" in browser.ask(f"{row}.querySelector('small').textContent")
        assert browser.ask(f"{row}.querySelector('td.bar span').textContent") == "15 ¢ · 25 %"
        wide = browser.ask(f"Number({row}.querySelector('rect.fill').getAttribute('width'))")
        server.set_market(YES, bid="0.47", ask="0.49")
        browser.until(f"{row}.querySelector('td.bar span').textContent === '2 ¢ · 4 %'", "near the stop")
        narrow = browser.ask(f"Number({row}.querySelector('rect.fill').getAttribute('width'))")
        assert narrow < wide / 3
        server.set_market(YES, bid="0.40", ask="0.42", bid_size="100", ask_size="100")
        browser.until(f"{row_of('exits', YES)} !== undefined", "the exit is listed")
        steps = f"[...{row_of('exits', YES)}.querySelectorAll('li')].map((step) => step.textContent)"
        browser.until(f"{steps}.at(-1).startsWith('closed +')", "the exit is closed")
        triggered, sent, filled, _ = browser.ask(steps)
        assert triggered.startswith("triggered ")
        assert triggered.endswith("at $0.45")
        assert sent.startswith("sent +")
        assert filled.startswith("filled 10.00 at $0.40 +")
        browser.until(f"{row} === undefined", "the position is gone")
        browser.until(headline_is("The one open position is protected"), "the other is still protected")
        browser.until("document.querySelector('#curve path.value').getAttribute('d') !== null", "the curve")
        assert browser.ask("document.querySelector('#pnl dd').textContent").startswith("−$2.")


def test_it_survives_a_restart_of_the_daemon_and_says_meanwhile_how_old_its_data_are(
    server: SandboxServer, browser: Browser, tmp_path: Path
) -> None:
    with Daemon(tmp_path, server) as daemon:
        opened(daemon, browser)
        daemon.kill()
        browser.until(NOT_KNOWN, "not green without a daemon", 10)
        assert browser.text("#coverage-headline") == "Connection to the daemon lost"
        assert "s old" in browser.text("#coverage-detail")
        assert "Last told: All 2 open positions are protected" in browser.text("#coverage-detail")
        assert browser.ask("document.querySelector('#data').className") == "stale"
        assert browser.ask(f"{row_of('positions', YES)} !== undefined"), "the last data are still there"
        daemon.restart()
        browser.until(GREEN, "green again without a reload", 30)
        assert browser.ask("document.querySelector('#data').className") == ""


def test_the_kill_switch_turns_it_red(server: SandboxServer, browser: Browser, tmp_path: Path) -> None:
    with Daemon(tmp_path, server) as daemon:
        opened(daemon, browser)
        (daemon.state_dir / "halted").touch()
        browser.until(RED, "red", 10)
        assert browser.text("#trading-state").startswith("HALTED")
        assert browser.ask("document.querySelector('#trading-state').className") == "badge bad"


def test_before_positions_were_read_it_knows_of_no_coverage_and_names_what_was_held(
    server: SandboxServer, browser: Browser, tmp_path: Path
) -> None:
    with Daemon(tmp_path, server, RECONCILE_INTERVAL_S="1") as daemon:
        opened(daemon, browser)
        server.set_market(YES, bid="0.40", ask="0.42", bid_size="100", ask_size="100")
        daemon.wait_for("exit_closed", ticker=YES, outcome="filled")
        browser.until(headline_is("The one open position is protected"), "one is left")
        server.set_faults(auth=AuthFault.DEAD)
        daemon.restart()
        unread = "Coverage not known: positions have not been read from the exchange yet"
        browser.until(headline_is(unread), "it is said that nothing was read", 30)
        assert browser.ask(NOT_KNOWN)
        assert browser.text("#coverage-list") == f"{NO}: what is held of it is not known"
        assert browser.ask("document.title").startswith("? ")
        assert browser.text("#positions") == "Not known."
        coverage = daemon.status()["coverage"]
        assert (coverage["known"], coverage["unknown"]) == (False, [NO])
        assert daemon.health()[0] == 503
        browser.ask(f"location.hash = '{YES}'")
        sold = "document.querySelector('#explain-note').textContent.startsWith('Left by stop loss at ')"
        browser.until(sold, "what the run before sold is explained")
        assert "10.00 sold at $0.40 on average" in browser.text("#explain-note")
        server.clear_faults()
        browser.until(GREEN, "green once it was read", 60)
        assert daemon.status()["coverage"]["known"] is True


def test_a_stop_that_was_hit_and_cannot_be_sent_is_red(
    server: SandboxServer, browser: Browser, tmp_path: Path
) -> None:
    with Daemon(tmp_path, server, RECONCILE_INTERVAL_S="1") as daemon:
        opened(daemon, browser)
        server.set_faults(auth=AuthFault.DEAD)
        server.set_market(YES, bid="0.40", ask="0.42", bid_size="100", ask_size="100")
        browser.until(headline_is("2 of 2 open positions NOT protected"), "no key sells anything", 30)
        assert browser.text("#coverage-list").splitlines() == [
            f"{NO}: the key is refused",
            f"{YES}: the key is refused",
        ]
        row = browser.ask(f"{row_of('positions', YES)}.textContent")
        assert "AT THE STOP" in row
        assert "NOT PROTECTED: the key is refused" in row
        browser.until(
            f"{row_of('exits', YES)}?.textContent.includes('BLOCKED: the key is refused')", "the exit says so"
        )


def test_a_page_of_paper_says_so_where_it_says_protected(
    server: SandboxServer, browser: Browser, tmp_path: Path
) -> None:
    with Daemon(tmp_path, server, KALSHI_ENV="demo", TRADING_MODE="paper") as daemon:
        browser.open(daemon.page_url)
        browser.until(GREEN, "green")
        assert browser.text("#coverage-headline") == "All 2 open positions are protected on PAPER"
        assert browser.ask("document.title") == "2/2 protected · PAPER · Backstop"


@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_no_word_of_a_tile_is_broken(
    server: SandboxServer, browser: Browser, tmp_path: Path, width: int
) -> None:
    with Daemon(tmp_path, server) as daemon:
        browser.resize(width, is_phone=width < 700)
        opened(daemon, browser)
        # A word that stands on two lines has two boxes.
        broken = """[...document.querySelectorAll('dl dt, dl dd')].flatMap((cell) => {
          const text = cell.firstChild;
          return [...cell.textContent.matchAll(/\\S+/g)].filter((word) => {
            const range = document.createRange();
            range.setStart(text, word.index);
            range.setEnd(text, word.index + word[0].length);
            return range.getClientRects().length > 1;
          }).map((word) => cell.textContent + ': ' + word[0]);
        })"""
        assert "OFF: nobody is told" in browser.ask("document.querySelector('#alerts').textContent")
        assert browser.ask(broken) == []


@pytest.mark.parametrize("width", [390, 760, 1300], ids=["phone", "tablet", "desktop"])
def test_nothing_lies_beyond_the_edge_of_the_screen(
    server: SandboxServer, browser: Browser, tmp_path: Path, width: int
) -> None:
    with Daemon(tmp_path, server) as daemon:
        browser.resize(width, is_phone=width < 700)
        opened(daemon, browser)
        assert browser.ask("document.documentElement.scrollWidth") == width
        right = "(element) => element.getBoundingClientRect().right"
        beyond = f"[...document.querySelectorAll('main *')].filter((e) => ({right})(e) > {width} + 1)"
        assert browser.ask(f"{beyond}.map((e) => e.tagName + ' ' + e.textContent)") == []
