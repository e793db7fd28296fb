"""Signatures that the exchange accepts, and key files that are refused with a remedy."""

from __future__ import annotations

import base64
import os
import threading
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from base.errors import ConfigError
from base.kalshi.signing import Signer, load_signer

from .keys import KEY_ID, ed25519_key, elliptic_pem, pem, public_pem, rsa_key

PATH = "/trade-api/v2/portfolio/orders"


def verify(key, headers: dict[str, str], text: str) -> None:
    """The exchange's side, written from docs.kalshi.com, api_keys."""
    signature = base64.b64decode(headers["KALSHI-ACCESS-SIGNATURE"])
    if key is ed25519_key():
        key.public_key().verify(signature, text.encode())
    else:
        pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
        key.public_key().verify(signature, text.encode(), pss, hashes.SHA256())


@pytest.fixture(params=[ed25519_key, rsa_key], ids=["ed25519", "rsa"])
def key(request):
    return request.param()


@pytest.fixture
def key_file(tmp_path: Path):
    def write(content: bytes, mode: int = 0o600) -> Path:
        path = tmp_path / "key.pem"
        path.write_bytes(content)
        path.chmod(mode)
        return path

    return write


def problems_of(path: Path, key_id: str = KEY_ID) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_signer(key_id, path)
    return caught.value.problems


def test_signature_covers_time_method_and_path(key, key_file) -> None:
    headers = load_signer(KEY_ID, key_file(pem(key))).headers("get", PATH, 1703123456789)

    assert headers["KALSHI-ACCESS-KEY"] == KEY_ID
    assert headers["KALSHI-ACCESS-TIMESTAMP"] == "1703123456789"
    verify(key, headers, f"1703123456789GET{PATH}")
    with pytest.raises(InvalidSignature):
        verify(key, headers, f"1703123456780GET{PATH}")


def test_query_string_is_not_signed(key) -> None:
    headers = Signer(KEY_ID, key).headers("GET", f"{PATH}?limit=5&cursor=a?b", 1)

    verify(key, headers, f"1GET{PATH}")


def test_many_threads_sign_with_one_key() -> None:
    signer = Signer(KEY_ID, rsa_key())
    made: list[tuple[str, dict[str, str]]] = []

    def sign(number: int) -> None:
        for turn in range(5):
            stamp = number * 100 + turn
            made.append((f"{stamp}POST{PATH}", signer.headers("POST", PATH, stamp)))

    threads = [threading.Thread(target=sign, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(made) == 40
    for text, headers in made:
        verify(rsa_key(), headers, text)


def test_repr_shows_neither_key_nor_whole_key_id(key) -> None:
    signer = Signer(KEY_ID, key)

    text = repr(signer)
    assert KEY_ID not in text
    assert KEY_ID[-4:] in text
    assert signer.public_fingerprint in text
    assert "PRIVATE" not in text


def test_fingerprint_names_the_key() -> None:
    assert Signer("a", ed25519_key()).public_fingerprint == Signer("b", ed25519_key()).public_fingerprint
    assert Signer("a", ed25519_key()).public_fingerprint != Signer("a", rsa_key()).public_fingerprint


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o755], ids=oct)
def test_key_file_open_to_others_is_refused(key_file, mode: int) -> None:
    path = key_file(pem(ed25519_key()), mode)

    (problem,) = problems_of(path)
    assert f"chmod 600 {path}" in problem


def test_read_only_key_file_is_fine(key_file) -> None:
    assert load_signer(KEY_ID, key_file(pem(ed25519_key()), 0o400)).algorithm == "ed25519"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda: b"not a key", "not a private key in PEM form"),
        (lambda: pem(ed25519_key())[:60], "not a private key in PEM form"),
        (lambda: pem(ed25519_key()).replace(b"\n", b"\\n"), "not a private key in PEM form"),
        (lambda: b"", "not a private key in PEM form"),
        (lambda: pem(ed25519_key(), b"secret"), "encrypted"),
        (public_pem, "public key"),
        (elliptic_pem, "neither RSA nor Ed25519"),
        (lambda: pem(rsa_key(1024)), "1024 bits"),
    ],
    ids=["garbage", "cut off", "literal newlines", "empty", "encrypted", "public", "elliptic", "short rsa"],
)
def test_unusable_key_is_refused_with_the_reason(key_file, content, says: str) -> None:
    (problem,) = problems_of(key_file(content()))

    assert says in problem


def test_missing_file_a_directory_and_a_pipe_are_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    assert "no key file" in problems_of(tmp_path / "absent")[0]
    assert "not a regular file" in problems_of(tmp_path)[0]
    assert "not a regular file" in problems_of(pipe)[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_file_of_another_user_is_refused(key_file) -> None:
    path = key_file(pem(ed25519_key()))
    os.chown(path, 12345, -1)

    assert "chown" in problems_of(path)[0]


def test_every_problem_is_listed_at_once(key_file) -> None:
    problems = problems_of(key_file(public_pem(), 0o644), key_id="two words")

    assert len(problems) == 3


@pytest.mark.parametrize("key_id", ["", "a b", "a\nX-Evil: 1", "é"])
def test_key_id_that_could_not_be_a_header_is_refused(key_file, key_id: str) -> None:
    assert "KALSHI_API_KEY_ID" in problems_of(key_file(pem(ed25519_key())), key_id)[0]
