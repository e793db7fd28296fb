"""Request signatures: RSA-PSS or Ed25519, whichever the key file holds.

The signed text is timestamp, method and path; host, query string and body are not part of it
(docs.kalshi.com, api_keys), so a signature can be made before the order it will carry is known.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from base.errors import ConfigError

PrivateKey = RSAPrivateKey | Ed25519PrivateKey

RSA_BITS_MIN = 2048
KEY_FILE_BYTES_MAX = 65_536

_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
_SHA256 = hashes.SHA256()
_NEW_KEY = "create a new API key on the exchange's site and download its private key"


class Signer:
    """Signs requests with one key. Immutable; any thread may use it.

    `public_fingerprint` names the key in logs: the first 8 bytes of the SHA-256 of its public half.
    """

    def __init__(self, key_id: str, private_key: PrivateKey) -> None:
        self.key_id = key_id
        self._private_key = private_key
        public = private_key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.public_fingerprint = hashlib.sha256(public).hexdigest()[:16]

    @property
    def algorithm(self) -> str:
        return "ed25519" if isinstance(self._private_key, Ed25519PrivateKey) else "rsa-pss-sha256"

    def headers(self, method: str, path: str, timestamp_ms: int) -> dict[str, str]:
        """The three authentication headers of one request.

        `path` starts at the host's root (`/trade-api/v2/…`); a query string is left out of the signature.
        """
        text = f"{timestamp_ms}{method.upper()}{path.partition('?')[0]}"
        return {
            "KALSHI-ACCESS-KEY": self.key_id,
            "KALSHI-ACCESS-TIMESTAMP": str(timestamp_ms),
            "KALSHI-ACCESS-SIGNATURE": base64.b64encode(self._sign(text.encode())).decode("ascii"),
        }

    def __repr__(self) -> str:
        return f"Signer(key_id=…{self.key_id[-4:]}, {self.algorithm}, public={self.public_fingerprint})"

    def _sign(self, text: bytes) -> bytes:
        if isinstance(self._private_key, Ed25519PrivateKey):
            return self._private_key.sign(text)
        return self._private_key.sign(text, _PSS, _SHA256)

    def verify_itself(self) -> None:
        """Sign a text and check it with the public half. Raises InvalidSignature."""
        text = b"backstop self-test"
        if isinstance(self._private_key, Ed25519PrivateKey):
            self._private_key.public_key().verify(self._sign(text), text)
        else:
            self._private_key.public_key().verify(self._sign(text), text, _PSS, _SHA256)


def load_signer(key_id: str, path: Path) -> Signer:
    """Load a private key file. Raises ConfigError with every problem found and its remedy."""
    problems: list[str] = []
    if not _KEY_ID.fullmatch(key_id):
        problems.append(
            "KALSHI_API_KEY_ID is empty or has characters that no key id has: "
            "copy it again from the exchange's API key page"
        )
    pem = _read_key_file(path, problems)
    private_key = None if pem is None else _parse_key(pem, path, problems)
    if problems or private_key is None:
        raise ConfigError(problems)
    signer = Signer(key_id, private_key)
    try:
        signer.verify_itself()
    except (InvalidSignature, ValueError) as exc:
        raise ConfigError([f"the key in {path} fails its own signature check: {_NEW_KEY}"]) from exc
    return signer


def _read_key_file(path: Path, problems: list[str]) -> bytes | None:
    try:
        # Non-blocking, so that a named pipe in the file's place cannot hang the start. What is checked is
        # the open file itself, so nobody can swap it between the check and the read.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        problems.append(f"there is no key file {path}: set KALSHI_PRIVATE_KEY_PATH to the downloaded key")
        return None
    except OSError as exc:
        problems.append(
            f"the key file {path} cannot be read ({exc.strerror}): "
            f"give it to the user who runs the bot (chown) and `chmod 600 {path}`"
        )
        return None
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            problems.append(f"{path} is not a regular file: set KALSHI_PRIVATE_KEY_PATH to the key file")
            return None
        if info.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            problems.append(f"the key file {path} is open to group or others: run `chmod 600 {path}`")
        if info.st_uid not in (os.geteuid(), 0):
            problems.append(f"the key file {path} belongs to another user: chown it to the user of the bot")
        return os.read(descriptor, KEY_FILE_BYTES_MAX)
    finally:
        os.close(descriptor)


def _parse_key(pem: bytes, path: Path, problems: list[str]) -> PrivateKey | None:
    if b"PUBLIC KEY-----" in pem and b"PRIVATE KEY-----" not in pem:
        problems.append(f"{path} holds a public key: use the private key file of the pair")
        return None
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        # What cryptography raises for an encrypted key when it is given no password.
        problems.append(
            f"the key in {path} is encrypted with a passphrase: "
            f"write an unencrypted copy (`openssl pkey -in KEY -out NEW`) and `chmod 600` it"
        )
        return None
    except (ValueError, UnsupportedAlgorithm):
        problems.append(
            f"{path} is not a private key in PEM form (cut off, or newlines lost?): download it again, "
            f"the first line must read -----BEGIN … PRIVATE KEY-----"
        )
        return None
    if isinstance(key, Ed25519PrivateKey):
        return key
    if isinstance(key, RSAPrivateKey):
        if key.key_size >= RSA_BITS_MIN:
            return key
        problems.append(
            f"the RSA key in {path} has {key.key_size} bits, {RSA_BITS_MIN} are needed: {_NEW_KEY}"
        )
        return None
    problems.append(f"the key in {path} is neither RSA nor Ed25519: {_NEW_KEY}")
    return None
