"""The stream's protocol without a socket: commands, replies, sequence numbers."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from base.model.market import BookSide
from base.sandbox.market import MarketSpec
from base.sandbox.session import Session
from tests.sandbox.engine import NOW, Desk, T


def session_of(desk: Desk) -> Session:
    return Session(desk.exchange.markets.get, lambda: desk.exchange.markets, lambda ticker: None)


def send(session: Session, **command: object) -> list[dict[str, Any]]:
    return session.receive(json.dumps(command))


def subscribe(
    session: Session, *channels: str, command_id: int = 1, **params: object
) -> list[dict[str, Any]]:
    return send(session, id=command_id, cmd="subscribe", params={"channels": list(channels), **params})


def update(session: Session, **params: object) -> list[dict[str, Any]]:
    return send(session, id=9, cmd="update_subscription", params=params)


def test_one_subscribed_per_channel_before_its_data() -> None:
    desk = Desk()
    desk.quote({"0.45": "5"}, {"0.47": "6"})
    frames = subscribe(
        session_of(desk), "ticker", "orderbook_delta", market_tickers=[T], send_initial_snapshot=True
    )
    assert [(f["type"], f.get("seq")) for f in frames] == [
        ("subscribed", None),
        ("ticker", None),
        ("subscribed", None),
        ("orderbook_snapshot", 1),
    ]
    assert [f["msg"] for f in frames if f["type"] == "subscribed"] == [
        {"channel": "ticker", "sid": 1},
        {"channel": "orderbook_delta", "sid": 2},
    ]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("not json", 1),
        ("[]", 1),
        ('{"id":1,"cmd":"dance"}', 5),
        ('{"id":1,"cmd":"subscribe"}', 2),
        ('{"id":1,"cmd":"subscribe","params":{}}', 3),
        ('{"id":1,"cmd":"subscribe","params":{"channels":["orderbook_delta"]}}', 14),
        ('{"id":1,"cmd":"subscribe","params":{"channels":["ticker"],"market_tickers":[7]}}', 11),
        (
            '{"id":1,"cmd":"subscribe","params":{"channels":["ticker"],"market_ticker":"A","market_tickers":["A"]}}',
            11,
        ),
        ('{"id":1,"cmd":"unsubscribe","params":{}}', 4),
        ('{"id":1,"cmd":"unsubscribe","params":{"sids":[5]}}', 7),
        ('{"id":1,"cmd":"update_subscription","params":{"action":"add_markets"}}', 4),
        ('{"id":1,"cmd":"update_subscription","params":{"sids":[1,2],"action":"add_markets"}}', 12),
        ('{"id":1,"cmd":"update_subscription","params":{"sid":8,"action":"add_markets"}}', 7),
    ],
)
def test_bad_commands_get_their_code(text: str, code: int) -> None:
    (frame,) = session_of(Desk()).receive(text)
    assert frame["type"] == "error"
    assert frame["msg"]["code"] == code  # type: ignore[index]


def test_an_unknown_channel_does_not_stop_the_good_ones() -> None:
    frames = subscribe(session_of(Desk()), "nonsense", "fill")
    assert [(f["type"], f["id"]) for f in frames] == [("error", 1), ("subscribed", 1)]
    assert frames[0]["msg"] == {"code": 8, "msg": "Unknown channel name"}


def test_subscribing_again_merges_into_the_sid() -> None:
    desk = Desk()
    session = session_of(desk)
    subscribe(session, "ticker", market_tickers=["KX-OTHER"])
    frames = subscribe(session, "ticker", market_tickers=[T], command_id=2)
    assert frames == [{"id": 2, "type": "subscribed", "msg": {"channel": "ticker", "sid": 1}}]
    assert list(session.subscriptions[0].tickers or ()) == ["KX-OTHER", T]


def test_updates_list_all_markets_and_use_a_sequence_number_up() -> None:
    desk = Desk()
    session = session_of(desk)
    subscribe(session, "orderbook_delta", market_tickers=["KX-OTHER"])
    added = update(session, sid=1, action="add_markets", market_tickers=[T])
    assert [(f["type"], f["seq"]) for f in added] == [("ok", 1), ("orderbook_snapshot", 2)]
    assert added[0]["msg"] == {"market_tickers": ["KX-OTHER", T]}
    (snapshot,) = update(session, sids=[1], action="get_snapshot", market_tickers=[T])
    assert (snapshot["id"], snapshot["type"], snapshot["seq"]) == (9, "orderbook_snapshot", 3)
    (deleted,) = update(session, sid=1, action="delete_markets", market_tickers=["KX-OTHER"])
    assert deleted["msg"] == {"market_tickers": [T]}
    assert update(session, sid=1, action="mix")[0]["msg"]["code"] == 13
    assert update(session, sid=1)[0]["msg"]["code"] == 15
    assert update(session, sid=1, action="add_markets")[0]["msg"]["code"] == 14
    listed = send(session, id=3, cmd="list_subscriptions")
    assert listed == [{"id": 3, "type": "ok", "msg": [{"channel": "orderbook_delta", "sid": 1}]}]
    (gone,) = send(session, id=4, cmd="unsubscribe", params={"sids": [1]})
    assert (gone["type"], gone["sid"], gone["seq"]) == ("unsubscribed", 1, 5)


def test_a_market_listed_later_starts_with_a_snapshot() -> None:
    desk = Desk()
    session = session_of(desk)
    subscribe(session, "orderbook_delta", market_tickers=["KXT-2-LATER"])
    desk.happened.clear()
    desk.exchange.add_market(MarketSpec("KXT-2-LATER"), close_time=NOW + 60, now=NOW)
    desk.exchange.set_level("KXT-2-LATER", BookSide.BID, Decimal("0.30"), Decimal(4), NOW)
    frames = [f for h in desk.happened for f in session.frames_for(h)]
    assert [(f["type"], f["seq"]) for f in frames] == [("orderbook_snapshot", 1), ("orderbook_delta", 2)]


@pytest.mark.parametrize(("use_yes_price", "no_price"), [(False, "0.5300"), (True, "0.4700")])
def test_the_no_side_is_priced_as_asked(use_yes_price: bool, no_price: str) -> None:
    desk = Desk()
    desk.quote({}, {"0.47": "6"})
    session = session_of(desk)
    frames = subscribe(session, "orderbook_delta", market_tickers=[T], use_yes_price=use_yes_price)
    msg = frames[1]["msg"]
    assert msg["no_dollars_fp"] == [[no_price, "6.00"]]
    assert "yes_dollars_fp" not in msg
    desk.happened.clear()
    desk.exchange.set_level(T, BookSide.ASK, Decimal("0.47"), Decimal(2), NOW)
    (delta,) = session.frames_for(desk.happened[0])
    assert (delta["seq"], delta["msg"]["price_dollars"], delta["msg"]["delta_fp"], delta["msg"]["side"]) == (  # type: ignore[index]
        2,
        no_price,
        "-4.00",
        "no",
    )


def test_a_book_rebuilt_from_the_frames_is_the_book() -> None:
    desk = Desk()
    desk.quote({"0.45": "5", "0.44": "3"}, {"0.47": "6"})
    session = session_of(desk)
    start = subscribe(session, "orderbook_delta", market_tickers=[T], use_yes_price=False)[1]["msg"]
    book = {("yes", p): Decimal(s) for p, s in start["yes_dollars_fp"]}
    book |= {("no", p): Decimal(s) for p, s in start["no_dollars_fp"]}
    desk.happened.clear()
    desk.exchange.orders.place(desk.new("ask", "7", "0.40"), NOW)
    desk.quote({"0.43": "9"}, {"0.46": "1.25"})
    seqs = []
    for happening in desk.happened:
        for frame in session.frames_for(happening):
            msg: dict[str, Any] = frame["msg"]  # type: ignore[assignment]
            seqs.append(frame["seq"])
            key = (msg["side"], msg["price_dollars"])
            book[key] = book.get(key, Decimal(0)) + Decimal(msg["delta_fp"])
    assert seqs == list(range(2, 2 + len(seqs)))
    assert {k: s for k, s in book.items() if s} == {
        ("yes", "0.4300"): Decimal(9),
        ("no", "0.5400"): Decimal("1.25"),
    }


def test_private_frames_of_an_exit() -> None:
    desk = Desk()
    desk.quote({"0.45": "20"}, {})
    session = session_of(desk)
    subscribe(session, "fill", "user_orders", "market_positions")
    desk.happened.clear()
    desk.exchange.orders.place(desk.new("ask", "5", "0.01", client_order_id="mine"), NOW)
    frames = {f["type"]: f["msg"] for h in desk.happened for f in session.frames_for(h)}
    assert set(frames) == {"fill", "user_order", "market_position"}
    assert frames["fill"]["client_order_id"] == "mine"  # type: ignore[index]
    assert frames["fill"]["post_position_fp"] == "-5.00"  # type: ignore[index]
    assert frames["user_order"]["status"] == "executed"  # type: ignore[index]
    assert frames["market_position"]["position_fp"] == "-5.00"  # type: ignore[index]
