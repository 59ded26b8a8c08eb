"""Strategies of generation on the medical world and on worlds small enough to try every answer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flexattn.env.freehand import Freehand
from flexattn.env.vocabulary import END
from flexattn.env.world import World
from flexattn.errors import FlexAttnError
from flexattn.generation.beam import search
from flexattn.generation.request import Request
from flexattn.generation.sampling import Voice
from flexattn.generation.strategy import NAMES, Strategy, answer
from flexattn.generation.trace import Answer

from .conftest import scattered, speaker, unpacked

ASKED = [Request("a", "什么是奥司他韦？"), Request("b", "阿司匹林有什么用？"), Request("c", "？")]
TINY = {
    "terms": [{"term": "风寒", "zipf": None}, {"term": "肝火", "zipf": None}],
    "answers": ["风寒肝", "肝火湿", "风湿肝火"],
    "answer": 0,
    "actions": [],
    "reward": {},
}


def every_answer(world: World, question: str, limit: int) -> list[tuple[float, str, bool]]:
    """Log probability of all answers there are, most likely first."""
    found: list[tuple[float, str, bool]] = []

    def go(chars: list[int], score: float) -> None:
        paper = Freehand(world, [question], limit)
        for char in chars:
            paper.write(np.array([char], np.int32))
        if paper.done[0]:
            found.append((score, paper.text(0), chars[-1] == END))
            return
        pi = scattered(paper.observe().history, unpacked(paper.legal, world.size))[0]
        for char in np.flatnonzero(pi).tolist():
            go([*chars, char], score + math.log(pi[char]))

    go([], 0.0)
    return sorted(found, reverse=True)


def test_a_wide_beam_finds_the_likeliest_of_all_answers() -> None:
    world = World.from_case(TINY)
    limit = world.longest_answer + world.settings.slack
    every = every_answer(world, "风寒", limit)
    assert math.isclose(sum(math.exp(score) for score, _, _ in every), 1.0, rel_tol=1e-9)
    best = search(world, speaker(world, scattered), [Request("1", "风寒")], len(every))[0]
    assert [(a.text, a.ended) for a in best[:5]] == [(text, end) for _, text, end in every[:5]]
    for found, (score, _, _) in zip(best, every):
        assert found.score == pytest.approx(score)
        assert found.log_likelihood == pytest.approx(score)


def test_a_beam_of_one_is_greedy(medical: World, voice: Voice) -> None:
    greedy = answer(medical, voice, ASKED, Strategy(), 0)
    narrow = answer(medical, voice, ASKED, Strategy("beam", beams=1), 0)
    for (one,), (other,) in zip(greedy, narrow):
        assert one.text == other.text
        assert one.probability == other.probability
        assert (one.history_chars, one.cap_chars) == (other.history_chars, other.cap_chars)


def test_a_wider_beam_is_never_less_likely_here(medical: World, voice: Voice) -> None:
    narrow, wide = (search(medical, voice, ASKED, beams) for beams in (1, 6))
    for one, six in zip(narrow, wide):
        assert six[0].log_likelihood >= one[0].log_likelihood
        assert [a.rank for a in six] == list(range(len(six)))


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_writes_legal_answers_that_depend_on_the_seed_alone(
    medical: World, voice: Voice, name: str
) -> None:
    strategy = Strategy(name, samples=4, beams=3)
    together = answer(medical, voice, ASKED, strategy, 5)
    alone = [answer(medical, voice, [request], strategy, 5)[0] for request in ASKED]
    assert [[a.text for a in several] for several in together] == [
        [a.text for a in several] for several in alone
    ]
    for several in together:
        for written in several:
            assert_legal(medical, written)
    if name not in ("greedy", "beam"):
        other = answer(medical, voice, ASKED, strategy, 6)
        assert [a[0].text for a in other] != [a[0].text for a in together]


def assert_legal(world: World, written: Answer) -> None:
    """Write the answer again: each step must be legal, with the same number of choices."""
    paper = Freehand(world, [written.request.question], world.longest_answer + 50)
    for char, n_legal in zip(written.text, written.n_legal):
        assert int(paper.n_legal[0]) == n_legal
        paper.write(np.array([world.vocabulary.ids[char]], np.int32))
    if written.ended:
        paper.write(np.array([END], np.int32))


def test_what_top_p_kept_holds_its_mass_and_the_character(medical: World, voice: Voice) -> None:
    for (written,) in answer(medical, voice, ASKED, Strategy("top_p", top_p=0.6), 1):
        assert written.options is not None
        assert written.kept is not None
        for char, left, kept in zip([*written.text, ""], written.options, written.kept):
            assert char in dict(left)
            assert sum(p for _, p in left) == pytest.approx(kept)
            assert kept >= 0.6
            assert sum(p for _, p in left[:-1]) < 0.6


def test_best_of_gives_the_answer_with_the_highest_score(medical: World, voice: Voice) -> None:
    for several in answer(medical, voice, ASKED, Strategy("best_of", samples=6), 2):
        scores = [written.log_likelihood / len(written.probability) for written in several]
        assert scores == sorted(scores, reverse=True)
        assert [written.score for written in several] == scores


def test_majority_gives_what_most_say() -> None:
    from flexattn.generation.choosing import majority

    def said(text: str) -> Answer:
        one = [1] * (len(text) + 1)
        return Answer(ASKED[0], [], text, True, one, one, one, [0.5] * len(one))

    ranked = majority([said(text) for text in ("肝火上炎", "风寒", "风寒", "肝火")])
    assert ranked[0].text == "风寒"
    assert ranked[0].score is not None
    assert 2 <= ranked[0].score < 3
    # without a majority: the one nearest to the others
    assert (
        majority([said(text) for text in ("湿", "肝火上", "肝火上炎", "肝火")])[0].text == "肝火上"
    )


@pytest.mark.parametrize("strategy", [Strategy(), Strategy("beam", beams=1)])
def test_alternatives_are_kept_for_a_reader_and_begin_with_the_greedy_choice(
    medical: World, voice: Voice, strategy: Strategy
) -> None:
    ((written,), *_) = answer(medical, voice, ASKED, strategy, 0, alternatives=3)
    assert written.options is not None
    assert all(len(left) <= 3 for left in written.options)
    assert [left[0][0] for left in written.options[: len(written.text)]] == list(written.text)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "beem"}, "--strategy is beem"),
        ({"name": "beam", "beams": 0}, "--beams is 0"),
        ({"name": "best_of", "samples": 1}, "--samples is 1"),
        ({"name": "best_of", "score": "luck"}, "--score is luck"),
        ({"top_p": 0.0}, "--top-p is 0.0"),
    ],
)
def test_numbers_without_a_meaning_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(FlexAttnError, match=said):
        Strategy(**wrong)
