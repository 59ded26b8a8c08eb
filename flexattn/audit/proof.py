"""A proof shows, without the rest of the log, that a line was sealed, or that a log only grew.

A line's proof holds the Merkle path from the line to its seal's tree, the seal without its list,
and the path from that seal to the root over all seals. Whoever kept the root, or a signed note of
it, needs nothing else. A seal of `flexattn.log/1` has no tree: there the proof holds the segment.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flexattn import jsontext
from flexattn.audit.chain import Seal, break_in, read_seal, read_seal_head, seal_head
from flexattn.audit.digests import digests
from flexattn.audit.folder import RunFolder
from flexattn.audit.merkle import consistency_proof, extends, includes, inclusion_proof, root_of
from flexattn.audit.reader import Verifier, segments
from flexattn.audit.tree import path_in_tree
from flexattn.errors import AuditError

PROOF_SCHEMA = "flexattn.proof/2"
_BY_SEGMENT = "flexattn.proof/1"  # of growth, and of a line whose seal has no tree


def prove_line(folder: RunFolder, file: str, line: int) -> dict[str, Any]:
    """The proof that `line` (from 1) of the step file `file` was sealed.

    Raises: AuditError where there is no such line, nothing seals it, or its segment is not sound.
    """
    verifier, found = Verifier(), None
    for segment in segments(folder.step_files()):
        verifier.check(segment)
        here = segment.file.name == file and 0 <= line - segment.file_line < segment.count
        if here and segment.findings:
            raise AuditError(f"{segment.findings[0]}; only a sound line can be proved")
        if here and not segment.seal:
            raise AuditError(f"{segment.file}:{line}: stands after the last seal; nothing seals it")
        if here:
            found = (len(verifier.hashes) - 1, line - segment.file_line, segment)
    if found is None:
        raise AuditError(
            f"{folder.path}/{file}:{line}: is no sealed line that is not itself a seal"
        )
    index, at, segment = found
    lines = segment.lines
    within: dict[str, Any]
    if b',"tree":' in segment.seal:
        within = {
            "schema": PROOF_SCHEMA,
            "text": lines[at].decode("utf-8"),
            "within": _texts(path_in_tree(digests(segment.data, segment.ends), at)),
            "seal": seal_head(segment.seal).decode("utf-8"),
        }
    else:
        within = {
            "schema": _BY_SEGMENT,
            "segment": [text.decode("utf-8") for text in lines],
            "seal": segment.seal.decode("utf-8"),
        }
    return {
        **within,
        "proves": "line",
        "file": file,
        "line": line,
        "at": at,
        "index": index,
        "seals": len(verifier.hashes),
        "path": _texts(inclusion_proof(verifier.hashes, index)),
        "root": root_of(verifier.hashes).hex(),
    }


def prove_growth(folder: RunFolder, seals: int) -> dict[str, Any]:
    """The proof that the log's first `seals` seals are a beginning of what it holds now."""
    verifier = Verifier()
    for segment in segments(folder.step_files()):
        verifier.check(segment)
    hashes = verifier.hashes
    if not 0 < seals <= len(hashes):
        raise AuditError(f"{folder.path}: {seals} seals asked for, expected 1..{len(hashes)}")
    return {
        "schema": _BY_SEGMENT,
        "proves": "growth",
        "old_seals": seals,
        "old_root": root_of(hashes[:seals]).hex(),
        "seals": len(hashes),
        "root": root_of(hashes).hex(),
        "path": _texts(consistency_proof(hashes, seals)),
    }


def check_proof(file: Path) -> tuple[dict[str, Any], str | None]:
    """Check a proof file.

    Returns: (the proof, None where it holds, else why not).
    Raises: AuditError where the file holds no proof.
    """
    proof = jsontext.parse(jsontext.read_bytes(file, AuditError), str(file), AuditError)
    try:
        fails = _CHECKS.get((proof["schema"], proof["proves"]))
        if fails is None:
            raise ValueError(f"expected {PROOF_SCHEMA} or {_BY_SEGMENT}")
        return proof, fails(proof)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise AuditError(f"{file}: is no proof: {str(error)[:80]}") from None


def proved_line(proof: dict[str, Any]) -> str:
    """The line that a proof of one is about."""
    return str(proof["text"] if "text" in proof else proof["segment"][proof["at"]])


def _line_fails(proof: dict[str, Any]) -> str | None:
    seal = read_seal_head(proof["seal"].encode("utf-8"))
    if isinstance(seal, str):
        return f"the seal is {seal}"
    line, tree = proof["text"].encode("utf-8"), bytes.fromhex(seal["tree"])
    if line.find(b"\n") != len(line) - 1:
        return "what it proves is not one line"
    leaf, path = hashlib.sha256(line).digest(), _hashes(proof["within"])
    if not includes(leaf, proof["at"], seal["lines"], path, tree):
        return "the Merkle path does not lead from the line to its seal"
    return _seal_fails(proof, seal["seal"])


def _line_fails_in_segment(proof: dict[str, Any]) -> str | None:
    lines = [text.encode("utf-8") for text in proof["segment"]]
    seal = read_seal(proof["seal"].encode("utf-8"))
    if not isinstance(seal, Seal):
        return f"the seal is {seal}"
    data = b"".join(lines)
    if io.BytesIO(data).readlines() != lines:
        return "its segment is not one line after the other"
    broken = break_in(data, seal)
    if broken is not None:
        return f"line {broken.index + 1} of the segment is not what was sealed ({broken.code})"
    if not 0 <= proof["at"] < len(lines):
        return "the line lies outside the segment"
    return _seal_fails(proof, seal.seal)


def _seal_fails(proof: dict[str, Any], seal: str) -> str | None:
    path, root = _hashes(proof["path"]), bytes.fromhex(proof["root"])
    if not includes(bytes.fromhex(seal), proof["index"], proof["seals"], path, root):
        return "the Merkle path does not lead from the seal to the root"
    return None


def _growth_fails(proof: dict[str, Any]) -> str | None:
    roots = bytes.fromhex(proof["old_root"]), bytes.fromhex(proof["root"])
    if not extends(proof["old_seals"], proof["seals"], _hashes(proof["path"]), *roots):
        return "the Merkle path does not join the two roots"
    return None


_CHECKS: dict[tuple[str, str], Callable[[dict[str, Any]], str | None]] = {
    (PROOF_SCHEMA, "line"): _line_fails,
    (_BY_SEGMENT, "line"): _line_fails_in_segment,
    (_BY_SEGMENT, "growth"): _growth_fails,
}


def _texts(hashes: list[bytes]) -> list[str]:
    return [base64.b64encode(h).decode() for h in hashes]


def _hashes(texts: list[str]) -> list[bytes]:
    return [base64.b64decode(text, validate=True) for text in texts]
