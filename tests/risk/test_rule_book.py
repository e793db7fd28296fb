"""The rules file: what is read, what is refused and where, and which table wins."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import ConfigError
from base.model.rules import ExitRule
from base.risk.rule_book import RuleBook, describe_rule, parse_rules
from tests.risk.cases import TICKER, position

D = Decimal
DEFAULTS = ExitRule(stop_loss_pct=D(25))

README_EXAMPLE = """
[[rule]]
match = "KXHIGHNY-*"              # exact ticker, glob, or "series:KXHIGHNY"
stop_loss_price = "0.40"          # or stop_loss_pct = 25, or stop_loss_dollars = "5.00"
take_profit_price = "0.90"        # or take_profit_pct
trailing_stop_pct = 15            # giveback from the best exit value; or trailing_stop_price = "0.08"
trailing_activation_pct = 10      # starts only after this gain
break_even_after_pct = 20         # after this gain the stop is entry plus fees
exit_before_close_s = 600         # time stops
exit_after_entry_s = 86400
no_stop_before_close_s = 60
hold_below_price = "0.03"         # rather hold than sell below this
confirm_ms = 0                    # guards, each bounded by guard_patience_ms
confirm_updates = 1
max_spread = "0.10"
min_bid_size = "1"
guard_patience_ms = 10000
protect = true
"""


def book(text: str) -> RuleBook:
    return parse_rules(text, "rules.toml", DEFAULTS)


def test_the_documented_example_is_read_field_for_field() -> None:
    assert book(README_EXAMPLE).rule_for(TICKER) == ExitRule(
        stop_loss_price=D("0.40"),
        take_profit_price=D("0.90"),
        trailing_stop_pct=D(15),
        trailing_activation_pct=D(10),
        break_even_after_pct=D(20),
        exit_before_close_s=600,
        exit_after_entry_s=86400,
        no_stop_before_close_s=60,
        hold_below_price=D("0.03"),
        max_spread=D("0.10"),
        min_bid_size=D(1),
    )


def test_markets_that_no_table_names_have_the_defaults() -> None:
    assert book(README_EXAMPLE).rule_for("KXBTC-26APR1817-B76125") == DEFAULTS
    assert RuleBook.empty(DEFAULTS).rule_for(TICKER) == DEFAULTS
    assert book("").rule_for(TICKER) == DEFAULTS


class MergeCase(NamedTuple):
    name: str
    text: str
    expected: ExitRule
    ticker: str = TICKER


SERIES = '[[rule]]\nmatch = "series:KXHIGHNY"\n'
GLOB = '[[rule]]\nmatch = "KXHIGHNY-*"\n'
LONGER_GLOB = '[[rule]]\nmatch = "KXHIGHNY-26DEC19-*"\n'
EXACT = f'[[rule]]\nmatch = "{TICKER}"\n'
MERGES = [
    MergeCase("series over defaults", SERIES + "stop_loss_pct = 10", ExitRule(stop_loss_pct=D(10))),
    MergeCase(
        "glob over series, whatever stands first",
        GLOB + "stop_loss_pct = 20\n" + SERIES + "stop_loss_pct = 10",
        ExitRule(stop_loss_pct=D(20)),
    ),
    MergeCase(
        "the longer glob wins",
        LONGER_GLOB + "stop_loss_pct = 30\n" + GLOB + "stop_loss_pct = 20",
        ExitRule(stop_loss_pct=D(30)),
    ),
    MergeCase(
        "the exact ticker wins over all",
        EXACT + "stop_loss_pct = 5\n" + LONGER_GLOB + "stop_loss_pct = 30\n" + SERIES + "stop_loss_pct = 10",
        ExitRule(stop_loss_pct=D(5)),
    ),
    MergeCase(
        "each field from the closest table that names it",
        SERIES
        + "max_spread = '0.10'\nconfirm_ms = 100\n"
        + GLOB
        + "confirm_ms = 200\n"
        + EXACT
        + "protect = false",
        replace(DEFAULTS, max_spread=D("0.10"), confirm_ms=200, protect=False),
    ),
    MergeCase(
        "a stop in dollars replaces the default percent",
        EXACT + "stop_loss_dollars = '5.00'",
        ExitRule(stop_loss_dollars=D("5.00")),
    ),
    MergeCase(
        "a stop price of a glob replaces the percent of the series",
        SERIES + "stop_loss_pct = 10\n" + GLOB + "stop_loss_price = '0.40'",
        ExitRule(stop_loss_price=D("0.40")),
    ),
    MergeCase(
        "take-profit and trailing kinds replace each other too",
        SERIES
        + "take_profit_pct = 50\ntrailing_stop_pct = 10\ntrailing_activation_pct = 5\n"
        + GLOB
        + "take_profit_price = '0.9'\ntrailing_stop_price = '0.08'",
        replace(
            DEFAULTS,
            take_profit_price=D("0.9"),
            trailing_stop_price=D("0.08"),
            trailing_activation_pct=D(5),
        ),
    ),
    MergeCase(
        "an activation in dollars replaces the percent of the series",
        SERIES
        + "trailing_stop_pct = 10\ntrailing_activation_pct = 5\nbreak_even_after_pct = 20\n"
        + EXACT
        + "trailing_activation_price = '0.05'\nbreak_even_after_price = '0.10'\nexit_with_event = true",
        replace(
            DEFAULTS,
            trailing_stop_pct=D(10),
            trailing_activation_price=D("0.05"),
            break_even_after_price=D("0.10"),
            exit_with_event=True,
        ),
    ),
    MergeCase(
        "the trailing stop that an activation starts may stand in any table that meets it",
        SERIES + "trailing_activation_pct = 10\n" + EXACT + "trailing_stop_price = '0.08'",
        replace(DEFAULTS, trailing_activation_pct=D(10), trailing_stop_price=D("0.08")),
    ),
    MergeCase(
        "a glob does not match beyond its end",
        '[[rule]]\nmatch = "KXHIGHNY-26DEC19-?"\nprotect = false',
        DEFAULTS,
    ),
    MergeCase("a series is no prefix", '[[rule]]\nmatch = "series:KXHIGH"\nprotect = false', DEFAULTS),
    MergeCase(
        "floats are read as written",
        EXACT + "stop_loss_pct = 12.1",
        ExitRule(stop_loss_pct=D("12.1")),
    ),
]


@pytest.mark.parametrize("case", MERGES, ids=lambda case: case.name)
def test_which_table_wins(case: MergeCase) -> None:
    assert book(case.text).rule_for(case.ticker) == case.expected


class BadCase(NamedTuple):
    name: str
    text: str
    line: int
    says: str


BAD = [
    BadCase("mistyped key", EXACT + "stop_los_pct = 25", 3, "did you mean 'stop_loss_pct'?"),
    BadCase("mistyped match", '[[rule]]\nmach = "X"\nmatch = "X"', 2, "did you mean 'match'?"),
    BadCase("no match", "[[rule]]\nstop_loss_pct = 25", 1, "without match"),
    BadCase("match is no string", "[[rule]]\nmatch = 5", 2, "match"),
    BadCase("match with a space", '[[rule]]\nmatch = "KX *"', 2, "no ticker"),
    BadCase("match with a character set", '[[rule]]\nmatch = "KX[AB]*"', 2, "no ticker"),
    BadCase("empty series", '[[rule]]\nmatch = "series:"', 2, "no ticker"),
    BadCase("price without quotes", EXACT + "stop_loss_price = 0.40", 3, '"0.4" with quotes'),
    BadCase("price in cents", EXACT + 'stop_loss_price = "40"', 3, "not a price"),
    BadCase("price of 0", EXACT + 'stop_loss_price = "0.00"', 3, "above 0"),
    BadCase("price of 1", EXACT + 'take_profit_price = "1.00"', 3, "below 1"),
    BadCase("price NaN", EXACT + 'stop_loss_price = "NaN"', 3, "not a price"),
    BadCase("price in other digits", EXACT + 'stop_loss_price = "0.٤٠"', 3, "not a price"),
    BadCase("price with an exponent", EXACT + 'stop_loss_price = "4e-1"', 3, "not a price"),
    BadCase("percent as a string", EXACT + 'stop_loss_pct = "25"', 3, "without quotes"),
    BadCase("percent nan", EXACT + "stop_loss_pct = nan", 3, "not a number"),
    BadCase("percent infinite", EXACT + "take_profit_pct = inf", 3, "not a number"),
    BadCase("percent of 100 is no stop", EXACT + "stop_loss_pct = 100", 3, "below 100"),
    BadCase("percent of 0", EXACT + "trailing_stop_pct = 0", 3, "above 0"),
    BadCase("percent true", EXACT + "stop_loss_pct = true", 3, "not a number"),
    BadCase("negative seconds", EXACT + "exit_before_close_s = -1", 3, "above 0"),
    BadCase("seconds nan", EXACT + "exit_after_entry_s = nan", 3, "not a number"),
    BadCase("dollars as a number", EXACT + "stop_loss_dollars = 5", 3, '"5" with quotes'),
    BadCase("dollars of 0", EXACT + 'stop_loss_dollars = "0"', 3, "above 0"),
    BadCase("no updates", EXACT + "confirm_updates = 0", 3, "from 1"),
    BadCase("half a millisecond", EXACT + "confirm_ms = 0.5", 3, "whole number"),
    BadCase("patience without end", EXACT + "guard_patience_ms = 999999999", 3, "600000"),
    BadCase("protect as a word", EXACT + 'protect = "no"', 3, "true nor false"),
    BadCase("two kinds of stop", EXACT + "stop_loss_pct = 9\nstop_loss_price = '0.40'", 4, "keep one"),
    BadCase(
        "two trailing amounts", EXACT + "trailing_stop_pct = 9\ntrailing_stop_price = '0.1'", 4, "keep one"
    ),
    BadCase(
        "stop above take-profit",
        EXACT + "stop_loss_price = '0.5'\ntake_profit_price = '0.4'",
        3,
        "below take_profit",
    ),
    BadCase(
        "held above its stop", EXACT + "stop_loss_price = '0.3'\nhold_below_price = '0.4'", 4, "lower it"
    ),
    BadCase(
        "a wait that patience cuts off",
        EXACT + "wick_drop = '0.05'\nwick_wait_ms = 8000\nguard_patience_ms = 5000",
        4,
        "cut off",
    ),
    BadCase(
        "a confirmation that patience cuts off",
        EXACT + "confirm_ms = 8000\nguard_patience_ms = 5000",
        3,
        "cut off",
    ),
    BadCase(
        "two kinds of activation",
        EXACT + "trailing_stop_pct = 9\ntrailing_activation_pct = 5\ntrailing_activation_price = '0.05'",
        5,
        "keep one",
    ),
    BadCase(
        "two kinds of break-even",
        EXACT + "break_even_after_price = '0.1'\nbreak_even_after_pct = 20",
        4,
        "keep one",
    ),
    BadCase(
        "a profit held", EXACT + "take_profit_price = '0.6'\nhold_below_price = '0.7'", 4, "hold a profit"
    ),
    BadCase(
        "an activation without a trailing stop",
        EXACT + "trailing_activation_pct = 10",
        2,
        "trailing_activation_pct without a trailing stop",
    ),
    BadCase(
        "a trailing stop in another series does not help an activation",
        SERIES + 'trailing_activation_price = "0.05"\n[[rule]]\nmatch = "KXBTC-*"\ntrailing_stop_pct = 10',
        2,
        "without a trailing stop",
    ),
    BadCase("activation of 0 dollars", EXACT + "trailing_activation_price = '0.00'", 3, "above 0"),
    BadCase("exit_with_event as a word", EXACT + 'exit_with_event = "yes"', 3, "true nor false"),
    BadCase("a field that no file may set", EXACT + "hedged = true", 3, "unknown key 'hedged'"),
    BadCase(
        "mistyped activation", EXACT + "trailing_activation_prize = '0.1'", 3, "'trailing_activation_price'?"
    ),
    BadCase("the same match twice", EXACT + "\n" + EXACT, 5, "rules.toml:2 already"),
    BadCase(
        "two globs that tie", '[[rule]]\nmatch = "KXHIGH*"\n[[rule]]\nmatch = "*HIGHNY"\n', 4, "equally long"
    ),
    BadCase("one table instead of a list", '[rule]\nmatch = "X"', 1, "[[rule]]"),
    BadCase("a key outside a table", "stop_loss_pct = 25\n" + EXACT, 1, "outside a table"),
    BadCase("another table", EXACT + "[other]\nx = 1", 3, "unknown key 'other'"),
    BadCase("not TOML", EXACT + "stop_loss_pct = ", 3, "not valid TOML"),
    BadCase("cut off", EXACT + 'max_spread = """0.1', 3, "not valid TOML"),
    BadCase("the same key twice", EXACT + "protect = true\nprotect = false", 4, "not valid TOML"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_what_is_not_certainly_right_is_refused_with_its_line(case: BadCase) -> None:
    with pytest.raises(ConfigError) as refused:
        book(case.text)
    [problem] = refused.value.problems
    assert problem.startswith(f"rules.toml:{case.line}: ")
    assert case.says in problem


def test_all_problems_are_told_at_once() -> None:
    text = '[[rule]]\nmatch = "A"\nstop = 1\nmax_spread = 1\n\n[[rule]]\n# match = "B"\nconfirm_ms = -1\n'
    with pytest.raises(ConfigError) as refused:
        book(text)
    assert [problem.split(": ")[0] for problem in refused.value.problems] == [
        "rules.toml:3",
        "rules.toml:4",
        "rules.toml:8",
        "rules.toml:6",
    ]


def test_an_activation_may_start_the_trailing_stop_of_the_defaults() -> None:
    defaults = ExitRule(trailing_stop_pct=D(15))
    rule = parse_rules(EXACT + "trailing_activation_pct = 10", "rules.toml", defaults).rule_for(TICKER)
    assert rule == replace(defaults, trailing_activation_pct=D(10))


def test_globs_of_equal_length_that_no_market_can_share_are_fine() -> None:
    two = book('[[rule]]\nmatch = "KXA-*"\nprotect = false\n[[rule]]\nmatch = "KXB-*"\n')
    assert not two.rule_for("KXA-1").protect
    assert two.rule_for("KXB-1").protect


@given(st.text(max_size=60))
@settings(deadline=None, max_examples=150, database=None)
def test_any_text_is_a_book_or_a_list_of_problems(text: str) -> None:
    for content in (text, EXACT + text, EXACT + "stop_loss_price = '" + text):
        problems: list[str] = []
        try:
            assert isinstance(book(content).rule_for(TICKER), ExitRule)
        except ConfigError as refused:
            problems = refused.problems
        assert all(problem.startswith("rules.toml:") for problem in problems)


def test_describe_names_the_table_of_each_field() -> None:
    text = book(SERIES + "take_profit_pct = 50\n" + EXACT + "stop_loss_price = '0.40'").describe(TICKER)
    assert f"stop_loss_price = 0.4 (from {TICKER}, rules.toml:5)" in text.splitlines()
    assert "take_profit_pct = 50 (from series:KXHIGHNY, rules.toml:2)" in text.splitlines()
    assert "guard_patience_ms = 10000 (from the defaults)" in text.splitlines()
    assert "stop_loss_pct" not in text
    assert "exit_with_event = false (from the defaults)" in text.splitlines()
    assert "hedged" not in text, "no key of the file"


def test_a_rule_is_described_by_what_it_means_for_the_position() -> None:
    full = book(README_EXAMPLE).rule_for(TICKER)
    assert describe_rule(full, position()) == (
        "stop 0.40 (set by the rule); take-profit 0.90 (set by the rule); trailing 15 % under the best bid "
        "after +10 %; break-even stop after +20 %; leaves 600 s before the close; leaves 86400 s after "
        "entry; no stop in the last 60 s; not sold below 0.03"
    )
    assert describe_rule(replace(DEFAULTS, protect=False), position()) == "watched only: protect = false"
    in_cents = ExitRule(
        trailing_stop_price=D("0.08"),
        trailing_activation_price=D("0.05"),
        break_even_after_price=D("0.10"),
        exit_with_event=True,
    )
    assert describe_rule(in_cents, position()) == (
        "trailing 0.08 under the best bid after +0.05 dollars; break-even stop after +0.10 dollars; "
        "leaves when another position of its event is left"
    )
    assert describe_rule(replace(DEFAULTS, hedged=True), position()) == (
        "part of a set that cannot lose: left by no rule while all of it is held"
    )
    dead = describe_rule(ExitRule(stop_loss_dollars=D(6)), position())
    assert dead.startswith("NO PROTECTION")
