from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexattn.config import load_config, resolve_path
from flexattn.corpus import Corpus, Record
from flexattn.env import core as core_module
from flexattn.env.core import Core
from flexattn.env.vocabulary import END
from flexattn.env.world import World
from flexattn.errors import EnvironmentSpecError
from flexattn.lexicon.entries import Entry, load_catalog, parse_catalog

Case = dict[str, Any]
Derive = Callable[[Case], list[Case]]


def assert_agrees(got: list[Case], expected: list[Case], name: str) -> None:
    for mine, theirs in zip(got, expected, strict=True):
        for key, value in theirs.items():
            if isinstance(value, float):
                assert mine[key] == pytest.approx(value, abs=1e-9), (name, theirs["step"], key)
            else:
                assert mine[key] == value, (name, theirs["step"], key)


def test_every_conformance_case_agrees(golden: list[Case], derive_case: Derive) -> None:
    for n, entry in enumerate(golden):
        assert_agrees(derive_case(entry["case"]), entry["expect"], f"case {n}")


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_random_episode_has_the_oracles_numbers(
    seed: int, oracle: ModuleType, random_case: Callable[[int], Case], derive_case: Derive
) -> None:
    case = random_case(seed)
    assert_agrees(derive_case(case), oracle.run_case(case), f"seed {seed}")


def test_a_heldout_answer_has_the_oracles_numbers(oracle: ModuleType, world: World) -> None:
    # its characters outside the vocabulary count too
    train = [world.records[r].answer for r in world.train]
    weights = dict(zip(world.term_list, world.terms.weight.tolist()))
    grams = oracle.make_gram_idf(train)
    mean = sum(len(oracle.bigrams(y)) for y in train) / len(train)
    allowed = {g for y in [*train, *weights] for g in oracle.bigrams(y)}
    rng = np.random.default_rng(5)
    s = world.settings
    for record in world.heldout[:6].tolist():
        reward = oracle.Reward(lengths=s.lengths, progress=s.progress)
        episode = oracle.Episode(
            world.records[record].answer, weights, grams, mean, allowed, reward
        )
        core = Core(world, 1)
        core.reset([0], [record])
        while not core.state.done[0]:
            target = int(core.teacher()[0])
            char = target if rng.random() < 0.9 else int(core.sample_legal(rng)[0])
            lh, lp = int(rng.integers(4)), int(rng.integers(4))
            steps = core.step([lh], [lp], [char], [target], enforce=False)
            spell = world.vocabulary.char
            expected = episode.step(
                s.history_chars[lh], s.hit_cap_chars[lp], spell(char), spell(target)
            )
            for name in ("idf", "sim", "delta", "ler", "len_cost", "base", "chi_soft", "reward"):
                assert getattr(steps, name)[0] == pytest.approx(expected[name], abs=1e-9), name


def rollout(world: World, n: int, seed: int, **kwargs: Any) -> list[dict[str, np.ndarray]]:
    """Environment i writes record i with its own stream of actions, for 40 steps."""
    core = Core(world, n, **kwargs)
    core.reset(record_indices=np.arange(n) % len(world.records))
    streams = [np.random.default_rng([seed, i]) for i in range(n)]
    rows = []
    for _ in range(40):
        draws = np.array([rng.random(4) for rng in streams])
        target = core.teacher()
        rank = (draws[:, 0] * core.state.n_legal).astype(np.int64)
        legal = np.array([np.flatnonzero(row)[k] for row, k in zip(core.legal(), rank)])
        char = np.where(draws[:, 1] < 0.85, target, legal)
        windows = (draws[:, 2:] * 4).astype(np.int32)
        steps = core.step(windows[:, 0], windows[:, 1], char)
        rows.append({name: array.copy() for name, array in vars(steps).items()})
    return rows


def test_neither_batch_size_nor_threads_change_a_bit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = rollout(world, 3, seed=1)
    many = rollout(world, 40, seed=1)
    monkeypatch.setattr(core_module, "PARALLEL_FROM", 1)
    monkeypatch.setattr(core_module, "SHARE", 7)
    threads = rollout(world, 40, seed=1, threads=3)
    for one, some, spread in zip(alone, many, threads):
        for name in one:
            assert np.array_equal(one[name], some[name][:3]), name
            assert np.array_equal(some[name], spread[name]), name


def test_gain_by_cap_is_what_the_step_credits_under_each_cap(world: World) -> None:
    caps = len(world.settings.hit_cap_chars)
    records = np.arange(12)
    cores = [Core(world, 12, gain_by_cap=True) for _ in range(caps)]
    for core in cores:
        core.reset(record_indices=records)
    rng = np.random.default_rng(2)
    opened = 0
    for _ in range(50):
        main = cores[0]
        char = np.where(rng.random(12) < 0.9, main.teacher(), main.sample_legal(rng))
        gains = [
            core.step(np.zeros(12), np.full(12, cap), char).copy() for cap, core in enumerate(cores)
        ]
        for cap in range(caps):
            active = gains[0].char != 0
            # same state only while all were credited alike, so compare with cap 0's own forecast
            assert np.array_equal(gains[cap].gain_by_cap[active, cap], gains[cap].ler[active])
        opened += int((gains[0].gain_by_cap.max(1) > gains[0].gain_by_cap.min(1)).sum())
        # go on from one and the same state
        for core in cores[1:]:
            for mine, other in zip(core.state, main.state):
                mine[...] = other
    assert opened > 5


def test_an_illegal_character_is_replaced_by_the_lowest_legal_one(world: World) -> None:
    core = Core(world, 2)
    core.reset(record_indices=[0, 1])
    lowest = [int(np.flatnonzero(row)[0]) for row in core.legal()]
    steps = core.step([0, 0], [0, 0], [END, world.size - 1 + 1])
    assert steps.illegal.all()
    assert steps.char.tolist() == lowest
    assert core.state.history[:, 0].tolist() == lowest


def test_after_the_end_only_the_end_is_legal_and_nothing_is_counted(world: World) -> None:
    core = Core(world, 1)
    core.reset([0], [0])
    while not core.state.done[0]:
        steps = core.step([0], [0], core.teacher())
    assert steps.terminated[0]
    assert not steps.truncated[0]
    assert np.flatnonzero(core.legal()[0]).tolist() == [END]
    written = core.written(0)
    again = core.step([0], [0], [END])
    assert again.reward[0] == 0.0
    assert not again.terminated[0]
    assert np.array_equal(core.written(0), written)
    assert world.vocabulary.decode(written.tolist()) == world.records[0].answer


def test_an_answer_without_end_is_truncated_at_its_length_and_the_slack(world: World) -> None:
    core = Core(world, 1)
    core.reset([0], [0])
    size = len(world.records[0].answer)
    rng = np.random.default_rng(0)
    count = 0
    while not core.state.done[0]:
        row = core.legal()[0]
        row[END] = False
        steps = core.step([0], [0], [int(rng.choice(np.flatnonzero(row)))])
        count += 1
    assert steps.truncated[0]
    assert not steps.terminated[0]
    assert count == size + world.settings.slack


def test_the_step_is_rewarded_for_the_emitted_and_goes_on_from_the_written(world: World) -> None:
    core = Core(world, 1)
    core.reset([0], [0])
    target = core.teacher()
    row = core.legal()[0]
    row[target] = False
    other = np.flatnonzero(row)[:1].astype(np.int32)
    steps = core.step([0], [0], other, target)
    assert steps.chi_soft[0] < 1.0
    assert steps.char[0] == other[0]
    assert steps.written[0] == target[0]
    assert core.written(0).tolist() == target.tolist()


def test_with_soft_teacher_a_character_is_worth_the_teachers_probability() -> None:
    answer = "寒热往来"
    logprobs = tuple({char: math.log(0.6), "风": math.log(0.3)} for char in answer)
    records = (
        Record("0", "寒热", (), ("何谓寒热？",), answer, "train", logprobs),
        Record("1", "风寒", (), ("何谓风寒？",), "风寒往来", "train"),
    )
    config = load_config("configs/medical.yaml", ["reward.soft=teacher", "env.guide=none"])
    catalog = dataclasses.replace(
        load_catalog(resolve_path("catalogs/medical.json")),
        entries=(Entry(1, "往来", 2, None),),
        banned=(),
    )
    world = World.build(Corpus(records, "small.jsonl", "0" * 64), catalog, config)
    ids = world.vocabulary.ids
    core = Core(world, 4)
    core.reset(record_indices=[0, 0, 0, 1])
    steps = core.step(np.zeros(4), np.zeros(4), [ids["寒"], ids["风"], ids["来"], ids["寒"]])
    # the last record has no probabilities: a character next to the target counts 0.3
    assert steps.chi_soft == pytest.approx([0.6, 0.3, 0.0, 0.3])


def test_what_does_not_fit_is_refused_in_one_line(world: World) -> None:
    core = Core(world, 2)
    with pytest.raises(EnvironmentSpecError, match=r"lp_index holds 0\.\.9"):
        core.step([0, 0], [0, 9], [3, 3])
    with pytest.raises(EnvironmentSpecError, match="char has shape"):
        core.step([0, 0], [0, 0], [3])
    far = world.vocabulary.alphabet
    with pytest.raises(EnvironmentSpecError, match=f"written holds ids -1..{far}"):
        core.step([0, 0], [0, 0], [3, 3], [far, -1])
    with pytest.raises(EnvironmentSpecError, match=f"char holds ids 3..{far}"):
        core.step([0, 0], [0, 0], [3, far], enforce=False)
    with pytest.raises(EnvironmentSpecError, match="written has shape"):
        core.step([0, 0], [0, 0], [3, 3], [3])
    with pytest.raises(EnvironmentSpecError, match="expected 2 indices"):
        core.reset(record_indices=[0, 10**6])
    with pytest.raises(EnvironmentSpecError, match="question"):
        core.reset(record_indices=[0, 0], question_indices=[0, 99])
    stranger = World.from_case({"terms": [], "answers": ["寒热"], "answer": 0, "actions": []})
    with pytest.raises(EnvironmentSpecError, match="another corpus"):
        core.reset(world=stranger)


def test_an_environment_keeps_its_catalog_version_until_its_next_episode(world: World) -> None:
    catalog = load_catalog(resolve_path("catalogs/medical.json"))
    raw = catalog.as_json()
    raw["entries"] = [e for e in raw["entries"] if e["term"] != "神经氨酸酶"]
    newer = world.with_catalog(parse_catalog(raw, "medical.json"))
    record = next(n for n, r in enumerate(world.records) if "神经氨酸酶的" in r.answer)
    core = Core(world, 2)
    core.reset(record_indices=[record, record])
    core.reset([1], [record], world=newer)
    assert [core.world_of(i).catalog_sha256 for i in (0, 1)] == [
        world.catalog_sha256,
        newer.catalog_sha256,
    ]
    found: list[set[str]] = [set(), set()]
    while not core.state.done.all():
        steps = core.step([0, 0], [3, 3], core.teacher())
        for i in (0, 1):
            if steps.term[i] >= 0:
                found[i].add(core.world_of(i).term_list[steps.term[i]])
    assert "神经氨酸酶" in found[0]
    assert "神经氨酸酶" not in found[1]
    core.reset([0], [record])
    assert core.world_of(0) is newer
