"""A head can be signed: a C2SP signed note over origin, number of seals and Merkle root.

    flexattn/medical
    42
    <root, base64>

    — auditor.example+9f3c21aa <key hash and Ed25519 signature, base64>

Form: https://c2sp.org/signed-note and https://c2sp.org/tlog-checkpoint. Keys are texts in its form;
the private one begins with PRIVATE+KEY+. Needs the extra `sign`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Any

from flexattn.errors import AuditError, MissingExtraError

_ED25519 = b"\x01"
_DASH = "— "


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise MissingExtraError("a signed head", "sign") from None
    return ed25519


def _key_hash(name: str, public: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:4]


@dataclass(frozen=True)
class Checkpoint:
    """What is signed: where the log comes from, how many seals it has, their Merkle root."""

    origin: str
    seals: int
    root: bytes

    def text(self) -> str:
        """The note's text, its last newline in it."""
        return f"{self.origin}\n{self.seals}\n{base64.b64encode(self.root).decode()}\n"


def make_key(name: str, seed: bytes) -> tuple[str, str]:
    """A key pair as texts.

    Args:
      name: who signs; no blank and no plus sign in it.
      seed: 32 random bytes, kept by nobody else.

    Returns: (private, public).
    """
    if not name or "+" in name or any(c.isspace() for c in name):
        raise AuditError(f"key name {name!r}: expected one word without +, such as auditor.example")
    private = _library().Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key().public_bytes_raw()
    stem = f"{name}+{_key_hash(name, public).hex()}+"
    return (
        f"PRIVATE+KEY+{stem}{base64.b64encode(_ED25519 + seed).decode()}",
        f"{stem}{base64.b64encode(_ED25519 + public).decode()}",
    )


def _parse_key(text: str, where: str) -> tuple[str, bytes, bytes]:
    parts = text.strip().split("+", 2)
    try:
        name, named, data = (
            parts[0],
            bytes.fromhex(parts[1]),
            base64.b64decode(parts[2], validate=True),
        )
        if len(data) != 33 or data[:1] != _ED25519 or len(named) != 4 or not name:
            raise ValueError("its parts have the wrong sizes")
    except (ValueError, IndexError, binascii.Error):
        raise AuditError(f"{where}: is no Ed25519 key of a signed note") from None
    return name, named, data[1:]


def sign(checkpoint: Checkpoint, key: str, where: str = "key") -> str:
    """The signed note.

    Args:
      checkpoint: what to sign.
      key: a private key as `make_key` gives it.
      where: file of the key, for errors.
    """
    if not key.startswith("PRIVATE+KEY+"):
        raise AuditError(f"{where}: is no private key, expected one that begins with PRIVATE+KEY+")
    name, named, seed = _parse_key(key.strip().removeprefix("PRIVATE+KEY+"), where)
    private = _library().Ed25519PrivateKey.from_private_bytes(seed)
    if _key_hash(name, private.public_key().public_bytes_raw()) != named:
        raise AuditError(f"{where}: its hash does not fit the key; it was garbled")
    signature = base64.b64encode(named + private.sign(checkpoint.text().encode())).decode()
    return f"{checkpoint.text()}\n{_DASH}{name} {signature}\n"


def verify(note: str, key: str, where: str = "note") -> Checkpoint:
    """What a note says, once its signature holds.

    Args:
      note: the whole signed note.
      key: the public key of who should have signed it.
      where: file of the note, for errors.

    Raises: AuditError where it is no note, another key signed it, or the signature does not hold.
    """
    name, named, public = _parse_key(key, "public key")
    text, blank, signatures = note.partition("\n\n")
    text += "\n"
    lines = text.split("\n")
    if not blank or len(lines) < 4:
        raise AuditError(
            f"{where}: is no signed note, expected three lines, a blank one, signatures"
        )
    library = _library()
    for line in signatures.splitlines():
        if not line.startswith(f"{_DASH}{name} "):
            continue
        try:
            data = base64.b64decode(line.rpartition(" ")[2], validate=True)
        except binascii.Error:
            continue
        if data[:4] == named:
            if _holds(library, public, data[4:], text.encode()):
                return _checkpoint(lines, where)
            raise AuditError(f"{where}: the signature of {name} does not hold; it was changed")
    raise AuditError(
        f"{where}: {name} did not sign it, expected a line that begins with {_DASH}{name}"
    )


def _holds(library: Any, public: bytes, signature: bytes, data: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        library.Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def _checkpoint(lines: list[str], where: str) -> Checkpoint:
    try:
        root = base64.b64decode(lines[2], validate=True)
        if len(root) != 32 or str(int(lines[1])) != lines[1]:
            raise ValueError("its sizes are wrong")
        return Checkpoint(lines[0], int(lines[1]), root)
    except (ValueError, binascii.Error):
        raise AuditError(
            f"{where}: is no checkpoint, expected origin, number of seals, root"
        ) from None
