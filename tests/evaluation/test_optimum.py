from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from flexattn.config import Config, load_config
from flexattn.evaluation import optimum
from flexattn.evaluation.optimum import Rules

CONFIG = load_config(Path(__file__).parents[2] / "configs" / "medical.yaml")
WEIGHTS = {
    "奥司他韦": 0.9,
    "神经氨酸酶": 0.8,
    "神经": 0.3,
    "抑制剂": 0.6,
    "流感病毒": 0.7,
    "病毒": 0.2,
}
ANSWER = "奥司他韦是作用于神经氨酸酶的抑制剂，抑制剂阻止流感病毒，病毒。"
OTHERS = ("病毒由核酸和蛋白质组成。", "抑制剂使酶失去活性。")


def rules(weights: dict[str, float], train: list[str], **changes: object) -> Rules:
    sections = {name: getattr(CONFIG, name) for name in Config.model_fields}
    for key, value in changes.items():
        section, _, field = key.partition("__")
        sections[section] = sections[section].model_copy(update={field: value})
    return Rules.of(weights, train, CONFIG.model_copy(update=sections))


def random_case(rng: random.Random) -> tuple[str, Rules]:
    pieces = ["".join(rng.choice("甲乙丙") for _ in range(rng.choice((2, 3, 4)))) for _ in range(6)]
    answer = "".join(rng.choice(pieces) for _ in range(3))[:6]
    words = {w: rng.random() for w in [*pieces, answer[1:5], answer[2:6], answer[:3]] if len(w) > 1}
    return answer, rules(
        words,
        [answer, "".join(pieces)],
        lexicon__nested=rng.random() < 0.3,
        lexicon__repeat=rng.choice((0.5, 1.0)),
        env__hit_cap_chars=(2, 3, 4),
        env__semantic_gate=rng.choice((0.3, 0.75)),
        reward__lambda_lex=rng.choice((0.3, 0.9)),
    )


@pytest.mark.parametrize("seed", range(12))
def test_the_optimum_is_the_best_of_all_sequences_of_caps(seed: int) -> None:
    answer, known = random_case(random.Random(seed))
    every = (
        optimum.copied(answer, (*caps, 2), 2, known)
        for caps in itertools.product((2, 3, 4), repeat=len(answer))
    )
    found = optimum.best(answer, known)
    assert found.net_lexical == pytest.approx(max(every), abs=1e-12)
    again = optimum.copied(answer, found.hit_cap_chars, 2, known)
    assert again == pytest.approx(found.net_lexical, abs=1e-12)


@pytest.mark.parametrize(
    ("lh", "lp", "net"),
    [
        pytest.param(2, 3, -1.776073368411, id="the cheapest pair"),
        pytest.param(6, 6, -4.175275592444, id="the dearest"),
    ],
)
def test_copying_with_a_fixed_pair_has_the_figures_of_the_written_rules(
    lh: int, lp: int, net: float
) -> None:
    caps = [lp] * (len(ANSWER) + 1)
    got = optimum.copied(ANSWER, caps, lh, rules(WEIGHTS, [ANSWER, *OTHERS]))
    assert got == pytest.approx(net, abs=1e-9)


def test_the_cap_opens_where_a_long_term_pays_for_it() -> None:
    found = optimum.best(ANSWER, rules(WEIGHTS, [ANSWER, *OTHERS], reward__lambda_p=0.02))
    opened = [(ANSWER[t], cap) for t, cap in enumerate(found.hit_cap_chars) if cap > 3]
    assert opened == [("奥", 4), ("神", 5), ("流", 4)]


def test_an_answer_without_a_term_keeps_every_cap_at_its_cheapest() -> None:
    found = optimum.best("今天天气好", rules(WEIGHTS, [ANSWER]))
    assert set(found.hit_cap_chars) == {3}
    assert found.net_lexical < 0


def test_the_optimum_over_answers_is_a_mean_and_one_selectivity() -> None:
    known = rules(WEIGHTS, [ANSWER, *OTHERS], reward__lambda_p=0.02)
    net, selectivity = optimum.optimum_of([ANSWER, OTHERS[1]], known)
    both = [optimum.best(answer, known).net_lexical for answer in (ANSWER, OTHERS[1])]
    assert net == pytest.approx(sum(both) / 2)
    assert selectivity == pytest.approx((4 + 5 + 4) / 3 - 3)
    assert optimum.optimum_of([], known) == (None, None)


def test_many_repeats_of_many_terms_stay_exact_and_finish() -> None:
    words = {a + b: 0.5 for a, b in itertools.permutations("甲乙丙丁", 2)}
    answer = "甲乙丙丁乙甲丁丙" * 8
    known = rules(words, [answer], env__hit_cap_chars=(2, 3))
    found = optimum.best(answer, known)
    fixed = optimum.copied(answer, [2] * (len(answer) + 1), 2, known)
    assert found.net_lexical >= fixed - 1e-12


def test_no_fixed_pair_is_better_than_the_optimum_and_each_is_what_copying_gives() -> None:
    known = rules(WEIGHTS, [ANSWER, *OTHERS])
    pairs = optimum.fixed_pairs([ANSWER, *OTHERS], known)
    best, _ = optimum.optimum_of([ANSWER, *OTHERS], known)
    assert len(pairs) == 16
    assert best is not None
    assert max(pairs.values()) < best
    each = [optimum.copied(y, [5] * (len(y) + 1), 4, known) for y in (ANSWER, *OTHERS)]
    assert pairs[4, 5] == pytest.approx(sum(each) / 3)
    assert optimum.fixed_pairs([], known) == {}
