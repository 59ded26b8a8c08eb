"""The counts against their formula, written down naively."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from flexattn.agents.counting import CountingModel, topics_of
from flexattn.agents.counting_kernel import LEAST, NOTHING, SURE
from flexattn.agents.table import BINS, Counted, PolicyTable, cap_classes
from flexattn.config import load_config
from flexattn.corpus import Corpus, Record
from flexattn.env.core import Core
from flexattn.env.vocabulary import END, PAD
from flexattn.env.world import World
from flexattn.episode import run
from flexattn.lexicon.entries import parse_catalog

TERMS = {"甲乙": "甲乙丙丁甲乙戊。", "丁乙": "丁乙甲丙甲乙丁。", "戊丙": "丙丁戊丙丁甲乙丙。"}
CATALOG = {
    "schema": "flexattn.catalog/1", "name": "tiny", "version": "1", "language": "zh",
    "lengths": [2, 3, 4], "documents": 3, "banned": ["戊丁"],
    "entries": [
        {"id": n, "term": term, "df": 1, "zipf": None}
        for n, term in enumerate(["甲乙", "丙丁", "甲乙丙", "丙丁甲乙"])
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def world() -> World:
    config = load_config("configs/smoke.yaml", ["env.semantic_gate=0.0"])
    records = tuple(
        Record(str(n), term, (), (f"什么是{term}？",), answer, "train")
        for n, (term, answer) in enumerate(TERMS.items())
    )
    return World.build(Corpus(records, "tiny", "0" * 64), parse_catalog(CATALOG, "t.json"), config)


def naive(world: World, term: str, written: list[int], window: int, legal: set[int]) -> np.ndarray:
    """p(a|s) by the docstring's formula; a context is a tuple of what it holds."""
    ids = {name: world.vocabulary.encode(name).tolist() for name in TERMS}

    def topics(name: str) -> list[tuple[object, ...]]:
        end = ids[name]
        return [("question", *end), ("two", *end[-2:]), ("one", end[-1]), ("nothing",)]

    def contexts(topic: tuple[object, ...], line: list[int], longest: int) -> list[tuple]:
        step, padded = len(line), [PAD] * longest + line
        held = {k: (topic, k, *padded[len(padded) - k :]) for k in range(longest + 1)}
        places = [(topic, "at", step, padded[-1])], [(topic, "at", step)]
        if topic == ("nothing",):
            places = [], []
        return [*places[0], *(held[k] for k in range(longest, 1, -1)), *places[1],
                held[1], held[0]]  # fmt: skip

    def copying(name: str, line: list[int]) -> int:
        lengths = range(len(name))
        return max(m for m in lengths if line[len(line) - m :] == ids[name][:m] and m <= len(line))

    counts: dict[tuple, Counter[int]] = defaultdict(Counter)
    copies: dict[tuple[bool, int], list[bool]] = defaultdict(list)
    for name, answer in TERMS.items():
        line = world.vocabulary.encode(answer).tolist()
        for t, char in enumerate(line):
            m = copying(name, line[:t])
            copies[m == t, m].append(char == ids[name][m])
        for topic in topics(name):
            for t in range(len(line) + 1):
                for context in dict.fromkeys(contexts(topic, line[:t], 6)):
                    counts[context][line[t] if t < len(line) else END] += 1
    p, left = np.zeros(world.size), 1.0
    for topic in topics(term):
        if topic[0] == "two" and left >= LEAST:
            m = copying(term, written)
            seen = copies[m == len(written), m]
            if any(seen):
                passed = SURE if all(seen) else 2 / (len(seen) + 2)
                given = left * (1 - passed) * sum(seen) / len(seen)
                p[ids[term][m]] += given
                left -= given
        for context in contexts(topic, written, window):
            found = counts.get(context)
            if not found or left < LEAST:
                continue
            total, kinds = sum(found.values()), len(found)
            passed = SURE if kinds == 1 else kinds / (total + kinds)
            for char, count in found.items():
                p[char] += left * (1 - passed) * count / total
            left *= passed
    mask = np.isin(np.arange(world.size), list(legal))
    p = np.where(mask, p + max(left, LEAST) / len(legal), 0.0)
    return p / p.sum()


def test_the_counts_are_the_formula(world: World) -> None:
    model = CountingModel(world)
    rng = np.random.default_rng(3)
    core = Core(world, 3)
    core.reset(record_indices=[0, 1, 2])
    topics = model.asked()
    steps = 0
    while not core.state.done.all() and steps < 10:
        steps += 1
        seen, legal = core.observe(), core.legal_packed().copy()
        rows = np.flatnonzero(~core.state.done)
        for window in (2, 3, 6):
            made = model.write(
                rows, seen.history, topics(seen.question), seen.step,
                np.full(len(rows), window), legal, dense=True,
            )  # fmt: skip
            for n, i in enumerate(rows):
                allowed = set(np.flatnonzero(core.legal()[i]).tolist())
                term = list(TERMS)[i]
                expected = naive(world, term, core.written(i).tolist(), window, allowed)
                np.testing.assert_allclose(made.pi[n], expected, rtol=0, atol=1e-12)
                assert made.pi[n][made.char[n]] == made.pi[n].max()
                assert made.probability[n] == pytest.approx(made.pi[n].max())
        # half of the time off the track, so that contexts are missed
        teacher = core.teacher()
        other = core.sample_legal(rng)
        fine = core.legal()[np.arange(3), teacher] & (rng.random(3) < 0.5)
        core.step(np.zeros(3), np.zeros(3), np.where(fine, teacher, other))
    assert steps > 3


def test_an_answer_about_an_unseen_term_begins_with_that_term(world: World) -> None:
    model = CountingModel(world)
    name = "戊甲"  # no train question has it
    line = np.zeros(world.settings.max_history, np.int32)
    asked = topics_of(world.encode_question(name)[None])
    everything = np.full((1, len(world.mask.writable)), ~np.uint64(0))
    written = ""
    for step in range(len(name)):
        ids = world.vocabulary.encode(written)
        line[len(line) - len(ids) :] = ids
        made = model.write(
            np.array([0]), line[None], asked, np.array([step]), np.array([2]), everything,
            dense=False,
        )  # fmt: skip
        written += world.vocabulary.char(int(made.char[0]))
    assert written == name


def test_no_two_topics_have_one_hash_whatever_the_ids() -> None:
    every = range(END + 1, 80)
    asked = [(a,) for a in every] + [(a, b) for a in every for b in every]
    questions = np.full((len(asked), 4), PAD, np.int32)
    for row, ids in zip(questions, asked, strict=True):
        row[: len(ids)] = ids
    meanings: dict[int, set[tuple[object, ...]]] = defaultdict(set)
    for ids, (whole, tail, head, two, one, nothing) in zip(
        asked, topics_of(questions)[:, :6].tolist()
    ):
        assert (tail, head) == (0, 0)
        meanings[whole].add(("question", *ids))
        meanings[one].add(("one", ids[-1]))
        meanings[nothing].add(("nothing",))
        if len(ids) == 2:
            meanings[two].add(("two", *ids))
        else:
            assert two == 0
    assert meanings[int(NOTHING)] == {("nothing",)}
    assert [names for names in meanings.values() if len(names) > 1] == []
    assert len(meanings) == len(asked) + len(every) + len(every) ** 2 + 1


def test_a_question_cut_behind_a_term_has_that_term_as_its_last() -> None:
    cut, whole = np.array([[7, 8, END, 9, END], [7, 8, END, 9, PAD]], np.int32)
    np.testing.assert_array_equal(topics_of(cut[None]), topics_of(whole[None]))


def test_an_expected_term_is_offered_under_each_cap_that_admits_it(world: World) -> None:
    model = CountingModel(world)
    core = Core(world, 3)
    core.reset(record_indices=[0, 1, 2])
    seen = core.observe()
    made = model.write(
        np.arange(3), seen.history, model.asked()(seen.question), seen.step, np.full(3, 2),
        core.legal_packed(), dense=False,
    )  # fmt: skip
    assert world.settings.hit_cap_chars == (3, 4, 5, 6)
    assert made.size.tolist() == [[3, 3, 3, 3], [0, 0, 0, 0], [2, 2, 2, 2]]
    weight = dict(zip(world.term_list, world.terms.weight))
    assert made.worth[0].tolist() == [weight["甲乙丙"]] * 4
    assert not made.inside.any()


def test_a_table_takes_what_was_worth_most_and_the_smallest_of_equals(world: World) -> None:
    table = PolicyTable(world.settings)
    zeros = np.zeros(2, np.int64)
    assert table.history(zeros).tolist() == [0, 0]
    assert table.cap(zeros).tolist() == [0, 0]
    # Lh = 4 wrote the right character, Lh = 2 a wrong one; Lp = 5 was paid more than it costs
    table.learn(
        zeros, np.array([0, 2]), np.array([0.0, 0.7]), zeros, np.array([[0, 0, 1.0, 1.0]] * 2)
    )
    assert table.history(zeros).tolist() == [2, 2]
    assert table.cap(zeros).tolist() == [2, 2]
    assert table.cap(np.array([1])).tolist() == [0]
    heads = [(row["head"], row["choice"]) for row in table.rows()]
    assert heads == [("Lh", 4), ("Lp", 5)]


def test_a_state_class_tells_the_cap_that_a_term_needs(world: World) -> None:
    model = CountingModel(world)
    core = Core(world, 3)
    core.reset(record_indices=[0, 1, 2])
    seen = core.observe()
    made = model.write(
        np.arange(3), seen.history, model.asked()(seen.question), seen.step, np.full(3, 2),
        core.legal_packed(), dense=False,
    )  # fmt: skip
    places = cap_classes(made, model.caps) // (2 * BINS * BINS)
    assert places.tolist() == [1, 0, 1]


def test_what_stage_a_writes_is_legal_and_the_same_every_time(world: World) -> None:
    model, table = CountingModel(world), PolicyTable(world.settings)
    texts = []
    for _ in range(2):
        core = Core(world, 3)
        core.reset(record_indices=[0, 1, 2])
        for moment in run(core, Counted(model, table)):
            assert not moment.steps.illegal.any()
        texts.append([world.vocabulary.decode(core.written(i)) for i in range(3)])
    assert texts[0] == texts[1] == list(TERMS.values())
    assert CountingModel(world).counts_sha256 == model.counts_sha256
