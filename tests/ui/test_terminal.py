"""The terminal tables: what they say, to whom, and what they never pass on."""

from __future__ import annotations

import io
from datetime import UTC, timedelta, timezone
from typing import Any

import pytest

from base.ui.terminal import print_explain, print_status
from tests.ui.documents import EVALUATIONS, broken_documents, covered_status, example_status

START = 1_795_359_600.25
"""A quarter second after 15:00 UTC."""


def status_text(document: dict[str, Any], *, color: bool = False) -> str:
    out = io.StringIO()
    print_status(document, out, color=color)
    return out.getvalue()


def explain_text(rows: list[dict[str, Any]], *, color: bool = False) -> str:
    out = io.StringIO()
    print_explain("KX-A", rows, out, color=color, zone=UTC)
    return out.getvalue()


def line_with(text: str, word: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(word))


def squeezed(line: str) -> str:
    return " ".join(line.split())


def changed(**changes: Any) -> dict[str, Any]:
    return covered_status() | changes


@pytest.mark.parametrize(
    ("document", "first_line"),
    [
        pytest.param(covered_status(), "COVERAGE: all 3 open positions protected", id="all"),
        pytest.param(example_status(), "COVERAGE: 1 of 3 open positions NOT PROTECTED", id="one is not"),
        pytest.param(
            changed(coverage={"open": 0, "protected": 0, "unprotected": []}),
            "COVERAGE: no open positions",
            id="nothing open",
        ),
        pytest.param(
            changed(coverage={"open": 3, "protected": 3, "unprotected": [{}]}),
            "COVERAGE: 1 of 3 open positions NOT PROTECTED",
            id="the list outweighs the numbers",
        ),
        pytest.param(
            changed(
                coverage={"open": 3, "protected": 3, "unprotected": [{"ticker": "K", "reason": "by_choice"}]}
            ),
            "COVERAGE: all 3 open positions protected",
            id="left unprotected on purpose",
        ),
        pytest.param(changed(coverage=None), "COVERAGE NOT KNOWN", id="not told"),
        pytest.param(
            changed(coverage={"open": 1, "protected": 2, "unprotected": []}),
            "COVERAGE NOT KNOWN",
            id="absurd",
        ),
        pytest.param(
            changed(coverage={"open": True, "protected": True, "unprotected": []}),
            "COVERAGE NOT KNOWN",
            id="not a count",
        ),
        pytest.param({}, "COVERAGE NOT KNOWN", id="empty document"),
    ],
)
def test_coverage_comes_first(document: dict[str, Any], first_line: str) -> None:
    assert status_text(document).splitlines()[0].startswith(first_line)


UNREAD = {"known": False, "unknown_why": "positions have not been read from the exchange yet"}


@pytest.mark.parametrize(
    ("coverage", "first_lines"),
    [
        pytest.param(
            {"open": 0, "protected": 0, "unprotected": []} | UNREAD,
            ["COVERAGE NOT KNOWN: positions have not been read from the exchange yet"],
            id="nothing read yet",
        ),
        pytest.param(
            {"open": 0, "protected": 0, "unprotected": [], "unknown": ["KX-B"]} | UNREAD,
            [
                "COVERAGE NOT KNOWN: positions have not been read from the exchange yet",
                "  KX-B: what is held of it is not known",
            ],
            id="held before the restart",
        ),
        pytest.param(
            {"open": 3, "protected": 3, "unprotected": [], "unknown": ["KX-B"], "known": False},
            [
                "COVERAGE NOT KNOWN: the daemon does not say why (of those that are, 3 of 3 protected)",
                "  KX-B: what is held of it is not known",
            ],
            id="a part of it",
        ),
        pytest.param(
            {"open": 3, "protected": 3, "unprotected": [], "known": None},
            ["COVERAGE NOT KNOWN: the daemon does not say why (of those that are, 3 of 3 protected)"],
            id="a word that is no yes",
        ),
    ],
)
def test_nobody_is_told_of_no_positions_before_they_were_read(
    coverage: dict[str, Any], first_lines: list[str]
) -> None:
    text = status_text(changed(coverage=coverage, positions=[]))
    assert text.splitlines()[: len(first_lines)] == first_lines
    assert "Positions: not known." in text
    assert "No positions listed." not in text
    assert "\x1b[1;31mCOVERAGE" in status_text(changed(coverage=coverage), color=True)


def test_only_full_and_healthy_coverage_is_green() -> None:
    green = "\x1b[1;32mCOVERAGE"
    assert green in status_text(covered_status(), color=True)
    assert green not in status_text(example_status(), color=True)
    assert green not in status_text(changed(health={"ok": False, "reasons": []}), color=True)


def test_a_broken_coverage_is_never_green() -> None:
    for what, document in broken_documents(covered_status()):
        if what.startswith(("coverage", "health")) and not what.startswith("health.reasons"):
            assert "\x1b[1;32mCOVERAGE" not in status_text(document, color=True), what


def test_a_position_is_told_in_one_row() -> None:
    text = status_text(example_status())
    assert squeezed(line_with(text, "KXBTCD")) == (
        "KXBTCD-26NOV2217-T86249.99 yes 10.00 0.5200 0.5000 0.4 s 0.3900 – -0.20 ws protected"
    )
    assert line_with(text, "KXHIGHNY").endswith("NOT PROTECTED: no bid")
    assert line_with(text, "KXHIGHCHI").rstrip().endswith("awaits settlement")


def test_exits_feed_and_budget_are_told() -> None:
    text = status_text(example_status())
    assert squeezed(line_with(text, "KXETHD")) == (
        "KXETHD-26NOV2217-T2849.99 stop loss closed 0.3900 10.00 0.3800 0.17 1"
    )
    assert "3 of 3 markets confirmed" in line_with(text, "feed live")
    assert "reads 2 (for prices 0)" in line_with(text, "REST")
    assert "-1.57 realized today" in line_with(text, "P&L")


def test_a_dead_or_late_thread_is_named() -> None:
    document = covered_status()
    document["threads"]["stop-loss"]["alive"] = False
    document["threads"]["ui-metrics"]["on_time"] = False
    assert "stop-loss DEAD" in status_text(document)
    assert "ui-metrics LATE (last pass 0.9 s ago)" in status_text(document)


def test_an_exit_that_is_blocked_says_why() -> None:
    document = example_status()
    document["exits"][1]["why"] = "market_paused"
    assert "blocked: market paused" in line_with(status_text(document), "KXINXU")


def test_a_state_other_than_active_says_why() -> None:
    document = covered_status() | {"trading_state": "reducing", "trading_state_why": "daily loss"}
    assert "state reducing (daily loss)" in status_text(document)


def test_any_null_field_leaves_the_rest_readable() -> None:
    for what, document in broken_documents(example_status()):
        if what.endswith("null"):
            assert status_text(document).startswith("COVERAGE"), what


def test_a_pipe_gets_no_escape_sequences_and_whole_rows() -> None:
    text = status_text(example_status())
    assert "\x1b" not in text
    assert sum(line.startswith("KXFEDDECISION-26DEC-H0 ") for line in text.splitlines()) == 1


class NarrowTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_narrow_terminal_cuts_no_number_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = NarrowTerminal()
    print_status(example_status(), out, color=False)
    print_explain("KX-A", EVALUATIONS, out, color=False)
    assert max(map(len, out.getvalue().splitlines())) <= 60
    assert "…" not in out.getvalue()


@pytest.mark.parametrize("color", [False, True])
def test_text_from_outside_cannot_command_the_terminal(color: bool) -> None:
    document = example_status()
    document["positions"][0]["ticker"] = "KX\x1b]0;owned\x07\x9b2J[bold]:smile:\n"
    document["coverage"]["unprotected"][0]["ticker"] = "\x1b[2J"
    document["health"]["reasons"] = ["\x1b[2J"]
    text = status_text(document, color=color)
    assert "\x1b]" not in text
    assert "\x1b[2J" not in text
    assert "\x07" not in text
    assert "\x9b" not in text
    assert "[bold]:smile:" in text


def look(at: float, why: str = "within_rules", **fields: Any) -> dict[str, Any]:
    """One row of ten YES contracts bought at 0.52 with a stop at 0.39."""
    return {
        "at": at,
        "last_at": at,
        "outcome_side": "yes",
        "count": "10.00",
        "entry_price": "0.5200",
        "exit_value": "0.5000",
        "bid_size": "120.00",
        "price_age_s": 0.4,
        "price_source": "ws",
        "decision": "hold",
        "why": why,
        "detail": "",
        "stop_price": "0.3900",
        "take_profit_price": None,
        "stop_basis": "stop, 25 % under entry 0.52",
        "take_profit_basis": "",
        "guards": "",
        "repeats": 1,
    } | fields


def test_explain_begins_with_what_is_held_and_what_would_leave_it() -> None:
    lines = explain_text([look(START, take_profit_price="0.9000", take_profit_basis="set by the rule")])
    assert lines.splitlines()[:3] == [
        "KX-A: 10.00 yes held from 0.5200, worth 0.5000 a contract (0.4 s old, stream)",
        "Leaves at or below 0.3900 (stop, 25 % under entry 0.52): 0.1100 away",
        "Leaves at or above 0.9000 (take-profit, set by the rule): 0.4000 away",
    ]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        pytest.param(look(START, "stop_loss", decision="exit"), "It is being left: stop loss", id="leaving"),
        pytest.param(look(START, "hedged", stop_price=None), "No price level is in force", id="hedged"),
        pytest.param(
            look(START, "no_bid", exit_value=None),
            "Leaves at or below 0.3900 (stop, 25 % under entry 0.52)",
            id="no bid: how far is not known",
        ),
        pytest.param(
            look(START, "guarded", exit_value="0.3800"),
            "Not leaving although it meets its rule: –",
            id="a guard delays it",
        ),
        pytest.param(
            look(START, "hold_below", detail="bid 0.15, but not sold below 0.20"),
            "Not leaving although it meets its rule: bid 0.15, but not sold below 0.20",
            id="its rule holds it back",
        ),
        pytest.param(
            look(START, rule="stop 0.39; leaves 10 min before the close"),
            "Its rule: stop 0.39; leaves 10 min before the close",
            id="what only time or others decide is in the rule's own words",
        ),
        pytest.param(
            look(START, "event_group", decision="exit", is_held=False),
            "It was left: goes with another position of its event",
            id="asked after the exit",
        ),
        pytest.param(look(START, is_held=False), "It is not held any more", id="sold by hand"),
    ],
)
def test_the_second_line_of_explain(row: dict[str, Any], says: str) -> None:
    assert explain_text([row]).splitlines()[1] == says


def test_a_level_that_has_been_passed_is_not_away() -> None:
    lines = explain_text([look(START, "guarded", exit_value="0.3800")]).splitlines()
    assert (
        lines[2] == "Leaves at or below 0.3900 (stop, 25 % under entry 0.52): it is there, and 0.0100 beyond"
    )


def test_explain_is_a_timeline_of_states_the_newest_last() -> None:
    lines = explain_text(
        [
            look(START, last_at=START + 8, repeats=5),
            look(START + 10, exit_value="0.4400", bid_size=None, price_source="rest"),
            look(START + 14.5, "guarded", exit_value="0.3800", guards="waiting: seen in 1 of 2 updates"),
            look(
                START + 15,
                "stop_loss",
                decision="exit",
                exit_value="0.3700",
                price_age_s=0.0,
                guards="passed",
                detail="bid 0.37 at or below stop 0.39",
                last_at=START + 17,
                repeats=2,
            ),
        ]
    ).splitlines()
    assert lines[2:] == [
        "Looks so far, times in UTC:",
        "Nov 22 15:00:00  HOLD: within its rules, for 14.5 s, seen 6×",
        "    15:00:08.250 (seen 5× since 15:00:00.250)  bid 0.5000 for 120.00 contracts (0.4 s old, stream); "
        "stop 0.3900",
        "    15:00:10.250  bid 0.4400 (0.4 s old, REST read); stop 0.3900",
        "Nov 22 15:00:14  HOLD: a rule has triggered, a guard delays it, for 0.5 s, seen 1×",
        "    15:00:14.750  bid 0.3800 for 120.00 contracts (0.4 s old, stream); stop 0.3900",
        "    guards: waiting: seen in 1 of 2 updates",
        "Nov 22 15:00:15  EXIT: stop loss, for 2.0 s, seen 2×",
        "    15:00:17.250 (seen 2× since 15:00:15.250)  bid 0.3700 for 120.00 contracts (0.0 s old, stream); "
        "stop 0.3900",
        "    guards: passed",
        "    bid 0.37 at or below stop 0.39",
    ]


@pytest.mark.parametrize(("mode", "is_said"), [("paper", True), ("live", False)])
def test_on_paper_every_table_says_so(mode: str, is_said: bool) -> None:
    status = status_text(changed(env="demo", trading_mode=mode))
    assert ("protected on PAPER" in status.splitlines()[0]) is is_said
    assert line_with(status, f" {mode.upper()} DEMO")
    out = io.StringIO()
    print_explain("KX-A", [look(START)], out, color=False, zone=UTC, trading_mode=mode)
    assert out.getvalue().startswith("PAPER") is is_said


def test_explain_tells_times_of_the_zone_that_it_is_given() -> None:
    out = io.StringIO()
    print_explain("KX-A", [look(START)], out, color=False, zone=timezone(timedelta(hours=-5), "EST"))
    assert "Looks so far, times in EST:" in out.getvalue()
    assert "Nov 22 10:00:00  HOLD" in out.getvalue()


@pytest.mark.parametrize(
    ("why", "says"),
    [("by_choice", "left alone by choice (protect = false)"), ("hedged", "part of a set that cannot lose")],
)
def test_what_no_rule_leaves_on_purpose_is_listed_and_alarms_nobody(why: str, says: str) -> None:
    document = covered_status()
    document["coverage"]["unprotected"] = [{"ticker": "KX-H", "reason": why}]
    document["positions"][0] |= {"protected": False, "reason": why}
    text = status_text(document)
    assert text.startswith("COVERAGE: all 3 open positions protected")
    assert "NOT PROTECTED" not in text
    assert f"KX-H: {says}" in text


def test_explain_without_evaluations_says_so() -> None:
    assert explain_text([]) == "No evaluations of KX-A yet.\n"


def left(state: str = "closed", why: str = "filled", filled: str = "10.00", **fields: Any) -> dict[str, Any]:
    """An exit of ten contracts as the status document tells it."""
    return {
        "reason": "stop_loss", "state": state, "why": why, "filled": filled,
        "average_price": "0.3800" if filled != "0.00" else None, "fees": "0.17",
        "timeline": {"triggered": START, "closed": START + 1 if state == "closed" else None},
    } | fields  # fmt: skip


@pytest.mark.parametrize(
    ("row", "says"),
    [
        pytest.param(
            left(),
            "Left by stop loss at Nov 22 15:00:01 UTC: 10.00 contracts sold at 0.3800 on average, fees 0.17",
            id="sold",
        ),
        pytest.param(
            left(why="market_determined", filled="4.00"),
            "Left by stop loss at Nov 22 15:00:01 UTC: 4.00 contracts sold at 0.3800 on average, fees 0.17; "
            "then its market has ended",
            id="sold in part",
        ),
        pytest.param(
            left(why="flat", filled="0.00"),
            "Exit by stop loss ended at Nov 22 15:00:01 UTC: nothing was sold, nothing was held any more",
            id="sold by hand",
        ),
        pytest.param(
            left("blocked", "auth", "0.00"),
            "Being left by stop loss since Nov 22 15:00:00 UTC (blocked: the key is refused): "
            "nothing was sold",
            id="blocked",
        ),
        pytest.param({}, "Being left by – since – (–): nothing was sold", id="nothing told"),
    ],
)
def test_explain_tells_the_exits_of_a_run_before_too(row: dict[str, Any], says: str) -> None:
    out = io.StringIO()
    print_explain("KX-A", [], out, color=False, zone=UTC, exits=[row])
    assert out.getvalue().splitlines() == ["No evaluations of KX-A since the start.", says]


def test_explain_bears_missing_and_hostile_fields() -> None:
    rows: list[dict[str, Any]] = [
        {},
        dict.fromkeys(EVALUATIONS[0]),
        {"detail": "\x1b[2J", "at": "x", "repeats": "x"},
    ]
    text = explain_text(rows)
    assert "\x1b" not in text
    assert text.count("no price to act on") == 1 + len(rows)


@pytest.mark.parametrize("at", [1e300, -1e300, float("nan"), float("inf")])
def test_explain_bears_a_time_that_no_calendar_has(at: float) -> None:
    assert "HOLD: within its rules" in explain_text([look(at)])


def test_money_is_told_by_strategy_when_there_is_more_than_one() -> None:
    alone = {"value": {"realized_today": "0.0625", "unrealized": "24.18", "fees_today": "0.01"}}
    other = {"": {"realized_today": "-1.57", "unrealized": None, "fees_today": "0.17"}}
    pnl = covered_status()["pnl"]
    assert "(opened elsewhere)" not in status_text(changed(pnl=pnl | {"by_strategy": other}))
    text = status_text(changed(pnl=pnl | {"by_strategy": alone | other}))
    assert squeezed(line_with(text, "value")) == "value 0.0625 24.18 0.01"
    assert squeezed(line_with(text, "(opened")) == "(opened elsewhere) -1.57 – 0.17"


def with_facts(**facts: Any) -> dict[str, Any]:
    return changed(at="2026-11-22T16:00:00Z", **facts)


DEAF = {"name": "ntfy", "sent": 4, "failed": 1, "dropped": 0, "waiting": 2, "last_error": "HTTP 503"}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        pytest.param(
            with_facts(strategy={"name": "value", "passes": 7, "intents": 2, "refused": 0}),
            "strategy value, passes 7, intents 2, refused 0",
            id="a strategy at work",
        ),
        pytest.param(
            with_facts(
                strategy={"name": "value", "failing": True, "failed_in_a_row": 4, "last_error": "boom"}
            ),
            "strategy value, FAILING 4 in a row: boom",
            id="a strategy that fails",
        ),
        pytest.param(
            with_facts(strategy={"refused": 3, "last_refused": "MAX_EVENT_COST_DOLLARS"}),
            "refused 3 (last: MAX_EVENT_COST_DOLLARS)",
            id="intents refused",
        ),
        pytest.param(
            with_facts(journal={"ok": False, "why": "disk is full", "waiting": 12}),
            "JOURNAL TAKES NOTHING, disk is full, 12 records wait",
            id="a full disk",
        ),
        pytest.param(
            with_facts(alerts={"on": False}, dead_man={"on": False}),
            "alerts off (ALERT_URLS), dead man's switch off (DEADMAN_URL)",
            id="nobody is told anything",
        ),
        pytest.param(
            with_facts(alerts={"on": True, "channels": [DEAF]}),
            "alerts on, 1 channel, ntfy: 4 sent 1 failed 2 waiting (last error: HTTP 503)",
            id="an alert channel in trouble",
        ),
        pytest.param(
            with_facts(dead_man={"on": True, "last_call_age_s": 3.0, "last_error": "refused"}),
            "DEAD MAN'S SWITCH FAILING: refused",
            id="a dead man's switch that cannot be called",
        ),
        pytest.param(
            with_facts(
                next_pause={
                    "starts_at": "2026-11-22T16:30:00Z",
                    "ends_at": "2026-11-22T18:00:00Z",
                    "why": "weekly",
                }
            ),
            "next pause of the exchange in 30 min (weekly maintenance), Nov 22 16:30 to Nov 22 18:00 UTC",
            id="a pause is near",
        ),
        pytest.param(
            with_facts(next_pause={"starts_at": "2026-11-22T15:59:00Z", "ends_at": "2026-11-22T16:01:00Z"}),
            "THE EXCHANGE IS PAUSED for another 60.0 s",
            id="a pause goes on",
        ),
    ],
)
def test_what_else_a_night_depends_on_is_told(document: dict[str, Any], says: str) -> None:
    assert says in status_text(document)


@pytest.mark.parametrize("state", ["starting", "stopped"])
def test_a_thread_that_has_not_begun_or_was_asked_to_end_is_not_called_dead(state: str) -> None:
    threads = {"websocket": {"alive": False, "last_pass_age_s": None, "on_time": False, "state": state}}
    text = status_text(changed(threads=threads))
    assert f"websocket {state}" in text
    assert "DEAD" not in text


def test_threads_that_pass_at_their_own_pace_are_only_counted() -> None:
    document = changed(
        threads={
            "websocket": {"alive": True, "last_pass_age_s": 0.1, "on_time": True},
            "discovery": {"alive": True, "last_pass_age_s": 44.0, "on_time": True},
        }
    )
    text = status_text(document)
    assert "2 threads on time" in text
    assert "44" not in text


@pytest.mark.parametrize("reason", ["no_bid", "no_rule", "halted", "stale_price", "not_checked"])
def test_a_position_without_protection_is_explained_in_words(reason: str) -> None:
    document = changed(
        coverage={"open": 3, "protected": 2, "unprotected": [{"ticker": "KX-A", "reason": reason}]},
        health={"ok": False, "reasons": [f"KX-A unprotected: {reason}"]},
    )
    text = status_text(document)
    assert ";" in line_with(text, "  KX-A: "), "what to do follows"
    assert f"unprotected: {reason}" not in text, "said once"


LONG = "KXMVESPORTSMULTIGAMEEXTENDED-S2025ABCDEF0123456-0123456789A"


@pytest.mark.parametrize("columns", ["60", "80", "140"])
def test_a_long_ticker_stays_whole_on_a_narrow_terminal(
    columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    document = example_status()
    document["positions"][0]["ticker"] = document["exits"][0]["ticker"] = LONG
    document["orders"] = [{"ticker": LONG, "price": "0.4100", "state": "resting", "strategy": "value"}]
    out = NarrowTerminal()
    print_status(document, out, color=False)
    lines = out.getvalue().splitlines()
    assert sum(line.startswith(LONG) for line in lines) == 3
    assert max(map(len, lines)) <= int(columns)
    for price in ("price 0.4100", "exit value 0.5000", "average 0.3800") if columns == "60" else ():
        assert any(price in line for line in lines), "a number stands beside its name"


def test_a_pipe_is_told_the_same_whatever_the_terminal_is(monkeypatch: pytest.MonkeyPatch) -> None:
    document = example_status()
    document["positions"][0]["ticker"] = LONG * 2
    monkeypatch.setenv("COLUMNS", "60")
    narrow = status_text(document)
    monkeypatch.setenv("COLUMNS", "200")
    assert status_text(document) == narrow
    assert squeezed(line_with(narrow, LONG)).endswith("ws protected")


def test_orders_that_may_still_fill_are_told_in_one_row() -> None:
    order = {
        "ticker": "KX-A",
        "outcome_side": "no",
        "count": "10.00",
        "filled": "2.00",
        "price": "0.4100",
        "state": "resting",
        "strategy": "value",
        "expires_at": "2026-11-22T16:04:30Z",
    }
    text = status_text(with_facts(orders=[order]))
    assert squeezed(line_with(text, "KX-A")) == "KX-A no 10.00 2.00 0.4100 resting in 4 min value"


def test_every_exit_under_way_is_told_and_only_the_last_of_the_others() -> None:
    document = example_status()
    blocked, closed = document["exits"][1], document["exits"][0]
    document["exits"] = [blocked, *(closed | {"ticker": f"KX-{n}"} for n in range(15))]
    lines = status_text(document).splitlines()
    at = lines.index(next(line for line in lines if line.startswith("Exits (5 older")))
    assert [line.split()[0] for line in lines[at + 2 :]] == [
        blocked["ticker"],
        *(f"KX-{n}" for n in range(14, 4, -1)),
    ]
