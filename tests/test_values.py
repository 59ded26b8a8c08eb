"""What the critics hold of every choice, read back from an answer."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console

from flexattn.agents.networks import Sizes
from flexattn.agents.prior import CountPrior
from flexattn.agents.sac import Learner
from flexattn.config import Config, load_config, resolve_path
from flexattn.corpus import parse_corpus
from flexattn.env.world import World
from flexattn.errors import FlexAttnError
from flexattn.lexicon.entries import load_catalog
from flexattn.values import StepValues, answer_values, table

QUESTION = "请问什么是‘奥司他韦’？"


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config("configs/medical.yaml", ["agent.hidden=24", "agent.char_dim=16"])


@pytest.fixture(scope="module")
def world(config: Config) -> World:
    lines = resolve_path(config.corpus.path).read_bytes().splitlines(keepends=True)
    few = parse_corpus(b"".join(lines[:8]), config.corpus.path)
    return World.build(few, load_catalog(resolve_path(config.lexicon.catalog)), config)


@pytest.fixture(scope="module")
def rows(world: World, config: Config) -> list[StepValues]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    learner = Learner(config, Sizes.of(world), torch.device("cpu"))
    learner.actor.prior = CountPrior.of(config, world)
    return answer_values(world, learner, QUESTION)


def test_every_step_has_a_value_for_every_choice(rows: list[StepValues], config: Config) -> None:
    env = config.env
    assert [row.step for row in rows] == list(range(1, len(rows) + 1))
    for row in rows:
        assert list(row.Q_h) == list(row.pi_h) == [str(n) for n in env.history_chars]
        assert list(row.Q_p) == list(row.pi_p) == [str(n) for n in env.hit_cap_chars]
        assert sum(row.pi_h.values()) == pytest.approx(1.0, abs=1e-5)
        assert sum(row.pi_p.values()) == pytest.approx(1.0, abs=1e-5)
        # greedy: what was chosen is the likeliest
        assert max(row.pi_h, key=row.pi_h.__getitem__) == str(row.Lh)
        assert max(row.pi_p, key=row.pi_p.__getitem__) == str(row.Lp)
        assert row.top[0].a == row.a
        assert row.top[0].Q_0 == row.Q_0
        assert [c.p for c in row.top] == sorted((c.p for c in row.top), reverse=True)
        assert 0.0 <= row.H_char <= torch.log(torch.tensor(float(row.n_legal))).item() + 1e-5


def test_untrained_window_values_are_what_attention_costs_and_the_index_offers(
    rows: list[StepValues], config: Config
) -> None:
    reward, longest = config.reward, max(config.lexicon.lengths)
    for row in rows:
        for lh, value in row.Q_h.items():
            assert value == pytest.approx(-reward.lambda_h * int(lh) / longest, abs=1e-6)
    # the reference begins with a term of six characters: opening Lp is worth more there
    first = rows[0].Q_p
    offered = first["6"] + reward.lambda_p * 6 / longest
    assert offered > first["3"] + reward.lambda_p * 3 / longest
    assert rows[0].target == "磷"


def test_rows_are_plain_json_and_the_table_names_every_part(rows: list[StepValues]) -> None:
    line = json.loads(json.dumps(rows[0].row(), ensure_ascii=False))
    assert line["step"] == 1
    assert set(line["top"][0]) == {"a", "p", "Q_0"}
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table(QUESTION, rows))
    shown = console.export_text()
    assert f"[{rows[0].Lp} {rows[0].Q_p[str(rows[0].Lp)]:.3f}]" in shown
    for name in ("Q_0", "Q_h by Lh", "Q_p by Lp", "H h/p/char"):
        assert name in shown


def test_a_question_of_no_record_is_refused_in_one_line(world: World, config: Config) -> None:
    learner = Learner(config, Sizes.of(world), torch.device("cpu"))
    learner.actor.prior = CountPrior.of(config, world)
    with pytest.raises(FlexAttnError, match="is no question of the run's corpus") as caught:
        answer_values(world, learner, "什么是天气？")
    assert "\n" not in str(caught.value)
