"""What is required gets asked for, again and again where needed, and never in a storm."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from base.kalshi.subscriptions import (
    ACK_TIMEOUT_S,
    BATCH_SIZE_MAX,
    PRIVATE_CHANNELS,
    RETRY_S_MAX,
    Channel,
    Command,
    SubscriptionTracker,
)
from base.model.events import ErrorReply, Ok, Subscribed, Unsubscribed

TICKER_SID, BOOK_SID = 5, 6
SIDS = {"ticker": TICKER_SID, "orderbook_delta": BOOK_SID} | {c: n for n, c in enumerate(PRIVATE_CHANNELS, 1)}


class Line:
    """A tracker and the commands it sends; time moves when told."""

    def __init__(self, tickers: Iterable[str] = (), books: Iterable[str] = ()) -> None:
        self.tracker = SubscriptionTracker()
        self.tracker.set_required(tickers, books)
        self.now = 1_000.0
        self.sent: list[Command] = []

    def send(self) -> list[Command]:
        """Let what is due be sent now."""
        commands = self.tracker.due_commands(self.now)
        self.sent += commands
        return commands

    def require(self, tickers: Iterable[str], books: Iterable[str] = ()) -> list[Command]:
        self.tracker.set_required(tickers, books)
        return self.send()

    def acknowledge(self, command: Command) -> None:
        """Answer a command as the exchange does."""
        if command.cmd == "subscribe":
            for channel in command.params["channels"]:
                self.tracker.observe(Subscribed(command.id, channel, SIDS[channel]), self.now)
        else:
            self.tracker.observe(Ok(command.id, command.params["sids"][0], None, None), self.now)

    def refuse(self, command: Command, code: int) -> None:
        self.tracker.observe(ErrorReply(command.id, code, "", None, None), self.now)

    def settle(self) -> None:
        """Acknowledge all and show every price, until nothing is due."""
        for _ in range(20):
            commands = self.send()
            if not commands:
                return
            for command in commands:
                self.acknowledge(command)
                for ticker in command.params.get("market_tickers", ()):
                    self.tracker.price_seen(ticker)
                    self.tracker.book_seen(ticker)

    def run(self, seconds: float, answer: Callable[[Command], None] | None = None) -> list[Command]:
        """Let this much time pass in the steps of the client's loop; return what was sent."""
        sent = []
        for _ in range(round(seconds / 0.1)):
            self.now += 0.1
            commands = self.send()
            sent += commands
            for command in commands:
                if answer is not None:
                    answer(command)
        return sent


def public(commands: Iterable[Command]) -> list[Command]:
    """Without the one command for the private channels."""
    return [c for c in commands if "fill" not in c.params.get("channels", ())]


def tickers_of(commands: Iterable[Command], channel: Channel = Channel.TICKER) -> list[list[str]]:
    return [
        c.params["market_tickers"]
        for c in commands
        if channel in c.params.get("channels", ()) or c.params.get("sids") == [SIDS[channel]]
    ]


def names(count: int) -> list[str]:
    return [f"KX{n:05}" for n in range(count)]


# --- asking -------------------------------------------------------------------------------------------


def test_a_connection_starts_with_the_private_channels_the_tickers_and_the_books() -> None:
    line = Line(["KXA", "KXB"], ["KXA"])
    assert [(c.id, c.cmd, c.params) for c in line.send()] == [
        (1, "subscribe", {"channels": list(PRIVATE_CHANNELS)}),
        (
            2,
            "subscribe",
            {"market_tickers": ["KXA", "KXB"], "send_initial_snapshot": True, "channels": ["ticker"]},
        ),
        (
            3,
            "subscribe",
            # The default of the flag is announced to flip (docs, order book updates): always explicit.
            {"market_tickers": ["KXA"], "channels": ["orderbook_delta"], "use_yes_price": False},
        ),
    ]
    assert line.send() == [], "nothing twice"


def test_large_numbers_go_in_batches() -> None:
    line = Line(names(450))
    assert [len(batch) for batch in tickers_of(line.send())] == [BATCH_SIZE_MAX, BATCH_SIZE_MAX, 50]


def test_more_is_added_to_the_subscription_that_is_there() -> None:
    line = Line(["KXA"])
    line.settle()
    (command,) = line.require(["KXA", "KXB"])
    assert command.cmd == "update_subscription"
    assert command.params == {
        "market_tickers": ["KXB"],
        "send_initial_snapshot": True,
        "sids": [TICKER_SID],
        "action": "add_markets",
    }


def test_what_is_no_longer_required_is_deleted() -> None:
    line = Line(["KXA", "KXB"], ["KXA", "KXB"])
    line.settle()
    commands = line.require(["KXB"], ["KXB"])
    assert [(c.cmd, c.params) for c in commands] == [
        ("update_subscription", {"sids": [sid], "action": "delete_markets", "market_tickers": ["KXA"]})
        for sid in (TICKER_SID, BOOK_SID)
    ]
    assert line.tracker.confirmed == {"KXB"}


def test_a_book_may_go_while_its_ticker_stays() -> None:
    line = Line(["KXA"], ["KXA"])
    line.settle()
    (command,) = line.require(["KXA"], [])
    assert command.params["sids"] == [BOOK_SID]
    assert line.tracker.is_confirmed("KXA")


def test_a_ticker_removed_before_its_acknowledgement_is_deleted_when_it_comes() -> None:
    line = Line(["KXA", "KXB"])
    command = public(line.send())[0]
    assert line.require(["KXB"]) == []
    line.acknowledge(command)
    (removal,) = line.send()
    assert removal.params == {"sids": [TICKER_SID], "action": "delete_markets", "market_tickers": ["KXA"]}
    assert line.run(60, line.acknowledge) != [removal]
    assert all("KXA" not in batch for batch in tickers_of(line.sent[3:])), "and not asked for again"


# --- confirming ---------------------------------------------------------------------------------------

STEPS = ("acknowledged", "priced", "5 s pass", "lost", "reconnected")


@pytest.mark.parametrize("first", list(itertools.product(STEPS, repeat=2)), ids=" > ".join)
def test_confirmed_means_acknowledged_and_priced_since_the_last_loss(first: tuple[str, ...]) -> None:
    """Every sequence of four steps, held against a model of two flags."""
    for then in itertools.product(STEPS, repeat=2):
        check_confirmation((*first, *then))


def check_confirmation(steps: tuple[str, ...]) -> None:
    line = Line(["KXA"])
    command = public(line.send())[0]
    is_acknowledged = has_price = False
    for step in steps:
        if step == "acknowledged":
            line.acknowledge(command)
            is_acknowledged = True
        elif step == "priced":
            line.tracker.price_seen("KXA")
            has_price = True
        elif step == "5 s pass":
            line.now += ACK_TIMEOUT_S
            command = (public(line.send()) or [command])[-1]
        elif step == "lost":
            if not is_acknowledged:
                continue
            line.tracker.observe(ErrorReply(0, 25, "", TICKER_SID, None), line.now)
            is_acknowledged = has_price = False
            command = public(line.run(31))[-1]  # at once the first time, later with growing pauses
        else:
            line.tracker.connection_opened()
            command = public(line.send())[0]
            assert command.cmd == "subscribe", steps
            is_acknowledged = has_price = False
        expected = {"KXA"} if is_acknowledged and has_price else set()
        assert line.tracker.confirmed == expected, (steps, step)
        assert line.tracker.is_confirmed("KXA") == bool(expected)
    # Whatever happened: what is not confirmed is asked for again in the end, and can be confirmed.
    for _ in range(100):
        if line.tracker.is_confirmed("KXA"):
            return
        line.now += 1.0
        for due in line.send():
            line.acknowledge(due)
            line.tracker.price_seen("KXA")
    raise AssertionError(f"{steps}: never confirmed")


def test_a_price_for_what_is_not_required_confirms_nothing() -> None:
    line = Line(["KXA"])
    line.settle()
    line.tracker.price_seen("KXZ")
    assert line.tracker.confirmed == {"KXA"}
    assert line.tracker.subscribed_count == 1


def test_a_lost_acknowledgement_is_asked_for_again_after_five_seconds() -> None:
    line = Line(["KXA"])
    line.send()
    line.now += ACK_TIMEOUT_S - 0.01
    assert line.send() == []
    line.now += 0.01
    again = public(line.send())
    assert tickers_of(again) == [["KXA"]]
    assert again[0].cmd == "subscribe", "a repeated subscribe needs to know no subscription id"


def test_a_first_price_that_stays_out_is_asked_for_again_after_five_seconds() -> None:
    line = Line(["KXA", "KXB"])
    for command in line.send():
        line.acknowledge(command)
    line.tracker.price_seen("KXA")
    line.now += ACK_TIMEOUT_S
    assert tickers_of(line.send()) == [["KXB"]]


def test_a_late_acknowledgement_is_still_one() -> None:
    line = Line(["KXA"])
    command = public(line.send())[0]
    line.run(40)
    line.acknowledge(command)
    line.tracker.price_seen("KXA")
    assert line.tracker.is_confirmed("KXA")


def test_an_update_confirms_only_what_the_exchange_lists() -> None:
    line = Line(["KXA"])
    line.settle()
    (command,) = line.require(["KXA", "KXB", "KXC"])
    line.tracker.observe(Ok(command.id, TICKER_SID, None, ("KXA", "KXB")), line.now)
    for ticker in ("KXB", "KXC"):
        line.tracker.price_seen(ticker)
    assert line.tracker.confirmed == {"KXA", "KXB"}
    line.now += ACK_TIMEOUT_S
    assert tickers_of(line.send()) == [["KXC"]]


def test_a_merged_subscribe_may_be_answered_with_ok() -> None:
    line = Line(["KXA"])
    command = public(line.send())[0]
    line.tracker.observe(Ok(command.id, TICKER_SID, None, ("KXA",)), line.now)
    line.tracker.price_seen("KXA")
    assert line.tracker.is_confirmed("KXA")
    assert line.require(["KXA", "KXB"])[0].params["sids"] == [TICKER_SID]


def test_an_acknowledgement_without_id_counts_for_what_was_asked() -> None:
    line = Line(["KXA"])
    line.send()
    line.tracker.observe(Subscribed(0, "ticker", TICKER_SID), line.now)
    line.tracker.price_seen("KXA")
    assert line.tracker.is_confirmed("KXA")


def test_a_foreign_acknowledgement_confirms_nothing() -> None:
    line = Line(["KXA"])
    line.send()
    line.tracker.observe(Subscribed(99, "ticker", TICKER_SID), line.now)
    line.tracker.observe(Ok(98, TICKER_SID, None, ("KXA",)), line.now)
    line.tracker.observe(Subscribed(97, "trade", 9), line.now)
    line.tracker.price_seen("KXA")
    assert not line.tracker.is_confirmed("KXA")


def test_a_market_that_the_stream_is_silent_on_is_asked_for_again() -> None:
    line = Line(["KXA", "KXB"])
    line.settle()
    line.tracker.suspect("KXA")
    line.tracker.suspect("KXZ")
    assert line.tracker.confirmed == {"KXB"}
    (command,) = line.send()
    assert (command.cmd, command.params["market_tickers"]) == ("subscribe", ["KXA"])
    line.tracker.suspect("KXA")
    assert line.send() == [], "not before it was acknowledged"


def test_a_new_connection_asks_for_what_is_required_now() -> None:
    line = Line(["KXA", "KXB"], ["KXA"])
    line.settle()
    line.tracker.set_required(["KXB", "KXC"], ["KXC"])
    line.tracker.connection_opened()
    assert line.tracker.confirmed == frozenset()
    commands = line.send()
    assert [c.id for c in commands] == [1, 2, 3]
    assert tickers_of(commands) == [["KXB", "KXC"]]
    assert tickers_of(commands, Channel.ORDERBOOK) == [["KXC"]]
    assert {c.cmd for c in commands} == {"subscribe"}, "ids of the last connection are worth nothing"


# --- errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [10, 25])
def test_an_ended_subscription_is_made_again(code: int) -> None:
    line = Line(["KXA", "KXB"], ["KXA"])
    line.settle()
    lost = line.tracker.observe(ErrorReply(0, code, "", TICKER_SID, None), line.now)
    assert (lost.sids, lost.books) == ({TICKER_SID}, frozenset())
    assert line.tracker.confirmed == frozenset()
    (command,) = line.send()
    assert (command.cmd, command.params["market_tickers"]) == ("subscribe", ["KXA", "KXB"])


def test_the_books_of_an_ended_subscription_are_named() -> None:
    line = Line(["KXA", "KXB"], ["KXA"])
    line.settle()
    lost = line.tracker.observe(ErrorReply(0, 25, "", BOOK_SID, None), line.now)
    assert (lost.sids, lost.books) == ({BOOK_SID}, {"KXA"})
    assert line.tracker.confirmed == {"KXA", "KXB"}, "the tickers go on"
    assert tickers_of(line.send(), Channel.ORDERBOOK) == [["KXA"]]


def test_an_end_that_nobody_asked_for_is_one_too() -> None:
    line = Line(["KXA"])
    line.settle()
    assert line.tracker.observe(Unsubscribed(0, TICKER_SID, None), line.now).sids == {TICKER_SID}
    assert tickers_of(line.send()) == [["KXA"]]


def test_an_ended_private_subscription_is_made_again() -> None:
    line = Line(["KXA"])
    line.settle()
    line.tracker.observe(ErrorReply(0, 10, "", SIDS["fill"], None), line.now)
    (command,) = line.send()
    assert command.params == {"channels": ["fill"]}


@pytest.mark.parametrize("code", [7, 12])
def test_an_unknown_subscription_id_leads_to_a_new_subscription(code: int) -> None:
    line = Line(["KXA"])
    line.settle()
    (update,) = line.require(["KXA", "KXB"])
    line.refuse(update, code)
    (command,) = line.send()
    assert (command.cmd, command.params["market_tickers"]) == ("subscribe", ["KXA", "KXB"])


@pytest.mark.parametrize("code", [26, 27])
def test_too_much_or_too_fast_means_smaller_and_slower(code: int) -> None:
    line = Line(names(150))
    first = public(line.send())[0]
    line.refuse(first, code)
    assert line.send() == []
    sent = line.run(1.0)
    assert [len(batch) for batch in tickers_of(sent)] == [100], "half as many, one command at a time"
    line.refuse(sent[-1], code)
    assert line.run(1.5) == []
    assert [len(batch) for batch in tickers_of(line.run(0.6))] == [50], "after twice the pause"


def test_the_pace_recovers_when_no_more_is_refused() -> None:
    line = Line(["KXA"])
    line.refuse(public(line.send())[0], 27)
    line.run(62, line.acknowledge)
    assert len(line.require([*names(300), "KXA"])) == 2


def test_an_unknown_channel_leaves_the_others_of_its_command() -> None:
    """Recorded: the good channels of the command are acknowledged, the bad one gets error 8."""
    line = Line([])
    (command,) = line.send()
    for channel in PRIVATE_CHANNELS[:2]:
        line.tracker.observe(Subscribed(command.id, channel, SIDS[channel]), line.now)
    line.refuse(command, 8)
    line.tracker.observe(Subscribed(command.id, PRIVATE_CHANNELS[3], 4), line.now)
    assert line.run(RETRY_S_MAX - 1) == []
    (again,) = line.run(2)
    assert again.params == {"channels": [PRIVATE_CHANNELS[2]]}


def test_a_refused_book_channel_is_not_asked_for_again() -> None:
    line = Line(["KXA"], ["KXA"])
    for command in line.send():
        if "orderbook_delta" in command.params["channels"]:
            line.refuse(command, 8)
        else:
            line.acknowledge(command)
    line.tracker.price_seen("KXA")
    assert line.tracker.is_confirmed("KXA")
    assert line.run(300) == []


def test_a_refused_ticker_channel_is_asked_for_again_in_one_piece() -> None:
    line = Line(names(50))
    line.refuse(public(line.send())[0], 8)
    assert [len(b) for b in tickers_of(line.run(RETRY_S_MAX + 1, line.acknowledge))] == [50]


def test_one_bad_ticker_is_found_by_halving() -> None:
    """What an unknown ticker does to its batch is not documented: the whole of it may be refused."""
    line = Line([*names(31), "KXBAD"])

    def answer(command: Command) -> None:
        if "KXBAD" in command.params.get("market_tickers", ()):
            line.refuse(command, 16)
            return
        line.acknowledge(command)
        for ticker in command.params.get("market_tickers", ()):
            line.tracker.price_seen(ticker)

    for command in line.send():
        answer(command)
    sent = line.run(3, answer)
    assert line.tracker.confirmed == set(names(31))
    assert len(sent) < 15
    assert len(line.run(600, answer)) <= 15, "the bad one is tried again, seldom"


def test_a_bad_ticker_that_was_found_stays_alone() -> None:
    line = Line(["KXZBAD", "KXGOOD"])

    def answer(command: Command) -> None:
        tickers = command.params.get("market_tickers", ())
        if "KXZBAD" in tickers:
            line.refuse(command, 16)
        elif "KXDEAF" not in tickers:  # what concerns that one is never acknowledged
            line.acknowledge(command)

    for command in line.send():
        answer(command)
    line.run(1, answer)
    line.tracker.set_required(["KXZBAD", "KXGOOD", "KXDEAF"], [])
    line.run(1, answer)
    line.now += 300  # now both are due
    batches = tickers_of(line.run(1, answer))
    assert ["KXDEAF"] in batches
    assert ["KXZBAD"] in batches
    assert [b for b in batches if "KXZBAD" in b and len(b) > 1] == []


def test_authentication_required_needs_a_new_connection() -> None:
    line = Line(["KXA"])
    line.refuse(line.send()[0], 9)
    assert line.tracker.needs_reconnect
    line.tracker.connection_opened()
    assert not line.tracker.needs_reconnect


# --- books --------------------------------------------------------------------------------------------


def test_an_unusable_book_is_asked_for_once_at_a_time() -> None:
    line = Line(["KXA", "KXB"], ["KXA", "KXB"])
    line.settle()
    line.tracker.request_snapshots(["KXB", "KXA"])
    (command,) = line.send()
    assert command.params == {
        "sids": [BOOK_SID],
        "action": "get_snapshot",
        "market_tickers": ["KXA", "KXB"],
    }
    line.tracker.request_snapshots(["KXA"])
    assert line.run(ACK_TIMEOUT_S - 0.2) == [], "one is under way"
    line.tracker.book_seen("KXA")
    assert [c.params["market_tickers"] for c in line.run(0.4)] == [["KXB"]], "only what is still missing"


def test_a_second_gap_waits_a_second_not_five() -> None:
    line = Line(["KXA"], ["KXA"])
    line.settle()
    line.tracker.request_snapshots(["KXA"])
    line.send()
    line.tracker.book_seen("KXA")
    line.tracker.request_snapshots(["KXA"])
    assert line.send() == []
    assert [c.params["action"] for c in line.run(1.1)] == ["get_snapshot"]


def test_no_snapshot_is_asked_for_what_is_gone() -> None:
    line = Line(["KXA"], ["KXA"])
    line.settle()
    line.tracker.request_snapshots(["KXA"])
    (command,) = line.require(["KXA"], [])
    assert command.params["action"] == "delete_markets"
    assert line.run(60) == []


def test_the_books_of_a_subscription_are_known() -> None:
    line = Line(["KXA", "KXB"], ["KXB"])
    line.settle()
    assert line.tracker.books_of(BOOK_SID) == ["KXB"]
    assert line.tracker.books_of(99) == []


# --- storms -------------------------------------------------------------------------------------------


def acknowledge_then_end(line: Line) -> Callable[[Command], None]:
    def answer(command: Command) -> None:
        line.acknowledge(command)
        for channel in command.params.get("channels", ()):
            line.tracker.observe(ErrorReply(0, 25, "", SIDS[channel], None), line.now)

    return answer


STORMS: list[Any] = [
    pytest.param(lambda line: None, 45, id="nothing is ever answered"),
    pytest.param(lambda line: line.acknowledge, 40, id="acknowledged, and never a price"),
    pytest.param(lambda line: lambda c: line.refuse(c, 27), 40, id="too many requests, always"),
    pytest.param(lambda line: lambda c: line.refuse(c, 26), 40, id="too many markets, always"),
    pytest.param(lambda line: lambda c: line.refuse(c, 8), 55, id="unknown channel, always"),
    pytest.param(lambda line: lambda c: line.refuse(c, 7), 45, id="unknown subscription, always"),
    pytest.param(acknowledge_then_end, 130, id="every subscription ends as soon as it is made"),
]


@pytest.mark.parametrize(("answers", "most"), STORMS)
def test_ten_minutes_of_trouble_make_no_storm(
    answers: Callable[[Line], Callable[[Command], None]], most: int
) -> None:
    line = Line(names(40), names(10))
    answer = answers(line)
    first, last = line.run(480, answer), line.run(120, answer)
    assert len(first) + len(last) <= most
    assert last, "and it never gives up"


def test_commands_have_rising_ids_and_never_id_nought() -> None:
    line = Line(names(30), names(10))
    ids = [c.id for c in line.run(120)]
    assert ids == list(range(1, len(ids) + 1)), "0 means no id to the exchange"
