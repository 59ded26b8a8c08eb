"""Two ranks with half the batch each learn what one process learns from the whole."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from flexattn import replay, train
from flexattn.agents.ranks import Ranks
from flexattn.config import resolve_path

ROOT = Path(__file__).parents[2]
SETS = [
    "train.threads=1", "agent.hidden=16", "agent.char_dim=16", "agent.buffer_answers=16",
    "attention.heads=2", "attention.kv_heads=2", "train.clone_steps=20", "train.warmup_steps=2",
    "train.sac_steps=6", "train.clone_batch_answers=5", "train.batch_answers=4",
    "train.rollout_answers=6", "train.rollout_every=3", "train.evaluate_every=10",
    "train.evaluate_answers=2", "train.final_answers=2", "train.checkpoint_every=4",
    "agent.history_noise=0.2", "agent.grad_clip=1000.0",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    lines = resolve_path("corpora/medical.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "few.jsonl").write_bytes(b"".join(lines[:16]))
    return folder


def words(place: Path, name: str) -> list[str]:
    found = ["--plain", "--config", "configs/smoke.yaml"]
    for override in [
        *SETS, f"corpus.path={place / 'few.jsonl'}", f"run.folder={place}", f"run.name={name}",
    ]:  # fmt: skip
        found += ["--set", override]
    return found


def spawn(command: list[str]) -> list[subprocess.Popen[str]]:
    """Two processes as `torchrun --nproc-per-node 2` starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return [
        subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
            env={
                **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            },
        )
        for rank in range(2)
    ]  # fmt: skip


def finished(ranks: list[subprocess.Popen[str]]) -> list[str]:
    said = [process.communicate(timeout=200) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], said
    return [out for out, _ in said]


GRADIENTS = """
import sys, torch
from flexattn.agents.ranks import ALONE
from flexattn.config import load_config
from flexattn.display import Display
from flexattn.domain import Domain
from flexattn.job import together
from flexattn.training import Training

config = load_config("configs/smoke.yaml", sys.argv[1:])
domain = Domain.of_config(config)
torch.use_deterministic_algorithms(True)
with together(config) as ranks:
    def training(those):
        silent = Display(quiet=True)
        return Training(config, domain.world, None, silent, torch.device("cpu"), None, those)
    ours, whole = training(ranks), training(ALONE)
    ours._demonstrate(), whole._demonstrate()

    def compare(name, network):
        mine = dict(getattr(ours.learner, network).named_parameters())
        found = dict(getattr(whole.learner, network).named_parameters())
        assert all((mine[key].grad is None) == (found[key].grad is None) for key in found)
        keys = [key for key in found if found[key].grad is not None]
        size = torch.cat([found[key].grad.flatten() for key in keys]).norm()
        error = {key: float((mine[key].grad - found[key].grad).norm() / size) for key in keys}
        print(name, network, max(error.values()), max(error, key=error.get))
        assert max(error.values()) < 2e-5, (name, network, error)

    counts = [t._clone(0, 100)[0] for t in (ours, whole)]
    compare("clone", "actor")
    ours.learner.actor.load_state_dict(whole.learner.actor.state_dict())
    for learner in (ours.learner, whole.learner):
        # Adam's first step is the sign of each gradient, of those that are rounding alone too
        learner.critic_optimiser.param_groups[0]["lr"] = 0.0
    counts += [t._sac(0, 10)[0] for t in (ours, whole)]
    compare("sac", "actor"), compare("sac", "critics")
    assert counts[0] == counts[1] and counts[2] == counts[3], counts
    assert torch.allclose(ours.learner.log_alpha, whole.learner.log_alpha, atol=1e-6)
    assert ours.rng.bit_generator.state == whole.rng.bit_generator.state
    assert (ours.agent_buffer.store.emitted == whole.agent_buffer.store.emitted).all()
"""


def test_the_summed_gradients_of_two_ranks_are_those_of_the_whole_batch(place: Path) -> None:
    sets = [*SETS, f"corpus.path={place / 'few.jsonl'}"]
    said = finished(spawn(["-c", GRADIENTS, *sets]))
    assert all("sac critics" in text for text in said)


def test_two_ranks_killed_and_resumed_write_the_log_of_one_process(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks = spawn(["-m", "flexattn.train", *words(place, "pair")])
    run, until = place / "pair", time.monotonic() + 120
    while not list(run.glob("checkpoints/step-*")):
        assert time.monotonic() < until
        assert ranks[0].poll() is None, ranks[0].communicate()
        time.sleep(0.02)
    for process in ranks:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    first, second = finished(spawn(["-m", "flexattn.train", "--plain", "--resume", str(run)]))
    assert "goes on from step" in first
    assert second == "", "the first rank alone speaks"

    assert train.main(words(place, "single")) == 0
    single = place / "single"
    assert (run / "steps-00000.jsonl").read_bytes() == (single / "steps-00000.jsonl").read_bytes()
    ours, theirs = (
        load_file(max((folder / "checkpoints").iterdir()) / "tensors.safetensors")
        for folder in (run, single)
    )
    for name, values in theirs.items():
        if values.dtype == np.float32:
            np.testing.assert_allclose(ours[name], values, atol=2e-3, err_msg=name)
        else:
            assert (ours[name] == values).all(), name
    assert replay.main([str(run)]) == 0, capsys.readouterr().out


def test_too_small_a_batch_for_the_ranks_is_one_line(place: Path) -> None:
    ranks = spawn(
        ["-m", "flexattn.train", *words(place, "small"), "--set", "train.batch_answers=1"]
    )
    for process in ranks:
        _, error = process.communicate(timeout=200)
        assert process.returncode == 2
        assert "train.batch_answers is 1, expected at least one answer for each of the 2" in error


def test_the_shares_are_the_whole_batch() -> None:
    rows = np.arange(7)
    shares = [Ranks(rank, 3).share(rows) for rank in range(3)]
    assert sorted(np.concatenate(shares).tolist()) == rows.tolist()
    assert {len(share) for share in shares} == {2, 3}


def test_one_process_alone_sums_nothing() -> None:
    alone = Ranks()
    values, valid = torch.tensor([1.0, 3.0, 100.0]), torch.tensor([True, True, False])
    assert alone.part_of_mean(values, valid) == alone.mean(values, valid) == 2.0
    assert alone.totals(3, 4, device=torch.device("cpu")) == [3, 4]
    assert alone.tell("here") == "here"


def test_recorded_graphs_end_before_the_ranks_part(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Graph:
        def reset(self) -> None:
            done.append("reset")

    monkeypatch.setattr(torch.distributed, "barrier", lambda: done.append("wait"))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: done.append("part"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("settle"))
    ranks = Ranks(0, 2)
    ranks.recorded(Graph())
    ranks.recorded(Graph())
    ranks.leave()
    assert done == ["wait", "settle", "reset", "reset", "part"]
