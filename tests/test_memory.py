"""The heap keeps what is freed, and gives it back once it has grown."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flexattn.memory import resident_bytes

# in a process of its own, since the options of a heap can't be taken back
STORY = """
from flexattn.memory import GROWTH_BYTES, Heap, resident_bytes

heap = Heap()
blocks = [bytearray(b"x" * (1 << 20)) for _ in range(GROWTH_BYTES // 2 >> 20)]
pins = [bytearray(100) for _ in range(100)]  # behind them, so that the end of the heap stays
del blocks
kept = resident_bytes()
heap.settle()
assert resident_bytes() > kept - (50 << 20), "given back although it had hardly grown"

blocks = [bytearray(b"x" * (1 << 20)) for _ in range(GROWTH_BYTES + (100 << 20) >> 20)]
pins += [bytearray(100) for _ in range(100)]
del blocks
grown = resident_bytes()
assert grown > heap.floor + GROWTH_BYTES, "freed pages left by themselves"
heap.settle()
assert resident_bytes() < grown - GROWTH_BYTES, "not given back"
"""


@pytest.mark.skipif(
    sys.platform != "linux" or resident_bytes() == 0, reason="glibc on Linux is what it speaks to"
)
def test_pages_go_back_when_the_heap_has_grown_and_not_before() -> None:
    done = subprocess.run([sys.executable, "-c", STORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
