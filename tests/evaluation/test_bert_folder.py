"""The converter reads what it says: sizes, pieces, floats, and blocks of four-bit weights."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bert_folder
from benchmarks.bert_folder import LAYER, Packed, weights_of

HIDDEN, INNER, WORDS, PLACES = 32, 64, 6, 8
PIECES = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("病", -3.0)]


def _blocks(values: np.ndarray, scale: float) -> bytes:
    """Weights that are whole multiples of `scale` from -8 to 7, four bits each."""
    made = b""
    for block in values.reshape(-1, 32):
        bits = (np.round(block / scale) + 8).astype(np.uint8)
        made += np.float16(scale).tobytes() + (bits[:16] | bits[16:] << 4).tobytes()
    return made


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)

    def whole(*shape: int) -> np.ndarray:
        return rng.integers(-8, 8, shape).astype(np.float32) * np.float32(0.25)

    made = {
        "emb.word": whole(WORDS, HIDDEN), "emb.pos": rng.random((PLACES, HIDDEN)),
        "emb.type": rng.random((1, HIDDEN)), "emb.ln.w": rng.random(HIDDEN),
        "emb.ln.b": rng.random(HIDDEN),
    }  # fmt: skip
    for short in LAYER:
        rows, columns = {"fi": (INNER, HIDDEN), "fo": (HIDDEN, INNER)}.get(short, (HIDDEN, HIDDEN))
        norm = short.endswith("ln")
        made[f"l0.{short}.w"] = rng.random(HIDDEN) if norm else whole(rows, columns)
        made[f"l0.{short}.b"] = rng.random(rows)
    return {name: value.astype(np.float32) for name, value in made.items()}


@pytest.fixture(scope="module")
def data(tensors: dict[str, np.ndarray]) -> bytes:
    text = b"".join(piece.encode() for piece, _ in PIECES)
    offsets = np.cumsum([0, *(len(piece.encode()) for piece, _ in PIECES)]).astype("<u4")
    head = b"E5S1" + struct.pack(
        "<I7ifi", 1, HIDDEN, 1, 4, INNER, WORDS, PLACES, 1, 1e-12, 32
    )  # fmt: skip
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, len(text)) + offsets.tobytes()
    head += np.array([score for _, score in PIECES], "<f4").tobytes() + text
    head += struct.pack("<iI", 1, 9) + struct.pack("<IBI", 0xFF0C, 1, 0x2C)
    head += struct.pack("<i", len(tensors))
    packed = {
        name: _blocks(value, 0.25) if value.ndim == 2 and name.endswith(("w", "word"))
        else value.tobytes()
        for name, value in tensors.items()
    }  # fmt: skip
    size = len(head) + sum(2 + len(name) + 21 for name in tensors)
    directory, body = b"", b""
    for name, stored in packed.items():
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", 0, tensors[name].size, size + len(body), len(stored))
        body += stored
    return head + directory + body


def test_every_weight_comes_out_under_its_name(data: bytes, tensors: dict[str, np.ndarray]) -> None:
    packed = Packed(data)
    assert packed.pieces == PIECES
    assert (packed.bos, packed.pad, packed.eos, packed.unk) == (0, 1, 2, 3)
    found = weights_of(packed)
    assert np.array_equal(found["embeddings.word_embeddings.weight"], tensors["emb.word"])
    for short, long in LAYER.items():
        for end, name in (("w", "weight"), ("b", "bias")):
            stored = tensors[f"l0.{short}.{end}"]
            assert np.array_equal(found[f"encoder.layer.0.{long}.{name}"], stored)
    assert len(found) == len(tensors)


def test_the_folder_is_one_that_bertscore_takes(data: bytes, tmp_path: Path) -> None:
    pytest.importorskip("bert_score")
    pytest.importorskip("transformers")
    from flexattn.evaluation.bert import BertScorer

    bert_folder.write(Packed(data), tmp_path)
    scorer = BertScorer(tmp_path, layer=1)
    same, other = scorer.scores(["病病", "病"], ["病病", "药药药"])
    assert same == pytest.approx(1.0, abs=1e-5)
    assert other is not None
    assert other < 1.0


def test_another_file_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(b"GGUF0000")
    monkeypatch.setattr("sys.argv", ["bert_folder", str(file), str(tmp_path / "out")])
    assert bert_folder.main() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "begins with b'GGUF'" in said
    assert not (tmp_path / "out").exists()
