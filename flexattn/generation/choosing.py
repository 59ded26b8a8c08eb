"""Which of several answers to one request is given: the best by a score, or the one most agreed on.

No score here knows the teacher; each says in its docstring what it rewards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from flexattn.env.freehand import own_hits
from flexattn.env.world import World
from flexattn.evaluation.metrics import rouge_l
from flexattn.generation.trace import Answer

Score = Callable[[World, Answer], float]


def likelihood(world: World, answer: Answer) -> float:
    """Mean log probability of a character under the student, nats; a long answer loses nothing."""
    return answer.log_likelihood / len(answer.probability)


def terms(world: World, answer: Answer) -> float:
    """Weight of the distinct catalog terms that the answer's own caps let it hit, a step."""
    settings = world.settings
    weight = dict(zip(world.term_list, world.terms.weight.tolist()))
    hits = own_hits(answer.text, answer.cap_chars, weight, settings.lengths, settings.nested)
    return sum(weight[term] for term in sorted({*hits} - {""})) / len(answer.probability)


SCORES: dict[str, Score] = {"likelihood": likelihood, "terms": terms}


def best_of(world: World, answers: Sequence[Answer], score: str) -> list[Answer]:
    """Answers with their scores and ranks, best first; of equals the one drawn first."""
    return _ranked(answers, [SCORES[score](world, answer) for answer in answers])


def majority(answers: Sequence[Answer]) -> list[Answer]:
    """Answers by how many say exactly the same; of equals the one that all others are nearest to.

    The score is the number of votes, plus the mean ROUGE-L with all answers scaled below one vote.
    """
    votes = Counter(answer.text for answer in answers)
    near = {
        text: sum((rouge_l(text, other) or 0.0) * n for other, n in votes.items()) / len(answers)
        for text in votes
    }
    below = len(answers) / (len(answers) + 1)
    return _ranked(answers, [votes[a.text] + below * near[a.text] for a in answers])


def _ranked(answers: Sequence[Answer], scores: Sequence[float]) -> list[Answer]:
    order = sorted(range(len(answers)), key=lambda n: -scores[n])
    return [replace(answers[n], score=scores[n], rank=rank) for rank, n in enumerate(order)]
