"""What each crafted log costs to refuse: seconds and peak memory, one process a log.

python tests/audit/crafted.py
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from kill import folder_at

from flexattn.audit.verify import verify


def lines_of(kind: str) -> Iterator[bytes]:
    """The bytes of a log made to do harm, a piece at a time."""
    if kind == "sound and short":
        return
    if kind == "one line of 1 GiB":
        yield b'{"step":'
        yield from (b"1" * (1 << 20) for _ in range(1024))
    elif kind in ("1 GiB without a seal", "zstd bomb, 1 GiB of lines"):
        yield from (b"{}\n" * ((1 << 20) // 3) for _ in range(1024))
    elif kind == "zstd bomb, one line of 4 GiB":
        yield from (b"1" * (1 << 20) for _ in range(4096))
    elif kind == "brackets, 1,000,000 deep":
        yield b"[" * 1_000_000 + b"\n"
    elif kind == "objects, 100,000 deep":
        yield b'{"a":' * 100_000 + b"\n"
    elif kind == "a key 100,000 times":
        yield b"{" + b'"step":1,' * 100_000 + b'"a":""}\n'
    elif kind == "bad UTF-8":
        yield b'{"event":"\xff\xfe"}\n'
    elif kind == "empty lines, 64 MiB of them":
        yield from (b"\n" * (1 << 20) for _ in range(64))
    elif kind == "a million bad events":
        yield from (b'{"event":"x"}\n' * 1000 for _ in range(1000))


KINDS = (
    "sound and short", "one line of 1 GiB", "1 GiB without a seal", "zstd bomb, 1 GiB of lines",
    "zstd bomb, one line of 4 GiB", "brackets, 1,000,000 deep", "objects, 100,000 deep",
    "a key 100,000 times", "bad UTF-8", "a million bad events", "empty lines, 64 MiB of them",
)  # fmt: skip


def refuse(path: Path, kind: str) -> None:
    """Write the log, verify it in a process of its own, print what that cost."""
    folder = folder_at(path)
    plain = folder.path / "steps-00000.jsonl"
    if kind.startswith("zstd"):
        import zstandard

        with zstandard.open(plain.with_name(plain.name + ".zst"), "wb") as packed:
            for piece in lines_of(kind):
                packed.write(piece)
    else:
        with plain.open("wb") as file:
            file.writelines(lines_of(kind))
    size = sum(p.stat().st_size for p in folder.step_files())
    done = subprocess.run(
        [sys.executable, __file__, "verify", str(path)], capture_output=True, text=True, check=True
    )
    print(f"| {kind} | {size:,} | {done.stdout.strip()} |", flush=True)


def report(path: Path) -> None:
    """Verify; print what was found first, the time and the peak."""
    started = time.monotonic()
    found = verify(folder_at(path)).findings
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    code = found[0].code if found else "sound"
    print(f"`{code}` | {seconds:.2f} | {peak}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["verify"]:
        report(Path(sys.argv[2]))
    else:
        print("| log | bytes on disk | first finding | s | peak MB |\n|---|---|---|---|---|")
        for kind in KINDS:
            with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
                refuse(Path(scratch) / "run", kind)
