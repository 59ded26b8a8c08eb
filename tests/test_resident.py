"""The training on a GPU, played small in Triton's interpreter: stream, log, refusals."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from flexattn.agents.resident import check
from flexattn.config import load_config, resolve_path
from flexattn.domain import Domain
from flexattn.errors import ConfigError

ROOT = Path(__file__).parents[1]
PATHS = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
SMALL = (
    "run.name=small", "agent.hidden=16", "agent.char_dim=32", "attention.heads=2",
    "attention.kv_heads=2", "train.device=cpu", "attention.impl=reference",
    "train.rollout_answers=2", "train.rollout_chars=12", "train.clone_steps=1",
    "train.warmup_steps=1", "train.sac_steps=1", "log.sample=1.0", "env.slack=1",
)  # fmt: skip
ANSWERS = ("奥司他韦是抑制剂。", "神经氨酸酶是酶。", "流感病毒会传染。", "布洛芬可以止痛。")


def tiny(folder: Path) -> Domain:
    """Four short answers, so that episodes end soon."""
    corpus = folder / "tiny.jsonl"
    lines = [
        {"id": f"r{n}", "term": text[:3], "question": f"什么是{text[:3]}？", "answer": text,
         "split": "train"}
        for n, text in enumerate(ANSWERS)
    ]  # fmt: skip
    corpus.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    path = resolve_path("configs/gpu.yaml")
    return Domain.of_config(
        load_config(path, [*SMALL, f"corpus.path={corpus}", f"run.folder={folder}"])
    )


def play(folder: Path) -> None:
    """Train for three steps, and look at what was written."""
    from flexattn.agents.checkpoint import load_newest
    from flexattn.audit.writer import RunLog
    from flexattn.display import Display
    from flexattn.job import create_folder
    from flexattn.resident import ResidentTraining

    domain = tiny(folder)
    config = domain.config
    run = create_folder(domain)
    device = torch.device("cpu")
    with Display(plain=True) as display, RunLog(run, config.log) as log:
        training = ResidentTraining(config, domain.world, log, display, device, fused=False)
        before = [p.detach().clone() for p in training.learner.actor.parameters()]
        seen = 0
        for step in training.run():
            chunk = training.stream.chunk
            seen += int(chunk.valid.sum())
            assert training.characters == seen, step  # each character once
            bits = chunk.legal[:, :-1].gather(2, (chunk.taken >> 6).long()[..., None])[..., 0]
            legal = ((bits >> (chunk.taken & 63)) & 1).bool()
            assert legal[chunk.valid].all()
            x, s = training.stream.x, training.stream.s
            follows = chunk.valid[:, 1:] & chunk.valid[:, :-1]
            assert (chunk.token[:, x + 1 : x + s] == chunk.written[:, :-1])[follows].all()
            assert (chunk.step[:, 1:s] == chunk.step[:, : s - 1] + 1)[follows].all()
        assert all(torch.isfinite(p).all() for p in training.learner.actor.parameters())
        moved = [not torch.equal(a, b) for a, b in zip(before, training.learner.actor.parameters())]
        assert sum(moved) > 0.8 * len(moved)
        training.save(run.path / "checkpoints", {"evaluations_bytes": 0})
        log.event("end")
        saved, _ = load_newest(run.path / "checkpoints")
        assert saved is not None
        again = ResidentTraining(config, domain.world, None, display, device, fused=False)
        again.restore(saved)
        assert (again.step, again.characters) == (3, seen)
        pairs = zip(training.learner.critics.parameters(), again.learner.critics.parameters())
        assert all(torch.equal(a, b) for a, b in pairs)
    print(run.path)


@pytest.mark.slow
def test_a_small_run_trains_each_character_once_and_its_log_is_sound(tmp_path: Path) -> None:
    from flexattn.replay import main as replay

    ran = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": PATHS},
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    run = ran.stdout.split()[-1]
    text = "".join(path.read_text("utf-8") for path in sorted(Path(run).glob("steps-*.jsonl")))
    assert text.count('"event":"episode"') >= 1
    assert replay([run]) == 0


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("agent.critic_target=sum", "agent.critic_target"),
        ("agent.expectation=sampled", "agent.expectation"),
        ("agent.cql_weight=0.5", "agent.cql_weight"),
        ("agent.stability_weight=0.1", "agent.stability_weight"),
        ("agent.forbidden_teacher=reject", "agent.forbidden_teacher"),
        ("agent.rollout_noise=0.1", "agent.rollout_noise"),
        ("train.dagger_steps=5", "train.dagger_steps"),
        ("reward.bonus=hard", "reward.bonus"),
        ("lexicon.watch=true", "lexicon.watch"),
    ],
)
def test_what_only_the_cpu_learns_is_refused_by_its_key(override: str, key: str) -> None:
    config = load_config(resolve_path("configs/gpu.yaml"), [override])
    with pytest.raises(ConfigError, match=rf"^{key} is .* with train.device cuda, expected"):
        check(config)


if __name__ == "__main__":
    play(Path(sys.argv[1]))
