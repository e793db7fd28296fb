"""When alerts are said, repeated, grouped and resolved; and what they say."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from base.app.alert_facts import Kind, ahead, troubles
from base.app.alert_outbox import KEPT_MAX, RESERVED, SENT_MAX, WINDOW_S, Outbox
from base.app.alert_rules import AlertRules, Message, Phase, Sender, render
from base.app.config import Environment
from base.execution.exits import EpisodeView
from base.execution.refusals import BlockedWhy
from base.risk.coverage import NOT_CHECKED
from base.risk.trading_state import StateInputs, TradingState, next_state

WALL = datetime(2026, 11, 19, 6, 0, tzinfo=UTC).timestamp()
HELD = "KXHELD-A"

QUIET: dict[str, Any] = {
    "env": "prod",
    "trading_mode": "live",
    "trading_state": "active",
    "trading_state_why": "",
    "health": {"ok": True, "reasons": []},
    "coverage": {"open": 1, "protected": 1, "unprotected": []},
    "feed": {"state": "live", "last_error": ""},
    "threads": {"websocket": {"alive": True}},
    "journal": {"ok": True, "why": ""},
    "positions": [
        {
            "ticker": HELD,
            "outcome_side": "yes",
            "count": "10.00",
            "entry_price": "0.5000",
            "exit_value": "0.4000",
            "market_status": "active",
            "protected": True,
            "reason": "",
        }
    ],
    "next_pause": None,
    "key": {"attestation_ends_at": None},
}


def document(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(QUIET) | changes


def unprotected(*tickers: str, reason: str = "no_bid") -> dict[str, Any]:
    rows = [{"ticker": ticker, "reason": reason} for ticker in tickers]
    return document(coverage={"open": len(rows), "protected": 0, "unprotected": rows})


def view(
    number: int = 1, state: str = "triggered", why: str = "", filled: str = "0", **more: Any
) -> EpisodeView:
    values: dict[str, Any] = {
        "id": f"episode-{number}",
        "ticker": f"KXEXIT-{number}",
        "reason": "stop_loss",
        "state": state,
        "trigger_price": Decimal("0.45"),
        "filled": Decimal(filled),
        "average_price": Decimal("0.41") if Decimal(filled) else None,
        "fees": Decimal("0.17"),
        "attempts": 1,
        "why": why,
        "opened_at": WALL,
        "closed_at": WALL + 2 if state == "closed" else None,
    }
    return EpisodeView(**values | more)


class Run:
    """The rules second by second, and everything that they said, with the second of it."""

    def __init__(self) -> None:
        self.rules = AlertRules(WALL)
        self.second = 0
        self.said: list[tuple[int, Message]] = []

    def go_on(self, shown: dict[str, Any], seconds: int, exits: list[EpisodeView] | None = None) -> None:
        for _ in range(seconds):
            now, wall = 1_000.0 + self.second, WALL + self.second
            self.rules.look(shown, exits or [], now, wall)
            self.said += [(self.second, message) for message in self.rules.take(now, wall)]
            self.second += 1

    def heads(self) -> list[tuple[int, str]]:
        return [(second, message.headline) for second, message in self.said]


def test_a_lasting_trouble_is_said_repeated_more_and_more_rarely_and_resolved() -> None:
    run = Run()
    run.go_on(unprotected(HELD), 4 * 3_600)
    run.go_on(document(), 60)
    still = "STILL position UNPROTECTED"
    assert run.heads() == [
        (10, "position UNPROTECTED"),
        (310, still),
        (910, still),
        (3_610, still),
        (7_210, still),
        (10_810, still),
        (4 * 3_600 + 10, "resolved: position UNPROTECTED"),
    ]
    first, repeat, last = run.said[0][1], run.said[3][1], run.said[-1][1]
    stake = "10 YES bought at 0.50, 5.00 dollars"
    assert first.lines == (f"{HELD}: no_bid; {stake}, since 2026-11-19 06:00:00 UTC",)
    assert "for 60 min now" in repeat.lines[0]
    assert last.lines == (f"{HELD}: protected again, 2026-11-19 10:00:00 UTC, after 4 h",)
    assert first.remedies
    assert first.is_urgent
    assert not last.is_urgent


def test_what_passes_within_ten_seconds_is_not_said() -> None:
    run = Run()
    for _ in range(20):
        run.go_on(unprotected(HELD), 9)
        run.go_on(document(), 1)
    assert run.said == []


def test_what_flaps_is_one_trouble() -> None:
    run = Run()
    run.go_on(unprotected(HELD), 20)
    for _ in range(10):
        run.go_on(document(), 5)
        run.go_on(unprotected(HELD), 5)
    run.go_on(document(), 30)
    assert [head for _, head in run.heads()] == ["position UNPROTECTED", "resolved: position UNPROTECTED"]


def test_what_is_held_and_not_known_is_told_like_a_position_without_protection_and_once() -> None:
    why = "positions have not been read from the exchange yet"
    unknown = {
        "open": 0,
        "protected": 0,
        "unprotected": [],
        "known": False,
        "unknown_why": why,
        "unknown": [HELD],
    }
    run = Run()
    run.go_on(document(coverage=unknown, health={"ok": False, "reasons": [why]}), 120)
    run.go_on(document(), 60)
    assert run.heads() == [
        (10, "position UNPROTECTED"),
        (130, "resolved: position UNPROTECTED"),
    ]
    assert why in run.said[0][1].lines[0]
    assert HELD in run.said[0][1].lines[0]
    assert "known again" in run.said[1][1].lines[0]


def test_a_position_that_was_sold_is_not_called_protected() -> None:
    run = Run()
    run.go_on(unprotected("KXSOLD"), 20)
    run.go_on(document(), 20)
    assert "KXSOLD: no longer held" in run.said[-1][1].lines[0]


@dataclass(frozen=True)
class Lasting:
    name: str
    shown: dict[str, Any]
    kind: Kind | None
    after_s: int
    exits: tuple[EpisodeView, ...] = ()


DRIFT = "the exchange's answers lack close_time"
UNSEEN = "the exchange's answers have not been looked at yet"


def reducing(**inputs: bool | str) -> dict[str, Any]:
    """The state in the words of those who decide it."""
    change = next_state(TradingState.ACTIVE, StateInputs(**{"reconciled_once": True, **inputs}))
    return document(trading_state=change.current.value, trading_state_why=change.why)


def unhealthy(*reasons: str) -> dict[str, Any]:
    return document(health={"ok": False, "reasons": list(reasons)})


@pytest.mark.parametrize(
    "case",
    [
        Lasting("an empty book", unprotected(HELD), Kind.UNPROTECTED, 10),
        Lasting("left without a rule on purpose", unprotected(HELD, reason="by_choice"), None, 0),
        Lasting("part of a set that cannot lose", unprotected(HELD, reason="hedged"), None, 0),
        Lasting("a feed that is down", document(feed={"state": "down"}), Kind.FEED_DOWN, 30),
        Lasting("a feed that only connects", document(feed={"state": "connecting"}), Kind.FEED_DOWN, 30),
        Lasting("a stream that is switched off", document(feed={"state": "down"}, threads={}), None, 0),
        Lasting("the loss of the day", reducing(daily_loss_hit=True), Kind.DAILY_LOSS, 0),
        Lasting("the kill switch", reducing(kill_switch=True), Kind.HALTED, 0),
        Lasting("a mark of flatten", reducing(entries_blocked=True), Kind.ENTRIES_OFF, 0),
        Lasting("a start without an answer", reducing(reconciled_once=False), Kind.ENTRIES_OFF, 30),
        Lasting("a full disk", document(journal={"ok": False, "why": "no space"}), Kind.JOURNAL, 5),
        Lasting("the state that a full disk brings", reducing(journal_ok=False), None, 0),
        Lasting("a start without a look", reducing(api_trouble=UNSEEN), Kind.ENTRIES_OFF, 30),
        Lasting("the state that a lost field brings", reducing(api_trouble=DRIFT), None, 0),
        Lasting("a lost field", unhealthy(f"{DRIFT} (GET /markets)"), Kind.UNHEALTHY, 0),
        Lasting("rules with a mistake", unhealthy("the rules file was refused: 3"), Kind.UNHEALTHY, 0),
        Lasting("a late thread", unhealthy("thread reconcile is late"), Kind.UNHEALTHY, 30),
        Lasting("what another kind tells", unhealthy("KX unprotected: x", "exit of KX is sent"), None, 0),
        Lasting("a blocked exit", document(), Kind.EXIT_BLOCKED, 0, (view(state="blocked", why="paused"),)),
        Lasting("an exit that takes long", document(), Kind.EXIT_FAILED, 16, (view(state="unknown"),)),
        Lasting("nothing at all", {}, None, 0),
    ],
    ids=lambda case: case.name,
)  # fmt: skip
def test_what_lasts_is_an_alert_of_its_kind_after_its_time(case: Lasting) -> None:
    run = Run()
    run.go_on(case.shown, 100, list(case.exits))
    once = {Kind.EXIT_TRIGGERED}  # of an exit that is late
    told = [(second, message.kind) for second, message in run.said if message.kind not in once]
    assert told == ([] if case.kind is None else [(case.after_s, case.kind)])


@pytest.mark.parametrize("why", [*BlockedWhy, NOT_CHECKED])
def test_whatever_leaves_a_position_unprotected_there_is_something_to_do(why: str) -> None:
    (fact,) = troubles(unprotected(HELD, reason=why), [], WALL)
    assert fact.remedy
    assert "explain TICKER" not in fact.remedy


def test_an_age_that_grows_in_a_reason_is_no_new_trouble() -> None:
    run = Run()
    for age in range(200):
        run.go_on(unhealthy(f"positions have not been read for {age} s"), 1)
    assert len(run.said) == 1


def test_a_limit_at_work_is_said_once_and_its_end_too() -> None:
    run = Run()
    run.go_on(reducing(daily_loss_hit=True), 5 * 3_600)
    run.go_on(document(), 20)
    assert [message.phase for _, message in run.said] == [Phase.NEW, Phase.OVER]


def test_an_exit_is_told_when_it_begins_and_when_it_ends() -> None:
    run = Run()
    run.go_on(document(), 2, [view(9, "closed", closed_at=WALL - 1)])  # over before the start: no news
    run.go_on(document(), 2, [view(1)])
    run.go_on(document(), 20, [view(1, "closed", "filled", "10")])
    assert [head for _, head in run.heads()] == ["exit triggered", "exit filled"]
    assert "sold 10.00 at 0.4100 on average, fees 0.17, in 2.0 s" in run.said[1][1].lines[0]


@pytest.mark.parametrize(
    ("why", "filled", "kind"),
    [
        ("filled", "10", Kind.EXIT_FILLED),
        ("flat", "0", Kind.EXIT_ENDED),
        ("price_left", "0", Kind.EXIT_ENDED),
        ("position_changed", "4", Kind.EXIT_ENDED),
        ("market_closed", "0", Kind.EXIT_FAILED),
        ("market_determined", "4", Kind.EXIT_FAILED),
    ],
)
def test_how_an_exit_ended(why: str, filled: str, kind: Kind) -> None:
    run = Run()
    run.go_on(document(), 1, [view(1, "closed", why, filled)])
    assert [message.kind for _, message in run.said if message.kind is not Kind.EXIT_TRIGGERED] == [kind]


def test_a_blocked_exit_that_is_probed_stays_one_trouble() -> None:
    run = Run()
    for _ in range(15):
        run.go_on(document(), 3, [view(state="blocked", why="paused")])
        run.go_on(document(), 1, [view(state="sending")])
    run.go_on(document(), 30, [view(1, "closed", "filled", "10")])
    told = [head for _, head in run.heads()]
    assert told == ["exit BLOCKED", "exit filled", "resolved: exit BLOCKED"]
    assert "KXEXIT-1: stop_loss at 0.45 triggered, but BLOCKED: paused, since" in run.said[0][1].lines[0]


def test_an_exit_that_is_blocked_later_is_told_as_triggered_first_and_then_as_blocked() -> None:
    run = Run()
    run.go_on(document(), 1, [view(state="sending")])
    run.go_on(document(), 3, [view(state="blocked", why="auth")])
    assert run.heads() == [(0, "exit triggered"), (1, "exit BLOCKED")]


def test_a_trigger_that_still_waits_to_be_told_when_its_exit_is_blocked_is_told_with_that() -> None:
    run = Run()
    run.go_on(document(), 1, [view(1)])
    run.go_on(document(), 1, [view(1), view(2), view(3)])
    run.go_on(document(), 11, [view(1), view(2), view(3, state="blocked", why="auth")])
    assert [head for _, head in run.heads()] == ["exit triggered", "exit BLOCKED", "exit triggered"]
    assert "KXEXIT-3: stop_loss at 0.45 triggered, but BLOCKED: auth" in run.said[1][1].lines[0]
    assert [line.partition(":")[0] for line in run.said[2][1].lines] == ["KXEXIT-2"]


def test_a_second_exit_that_is_blocked_while_the_first_one_s_trouble_lingers_is_told_as_both() -> None:
    run = Run()
    again = {"ticker": "KXEXIT-1", "state": "blocked", "why": "paused"}
    run.go_on(document(), 20, [view(1, **again)])
    run.go_on(document(), 2, [view(1, "closed", "flat")])
    run.go_on(document(), 5, [view(1, "closed", "flat"), view(2, **again)])
    kinds = [message.kind for _, message in run.said]
    assert kinds == [Kind.EXIT_BLOCKED, Kind.EXIT_ENDED, Kind.EXIT_TRIGGERED]
    last = run.said[-1][1]
    assert "KXEXIT-1: stop_loss at 0.45 triggered, but BLOCKED: paused" in last.lines[0]
    assert last.remedies == (BlockedWhy.PAUSED.remedy,), "not: it is being sold"


def test_prices_and_money_are_written_as_people_write_them() -> None:
    run = Run()
    pnl = {"realized_today": "-2.000000", "fees_today": "0.633500"}
    why = {"trading_state": "reducing", "trading_state_why": "today's loss has reached the limit"}
    run.go_on(document(pnl=pnl, **why), 1, [view(trigger_price=Decimal("0.450000"))])
    lines = [line for _, message in run.said for line in message.lines]
    assert any("(realized -2.00, fees 0.63 dollars today)" in line for line in lines)
    assert any("stop_loss at 0.45, " in line for line in lines)


def test_a_hundred_exits_over_half_a_minute_are_a_handful_of_messages() -> None:
    run = Run()
    exits: list[EpisodeView] = []
    for tens in range(10):
        exits += [view(10 * tens + n, "closed", "filled", "10") for n in range(10)]
        run.go_on(document(), 3, exits)
    run.go_on(document(), 30, exits)
    assert len(run.said) <= 10
    for kind in (Kind.EXIT_TRIGGERED, Kind.EXIT_FILLED):
        assert sum(message.count for _, message in run.said if message.kind is kind) == 100
    assert all(len(message.lines) <= 21 for _, message in run.said)


def test_equal_errors_within_a_minute_are_one_with_a_count() -> None:
    run = Run()
    for _ in range(30):
        run.rules.note_error("pass_failed", "pass_failed", "wait", 1_000.0 + run.second, WALL + run.second)
        run.go_on(document(), 1)
    run.go_on(document(), 120)
    assert len(run.said) == 2
    assert "29 times more" in run.said[1][1].lines[0]


@pytest.mark.parametrize(
    ("held", "told_h"), [(1, [24.0, 2.0, 0.5]), (0, [])], ids=["with a position", "with nothing held"]
)
def test_the_weekly_pause_is_told_ahead_where_something_is_held(held: int, told_h: list[float]) -> None:
    shown = document(
        coverage={"open": held, "protected": held, "unprotected": []},
        next_pause={"starts_at": "2026-11-26T08:00:00Z", "ends_at": "2026-11-26T10:00:00Z", "why": "weekly"},
    )
    starts = datetime(2026, 11, 26, 8, tzinfo=UTC).timestamp()
    rules = AlertRules(WALL)
    told = []
    for quarter in range(4 * 30, 0, -1):
        wall = starts - quarter * 900
        rules.look(shown, [], wall, wall)
        for message in rules.take(wall, wall):
            told.append(quarter / 4)
            assert "1 open position, worth 4.00 dollars" in message.lines[0]
    assert told == told_h


def test_a_start_shortly_before_the_pause_tells_it_once() -> None:
    shown = document(next_pause={"starts_at": "2026-11-19T06:20:00Z", "ends_at": "2026-11-19T08:00:00Z"})
    run = Run()
    run.go_on(shown, 600)
    assert [message.kind for _, message in run.said] == [Kind.PAUSE_AHEAD]


def test_the_key_s_end_is_told_a_week_three_days_and_a_day_ahead_and_when_it_has_come() -> None:
    shown = document(key={"attestation_ends_at": "2026-12-19T06:00:00Z"})
    rules = AlertRules(WALL)
    told = []
    for hour in range(32 * 24):
        wall = WALL + 3_600 * hour
        rules.look(shown, [], wall, wall)
        told += [(30 * 24 - hour) / 24 for _ in rules.take(wall, wall)]
    assert told == [7, 3, 1, 0]


def test_a_date_that_cannot_be_read_tells_nothing() -> None:
    shown = document(key={"attestation_ends_at": "soon"}, next_pause={"starts_at": 5})
    assert list(ahead(shown, WALL)) == []
    assert list(troubles(shown, [], WALL)) == []


def test_a_message_says_who_speaks_what_since_when_and_what_to_do() -> None:
    run = Run()
    run.go_on(unprotected("KXA", "KXB"), 11)
    title, text = render([run.said[0][1]], 0, Sender("prod", False, "vps1"))
    assert title == "[LIVE vps1] 2 positions UNPROTECTED"
    assert text.splitlines() == [
        "KXA: no_bid, since 2026-11-19 06:00:00 UTC",
        "KXB: no_bid, since 2026-11-19 06:00:00 UTC",
        "To do: nobody bids: what has triggered is sold with the next bid",
    ]


@pytest.mark.parametrize(
    ("env", "is_paper", "head"),
    [
        (Environment.PROD, False, "LIVE vps1"),
        (Environment.DEMO, False, "DEMO vps1"),
        (Environment.SANDBOX, False, "SANDBOX vps1"),
        (Environment.PROD, True, "PAPER vps1"),
        (Environment.SANDBOX, True, "PAPER vps1"),
    ],
    ids=["real money", "the demo", "the sandbox", "paper on real prices", "paper on the sandbox"],
)
def test_only_what_is_about_real_money_is_headed_live(env: Environment, is_paper: bool, head: str) -> None:
    sender = Sender(env.value, is_paper, "vps1")
    assert render([message()], 0, sender)[0] == f"[{head}] exit filled"


# --- what one channel may send ------------------------------------------------------------------------


def message(kind: Kind = Kind.EXIT_FILLED, text: str = "x") -> Message:
    return Message(kind, Phase.NEW, 1, (text,), ("look",))


def test_no_more_than_the_limit_goes_out_in_ten_minutes_and_the_rest_is_summed_up() -> None:
    outbox = Outbox()
    parcels = []
    for second in range(600):
        outbox.put(message(text=str(second)))
        if (parcel := outbox.next(second)) is not None:
            parcels.append(parcel)
            outbox.sent(second)
    assert len(parcels) == SENT_MAX - RESERVED
    parcel = outbox.next(WINDOW_S)
    assert parcel is not None
    assert len(parcel.messages) == KEPT_MAX
    assert parcel.dropped == 600 - (SENT_MAX - RESERVED) - KEPT_MAX
    title, text = render(parcel.messages, parcel.dropped, Sender("prod", False, "vps1"))
    assert "100 alerts: exit filled" in title
    assert f"{parcel.dropped} alerts were dropped" in text


def test_what_is_urgent_goes_first_and_when_the_rest_must_wait() -> None:
    outbox = Outbox()
    for _ in range(SENT_MAX - RESERVED):
        outbox.sent(0.0)
    outbox.put(message())
    assert outbox.next(1.0) is None
    outbox.put(message(Kind.UNPROTECTED))
    parcel = outbox.next(1.0)
    assert parcel is not None
    assert parcel.messages[0].kind is Kind.UNPROTECTED


def test_what_was_not_delivered_stays_and_is_tried_later_each_time() -> None:
    outbox = Outbox()
    outbox.put(message())
    tried = []
    for second in range(1_000):
        if (parcel := outbox.next(second)) is not None:
            tried.append(second)
            outbox.failed(parcel, second)
    assert tried == [0, 5, 15, 35, 75, 155, 315, 615, 915]
    assert len(outbox) == 1


def test_a_full_box_drops_what_is_least_urgent_and_counts_it() -> None:
    outbox = Outbox()
    outbox.put(message(Kind.UNPROTECTED))
    for number in range(KEPT_MAX + 5):
        outbox.put(message(text=str(number)))
    assert (len(outbox), outbox.dropped) == (KEPT_MAX, 6)
    parcel = outbox.next(0.0)
    assert parcel is not None
    assert parcel.messages[0].kind is Kind.UNPROTECTED
    assert parcel.messages[1].lines == ("6",)
