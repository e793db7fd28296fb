"""JSON objects, strictly, into typed shapes. Pure."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypeVar

import msgspec

from base.errors import WireError

_T = TypeVar("_T", bound=msgspec.Struct)


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object, strictly. Raises WireError.

    The standard decoder takes `NaN`, `Infinity`, bad nesting depths and repeated keys (the last one wins),
    each of which can hide a wrong price or order.
    """
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=Decimal,
        )
    except (ValueError, RecursionError) as exc:
        raise WireError(f"not the JSON document that was asked for: {excerpt(body)} ({exc})") from exc
    if not isinstance(value, dict):
        raise WireError(f"not a JSON object: {excerpt(body)}")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is repeated")
    return result


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def excerpt(body: bytes) -> str:
    """The start of a body, for a message."""
    return repr(body[:60])


def prepare(names: Mapping[str, Any]) -> None:
    """Make every struct among a module's names ready, while that module is imported by one thread.

    msgspec 0.22 builds what it knows of a shape on first use, and not thread-safely: look-ups that several
    exit workers began together were seen to end the process with SIGSEGV.
    """
    for shape in list(names.values()):
        if isinstance(shape, type) and issubclass(shape, msgspec.Struct) and shape is not msgspec.Struct:
            with contextlib.suppress(msgspec.ValidationError):  # nothing is all that it is shown
                msgspec.convert({}, shape)


def convert(body: bytes, shape: type[_T]) -> _T:
    """A body as `shape` (made ready by `prepare`): unknown fields ignored, required ones required.

    Raises WireError.
    """
    try:
        return msgspec.convert(parse_json(body), shape)
    except msgspec.ValidationError as exc:
        raise WireError(f"{shape.__name__.strip('_')}: {exc}") from exc
