"""The page's judgments (its JavaScript, run by node) and the whole page in a browser, where these exist."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import base.ui
from base.ui.server import UiServer
from tests.ui.documents import EVALUATIONS, broken_documents, covered_status, example_status

APP_JS = Path(base.ui.__file__).parent / "app.js"
SCRIPTS = [APP_JS.with_name(name) for name in ("verdicts.js", "tables.js", "charts.js", "app.js")]
PAGE = APP_JS.with_name("page.html")
NODE = shutil.which("node")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")

needs_browser = pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")

# Loads the page's script where there is no page, then answers each line of calls with a line of results.
RUNNER = """
const vm = require("vm"), fs = require("fs");
const context = vm.createContext({});
for (const file of process.argv.slice(1)) vm.runInContext(fs.readFileSync(file, "utf8"), context);
vm.runInContext(`function everythingShown(status) {
  const live = {receivedMs: 0, changedMs: 0, error: ""};
  const cells = (columns, rows) => rows.map((row) => columns.map((column) => column.cell(row).text));
  return [coverageVerdict(status, live), modeBadge(status), stateBadge(status), feedBadge(status),
    pnlFacts(status), feedFacts(status), restFacts(status), threadFacts(status),
    cells(POSITION_COLUMNS, sortedPositions(status)), cells(EXIT_COLUMNS, sortedExits(status)),
    cells(ORDER_COLUMNS, rowsOf(status.orders)), strategyFacts(status), alertFacts(status),
    recordFacts(status), rowsOf(status.positions).map((row) => stopDistance(row).text + ruleText(row)),
    rowsOf(status.exits).map(exitSteps),
    cells(EXPLAIN_COLUMNS, rowsOf(status.exits))];
}`, context);
require("readline").createInterface({input: process.stdin}).on("line", (line) => {
  console.log(JSON.stringify(JSON.parse(line).map(([name, ...args]) => context[name](...args))));
});
"""

OpenPage = Callable[..., str]
RunJs = Callable[..., list[Any]]

LIVE = {"receivedMs": 900, "changedMs": 900, "error": ""}


@pytest.fixture(scope="module")
def run_js() -> Iterator[RunJs]:
    """Call functions of the page's script, each given as [name, argument, …]; return their results."""
    if NODE is None:
        pytest.skip("node is not installed")
    with subprocess.Popen(
        [NODE, "-e", RUNNER, *map(str, SCRIPTS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as node:
        assert node.stdin is not None
        assert node.stdout is not None

        def call(*calls: list[Any]) -> list[Any]:
            print(json.dumps(calls), file=node.stdin, flush=True)
            results: list[Any] = json.loads(node.stdout.readline())
            return results

        yield call
        node.stdin.close()
        assert node.wait(timeout=10) == 0


def all_scripts() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS)


def covered(**changes: Any) -> dict[str, Any]:
    return covered_status() | changes


def full_status() -> dict[str, Any]:
    """With all that the daemon tells beside the least that it promises."""
    status = covered_status()
    status["positions"][0]["rule"] = "stop 0.39 (25 % under entry 0.52)"
    status["exits"][0] |= {
        "why": "filled", "timeline": {"triggered": 100.0, "sent": 100.04, "filled": 100.09, "closed": 100.09}
    }  # fmt: skip
    money = {"realized_today": "-1.50", "unrealized": "0.20"}
    status["pnl"]["by_strategy"] = {"": {"realized_today": "0.00", "unrealized": None}, "guard": money}
    status["rest"]["budget"] = {"read": {"tokens": 180.0, "capacity": 200.0}}
    order = {
        "ticker": "KX-A", "outcome_side": "yes", "count": "5.00", "filled": "0.00", "price": "0.4000",
        "state": "resting", "strategy": "guard", "why": "",
        "placed_at": "2026-11-22T15:00:00Z", "expires_at": None,
    }  # fmt: skip
    return status | {
        "orders": [order],
        "strategy": {"name": "guard", "passes": 3, "failing": False, "failed_in_a_row": 0, "last_error": ""},
        "alerts": {"on": True, "channels": [{"name": "ntfy", "sent": 2, "hanging": False, "last_error": ""}]},
        "dead_man": {"on": True, "last_call_age_s": 3.0, "last_error": ""},
        "journal": {"ok": True, "why": ""},
        "next_pause": {
            "starts_at": "2026-11-26T08:00:00Z",
            "ends_at": "2026-11-26T10:00:00Z",
            "why": "schedule",
        },
        "key": {"attestation_ends_at": "2026-12-22T15:00:00Z"},
    }


FAILING = {"name": "guard", "failing": True, "failed_in_a_row": 3}
HANGING = {"name": "guard", "failing": False, "running_s": 61}
MUTE = {"name": "mail", "last_error": "refused"}
SPENT = {"write": {"tokens": 5.2, "capacity": 100}}


def coverage(open_count: Any, protected: Any, unprotected: Any) -> dict[str, Any]:
    return covered(coverage={"open": open_count, "protected": protected, "unprotected": unprotected})


@pytest.mark.parametrize(
    ("status", "level", "headline"),
    [
        pytest.param(covered_status(), "good", "All 3 open positions are protected", id="all protected"),
        pytest.param(example_status(), "bad", "1 of 3 open positions NOT protected", id="one is not"),
        pytest.param(
            coverage(2, 2, [{}]), "bad", "1 of 2 open positions NOT protected", id="the list outweighs"
        ),
        pytest.param(
            coverage(3, 3, [{"ticker": "KX-A", "reason": "by_choice"}]),
            "good",
            "All 3 open positions are protected",
            id="left unprotected on purpose",
        ),
        pytest.param(
            coverage(3, 2, [{"ticker": "KX-A", "reason": "by_choice"}]),
            "bad",
            "1 of 3 open positions NOT protected",
            id="the choice explains no other position",
        ),
        pytest.param(coverage(0, 0, []), "idle", "No open positions", id="nothing to protect is not green"),
        pytest.param(
            covered(health={"ok": False}), "warn", "All 3 open positions are protected", id="sick daemon"
        ),
        pytest.param(
            covered(health=None), "warn", "All 3 open positions are protected", id="health not told"
        ),
        pytest.param(coverage(2, 3, []), "unknown", "Coverage not known", id="absurd numbers"),
        pytest.param(coverage("3", "3", []), "unknown", "Coverage not known", id="text for numbers"),
        pytest.param(coverage(3, 3, None), "unknown", "Coverage not known", id="list missing"),
        pytest.param({}, "unknown", "Coverage not known", id="empty document"),
        pytest.param(None, "unknown", "Coverage not known", id="no document"),
    ],
)
def test_green_means_every_open_position_is_protected(
    run_js: RunJs, status: Any, level: str, headline: str
) -> None:
    result = run_js(["coverageVerdict", status, LIVE])[0]
    assert (result["level"], result["headline"]) == (level, headline)


@pytest.mark.parametrize(
    ("link", "level", "headline"),
    [
        pytest.param(LIVE, "good", "All 3 open positions are protected", id="fresh"),
        pytest.param(
            {"receivedMs": 2500, "changedMs": 2500, "error": "it cannot be reached"},
            "good",
            "All 3 open positions are protected",
            id="one missed refresh",
        ),
        pytest.param(
            {"receivedMs": 3600, "changedMs": 3600, "error": "it cannot be reached"},
            "unknown",
            "Connection to the daemon lost",
            id="no answer for longer",
        ),
        pytest.param(
            {"receivedMs": 3600, "changedMs": 3600, "error": ""},
            "unknown",
            "Connection to the daemon lost",
            id="hidden page wakes up",
        ),
        pytest.param(
            {"receivedMs": 500, "changedMs": 8100, "error": ""},
            "unknown",
            "The daemon's data stand still",
            id="answers that never change",
        ),
        pytest.param(
            {"receivedMs": None, "changedMs": 0, "error": ""},
            "unknown",
            "Coverage not known yet",
            id="starting",
        ),
        pytest.param(
            {"receivedMs": None, "changedMs": 0, "error": "it cannot be reached"},
            "unknown",
            "No connection to the daemon",
            id="never an answer",
        ),
    ],
)
def test_old_data_are_never_green(run_js: RunJs, link: dict[str, Any], level: str, headline: str) -> None:
    result = run_js(["coverageVerdict", covered_status(), link])[0]
    assert (result["level"], result["headline"]) == (level, headline)


def test_a_daemon_with_a_long_ui_interval_is_given_time_to_move(run_js: RunJs) -> None:
    links = [{"receivedMs": 500, "changedMs": ms, "error": ""} for ms in (8100, 29_000, 31_000)]
    status = covered(ui_interval_s=10)
    verdicts = run_js(*(["coverageVerdict", status, link] for link in links))
    assert [each["level"] for each in verdicts] == ["good", "good", "unknown"]


def test_an_exit_that_is_blocked_says_why(run_js: RunJs) -> None:
    rows = [
        {"state": "blocked", "why": "market_paused"},
        {"state": "closed", "why": "flat"},
        {"state": "sending"},
    ]
    cells = run_js(*(["exitStateCell", row] for row in rows))
    assert [cell["text"] for cell in cells] == ["blocked: market paused", "closed", "sending"]


def test_a_lost_connection_says_how_old_the_data_are_and_what_they_said(run_js: RunJs) -> None:
    lost = {"receivedMs": 61_000, "changedMs": 61_000, "error": "it cannot be reached"}
    detail = run_js(["coverageVerdict", covered_status(), lost])[0]["detail"]
    assert "61 s old" in detail
    assert "it cannot be reached" in detail
    assert "All 3 open positions are protected" in detail


def test_any_field_missing_or_odd_is_shown_as_unknown_and_never_as_good(run_js: RunJs) -> None:
    for base_status in (example_status(), covered_status(), full_status()):
        names, documents = zip(*broken_documents(base_status), strict=True)
        results = run_js(*(["everythingShown", document] for document in documents))
        for name, result in zip(names, results, strict=True):
            text = json.dumps(result)
            assert not re.search(r"undefined|NaN|\[object|null\b", text), name
            if name.startswith(("coverage", "health")) and not name.startswith("health.reasons"):
                assert result[0]["level"] != "good", name


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ({"env": "sandbox", "trading_mode": "live"}, "SANDBOX"),
        ({"env": "prod", "trading_mode": "paper"}, "PAPER · PROD"),
        ({"env": "sandbox", "trading_mode": "paper"}, "PAPER · SANDBOX"),
        ({"env": "demo", "trading_mode": "paper"}, "PAPER · DEMO"),
        ({"env": "prod", "trading_mode": "live"}, "LIVE · PROD"),
        ({"env": "prod"}, "MODE NOT KNOWN"),
    ],
)
def test_the_banner_tells_what_is_at_stake(run_js: RunJs, status: dict[str, Any], text: str) -> None:
    assert run_js(["modeBadge", status])[0]["text"] == text


@pytest.mark.parametrize(
    ("row", "text", "is_alarm"),
    [
        ({"protected": True}, "protected", False),
        ({"protected": False, "reason": "no_bid"}, "NOT PROTECTED: nobody bids", True),
        ({"protected": False, "reason": "new_kind"}, "NOT PROTECTED: new kind", True),
        ({"protected": False, "reason": "by_choice"}, "left alone by choice (protect = false)", False),
        ({"protected": False, "reason": "closed", "market_status": "finalized"}, "awaits settlement", False),
        ({"protected": False, "reason": "paused"}, "NOT PROTECTED: trading in its market is paused", True),
        ({}, "NOT KNOWN", True),
        ({"protected": "true"}, "NOT KNOWN", True),
    ],
)
def test_a_positions_protection_in_words(
    run_js: RunJs, row: dict[str, Any], text: str, is_alarm: bool
) -> None:
    cell = run_js(["protectionCell", row])[0]
    assert (cell["text"], cell.get("alarm", False)) == (text, is_alarm)


@pytest.mark.parametrize(
    ("value", "stop", "text", "share", "level"),
    [
        pytest.param("0.6000", "0.4500", "15 ¢ · 25 %", 0.833, "good", id="far above"),
        pytest.param("0.9000", "0.3000", "60 ¢ · 67 %", 1, "good", id="no bar is longer than full"),
        pytest.param("0.5000", "0.4550", "4.5 ¢ · 9 %", 0.3, "warn", id="coming near"),
        pytest.param("0.4600", "0.4500", "1 ¢ · 2 %", 0.072, "bad", id="near"),
        pytest.param("0.4500", "0.4500", "AT THE STOP", 0, "bad", id="at it"),
        pytest.param("0.3000", "0.4500", "AT THE STOP", 0, "bad", id="through it"),
        pytest.param(None, "0.4500", "not known", None, "none", id="no price"),
        pytest.param("0.4500", None, "no stop", None, "none", id="no stop"),
        pytest.param("x", "0.4500", "not known", None, "none", id="no number"),
        pytest.param(0.6, 0.45, "no stop", None, "none", id="prices are text"),
    ],
)
def test_the_distance_to_the_stop(
    run_js: RunJs, value: Any, stop: Any, text: str, share: float | None, level: str
) -> None:
    bar = run_js(["stopDistance", {"exit_value": value, "stop_price": stop}])[0]
    assert (bar["text"], bar["level"]) == (text, level)
    assert bar["share"] == (None if share is None else pytest.approx(share, abs=0.01))


def test_a_sparkline_has_a_line_for_the_price_and_one_for_the_stop(run_js: RunJs) -> None:
    told = {
        "values": [6000, 5000, *[None] * 29, 4000, *[None] * 29],
        "stops": [[2, 4500], [29, None], [1, 4500]],
    }
    line = run_js(["sparkline", told, 600, 10, 120, 30])[0]
    assert line["value"].startswith("M0 3L2 ")
    assert line["value"].count("M") == 2, "minutes without a price are a gap, not a line"
    assert line["stop"].count("M") == 2
    assert (line["dot"], line["level"]) == ({"x": 62, "y": 27}, "bad")


@pytest.mark.parametrize(
    "told",
    [None, [], "x", {}, {"values": "x"}, {"values": [None], "stops": [[1, 4500]]}, {"values": ["0.6"]},
     {"values": [-1]}, {"values": [0.5], "stops": [[9e9, 1]]}, {"values": [6000, *[None] * 61]}],
)  # fmt: skip
def test_what_cannot_be_drawn_is_no_line(run_js: RunJs, told: Any) -> None:
    assert run_js(["sparkline", told, 600, 10, 120, 30]) == [None]


def test_a_moment_without_a_price_breaks_the_line(run_js: RunJs) -> None:
    told = {"values": [6000, None, 6000], "stops": [[2, 4500], [1, None]]}
    line = run_js(["sparkline", told, 600, 10, 120, 30])[0]
    assert (line["value"].count("M"), line["stop"].count("M"), line["level"]) == (2, 1, "good")


def test_the_curve_of_the_day_adds_what_is_realized_and_what_is_not(run_js: RunJs) -> None:
    history = {
        "pnl": {"step_s": 60, "points": [[120, "0.00", "1.00"], [60, "-2.00", "0.50"], [0, "-2.00", "x"]]}
    }
    curve = run_js(["dayCurve", history, 600, 100])[0]
    assert (curve["high"], curve["low"], curve["last"], curve["sinceS"]) == (1, -1.5, -1.5, 120)
    assert curve["path"].startswith("M0 3L300 97")
    assert 3 < curve["zero"] < 97
    assert run_js(["dayCurve", None, 600, 100], ["dayCurve", {"pnl": []}, 600, 100]) == [None, None]


@pytest.mark.parametrize(
    ("changes", "texts", "last_level"),
    [
        pytest.param(
            {}, ["sent +40 ms", "filled 10.00 at $0.38 +90 ms", "closed +90 ms"], "end", id="filled at once"
        ),
        pytest.param(
            {"state": "triggered", "filled": "0.00", "timeline": {"triggered": 100.0}},
            ["triggered …"],
            "now",
            id="just begun",
        ),
        pytest.param(
            {"state": "blocked", "why": "market_paused", "filled": "0.00"},
            ["sent +40 ms", "BLOCKED: market paused"],
            "bad",
            id="blocked",
        ),
        pytest.param(
            {"state": "unknown", "filled": "0.00"},
            ["sent +40 ms", "ANSWER LOST: being looked up"],
            "bad",
            id="answer lost",
        ),
        pytest.param(
            {"why": "market_closed", "filled": "0.00"},
            ["sent +40 ms", "closed: its market has closed +90 ms"],
            "warn",
            id="ended without selling",
        ),
        pytest.param(
            {"timeline": {"triggered": 100.0, "sent": 99.0, "closed": None}},
            ["sent +–", "filled 10.00 at $0.38", "closed"],
            "end",
            id="a clock that was set back",
        ),
    ],
)
def test_an_exit_is_told_as_what_happened_when(
    run_js: RunJs, changes: dict[str, Any], texts: list[str], last_level: str
) -> None:
    row = {
        "state": "closed", "why": "filled", "filled": "10.00", "average_price": "0.3800",
        "trigger_price": "0.39",
        "timeline": {"triggered": 100.0, "sent": 100.04, "filled": 100.09, "closed": 100.09},
    }  # fmt: skip
    steps = run_js(["exitSteps", row | changes])[0]
    assert steps[0]["text"].endswith(" at $0.39")
    assert [step["text"] for step in steps[1:]] == texts
    assert steps[-1]["level"] == last_level


def test_exits_that_go_on_come_first_and_then_the_newest(run_js: RunJs) -> None:
    exits = [{"state": s, "ticker": t} for s, t in (("blocked", "A"), ("closed", "B"), ("closed", "C"))]
    assert [row["ticker"] for row in run_js(["sortedExits", {"exits": exits}])[0]] == ["A", "C", "B"]


def test_money_is_told_by_strategy_when_there_are_several(run_js: RunJs) -> None:
    pnl = full_status()["pnl"]
    facts, alone = run_js(
        ["pnlFacts", {"pnl": pnl}], ["pnlFacts", {"pnl": pnl | {"by_strategy": {"guard": {}}}}]
    )
    assert [fact[:2] for fact in facts[3:]] == [
        ["by hand", "$0.00 / –"],
        ["guard", "−$1.50 / $0.20"],
    ]
    assert len(alone) == 3


@pytest.mark.parametrize(
    ("name", "changes", "fact"),
    [
        ("strategyFacts", {}, ["State", "works", ""]),
        ("strategyFacts", {"strategy": FAILING}, ["State", "FAILING ×3", "bad-text"]),
        ("strategyFacts", {"strategy": HANGING}, ["State", "RUNNING for 61 s", "bad-text"]),
        ("alertFacts", {}, ["ntfy", "2 sent", ""]),
        ("alertFacts", {"alerts": {"on": False}}, ["Alerts", "OFF: nobody is told", "warn-text"]),
        ("alertFacts", {"alerts": {"channels": [MUTE]}}, ["mail", "refused", "bad-text"]),
        (
            "alertFacts",
            {"dead_man": {"on": True, "last_error": "500"}},
            ["Dead man's switch", "500", "bad-text"],
        ),
        (
            "recordFacts",
            {"journal": {"ok": False, "why": "full"}},
            ["Record on disk", "FAILING: full", "bad-text"],
        ),
        ("restFacts", {"rest": {"budget": SPENT}}, ["Budget, write", "5 of 100", "bad-text"]),
        ("feedFacts", {"feed": {"last_error": "refused"}}, ["Last error", "refused", "warn-text"]),
    ],
)
def test_what_goes_wrong_is_said_in_its_tile(
    run_js: RunJs, name: str, changes: dict[str, Any], fact: list[str]
) -> None:
    assert fact in run_js([name, full_status() | changes])[0]


@pytest.mark.parametrize(
    ("coverage", "headline", "detail", "list_"),
    [
        pytest.param(
            {"open": 0, "protected": 0, "unprotected": [], "known": False, "unknown_why": "nothing read yet"},
            "Coverage not known: nothing read yet",
            "Count on no position being protected.",
            [],
            id="nothing read yet",
        ),
        pytest.param(
            {
                "open": 2,
                "protected": 1,
                "unprotected": [{"ticker": "KX-A", "reason": "auth"}],
                "known": False,
                "unknown_why": "1 position cannot be read",
                "unknown": ["KX-B"],
            },
            "Coverage not known: 1 position cannot be read",
            "Of the positions that are known, 1 of 2 are protected.",
            ["KX-B: what is held of it is not known", "KX-A: the key is refused"],
            id="a part of it, and another without protection",
        ),
        pytest.param(
            {"open": 1, "protected": 1, "unprotected": [], "known": None, "unknown": "x"},
            "Coverage not known: the daemon does not say why",
            "Of the positions that are known, 1 of 1 are protected.",
            [],
            id="a word that is no yes",
        ),
    ],
)
def test_nobody_is_told_of_no_positions_before_they_were_read(
    run_js: RunJs, coverage: dict[str, Any], headline: str, detail: str, list_: list[str]
) -> None:
    status = covered(coverage=coverage, positions=[])
    verdict, empty = run_js(["coverageVerdict", status, LIVE], ["emptyPositions", status])
    assert verdict == {
        "level": "unknown", "headline": headline, "detail": detail, "list": list_, "short": "?"
    }  # fmt: skip
    assert empty == "Not known."
    assert run_js(["tabTitle", verdict, status])[0] == "? not known · Backstop"


@pytest.mark.parametrize(
    ("health", "verdict"),
    [
        pytest.param({"ok": True, "reasons": []}, {"hidden": True, "reasons": []}, id="well"),
        pytest.param(
            {
                "ok": False,
                "reasons": ["KX-A unprotected: auth", "exit of KX-A is blocked: auth", "disk full"],
            },
            {"hidden": False, "reasons": ["exit of KX-A is blocked: the key is refused", "disk full"]},
            id="what is not said above, in words",
        ),
        pytest.param(
            {"ok": False, "reasons": ["KX-A unprotected: auth"]},
            {"hidden": True, "reasons": []},
            id="all is said above",
        ),
        pytest.param(
            {"ok": False, "reasons": []},
            {"hidden": False, "reasons": ["The daemon does not say why."]},
            id="no reason given",
        ),
        pytest.param(
            None, {"hidden": False, "reasons": ["The daemon does not say why."]}, id="health not told"
        ),
    ],
)
def test_what_else_is_not_healthy(run_js: RunJs, health: Any, verdict: dict[str, Any]) -> None:
    bare = {"open": 1, "protected": 0, "unprotected": [{"ticker": "KX-A", "reason": "auth"}]}
    assert run_js(["healthVerdict", covered(coverage=bare, health=health)])[0] == verdict


def test_a_page_of_a_paper_account_says_so_in_its_headline_and_in_its_tab(run_js: RunJs) -> None:
    status = covered(trading_mode="paper")
    verdict = run_js(["coverageVerdict", status, LIVE])[0]
    assert verdict["headline"] == "All 3 open positions are protected on PAPER"
    assert verdict["detail"].startswith("Exits are simulated")
    assert run_js(["tabTitle", verdict, status])[0] == "3/3 protected · PAPER · Backstop"


def test_what_is_bare_by_choice_is_told_beside_what_is_bare_for_a_reason(run_js: RunJs) -> None:
    status = example_status()
    status["positions"].append({"ticker": "KX-C", "protected": False, "reason": "by_choice"})
    detail = run_js(["coverageVerdict", status, LIVE])[0]["detail"]
    assert detail == "2 protected. 1 more position without protection by choice."


def test_a_look_that_was_repeated_tells_the_time_that_its_price_is_of(run_js: RunJs) -> None:
    rows = [{"at": 100.0, "last_at": 100.0, "repeats": 1}, {"at": 100.0, "last_at": 160.0, "repeats": 7}]
    once, often, first, last = run_js(
        ["lookTime", rows[0]], ["lookTime", rows[1]], ["clockTime", 100.0], ["clockTime", 160.0]
    )
    assert (once, often) == (first, f"{last} (×7 since {first})")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"state": "closed", "filled": "10.00", "average_price": "0.3800"}, "10.00 sold at $0.38"),
        ({"state": "closed", "why": "flat", "filled": "0.00"}, "nothing was sold, nothing was held any more"),
        ({"state": "sending", "filled": "0.00"}, "Being left by stop loss: nothing was sold"),
    ],
    ids=["sold", "sold by hand", "under way"],
)
def test_the_exits_of_what_is_explained_are_told(run_js: RunJs, row: dict[str, Any], says: str) -> None:
    assert says in run_js(["exitNote", {"reason": "stop_loss", "timeline": {"closed": 100.0}} | row])[0]


def test_positions_in_danger_come_first(run_js: RunJs) -> None:
    rows = run_js(["sortedPositions", example_status()])[0]
    assert [row["ticker"][:8] for row in rows] == ["KXHIGHNY", "KXBTCD-2", "KXFEDDEC", "KXHIGHCH"]


def test_a_thread_that_is_late_or_dead_says_so(run_js: RunJs) -> None:
    threads = {
        "a": {"alive": True, "last_pass_age_s": 1.0, "on_time": True},
        "b": {"alive": True, "last_pass_age_s": 90.0, "on_time": False},
        "c": {"alive": False, "last_pass_age_s": 90.0},
        "d": {},
        "e": {"alive": False, "last_pass_age_s": None, "on_time": False, "state": "starting"},
    }
    facts = run_js(["threadFacts", {"threads": threads}])[0]
    assert [fact[1] for fact in facts] == ["1.0 s", "LATE: 90 s", "DEAD", "–", "starting"]


def test_numbers_in_words(run_js: RunJs) -> None:
    table = [
        ("dollars", "0.5200", "$0.52"),
        ("dollars", "-0.20", "−$0.20"),
        ("dollars", "0.3125", "$0.3125"),
        ("dollars", None, "–"),
        ("trimmed", "10.00", "10.00"),
        ("age", 0.42, "0.4 s"),
        ("age", 61, "61 s"),
        ("age", 3725.3, "62 min"),
        ("age", 90_000, "25 h"),
        ("age", None, "–"),
        ("age", "5", "–"),
    ]
    assert run_js(*([name, value] for name, value, _ in table)) == [words for _, _, words in table]


def test_nothing_is_inline_and_text_is_never_markup() -> None:
    page, script = PAGE.read_text(encoding="utf-8"), all_scripts()
    assert not re.search(r"<script(?! src=)|<style|\sstyle=|\son\w+=|javascript:", page)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script
    )


def test_every_element_that_the_script_asks_for_is_on_the_page() -> None:
    page, script = PAGE.read_text(encoding="utf-8"), all_scripts()
    asked = set(re.findall(r'(?:byId|show\w+)\("([\w-]+)"', script))
    assert len(asked) > 15
    assert asked <= set(re.findall(r'id="([\w-]+)"', page))


@pytest.fixture
def open_page(tmp_path: Path) -> Iterator[OpenPage]:
    """Open the page in a browser for so many milliseconds of its time; return the elements as HTML."""
    servers: list[UiServer] = []

    def open_and_dump(status: Callable[[], dict[str, Any]], budget_ms: int, fragment: str = "") -> str:
        server = UiServer("127.0.0.1", 0, "", status, lambda _: EVALUATIONS, bytes)
        server.start()
        servers.append(server)
        assert BROWSER is not None
        done = subprocess.run(
            [
                BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-extensions", f"--user-data-dir={tmp_path}", f"--virtual-time-budget={budget_ms}",
                "--dump-dom", f"http://127.0.0.1:{server.port}/{fragment}",
            ],
            capture_output=True, text=True, timeout=40,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield open_and_dump
    for server in servers:
        server.stop()
        assert server.join(5.0)


def headline(dom: str) -> str:
    found = re.search(r'id="coverage-headline">([^<]*)<', dom)
    assert found is not None
    return html.unescape(found[1])


@needs_browser
def test_a_browser_shows_positions_and_evaluations_and_runs_nothing_from_the_exchange(
    open_page: OpenPage,
) -> None:
    status = example_status()
    status["positions"][0]["ticker"] = "<img src=x onerror=\"document.title='owned'\">"
    dom = open_page(lambda: status, 1500, "#KX-A")
    assert headline(dom) == "1 of 3 open positions NOT protected"
    assert 'class="coverage bad"' in dom
    assert "<img" not in dom
    assert "&lt;img src=x" in dom
    assert "<title>2/3 protected · Backstop</title>" in dom
    assert ">SANDBOX<" in dom
    assert ">NOT PROTECTED: nobody bids<" in dom
    assert ">stop loss: 0.3800 is at or below 0.3900<" in dom


@needs_browser
def test_a_browser_that_loses_the_daemon_stops_being_green(
    open_page: OpenPage,
) -> None:
    answers = iter([covered_status()])
    dom = open_page(lambda: next(answers), 6000)
    assert headline(dom) == "Connection to the daemon lost"
    assert 'class="coverage unknown"' in dom
    assert 'id="data" class="stale"' in dom
    assert 'id="badges" class="stale"' in dom


@needs_browser
def test_a_browser_notices_a_document_that_stands_still(
    open_page: OpenPage,
) -> None:
    assert headline(open_page(covered_status, 2000)) == "All 3 open positions are protected"
    assert headline(open_page(covered_status, 11_000)) == "The daemon's data stand still"
