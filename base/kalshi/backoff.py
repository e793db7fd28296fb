"""Exponential backoff with full jitter, as a value."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Backoff:
    """The delays of a retry: each drawn between 0 and a ceiling that grows by `factor` up to `max_s`.

    Immutable: keep what `next_delay` returns, and `reset()` once things have gone well for a while (a
    connection that only opened has proved nothing).
    """

    initial_s: float
    max_s: float
    factor: float = 2.0
    ceiling_s: float | None = None
    """Upper limit of the next delay; None stands for the first one."""

    def __post_init__(self) -> None:
        if not (0 < self.initial_s <= self.max_s and self.factor >= 1):
            raise ValueError(
                f"backoff needs 0 < initial ({self.initial_s}) <= max ({self.max_s}) "
                f"and factor ({self.factor}) >= 1"
            )

    def next_delay(self, rng: random.Random) -> tuple[float, Backoff]:
        """The next delay in seconds, and the backoff to use after it."""
        ceiling_s = self.initial_s if self.ceiling_s is None else self.ceiling_s
        # The product of two floats goes to infinity rather than raise, so clamping last is safe.
        following = replace(self, ceiling_s=min(self.max_s, ceiling_s * self.factor))
        return rng.uniform(0.0, ceiling_s), following

    def reset(self) -> Backoff:
        """Start over from the first delay."""
        return replace(self, ceiling_s=None)
