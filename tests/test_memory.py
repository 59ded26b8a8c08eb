"""Freed pages between the holes of the heap go back to the system when they are asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# in a process of its own, since the options of a heap can't be taken back
STORY = """
import os
from flexattn.memory import give_back, keep_small

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

blocks, pins = [], []
for _ in range(3200):
    blocks.append(bytearray(b"x" * (64 << 10)))
    pins.append(bytearray(1000))  # between them, so that every block leaves a hole
full = resident()
del blocks
assert resident() > full - 50, "freed pages left by themselves"
give_back()
assert resident() < full - 150, "not given back"

keep_small()
before = resident()
large = bytearray(b"x" * (64 << 20))
del large
assert resident() < before + 20, "a large block stayed in the heap"
"""


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="glibc on Linux is what it speaks to"
)
def test_pages_go_back_when_asked_and_large_blocks_by_themselves() -> None:
    done = subprocess.run([sys.executable, "-c", STORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
