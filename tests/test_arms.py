"""The arms are complete files, made from one; and what they switch is switched."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from flexattn import replay, train
from flexattn.agents.batches import Batches
from flexattn.config import Config, load_config
from flexattn.corpus import evenly, load_corpus, parse_corpus
from flexattn.domain import Domain
from flexattn.env.core import Core
from flexattn.env.lexical import open_world
from flexattn.env.world import World
from flexattn.errors import CorpusError
from flexattn.evaluation.optimum import Rules

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
FEW = ["corpus.records=16", "corpus.heldout=among"]


def config(name: str, *more: str) -> Config:
    return load_config(CONFIGS / name, [*FEW, *more])


@pytest.fixture(scope="module")
def hard() -> World:
    return open_world(config("ablations/hard-bonus.yaml"))


def test_every_arm_is_what_make_writes() -> None:
    spec = importlib.util.spec_from_file_location("configs_make", CONFIGS / "make.py")
    assert spec is not None
    assert spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    stale = [
        path.name
        for path, text in make.files().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert stale == [], "run: python configs/make.py"


def test_the_baseline_has_one_choice_of_each_length_and_no_guide() -> None:
    baseline = config("arms/baseline.yaml")
    assert baseline.lexicon.lengths == (2,)
    assert len(baseline.env.history_chars) == len(baseline.env.hit_cap_chars) == 1
    assert (baseline.env.guide, baseline.reward.bonus) == ("none", "hard")
    flex = config("arms/flex.yaml")
    assert baseline.train == flex.train
    assert baseline.agent == flex.agent.model_copy(update={"prior": "none"})


def test_a_hard_bonus_pays_every_hit_alike(hard: World) -> None:
    core = Core(hard, len(hard.train))
    core.reset(record_indices=hard.train)
    paid = []
    while not core.state.done.all():
        zeros = np.zeros(len(hard.train), np.int32)
        steps = core.step(zeros, zeros + 3, core.teacher(), enforce=False)
        paid += steps.delta[steps.term >= 0].tolist()
    assert len(paid) > 20
    assert set(paid) == {hard.settings.lambda_lex}


def test_the_critics_offer_and_the_optimum_know_the_hard_bonus(hard: World) -> None:
    batches = Batches(hard, torch.device("cpu"))
    offered = {round(float(gain), 6) for gain in batches.gains.ravel()}
    assert offered == {0.0, hard.settings.lambda_lex}
    weights = dict(zip(hard.term_list, hard.terms.weight.tolist()))
    answers = [hard.records[record].answer for record in hard.train]
    rules = Rules.of(weights, answers, config("ablations/hard-bonus.yaml"))
    gains = {gain for place in rules.offers(answers[0]) for _, gain in place.values()}
    assert gains == {hard.settings.lambda_lex}


def test_records_are_taken_evenly_and_again_the_same() -> None:
    data = (ROOT / "corpora" / "medical.jsonl").read_bytes()
    cut = evenly(data, 10, "here")
    records = parse_corpus(cut, "here").records
    every = parse_corpus(data, "here").records
    assert [record.id for record in records] == [every[n * len(every) // 10].id for n in range(10)]
    assert evenly(cut, 10, "here") == cut
    assert evenly(data, 0, "here") is data
    with pytest.raises(CorpusError, match=r"has 10 records, corpus\.records asks for 11"):
        evenly(cut, 11, "here")
    assert len(load_corpus(ROOT / "corpora" / "medical.jsonl", 7).records) == 7


def test_a_small_training_can_be_asked_about_every_held_out_term() -> None:
    path = ROOT / "corpora" / "medical.jsonl"
    every, few = load_corpus(path), load_corpus(path, 10)
    wide = load_corpus(path, 10, heldout=True)
    assert wide.train == few.train
    assert wide.heldout == every.heldout
    domain = Domain.of_config(config("arms/flex.yaml", "corpus.heldout=all"))
    assert domain.corpus.heldout == every.heldout
    assert parse_corpus(domain.corpus_bytes, "kept").records == domain.corpus.records


def test_a_run_keeps_the_records_that_it_used_and_no_other() -> None:
    domain = Domain.of_config(config("arms/flex.yaml"))
    assert len(domain.corpus.records) == 16
    assert parse_corpus(domain.corpus_bytes, "kept").records == domain.corpus.records


SMALL = (
    "agent.hidden=16", "agent.char_dim=16", "attention.heads=2", "attention.kv_heads=2",
    "agent.buffer_answers=16", "train.clone_batch_answers=3", "train.batch_answers=4",
    "train.rollout_answers=4", "train.rollout_every=2", "train.evaluate_every=100",
    "train.final_answers=3",
)  # fmt: skip
STEPS = {
    "arms/dagger.yaml": ("train.clone_steps=2", "train.dagger_steps=4"),
    "arms/baseline.yaml": ("train.clone_steps=2", "train.warmup_steps=1", "train.sac_steps=3"),
    "ablations/one-head.yaml": ("train.clone_steps=2", "train.warmup_steps=1", "train.sac_steps=3"),
    "arms/flex.yaml": (
        "train.clone_steps=2",
        "train.warmup_steps=1",
        "train.sac_steps=3",
        "agent.rollout_noise=0.3",
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_an_arm_trains_with_one_choice_of_each_length_and_its_log_verifies(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--plain", "--config", str(CONFIGS / name), "--set", f"run.folder={tmp_path}"]
    for override in (*FEW, *SMALL, *STEPS[name]):
        words += ["--set", override]
    assert train.main(words) == 0
    said = capsys.readouterr().out
    assert "sits on one value" not in said
    (run,) = tmp_path.iterdir()
    assert replay.main([str(run)]) == 0
