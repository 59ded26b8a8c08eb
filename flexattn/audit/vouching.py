"""What proofs and signatures say, printed: a line was sealed, a log only grew, a head is signed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from flexattn import jsontext
from flexattn.audit.folder import RunFolder
from flexattn.audit.note import Checkpoint, make_key, sign
from flexattn.audit.note import verify as read_note
from flexattn.audit.proof import check_proof, prove_line, proved_line
from flexattn.audit.verify import Report
from flexattn.errors import AuditError


def proof_of(folder: RunFolder, line: str) -> dict[str, Any]:
    """The proof that a line, named as FILE:LINE, was sealed.

    Raises: AuditError where it is no such name, or `prove_line` finds no such line.
    """
    file, colon, number = line.rpartition(":")
    if not colon or not number.isdecimal():
        raise AuditError(f"--prove {line}: expected FILE:LINE, such as steps-00000.jsonl:413")
    return prove_line(folder, file.rpartition("/")[2], int(number))


def proof_holds(file: Path, root: str | None) -> bool:
    """Check a proof and print what it shows.

    Args:
      file: the proof.
      root: Merkle root as kept elsewhere, or its first 8 digits or more; None to believe its own.
    """
    proof, fails = check_proof(file)
    if not fails and root and not (len(root) >= 8 and proof["root"].startswith(root)):
        fails = f"its root is {proof['root'][:8]}, the one kept elsewhere is {root[:8]}"
    if fails:
        print(f"{file}: does NOT hold: {fails}")
        return False
    if proof["proves"] == "line":
        print(proved_line(proof), end="")
        print(f"{file}: {proof['file']}:{proof['line']} was sealed, in a log of", end=" ")
    else:
        print(
            f"{file}: the first {proof['old_seals']} seals (root {proof['old_root']}) begin",
            end=" ",
        )
    print(f"{proof['seals']} seals with root {proof['root']}")
    return True


def print_keys(name: str) -> None:
    """Make a key pair and print it."""
    private, public = make_key(name, os.urandom(32))
    print(f"{private}\n{public}")
    print("the first line is secret: keep it in a file of your own for --sign", file=sys.stderr)


def sign_head(folder: RunFolder, report: Report, key: Path) -> None:
    """Sign the head of a log that was found sound, as head.note beside it.

    Raises: AuditError where the file holds no key.
    """
    words = jsontext.read_bytes(key, AuditError).decode("utf-8", "replace").split()
    if not words:
        raise AuditError(f"{key}: is empty, expected the secret line that --make-key printed")
    head = Checkpoint(f"flexattn/{folder.path.name}", report.seals, bytes.fromhex(report.root))
    note = sign(head, words[0], str(key))
    jsontext.write_whole(folder.path / "head.note", note.encode("utf-8"))
    print(f"{folder.path / 'head.note'}: signed {report.seals} seals, root {report.root}")


def note_fits(report: Report, file: Path, key: str | None) -> bool:
    """Check a signed head against the log that was read, and print what it shows.

    Raises: AuditError where the key is missing, or did not sign it.
    """
    if not key:
        raise AuditError("--note: --key is missing, expected the public key of who signed it")
    signed = read_note(file.read_text(encoding="utf-8"), key, str(file))
    if (signed.seals, signed.root.hex()) != (report.seals, report.root):
        print(
            f"{file}: signs {signed.seals} seals with root {signed.root.hex()[:8]}, the log has "
            f"{report.seals} with root {report.root[:8]}"
        )
        return False
    print(f"{file}: signed by the key's owner, and the log is the one that was signed")
    return True
