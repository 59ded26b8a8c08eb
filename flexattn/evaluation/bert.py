"""BERTScore by the bert-score package with a model in a local folder; nothing is ever downloaded.

An empty output scores 0, an empty reference defines no score. The weights must be safetensors.
The package and torch are loaded when a scorer is made, so that a report reaches neither.
Source: Zhang et al. 2020, BERTScore, arXiv:1904.09675.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flexattn.errors import ConfigError, MissingExtraError
from flexattn.evaluation.rows import Row

NEEDED = ("config.json", "model.safetensors")
BATCH = 64
LONGEST = 512  # tokens, where neither tokenizer nor model says


class BertScorer:
    """F1 of the token embeddings of one layer of one local model."""

    def __init__(self, folder: str | Path, layer: int) -> None:
        """Load the model.

        Args:
          folder: a BERT as transformers saves it: config.json, model.safetensors, its tokenizer.
          layer: the layer whose embeddings are compared, from 1.

        Raises: ConfigError where the folder holds no such model, MissingExtraError without the
          package.
        """
        place = Path(folder)
        missing = [name for name in NEEDED if not (place / name).is_file()]
        if missing:
            raise ConfigError(
                f"train.bert_model: {place} holds no {' and no '.join(missing)}, expected the "
                f"folder of a BERT in safetensors; leave it empty to go without BERTScore"
            )
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when the package is loaded
        try:
            from bert_score import BERTScorer
        except ImportError:
            raise MissingExtraError("train.bert_model", "bertscore") from None
        try:
            self._scorer: Any = BERTScorer(
                model_type=str(place.resolve()), num_layers=layer, batch_size=BATCH, device="cpu"
            )
        except (AssertionError, OSError, ValueError) as error:
            raise ConfigError(
                f"train.bert_model: {place} can't be loaded with train.bert_layer {layer}: "
                f"{str(error).splitlines()[0]}"
            ) from None
        tokenizer, model = self._scorer._tokenizer, self._scorer._model
        places = getattr(model.config, "max_position_embeddings", LONGEST)
        tokenizer.model_max_length = min(tokenizer.model_max_length, places)

    def scores(self, outputs: Sequence[str], references: Sequence[str]) -> list[float | None]:
        """F1 of each pair, at most 1; 0 for an empty output, None for an empty reference."""
        found: list[float | None] = [0.0 if reference.strip() else None for reference in references]
        asked = [n for n, output in enumerate(outputs) if output.strip() and found[n] is not None]
        if asked:
            _, _, f1 = self._scorer.score(
                [outputs[n] for n in asked], [references[n] for n in asked]
            )
            for n, value in zip(asked, f1.tolist(), strict=True):
                found[n] = float(value)
        return found

    def scored(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with `bert_score` among their KPIs."""
        values = self.scores([row.output for row in rows], [row.reference for row in rows])
        return [
            replace(row, kpis={**row.kpis, "bert_score": value})
            for row, value in zip(rows, values, strict=True)
        ]
