"""A catalog may carry an Ed25519 signature; key and signature both absent is fine, one alone not.

The signature is that of the file's bytes and lies beside it, `medical.json.sig`: 64 raw bytes, or
their base64. The public key is PEM, 32 raw bytes, or their base64.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from flexattn import jsontext
from flexattn.errors import CatalogError, MissingExtraError

SIGNATURE_BYTES = 64
KEY_BYTES = 32
MAX_FILE_BYTES = 10_000


def signature_path(path: str | Path) -> Path:
    """Where the signature of a catalog file lies."""
    return Path(f"{path}.sig")


def read_key(path: str | Path) -> bytes:
    """The 32 raw bytes of a public key file.

    Raises: CatalogError where the file holds no Ed25519 public key.
    """
    data = _read(path)
    if b"BEGIN PUBLIC KEY" in data:
        lines = [
            line for line in data.decode("ascii", "replace").splitlines() if "-----" not in line
        ]
        der = _decode("".join(lines).encode())
        # SubjectPublicKeyInfo of Ed25519 is a fixed prefix of 12 bytes and the key
        if der is not None and len(der) == 12 + KEY_BYTES and der[:2] == b"\x30\x2a":
            return der[12:]
    for raw in (data, _decode(data.strip())):
        if raw is not None and len(raw) == KEY_BYTES:
            return raw
    raise CatalogError(f"{path}: is no Ed25519 public key, expected PEM, 32 bytes or their base64")


def check_signature(path: str | Path, data: bytes, key: bytes | None) -> None:
    """Verify a file's bytes against the signature beside it.

    Args:
      path: the catalog file.
      data: its bytes.
      key: 32 raw bytes of the public key; None where none is configured.

    Raises: CatalogError where one of key and signature is missing, or they don't fit;
      MissingExtraError where `cryptography` isn't installed.
    """
    beside = signature_path(path)
    present = beside.is_file()
    if not present and key is None:
        return
    if key is None:
        raise CatalogError(
            f"{path}: is signed ({beside.name}), but no public key is configured; give the key or "
            f"remove the signature"
        )
    if not present:
        raise CatalogError(
            f"{path}: is not signed, but a public key is configured; expected {beside.name}"
        )
    found = _read(beside)
    signature = found if len(found) == SIGNATURE_BYTES else _decode(found.strip())
    if signature is None or len(signature) != SIGNATURE_BYTES:
        raise CatalogError(f"{beside}: is no Ed25519 signature, expected 64 bytes or their base64")
    if not _verify(key, signature, data):
        raise CatalogError(
            f"{path}: does not fit its signature; the file, the signature or the key is another one"
        )


def _verify(key: bytes, signature: bytes, data: bytes) -> bool:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        raise MissingExtraError("a signed catalog", "sign") from None
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def _read(path: str | Path) -> bytes:
    data = jsontext.read_bytes(path, CatalogError)
    if len(data) > MAX_FILE_BYTES:
        raise CatalogError(f"{path}: has {len(data):,} bytes, expected at most {MAX_FILE_BYTES:,}")
    return data


def _decode(text: bytes) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
