from __future__ import annotations

import dataclasses
import doctest
import json
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import FlattenObservation, RecordEpisodeStatistics

import flexattn  # noqa: F401  registers the environment
from flexattn.config import load_config, resolve_path
from flexattn.corpus import Corpus, load_corpus
from flexattn.env import lexical
from flexattn.env.lexical import LexicalEnv
from flexattn.env.vocabulary import END, UNK
from flexattn.env.world import World
from flexattn.errors import EnvironmentSpecError, FlexAttnError
from flexattn.lexicon.entries import load_catalog


def test_made_without_arguments_it_is_the_medical_default_and_passes_gymnasiums_checker() -> None:
    env = gymnasium.make("flexattn/Lexical-v0")
    assert len(env.unwrapped.world.train) >= 300  # type: ignore[attr-defined]
    check_env(env.unwrapped)


def test_the_example_of_the_docstring_runs() -> None:
    assert doctest.testmod(lexical).failed == 0


@pytest.mark.parametrize("wrapper", [RecordEpisodeStatistics, FlattenObservation])
def test_gymnasiums_wrappers_go_around_it(world: World, wrapper: Any) -> None:
    env = wrapper(LexicalEnv(world=world))
    env.reset(seed=0)
    info: dict[str, Any] = {}
    over = cut = False
    while not (over or cut):
        legal = env.unwrapped.action_masks()[8:]
        observation, _, over, cut, info = env.step([0, 0, np.flatnonzero(legal)[-1]])
        assert env.observation_space.contains(observation)
    if wrapper is RecordEpisodeStatistics:
        assert info["episode"]["l"] <= world.longest_answer + world.settings.slack


def test_an_actor_sees_the_same_whatever_the_future_holds(world: World) -> None:
    # the same held-out answer with its characters turned round from place 3 on
    record = int(world.heldout[0])
    corpus = load_corpus(resolve_path("corpora/medical.jsonl"))
    answer = corpus.records[record].answer
    records = list(corpus.records)
    records[record] = dataclasses.replace(records[record], answer=answer[:3] + answer[:2:-1])
    changed = World.build(
        Corpus(tuple(records), corpus.path, corpus.sha256),
        load_catalog(resolve_path("catalogs/medical.json")),
        load_config("configs/medical.yaml"),
    )
    rng = np.random.default_rng(8)
    envs = [LexicalEnv(world=w, privileged=True) for w in (world, changed)]
    options = {"record": corpus.records[record].id}
    seen = [env.reset(seed=1, options=options) for env in envs]
    targets: list[list[int]] = [[], []]
    for t in range(len(answer)):
        (one, info_one), (two, info_two) = seen
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[name], two[name]) for name in one), t
        assert np.array_equal(info_one["action_mask"], info_two["action_mask"])
        for n, info in enumerate((info_one, info_two)):
            targets[n].append(info["privileged"]["target"])
        row = info_one["action_mask"].copy()
        row[END] = False
        action = [rng.integers(4), rng.integers(4), rng.choice(np.flatnonzero(row))]
        stepped = [env.step(action) for env in envs]
        seen = [(observation, info) for observation, _, _, _, info in stepped]
    assert targets[0] != targets[1]


def test_only_who_asks_gets_the_privileged_channel(world: World) -> None:
    observation, info = LexicalEnv(world=world).reset(seed=0)
    assert "privileged" not in info
    assert set(observation) == {"history", "sketch", "question", "step"}
    env = LexicalEnv(world=world, privileged=True)
    _, info = env.reset(seed=0, options={"record": world.records[world.heldout[0]].id})
    assert info["privileged"]["future"].shape == (world.settings.future_chars,)


def test_a_character_outside_the_train_vocabulary_is_unk_and_never_legal(world: World) -> None:
    strange = next(r for r in world.heldout.tolist() if (world.answer(r) >= world.size).any())
    env = LexicalEnv(world=world, privileged=True)
    _, info = env.reset(seed=0, options={"record": world.records[strange].id})
    targets = []
    for _ in range(len(world.records[strange].answer)):
        targets.append(info["privileged"]["target"])
        assert not info["action_mask"][UNK]
        row = info["action_mask"].copy()
        row[END] = False
        _, _, over, cut, info = env.step([0, 0, np.flatnonzero(row)[0]])
        if over or cut:
            break
    assert UNK in targets


def test_the_mask_has_sb3_contribs_form(world: World) -> None:
    env = LexicalEnv(world=world)
    _, info = env.reset(seed=0)
    assert env.action_masks().shape == (int(env.action_space.nvec.sum()),)
    assert np.array_equal(env.action_masks()[8:], info["action_mask"])


def test_an_illegal_action_is_told_and_the_lowest_legal_one_written(world: World) -> None:
    env = LexicalEnv(world=world, render_mode="ansi")
    _, info = env.reset(seed=0)
    lowest = int(np.flatnonzero(info["action_mask"])[0])
    _, _, _, _, info = env.step([0, 0, 0])
    assert info["illegal"]
    assert env.render() == world.vocabulary.char(lowest)


def test_the_same_seed_gives_the_same_episodes(world: World) -> None:
    def records(seed: int) -> list[int]:
        env = LexicalEnv(world=world)
        drawn = [env.reset(seed=seed)[1]["record"]]
        return drawn + [env.reset()[1]["record"] for _ in range(5)]

    assert records(3) == records(3) != records(4)
    assert set(records(3)) <= set(world.train.tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"record": "nobody"}, "'nobody' is not in the corpus", id="unknown record"),
        pytest.param({"question": 99}, "has questions 0 to", id="unknown question"),
        pytest.param({"recrod": "x"}, "options has 'recrod'", id="unknown option"),
    ],
)
def test_options_that_name_nothing_are_refused(
    world: World, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(EnvironmentSpecError, match=message):
        LexicalEnv(world=world).reset(seed=0, options=options)


def test_a_corpus_in_which_no_answer_holds_a_term_is_refused(tmp_path: Any) -> None:
    file = tmp_path / "plain.jsonl"
    record = {"id": "1", "term": "x", "question": "x?", "answer": "abcdef", "split": "train"}
    file.write_text(json.dumps(record))
    with pytest.raises(FlexAttnError, match=r"no answer holds a term of medical\.json"):
        LexicalEnv(corpus=str(file))
