from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from flexattn.config import load_config, resolve_path
from flexattn.corpus import Corpus, Record
from flexattn.env.core import Core
from flexattn.env.lexical import open_world
from flexattn.env.mask import FEWEST
from flexattn.env.vocabulary import END, SENTENCE_ENDS, SPECIALS
from flexattn.env.world import World
from flexattn.lexicon.banned import fold
from flexattn.lexicon.entries import PUNCTUATION, Catalog, Entry, load_catalog


class NaiveMask:
    """A(s) said again with sets of characters, from the texts."""

    def __init__(self, world: World, banned: tuple[str, ...], guided: bool = True) -> None:
        self.answers = [world.records[r].answer for r in world.train]
        self.chars = set("".join(self.answers))
        texts = [*self.answers, *world.term_list]
        self.reach = world.settings.guide_reach
        self.behind = {
            (k, a + b) for k in range(1, self.reach + 1) for text in texts
            for a, b in zip("^" + text, ("^" + text)[k:])
        }  # fmt: skip
        self.mean = sum(map(len, self.answers)) / len(self.answers)
        self.opens = {y[0] for y in self.answers}
        self.doubles = {a for y in self.answers for a, b in pairwise(y) if a == b}
        self.banned = tuple(fold(term) for term in banned)
        self.folded = {c: fold(c) for c in self.chars}
        self.guided = guided

    def allowed(self, text: str, folded: str, char: str) -> bool:
        if char in PUNCTUATION:
            if not text and char not in self.opens:
                return False
            if text.endswith(char) and char not in self.doubles:
                return False
        end = self.folded[char]
        return not end or not (folded + end).endswith(self.banned)

    def guess(self, text: str, char: str) -> bool:
        window = "^" + text
        places = range(1, min(self.reach, len(window)) + 1)
        return any((k, window[-k] + char) in self.behind for k in places)

    def legal(self, text: str) -> tuple[set[str], bool]:
        folded = fold(text)
        chars = {c for c in self.chars if self.allowed(text, folded, c)}
        narrow = {c for c in chars if self.guess(text, c)} if self.guided else chars
        widened = self.guided and len(narrow) < FEWEST
        chosen = chars if widened else narrow
        over = bool(text) and (text[-1] in SENTENCE_ENDS or len(text) >= self.mean / 2)
        return chosen | ({""} if over or not chosen else set()), widened


def walk(world: World, naive: NaiveMask, steps: int, seed: int, faithful: float) -> int:
    """Compare masks along random texts; returns how many states were widened."""
    core = Core(world, 1)
    rng = np.random.default_rng(seed)
    core.reset([0], [int(rng.choice(world.train))])
    text, widened, before = "", 0, 0
    for _ in range(steps):
        expected, wide = naive.legal(text)
        got = {world.vocabulary.char(int(n)) for n in np.flatnonzero(core.legal()[0])}
        assert got == expected, text
        assert core.state.n_legal[0] == len(expected)
        assert core.state.widened[0] - before == wide
        widened += wide
        before = int(core.state.widened[0])
        row = core.legal()[0]
        target = int(core.teacher()[0])
        if rng.random() < faithful and row[target]:
            char = target
        elif rng.random() < 0.5:
            char = int(rng.choice(np.flatnonzero(row)))
        else:  # a character that the guide would not have allowed
            char = int(rng.integers(SPECIALS, world.size))
        core.step([0], [0], [char], enforce=False)
        text = world.vocabulary.decode(core.written(0).tolist())
        if core.state.done[0]:
            core.reset([0], [int(rng.choice(world.train))])
            text, before = "", 0
    return widened


def test_a_mask_is_what_the_train_texts_and_terms_say(world: World) -> None:
    banned = load_catalog(resolve_path("catalogs/medical.json")).banned
    naive = NaiveMask(world, banned)
    assert walk(world, naive, 150, seed=1, faithful=0.8) + walk(world, naive, 150, 2, 0.1) > 0


def small_world(guide: str = "ngram", banned: tuple[str, ...] = ("寒热",), reach: int = 2) -> World:
    config = load_config(
        "configs/medical.yaml",
        [
            f"env.guide={guide}", f"env.guide_reach={reach}", "env.history_chars=[2]",
            "env.slack=4",
        ],
    )  # fmt: skip
    answers = ["寒热往来。热者寒之，寒者热之。", "虚则补之，实则泻之……"]
    records = tuple(
        Record(str(n), "寒热", (), ("何谓寒热？",), answer, "train")
        for n, answer in enumerate(answers)
    )
    entries = (Entry(7, "往来", 1, None, "general"), Entry(9, "实寒", 0, None, "general"))
    catalog = Catalog("small", "1", "zh", 2, (2,), entries, banned, "ab" * 32, "small.json")
    return World.build(Corpus(records, "small.jsonl", "0" * 64), catalog, config)


@pytest.mark.parametrize(
    ("guide", "reach"), [("ngram", 1), ("ngram", 2), ("ngram", 5), ("none", 2)]
)
def test_small_worlds_agree_with_the_naive_mask(guide: str, reach: int) -> None:
    world = small_world(guide, reach=reach)
    walk(world, NaiveMask(world, ("寒热",), guide == "ngram"), 400, seed=3, faithful=0.5)


@pytest.mark.parametrize(("reach", "least", "most"), [(2, 0.0, 0.3), (3, 1.0, 1.0)])
def test_a_longer_reach_lets_a_text_come_back_after_two_replaced_characters(
    reach: int, least: float, most: float
) -> None:
    world = open_world(
        load_config(resolve_path("configs/medical.yaml"), [f"env.guide_reach={reach}"])
    )
    core = Core(world, 1)
    rng = np.random.default_rng(0)
    legal = []
    for record in world.train[:100]:
        answer = world.vocabulary.encode(world.records[record].answer)
        place = int(rng.integers(2, len(answer) - 2))
        core.reset([0], [int(record)])
        for char in [*answer[:place], *rng.integers(SPECIALS, world.size, 2)]:
            core.step([0], [0], [char], enforce=False)
        legal.append(core.legal()[0, answer[place + 2]])
    assert least <= np.mean(legal) <= most


def test_where_everything_is_banned_the_end_is_legal() -> None:
    world = small_world(banned=tuple("寒热往来者之虚则补实泻，。…"[:11]))
    core = Core(world, 1)
    core.reset([0], [0])
    assert np.flatnonzero(core.legal()[0]).tolist() == [END]


def test_a_sample_is_legal_and_reaches_every_legal_character(world: World) -> None:
    core = Core(world, 400)
    core.reset(record_indices=np.zeros(400, np.int64))
    rng = np.random.default_rng(0)
    legal = core.legal()
    drawn = np.concatenate([core.sample_legal(rng) for _ in range(60)])
    assert legal[0, drawn].all()
    assert len(np.unique(drawn)) == legal[0].sum()
