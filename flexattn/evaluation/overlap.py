"""BLEU and chrF of whole sets of answers, by sacrebleu and its Chinese tokenizer; never judged.

sacrebleu is an extra; without it both are None and the report says so. A tokenizer made for English
sees one word in a Chinese sentence, so the choice isn't left open.
Source: Post 2018, A Call for Clarity in Reporting BLEU Scores; Popovic 2015, chrF.
"""

from __future__ import annotations

from collections.abc import Sequence

NAMES = ("bleu", "chrf")


def corpus_scores(outputs: Sequence[str], references: Sequence[str]) -> dict[str, float | None]:
    """BLEU (tokenizer zh) and chrF over all answers, 0..100; None where nothing can be computed.

    Args:
      outputs: what a student wrote, [N].
      references: the teacher's answers, [N], none of them empty.

    Raises: ValueError where a reference is empty or the numbers differ.
    """
    if len(outputs) != len(references) or not all(map(str.strip, references)):
        raise ValueError("expected as many outputs as references, and no empty reference")
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        return dict.fromkeys(NAMES)
    if not outputs:
        return dict.fromkeys(NAMES)
    wanted = [list(references)]
    return {
        "bleu": BLEU(tokenize="zh").corpus_score(list(outputs), wanted).score,
        "chrf": CHRF().corpus_score(list(outputs), wanted).score,
    }
