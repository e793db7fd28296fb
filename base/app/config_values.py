"""Typed values from the text of an environment variable: what is legal, and what to do about the rest.

Parsers raise ValueError with a remedy and never repeat the text, so that a secret pasted into the wrong
place stays out of messages.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import pwd
import re
import stat
import struct
from collections.abc import Callable, Collection, Iterable
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

E = TypeVar("E", bound=StrEnum)

_NUMBER = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?", re.ASCII)
_WHOLE = re.compile(r"[0-9]{1,9}", re.ASCII)
_STEP = re.compile(r"[0-9]{1,2}", re.ASCII)
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_TOKEN = re.compile(r"[!-~]{1,512}", re.ASCII)
_STRATEGY = re.compile(r"[a-z][a-z0-9_]*|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_KEY_BODY = re.compile(r"M[A-Za-z0-9+/=\\\s]{39,}", re.ASCII)
"""Base64 of what every private key in DER begins with; no path in use is so long without a dot."""
_HOST = re.compile(r"[A-Za-z0-9.:_-]{1,253}", re.ASCII)

REST_PATH = "/trade-api/v2"
WS_PATH = "/trade-api/ws/v2"
STEPS_MAX = 8


class HostKind(StrEnum):
    """Whose machine a URL points at. Exchange hosts: docs.kalshi.com, API environments."""

    OTHER = "other"
    LOOPBACK = "loopback"
    DEMO = "demo"
    PROD = "prod"


def number(low: str, high: str, *, decimals: int = 9) -> Callable[[str], Decimal]:
    """A parser of plain decimal numbers from `low` to `high`."""
    lowest, highest = Decimal(low), Decimal(high)

    def parse(text: str) -> Decimal:
        if not _NUMBER.fullmatch(text):
            raise ValueError(f"not a plain number; write one from {low} to {high}")
        value = Decimal(text)
        if not lowest <= value <= highest:
            raise ValueError(f"out of range; write a number from {low} to {high}")
        if -int(value.as_tuple().exponent) > decimals:
            raise ValueError(f"more than {decimals} decimals; write a number from {low} to {high}")
        return value

    return parse


def seconds(low: str, high: str) -> Callable[[str], float]:
    """A parser of seconds from `low` to `high`."""
    parse = number(low, high)
    return lambda text: float(parse(text))


def whole(low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
            raise ValueError(f"not a whole number from {low} to {high}; write one")
        return int(text)

    return parse


def time_zone(text: str, known: Callable[[], Collection[str]] = available_timezones) -> ZoneInfo:
    """A time zone by its name in the zone database; `known` lists the names that it has here."""
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        if not known():
            raise ValueError("this machine has no zone data; run: .venv/bin/pip install tzdata") from exc
        raise ValueError("no such time zone; write one such as America/New_York or UTC") from exc


def percent(high: str) -> Callable[[str], Decimal]:
    """A parser of percentages above 0, up to `high`; a percentage of 0 is written as an empty value."""
    parse = number("0.01", high)

    def parse_percent(text: str) -> Decimal:
        try:
            return parse(text)
        except ValueError as exc:
            raise ValueError(
                f"{exc} (percent, without the sign), or leave it empty to switch it off"
            ) from None

    return parse_percent


def port(text: str) -> int:
    """A TCP port; 0 lets the system choose."""
    value = number("0", "65535", decimals=0)(text)
    return int(value)


def growing_steps(text: str) -> tuple[int, ...]:
    """Whole steps, comma separated, each deeper than the one before."""
    remedy = f"write 1 to {STEPS_MAX} whole numbers from 0 to 99, each larger than the last, such as 2,4,8,16"
    parts = [part.strip() for part in text.split(",")]
    if not all(_STEP.fullmatch(part) for part in parts):
        raise ValueError(f"not a list of steps; {remedy}")
    steps = tuple(map(int, parts))
    if len(steps) > STEPS_MAX:
        raise ValueError(f"{len(steps)} steps are too many; {remedy}")
    if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
        raise ValueError(f"the steps do not grow; {remedy}")
    return steps


def choice(kind: type[E]) -> Callable[[str], E]:
    """A parser of one member of an enum, by its value, in any case."""

    def parse(text: str) -> E:
        for member in kind:
            if member.value.lower() == text.lower():
                return member
        raise ValueError(f"unknown; write {_either(member.value for member in kind)}")

    return parse


def yes_or_no(text: str) -> bool:
    """A switch."""
    lowered = text.lower()
    if lowered in ("yes", "true", "on", "1"):
        return True
    if lowered in ("no", "false", "off", "0"):
        return False
    raise ValueError("neither on nor off; write yes or no")


def exactly_yes_or_no(text: str) -> bool:
    """A safety catch: only the word itself releases it."""
    if text not in ("yes", "no"):
        raise ValueError("not understood; write yes (exactly) to arm live trading in production, or no")
    return text == "yes"


def key_id(text: str) -> str:
    """An API key id."""
    if not _KEY_ID.fullmatch(text):
        raise ValueError("not a key id; copy the id shown beside the key on the exchange's API key page")
    return text


def token(text: str) -> str:
    """A token that fits into an HTTP header."""
    if not _TOKEN.fullmatch(text):
        raise ValueError("must be 1 to 512 printable ASCII characters without spaces")
    return text


def strategy_name(text: str) -> str:
    """A built-in strategy's name or `package.module:ClassName`; whether it exists is found out on loading."""
    if not _STRATEGY.fullmatch(text):
        raise ValueError("not a strategy; write a built-in name such as guard, or package.module:ClassName")
    return text


def host(text: str) -> str:
    """A host to listen on."""
    bare = text.removeprefix("[").removesuffix("]")
    if not _HOST.fullmatch(bare):
        raise ValueError("not a host; write an address such as 127.0.0.1, without scheme or port")
    return bare


def alert_urls(text: str) -> tuple[str, ...]:
    """Where alerts go, comma separated."""
    urls = tuple(part.strip() for part in text.split(",") if part.strip())
    if not all("://" in url and not re.search(r"\s", url) for url in urls):
        raise ValueError(
            "each must look like service://…; separate several with commas, without spaces inside"
        )
    return urls


def ping_url(text: str) -> str:
    """A URL that is called as it stands: https, or http to this machine."""
    parts = _split(text)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError("not an https URL; write https://HOST/PATH")
    if parts.scheme == "http" and host_kind(text) is not HostKind.LOOPBACK:
        raise ValueError("plain http is for this machine only; write https://")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user or password; use the URL that the service gave you")
    if not text.isascii():
        raise ValueError("must be ASCII; write other characters as %XX")
    return text


def holds_key(text: str) -> bool:
    """Whether a text is, or may be, a private key itself: a PEM file's text, or the body of one."""
    return "-----BEGIN" in text or _KEY_BODY.fullmatch(text) is not None


def path_below(directory: Path) -> Callable[[str], Path]:
    """A parser of paths, relative ones counted from `directory`."""

    def parse(text: str) -> Path:
        # Not Path.is_file: a text too long for a name is no error here.
        if holds_key(text) and not os.path.isfile(directory / text):
            raise ValueError(
                "holds a key itself; put the key into a file of its own and write the file's path"
            )
        if len(text) > 4_000:
            raise ValueError("too long for a path")
        try:
            return directory / Path(text).expanduser()
        except RuntimeError:  # ~name of a user that does not exist
            raise ValueError("the home directory is unknown; write the path out") from None

    return parse


def authority(host: str, port: int) -> str:
    """Host and port as a URL has them: an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def endpoint(path: str, schemes: tuple[str, str]) -> Callable[[str], str]:
    """A parser of the exchange's URLs: the secure scheme, or the plain one to this machine only."""
    secure, plain = schemes

    def parse(text: str) -> str:
        parts = _split(text)
        if parts.scheme not in schemes or not parts.hostname:
            raise ValueError(f"not a {secure} URL; write {secure}://HOST{path}")
        if parts.scheme == plain and host_kind(text) is not HostKind.LOOPBACK:
            raise ValueError(f"plain {plain} is for this machine only; write {secure}://")
        if parts.username is not None or parts.password is not None:
            raise ValueError("must not hold a user or password; the API key signs every request")
        if parts.query or parts.fragment or not parts.path.rstrip("/").endswith(path):
            raise ValueError(f"must end in {path}")
        return text.rstrip("/")

    return parse


def host_kind(url: str) -> HostKind:
    """Whose machine a URL points at, by its name alone (nothing is resolved)."""
    name = (_split(url).hostname or "").lower().rstrip(".")
    if is_loopback(name):
        return HostKind.LOOPBACK
    if name == "kalshi.com" or name.endswith(".kalshi.com"):
        return HostKind.PROD
    if name == "kalshi.co" or name.endswith(".kalshi.co"):
        return HostKind.DEMO
    return HostKind.OTHER


def is_loopback(name: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost"


def private_file_problem(path: Path, user_id: int) -> str | None:
    """What is wrong with a file that only its owner may read, with the remedy; None if nothing is."""
    try:
        status = path.lstat()
    except OSError as exc:
        return f"cannot be read ({exc.strerror}); write the path of the PEM file of your API key"
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link; write the path of the file itself"
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file; write the path of the PEM file of your API key"
    if status.st_uid not in (user_id, 0):
        # To take a service's key away from it would end the protection that is there.
        owner = user_name(status.st_uid)
        return (
            f"belongs to user {owner}; run this command as that user (sudo -u '{owner}' …), or, where no "
            f"daemon of that user needs the key, run: chown {user_name(user_id)} {path}"
        )
    if status.st_mode & 0o077 and not _is_for_one_user(path, user_id):
        return f"can be read by other users (mode {stat.S_IMODE(status.st_mode):04o}); run: chmod 600 {path}"
    if not os.access(path, os.R_OK):
        return f"cannot be read by user {user_id}; run: chmod 600 {path} as its owner"
    return None


def user_name(user_id: int) -> str:
    """A user's name as sudo takes it."""
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return f"#{user_id}"  # the form in which sudo takes a number


def _is_for_one_user(path: Path, user_id: int) -> bool:
    """Whether an access list names this user and nobody else (a systemd credential has one).

    The group's bits in the mode are then only the list's mask (acl(5)).
    """
    try:
        data = os.getxattr(path, "system.posix_acl_access", follow_symlinks=False)
        version, entries = data[:4], list(struct.iter_unpack("<HHI", data[4:]))
    except (OSError, struct.error):
        return False
    owner, user, mask = 0x01, 0x02, 0x10
    given = [(tag, who) for tag, allowed, who in entries if allowed and tag not in (owner, mask)]
    return version == b"\x02\0\0\0" and given == [(user, user_id)]


def _split(url: str) -> SplitResult:
    """The parts of a URL, its port checked. Raises ValueError without repeating the URL."""
    if re.search(r"[\s\x00-\x1f\x7f\\]", url):
        raise ValueError("must not hold spaces, control characters or backslashes")
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises when it is not a number
    except ValueError:
        raise ValueError("is not a URL") from None
    return parts


def _either(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}"
