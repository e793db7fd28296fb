"""A stream that is as live as the test says."""

from __future__ import annotations

from collections.abc import Iterable

from base.kalshi.feed import FeedState, FeedStatus


class FakeFeed:
    """What the checker and the directory need of the stream."""

    def __init__(self) -> None:
        self.state = FeedState.LIVE
        self.confirmed: set[str] = set()
        self.required: frozenset[str] = frozenset()
        self.held: frozenset[str] = frozenset()
        self.suspected: list[str] = []

    def set_required(self, tickers: Iterable[str], held: Iterable[str]) -> None:
        self.required, self.held = frozenset(tickers), frozenset(held)

    def suspect(self, tickers: Iterable[str]) -> None:
        self.suspected.extend(tickers)

    def is_confirmed(self, ticker: str) -> bool:
        return self.state is FeedState.LIVE and ticker in self.confirmed

    def status(self) -> FeedStatus:
        is_live = self.state is FeedState.LIVE
        return FeedStatus(
            state=self.state,
            connected_for_s=12.0 if is_live else None,
            last_frame_age_s=0.2,
            reconnects=0,
            messages=1234,
            required=self.required,
            confirmed=frozenset(self.confirmed) if is_live else frozenset(),
            connection=1,
            unknown_types={},
            malformed=0,
            last_error="",
        )
