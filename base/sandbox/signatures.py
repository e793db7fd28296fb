"""Request signatures, checked as the exchange does, and the sandbox's own key pair.

Written apart from the daemon's signing on purpose, so that both cannot share a mistake.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from base.errors import ConfigError
from base.sandbox.refusals import Refused

KEY_HEADER = "KALSHI-ACCESS-KEY"
TIMESTAMP_HEADER = "KALSHI-ACCESS-TIMESTAMP"
SIGNATURE_HEADER = "KALSHI-ACCESS-SIGNATURE"
SKEW_S_MAX = 10.0  # -30 s refused, ±10 s accepted in every recording; the limit itself is unpublished
RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class KeyPair:
    """The account's API key. `key_file` is the private key in PEM."""

    key_id: str
    key_file: Path
    public_key: RSAPublicKey | Ed25519PublicKey


def open_key_dir(directory: Path) -> KeyPair:
    """Load the key pair of a directory, making both on first use. Raises ConfigError.

    A `key.pem` put there beforehand is used as it is, Ed25519 too.
    """
    directory = directory.absolute()
    id_file, key_file = directory / "key_id", directory / "key.pem"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not key_file.exists():
            _write_private(key_file, _new_rsa_pem())
        if not id_file.exists():
            _write_private(id_file, f"{uuid.uuid4()}\n".encode())
        key_id = id_file.read_text(encoding="utf-8").strip()
        private = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as exc:
        raise ConfigError(
            [f"key directory {directory}: {exc}; remove it or choose another --key-dir"]
        ) from exc
    public = private.public_key()
    if not key_id or not isinstance(public, RSAPublicKey | Ed25519PublicKey):
        raise ConfigError([f"key directory {directory}: needs a key_id and an RSA or Ed25519 key.pem"])
    return KeyPair(key_id, key_file, public)


def _new_rsa_pem() -> bytes:
    return rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_bytes(content)


def is_signed(headers: Mapping[str, str]) -> bool:
    """Whether a request carries a signature, or some of one."""
    return any(name in headers for name in (KEY_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER))


def check_request(
    keys: KeyPair, headers: Mapping[str, str], method: str, path: str, now: float, *, is_required: bool
) -> None:
    """Raise the exchange's 401 unless the request is signed well (bodies recorded 2026-06-11).

    A public endpoint needs no signature, but one that is sent is checked.
    """
    if not is_required and not is_signed(headers):
        return
    if not all(headers.get(name) for name in (KEY_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER)):
        code = "signature_is_missing_from_headers"
        raise Refused(401, code, code.replace("_", " "))
    stamp = headers[TIMESTAMP_HEADER]
    if not (stamp.isascii() and stamp.isdigit()) or abs(int(stamp) / 1000 - now) > SKEW_S_MAX:
        raise expired()
    if headers[KEY_HEADER] != keys.key_id:
        raise unauthenticated("NOT_FOUND")
    if not _is_signed(keys.public_key, headers[SIGNATURE_HEADER], f"{stamp}{method.upper()}{path}".encode()):
        raise unauthenticated("INCORRECT_API_KEY_SIGNATURE")


def expired() -> Refused:
    return Refused(401, "header_timestamp_expired", "header timestamp expired")


def unauthenticated(details: str) -> Refused:
    return Refused(401, "authentication_error", "authentication_error", details)


def _is_signed(key: RSAPublicKey | Ed25519PublicKey, signature_text: str, message: bytes) -> bool:
    try:
        signature = base64.b64decode(signature_text, validate=True)
        if isinstance(key, RSAPublicKey):
            pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=hashes.SHA256.digest_size)
            key.verify(signature, message, pss, hashes.SHA256())
        else:
            key.verify(signature, message)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True
