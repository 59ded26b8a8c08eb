"""A checkpoint is whole or absent, and a damaged one is skipped with a word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from flexattn.agents import checkpoint as checkpoints
from flexattn.errors import CheckpointError


def _save(folder: Path, step: int, keep: int = 2) -> Path:
    return checkpoints.save(folder, step, {"w": torch.full((3,), float(step))}, {"rng": step}, keep)


def test_the_newest_is_loaded_and_only_the_last_k_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        _save(tmp_path, step)
    saved, skipped = checkpoints.load_newest(tmp_path)
    assert saved is not None
    assert (saved.step, saved.state["rng"], saved.tensors["w"].tolist()) == (3, 3, [3.0] * 3)
    assert not skipped
    assert [place.name for place in sorted(tmp_path.iterdir())] == [
        "step-00000002",
        "step-00000003",
    ]


def _garbled(data: bytes) -> bytes:
    return bytes(byte ^ 0x5A for byte in data)


DAMAGE = {
    "one bit of the tensors": ("tensors.safetensors", lambda d: d[:-1] + bytes([d[-1] ^ 1])),
    "tensors cut": ("tensors.safetensors", lambda d: d[:-2]),
    "tensors cut in the header": ("tensors.safetensors", lambda d: d[:5]),
    "tensors empty": ("tensors.safetensors", lambda d: b""),
    "tensors garbled": ("tensors.safetensors", _garbled),
    "tensors longer": ("tensors.safetensors", lambda d: d + b"\0"),
    "state cut": ("state.json", lambda d: d[: len(d) // 2]),
    "state empty": ("state.json", lambda d: b""),
    "state garbled": ("state.json", _garbled),
    "state no object": ("state.json", lambda d: b"[1, 2]"),
    "one digit of the state": ("state.json", lambda d: d.replace(b'"rng": 2', b'"rng": 3')),
    "another step": ("state.json", lambda d: d.replace(b'"step": 2', b'"step": "x"')),
    "no hash of the tensors": ("state.json", lambda d: d.replace(b'"sha256"', b'"sha257"')),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_cut_or_garbled_is_skipped_with_a_word(tmp_path: Path, damage: str) -> None:
    _save(tmp_path, 1)
    place = _save(tmp_path, 2)
    name, change = DAMAGE[damage]
    data = (place / name).read_bytes()
    (place / name).write_bytes(change(data))
    assert (place / name).read_bytes() != data
    saved, skipped = checkpoints.load_newest(tmp_path)
    assert saved is not None
    assert saved.step == 1
    assert len(skipped) == 1
    assert "step-00000002" in skipped[0]
    assert skipped[0].endswith("going back to the one before")
    assert "\n" not in skipped[0]


def test_where_all_are_damaged_there_is_none_and_a_word_for_each(tmp_path: Path) -> None:
    for step in (1, 2):
        (_save(tmp_path, step) / "state.json").write_bytes(b"\xff")
    saved, skipped = checkpoints.load_newest(tmp_path)
    assert saved is None
    assert len(skipped) == 2


def test_what_was_being_written_when_the_process_died_is_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _save(tmp_path, 1)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dies)
        with pytest.raises(KeyboardInterrupt):
            _save(tmp_path, 2)
    saved, skipped = checkpoints.load_newest(tmp_path)
    assert saved is not None
    assert (saved.step, skipped) == (1, [])
    assert _save(tmp_path, 2).is_dir(), "what was left aside is in nobody's way"


@pytest.mark.parametrize("damage", ["flip", "cut", "state", "missing"])
def test_a_damaged_newest_is_skipped_with_a_word(tmp_path: Path, damage: str) -> None:
    _save(tmp_path, 1)
    place = _save(tmp_path, 2)
    file = place / "tensors.safetensors"
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
        file.write_bytes(data)
    elif damage == "cut":
        file.write_bytes(data[:-2])
    elif damage == "state":
        (place / "state.json").write_text("{", encoding="utf-8")
    else:
        file.unlink()
    saved, skipped = checkpoints.load_newest(tmp_path)
    assert saved is not None
    assert saved.step == 1
    assert len(skipped) == 1
    assert "step-00000002" in skipped[0]


def test_a_folder_without_checkpoints_gives_none(tmp_path: Path) -> None:
    assert checkpoints.load_newest(tmp_path / "none") == (None, [])


def test_an_optimiser_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    def build() -> tuple[torch.nn.Linear, torch.optim.Adam]:
        torch.manual_seed(0)
        module = torch.nn.Linear(4, 2)
        return module, torch.optim.Adam(module.parameters(), 0.1)

    def train(module: torch.nn.Linear, optimiser: torch.optim.Adam, steps: int) -> None:
        for _ in range(steps):
            optimiser.zero_grad()
            module(torch.ones(4)).pow(2).sum().backward()
            optimiser.step()

    module, optimiser = build()
    train(module, optimiser, 3)
    tensors = {
        **checkpoints.module_tensors("m", module),
        **checkpoints.optimiser_tensors("o", optimiser),
    }
    checkpoints.save(tmp_path, 3, tensors, {}, 1)
    train(module, optimiser, 3)

    saved, _ = checkpoints.load_newest(tmp_path)
    assert saved is not None
    again, optimiser = build()
    again.load_state_dict(saved.module("m"))
    checkpoints.restore_optimiser("o", optimiser, saved)
    train(again, optimiser, 3)
    assert torch.equal(again.weight, module.weight)


def test_packed_words_keep_every_bit(tmp_path: Path) -> None:
    words = np.array([[2**64 - 1, 2**63]], np.uint64)
    checkpoints.save(tmp_path, 1, checkpoints.array_tensors("b", {"legal": words}), {}, 1)
    saved, _ = checkpoints.load_newest(tmp_path)
    assert saved is not None
    back = np.zeros_like(words)
    checkpoints.restore_arrays("b", {"legal": back}, saved)
    assert (back == words).all()


def test_weights_of_another_shape_are_an_error_with_a_name(tmp_path: Path) -> None:
    place = _save(tmp_path, 1)
    (place / "state.json").unlink()
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        checkpoints.load(place)
