"""BERTScore with a tiny BERT made here: random weights, one token a character."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("bert_score")
transformers = pytest.importorskip("transformers")

import torch  # noqa: E402

from flexattn.errors import ConfigError  # noqa: E402
from flexattn.evaluation.bert import BertScorer  # noqa: E402
from flexattn.evaluation.rows import Decisions, Scorer, summary  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
REFERENCE = "奥司他韦是神经氨酸酶的抑制剂。"
LETTERS = sorted(set(REFERENCE + "流感病毒用于治疗"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]
    (place / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(place, safe_serialization=True)
    tokenizer = transformers.BertTokenizer(str(place / "vocab.txt"), model_max_length=64)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def scorer(folder: Path) -> BertScorer:
    return BertScorer(folder, layer=2)


def test_an_answer_equal_to_its_reference_scores_one_and_others_less(scorer: BertScorer) -> None:
    same, near, far = scorer.scores(
        [REFERENCE, "奥司他韦是神经氨酸酶的抑制。", "流感病毒"], [REFERENCE] * 3
    )
    assert same == pytest.approx(1.0, abs=1e-5)
    assert near is not None
    assert far is not None
    assert far < near < 1.0


def test_the_score_is_the_packages_own(scorer: BertScorer, folder: Path) -> None:
    from bert_score import score

    outputs = ["流感病毒用于治疗", REFERENCE[:7]]
    _, _, f1 = score(outputs, [REFERENCE] * 2, model_type=str(folder), num_layers=2, device="cpu")
    assert scorer.scores(outputs, [REFERENCE] * 2) == pytest.approx(f1.tolist(), abs=1e-6)


def test_nothing_written_scores_zero_and_nothing_asked_defines_no_score(
    scorer: BertScorer,
) -> None:
    assert scorer.scores(["", REFERENCE], [REFERENCE, ""]) == [0.0, None]


def test_a_text_past_the_models_places_is_cut_and_not_an_error(scorer: BertScorer) -> None:
    (found,) = scorer.scores([REFERENCE * 20], [REFERENCE])
    assert found is not None
    assert 0.0 < found < 1.0


def test_scored_rows_carry_it_among_their_kpis(scorer: BertScorer) -> None:
    made = Decisions([2], [3], [0], ["-"], [0.0], [0.1])
    judge = Scorer.of([REFERENCE], {"抑制剂": 1}, (2, 3), (3,))
    row = judge.row("greedy", 1, "r", "?", REFERENCE, REFERENCE, made)
    assert summary([row])["bert_score"] is None
    assert summary(scorer.scored([row]))["bert_score"] == pytest.approx(1.0, abs=1e-5)


def test_a_folder_without_a_model_is_refused_in_one_line(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no config\.json and no model\.safetensors"):
        BertScorer(tmp_path, 2)
    with pytest.raises(ConfigError, match=r"can't be loaded with train\.bert_layer 9"):
        BertScorer(folder, 9)
