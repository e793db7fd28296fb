"""What a check found: one line, its verdict first, and what to do beside it."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from enum import StrEnum

from base.log import escape

INDENT = " " * 6
WIDTH_MIN = 40


class Verdict(StrEnum):
    FAIL = "FAIL"
    WARN = "WARN"
    OK = "OK"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    verdict: Verdict
    what: str
    remedy: str = ""
    code: str = ""
    """Which finding it is, where that is a name that lasts."""

    def __str__(self) -> str:
        tail = f" — {self.remedy}" if self.remedy else ""
        code = f"  [{self.code}]" if self.code else ""
        return f"{self.verdict:<4}  {escape(self.what + tail)}{code}"

    def wrapped(self, width: int) -> str:
        """For a terminal: the remedy on lines of its own, and nothing in backticks broken."""
        code = f"  [{self.code}]" if self.code and self.verdict is not Verdict.OK else ""
        lines = _wrap(escape(self.what) + code, width, f"{self.verdict:<4}  ", INDENT)
        if self.remedy:
            lines += _wrap(escape(self.remedy), width, f"{INDENT}→ ", f"{INDENT}  ")
        return "\n".join(lines)


def _wrap(text: str, width: int, first: str, then: str) -> list[str]:
    whole = re.sub(r"`[^`]*`", lambda found: found[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(
        whole,
        max(width, WIDTH_MIN),
        initial_indent=first,
        subsequent_indent=then,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\0", " ") for line in lines]


def ok(what: str) -> Finding:
    return Finding(Verdict.OK, what)


def warn(what: str, remedy: str) -> Finding:
    return Finding(Verdict.WARN, what, remedy)


def fail(what: str, remedy: str) -> Finding:
    return Finding(Verdict.FAIL, what, remedy)


def summary(findings: list[Finding]) -> str:
    """The last line: what all of it comes to."""
    count = {verdict: sum(f.verdict is verdict for f in findings) for verdict in Verdict}
    told = ", ".join(f"{n} {verdict}" for verdict, n in count.items() if n)
    if count[Verdict.FAIL]:
        return f"{told}: do not rely on `run` before every FAIL is mended; then run `check` again"
    if count[Verdict.WARN]:
        return f"{told}: nothing keeps `run` from protecting what is held, beside what each WARN says"
    return f"{told}: nothing keeps `run` from protecting what is held"
