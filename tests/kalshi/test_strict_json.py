"""JSON that could mean something else than it seems is refused."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.errors import WireError
from base.kalshi.strict_json import convert, parse_json


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"12",
        b'"text"',
        b"<html><body>502</body></html>",
        b'{"price": NaN}',
        b'{"price": Infinity}',
        b'{"price": -Infinity}',
        b'{"price": "0.50", "price": "0.05"}',
        b'{"a": {"b": 1, "b": 2}}',
        b'{"a": 1} trailing',
        b'{"a": 1',
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"a":' * 100_000,
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5_000 + b"}",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_anything_but_one_clear_object_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        parse_json(body)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_object_or_a_wire_error(body: bytes) -> None:
    with suppress(WireError):
        assert isinstance(parse_json(body), dict)


class Shape(msgspec.Struct):
    price: str
    size: int = 0


def test_unknown_fields_are_ignored_and_numbers_are_not_coerced() -> None:
    assert convert(b'{"price": "0.50", "new": 1e400}', Shape).price == "0.50"
    for body in (b'{"price": 0.5}', b"{}", b'{"price": null}', b'{"price": "0.5", "size": "1"}'):
        with pytest.raises(WireError):
            convert(body, Shape)
