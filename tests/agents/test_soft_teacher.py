"""A whole training under `reward.soft: teacher`: what its log says of every step, and a replay."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from flexattn import replay, train
from flexattn.config import resolve_path

SMALL = [
    "reward.soft=teacher", "agent.prior=none", "train.threads=1", "agent.hidden=16",
    "agent.char_dim=16", "agent.buffer_answers=16", "attention.heads=2", "attention.kv_heads=2",
    "train.clone_steps=2", "train.warmup_steps=1", "train.sac_steps=2",
    "train.clone_batch_answers=2", "train.batch_answers=2", "train.rollout_answers=4",
    "train.rollout_every=2", "train.evaluate_every=100", "train.final_answers=1",
    "train.checkpoint_every=100",
]  # fmt: skip
NEAR, RADIUS = 0.3, 2  # SPEC section 5: of the records that carry no probabilities


def soft_match(char: str, place: int, record: dict) -> float:
    """chi_soft of one step, by the words of the specification and the corpus line alone."""
    answer = record["answer"]
    if not char:
        return float(place >= len(answer))
    if "logprobs" in record:
        told = record["logprobs"][place] if place < len(answer) else {}
        return math.exp(told[char]) if char in told else 0.0
    if answer[place : place + 1] == char:
        return 1.0
    return NEAR if char in answer[max(0, place - RADIUS) : place + RADIUS + 1] else 0.0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict]]:
    """A run, and its corpus by id; every second record carries the teacher's probabilities."""
    folder = tmp_path_factory.mktemp("soft")
    lines = resolve_path("corpora/medical.jsonl").read_text(encoding="utf-8").splitlines()[:8]
    records = [json.loads(line) for line in lines]
    for record in records[::2]:
        answer = record["answer"]
        # the character itself, and the one before it as the teacher's second choice
        record["logprobs"] = [
            {answer[max(0, t - 1)]: math.log(0.2), char: math.log(0.7 - 0.1 * (t % 3))}
            for t, char in enumerate(answer)
        ]
    corpus = folder / "few.jsonl"
    corpus.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), "utf-8")
    asked = ["--plain", "--config", "configs/smoke.yaml"]
    for override in (*SMALL, f"corpus.path={corpus}", f"run.folder={folder}", "run.name=run"):
        asked += ["--set", override]
    assert train.main(asked) == 0
    return folder / "run", {record["id"]: record for record in records}


def test_every_logged_step_is_worth_the_teachers_probability(
    trained: tuple[Path, dict[str, dict]],
) -> None:
    run, records = trained
    lines = [
        json.loads(line)
        for file in sorted(run.glob("steps-*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    record, seen = {}, set()
    for line in lines:
        if line.get("event") == "episode":
            record = records[line["record"]]
        elif "event" not in line:
            expected = soft_match(line["a"], line["step"] - 1, record)
            assert line["chi_soft"] == pytest.approx(expected, abs=1e-9), line
            seen.add((round(expected, 3), "logprobs" in record))
    # the teacher's own character, one it never named, a match by place and a near one all occurred
    assert {(0.6, True), (0.0, True), (1.0, False), (NEAR, False)} <= seen


def test_the_run_replays_sound(trained: tuple[Path, dict[str, dict]]) -> None:
    assert replay.main([str(trained[0])]) == 0
