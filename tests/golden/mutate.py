"""Random damage to a sound log, and the line that a verification must name.

    python tests/golden/mutate.py 10000

Each mutation is one of: a bit flipped, a digit changed, lines swapped, dropped, doubled or
inserted, a seal edited, the file cut at any byte, a step changed and all sealed anew.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import orjson

sys.path.insert(0, str(Path(__file__).parent))

from breaks import Log

from flexattn.audit.chain import SEAL_START
from flexattn.audit.folder import RunFolder
from flexattn.audit.verify import verify

KINDS = ("bit", "digit", "swap", "drop", "double", "insert", "seal", "cut", "tail")


def mutate(log: Log, kind: str, rng: random.Random) -> tuple[str, int] | None:
    """Damage `log` in one way.

    Returns: file and number of the first line that is not what it was, or None where the damage
      changed nothing; (file, 0) where only a head kept elsewhere can tell.
    """
    name = rng.choice(sorted(log.files))
    lines = log.files[name]
    before = list(lines)
    i = rng.randrange(len(lines))
    if kind in ("bit", "digit", "seal"):
        if kind == "seal":
            i = rng.choice([n for n, line in enumerate(lines) if line.startswith(SEAL_START)])
        data = bytearray(lines[i])
        digits = [n for n, byte in enumerate(data) if chr(byte).isdigit()]
        at = rng.randrange(len(data)) if kind != "digit" else rng.choice(digits)
        if kind == "digit":
            data[at] = ord(str((data[at] - 48 + rng.randrange(1, 10)) % 10))
        else:
            data[at] ^= 1 << rng.randrange(8)
        log.files[name] = b"".join([*lines[:i], bytes(data), *lines[i + 1 :]]).splitlines(True)
        if b"\r" in data or (kind != "digit" and not data.endswith(b"\n")):
            log.files[name] = [b"".join([*lines[:i], bytes(data), *lines[i + 1 :]])]
    elif kind == "swap":
        j = rng.randrange(len(lines))
        lines[i], lines[j] = lines[j], lines[i]
    elif kind == "drop":
        del lines[i]
    elif kind == "double":
        lines.insert(i, lines[i])
    elif kind == "insert":
        lines.insert(i, rng.choice(before))
    elif kind == "cut":
        data = b"".join(lines)
        size = rng.randrange(len(data))
        log.files[name] = data[:size].splitlines(True)
    elif kind == "tail":
        at = rng.randrange(1, len(lines) - 1)
        value = orjson.loads(lines[at])
        if "n_legal" not in value:
            return None
        lines[at] = orjson.dumps({**value, "n_legal": value["n_legal"] + 1}) + b"\n"
        kept = (log.folder / "head.json").read_bytes()
        log.reseal()
        (log.folder / "head.json").write_bytes(kept)
        return sorted(log.files)[-1], len(log.files[sorted(log.files)[-1]])
    after = b"".join(log.files[name])
    if after == b"".join(before):
        return None
    return name, first_difference(before, after)


def first_difference(before: list[bytes], after: bytes) -> int:
    """Number, from 1, of the first line that is not what stood there."""
    found = after.split(b"\n")
    for n, line in enumerate(before, 1):
        if n > len(found) or found[n - 1] + b"\n" != line or (n == len(found)):
            return n
    return len(before) + 1


def main(count: int, seed: int = 0) -> Counter[str]:
    """Print how many were detected, and how many named with the right line."""
    rng = random.Random(seed)
    golden = Path(__file__).parent / "sound"
    tally: Counter[str] = Counter()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        shutil.copytree(golden, folder)
        sound = {p.name: p.read_bytes() for p in folder.glob("steps-*")}
        head = (folder / "head.json").read_bytes()
        for _ in range(count):
            kind = rng.choice(KINDS)
            log = Log(folder)
            truth = mutate(log, kind, rng)
            if truth is None:
                tally["nothing changed"] += 1
                continue
            log.save()
            report = verify(RunFolder.open(folder))
            first = report.findings[0] if report.findings else None
            tally["made"] += 1
            tally[f"{kind}: made"] += 1
            if first is None:
                tally[f"{kind}: NOT DETECTED"] += 1
            elif (Path(first.file).name, first.line) == truth:
                tally["right line"] += 1
            else:
                tally[f"{kind}: other line"] += 1
                print(kind, "truth", truth, "said", str(first)[len(scratch) :][:150])
            for name, data in sound.items():
                (folder / name).write_bytes(data)
            (folder / "head.json").write_bytes(head)
    for what, number in sorted(tally.items()):
        print(f"{number:7d} {what}")
    share, seconds = tally["right line"] / tally["made"], time.monotonic() - started
    print(f"{share:.5f} named the right line, {seconds:.0f} s")
    return tally


if __name__ == "__main__":
    main(int(sys.argv[1]))
