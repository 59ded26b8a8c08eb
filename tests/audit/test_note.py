from __future__ import annotations

import pytest

from flexattn.audit.note import Checkpoint, make_key, sign, verify
from flexattn.errors import AuditError

pytest.importorskip("cryptography")

SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
CHECKPOINT = Checkpoint("flexattn/r7", 3, bytes(range(32)))

# RFC 8032, section 7.1: secret key, public key, message, signature
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_the_library_signs_as_rfc_8032_says(
    secret: str, public: str, message: str, signature: str
) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
    assert key.public_key().public_bytes_raw().hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature


def test_a_signed_head_says_what_was_signed() -> None:
    private, public = make_key("auditor.example", SEED)
    note = sign(CHECKPOINT, private)
    assert note.startswith("flexattn/r7\n3\nAAECAwQF")
    assert note.splitlines()[4].startswith("— auditor.example ")
    assert verify(note, public) == CHECKPOINT


def test_a_key_has_the_form_of_the_standard() -> None:
    private, public = make_key("auditor.example", SEED)
    name, named, data = public.split("+", 2)
    assert (name, len(named), len(data)) == ("auditor.example", 8, 44)
    assert private.startswith(f"PRIVATE+KEY+auditor.example+{named}+")


@pytest.mark.parametrize("place", range(0, 60, 7))
def test_no_character_of_a_note_can_be_changed(place: int) -> None:
    private, public = make_key("auditor.example", SEED)
    note = sign(CHECKPOINT, private)
    changed = note[:place] + chr(ord(note[place]) ^ 1) + note[place + 1 :]
    with pytest.raises(AuditError):
        verify(changed, public)


def test_a_note_of_somebody_else_is_refused() -> None:
    private, _ = make_key("auditor.example", SEED)
    _, other = make_key("auditor.example", SEED[::-1])
    with pytest.raises(AuditError, match="did not sign it"):
        verify(sign(CHECKPOINT, private), other)


@pytest.mark.parametrize("key", ["", "a+b", "a+00000000+AAAA", "PRIVATE+KEY+a+0+0"])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(AuditError, match="key"):
        sign(CHECKPOINT, key)
    with pytest.raises(AuditError, match="key"):
        verify("a\n1\nb\n\n— a x\n", key)
    with pytest.raises(AuditError, match="expected one word"):
        make_key("two words", SEED)
