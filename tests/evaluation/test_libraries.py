"""What known libraries say about the same Chinese texts."""

from __future__ import annotations

import random

import pytest

from flexattn.evaluation import metrics, overlap

REFERENCE = "磷酸奥司他韦是一种作用于神经氨酸酶的特异性抑制剂，用于治疗流行性感冒。"


def damaged(rng: random.Random) -> str:
    """The reference with characters left out, doubled or replaced."""
    changed = (rng.choice([char] * 7 + ["", char * 2, rng.choice(REFERENCE)]) for char in REFERENCE)
    return "".join(changed)


class Characters:
    """A tokenizer of rouge-score in which every character is a word."""

    def tokenize(self, text: str) -> list[str]:
        return list("".join(text.split()))


def test_rouge_l_agrees_with_rouge_score_over_characters() -> None:
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    judge = rouge_scorer.RougeScorer(["rougeL"], tokenizer=Characters())
    rng = random.Random(5)
    for _ in range(50):
        output = damaged(rng)
        told = judge.score(REFERENCE, output)["rougeL"].fmeasure
        assert metrics.rouge_l(output, REFERENCE) == pytest.approx(told, abs=1e-12)


def test_the_default_tokenizer_of_rouge_score_sees_nothing_in_chinese() -> None:
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    judge = rouge_scorer.RougeScorer(["rougeL"])
    assert judge.score(REFERENCE, REFERENCE)["rougeL"].fmeasure == 0.0
    assert metrics.rouge_l(REFERENCE, REFERENCE) == 1.0


def test_bleu_and_chrf_are_sacrebleus_with_its_chinese_tokenizer() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    rng = random.Random(6)
    outputs, references = [damaged(rng) for _ in range(8)], [REFERENCE] * 8
    found = overlap.corpus_scores(outputs, references)
    bleu = sacrebleu.corpus_bleu(outputs, [references], tokenize="zh").score
    assert found["bleu"] == pytest.approx(bleu)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(outputs, [references]).score)
    assert overlap.corpus_scores([REFERENCE], [REFERENCE])["bleu"] == pytest.approx(100.0)
    english = sacrebleu.corpus_bleu(outputs, [references], tokenize="13a").score
    assert english < bleu  # one word a sentence


def test_what_has_no_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="no empty reference"):
        overlap.corpus_scores(["甲"], [" "])
    with pytest.raises(ValueError, match="as many outputs"):
        overlap.corpus_scores(["甲"], [])
