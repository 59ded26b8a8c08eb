"""Gradient updates a second of masked discrete SAC beside the discrete SACs of other libraries.

2,048 actions, batch 256, 64 numbers a state, two 256-wide layers, twin critics and their target,
alpha tuned, Adam, one target step an update. Subjects take turns in windows of seconds, under one
thread and under `--threads` (ours: two, one for each half of an update); each subject's better
median counts. The peers know no mask: they pay for all 2,048 actions in either case. Ours draws its
batch from a buffer and lists the legal actions from packed bits inside the clock; TorchRL gets
batches made before; Tianshou is timed as `update(buffer, 256)` and, with `, batch given`, without
its sampling.

    python -m flexattn.bench train --updates 3 --threads 2 --json updates.json
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator

import numba
import numpy as np
import torch
from torch import nn

from flexattn.agents.discrete import DiscreteSac, Settings, Transitions
from flexattn.agents.legal import LegalSets
from flexattn.agents.mlp import MlpActor, MlpCritics
from flexattn.bench import Row

ACTIONS, LEGAL, BATCH, NUMBERS, WIDTHS, STORED = 2048, 64, 256, 64, (256, 256), 4096
WINDOW_S = 1.5
CASES = (f"updates/{LEGAL} of {ACTIONS} legal", f"updates/{ACTIONS} of {ACTIONS} legal")
Step = Callable[[], object]


def rows(windows: int, threads: int) -> Iterator[Row]:
    """Every subject's better median of one thread and of `threads`, the sparse case first."""
    counts = sorted({1, threads})
    # (case, subject), threads of the whole -> an update, and the threads of each operation in it
    subjects: dict[tuple[tuple[str, str], int], tuple[Step, int]] = {}
    for count in counts:
        for case, legal in zip(CASES, (LEGAL, None)):
            subjects[(case, "flexattn"), count] = ours(legal, two_threads=count > 1), 1
    for name, make in (("torchrl", torchrl), ("tianshou", tianshou)):
        try:
            steps = make()
        except ImportError:
            continue
        for suffix, step in steps.items():
            for count in counts:
                subjects[(CASES[1], name + suffix), count] = step, count
    for step, each in subjects.values():
        use_threads(each)
        step()  # compiles, and allocates what Adam keeps
    rates: dict[tuple[str, str], dict[int, list[float]]] = {
        key: {count: [] for count in counts} for key, _ in subjects
    }
    for _ in range(windows):
        for (key, count), (step, each) in subjects.items():
            use_threads(each)
            rates[key][count].append(rate(step))
    for (case, subject), found in rates.items():
        best = max(statistics.median(of) for of in found.values())
        cases = (case,) if subject == "flexattn" else CASES  # no mask: the same in either case
        for each in cases:
            yield Row("train", each, subject, best, "updates/s")


def use_threads(count: int) -> None:
    """Let torch and Numba run each operation in so many threads."""
    torch.set_num_threads(count)
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))


def rate(step: Step) -> float:
    """Updates a second of one window."""
    step()
    started, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < WINDOW_S:
        step()
        count += 1
    return count / spent


def ours(legal: int | None, *, two_threads: bool) -> Step:
    """This package, sampling included; `legal` actions a state on average, None: all."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    state = rng.normal(size=(STORED + 1, NUMBERS)).astype(np.float32)
    reward = rng.normal(size=STORED).astype(np.float32)
    terminated = rng.random(STORED) < 0.02
    taken = rng.integers(0, ACTIONS, STORED)
    packed = np.zeros((STORED + 1, ACTIONS // 64), np.uint64)
    if legal is not None:
        mask = rng.random((STORED + 1, ACTIONS)) < (legal - 1) / ACTIONS
        mask[np.arange(STORED), taken] = True
        mask[STORED, 0] = True
        packed = np.packbits(mask, axis=-1, bitorder="little").view(np.uint64)
    agent = DiscreteSac(
        MlpActor(NUMBERS, WIDTHS, ACTIONS),
        MlpCritics(NUMBERS, WIDTHS, ACTIONS, by_rows=True),
        Settings(kappa=0.5, alpha_first=0.2, alpha_adam=True, critic_lr=3e-4),
        two_threads=two_threads,
    )  # fmt: skip

    def sets(which: np.ndarray) -> LegalSets | None:
        return None if legal is None else LegalSets.of(packed[which], ACTIONS, torch.device("cpu"))

    def step() -> object:
        which = rng.integers(0, STORED, BATCH)
        return agent.update(
            Transitions(
                torch.from_numpy(state[which]), sets(which), torch.from_numpy(taken[which]),
                torch.from_numpy(reward[which]), torch.from_numpy(terminated[which]),
                torch.from_numpy(state[which + 1]), sets(which + 1),
            )
        )  # fmt: skip

    return step


def _net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(NUMBERS, WIDTHS[0]), nn.ReLU(), nn.Linear(*WIDTHS), nn.ReLU(),
        nn.Linear(WIDTHS[1], ACTIONS),
    )  # fmt: skip


def torchrl() -> dict[str, Step]:
    """TorchRL's DiscreteSACLoss, three Adams and SoftUpdate, on batches made before."""
    warnings.simplefilter("ignore")
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.data.tensor_specs import OneHot
    from torchrl.modules.distributions import OneHotCategorical
    from torchrl.modules.tensordict_module.actors import ProbabilisticActor
    from torchrl.objectives import SoftUpdate
    from torchrl.objectives.sac import DiscreteSACLoss

    torch.manual_seed(0)
    spec = OneHot(ACTIONS)
    actor = ProbabilisticActor(
        TensorDictModule(_net(), ["observation"], ["logits"]), in_keys=["logits"],
        out_keys=["action"], spec=spec, distribution_class=OneHotCategorical,
    )  # fmt: skip
    value = TensorDictModule(_net(), ["observation"], ["action_value"])
    loss = DiscreteSACLoss(
        actor, value, action_space=spec, num_actions=ACTIONS, loss_function="l2",
        target_entropy_weight=0.5,
    )  # fmt: skip
    loss.make_value_estimator(gamma=0.99)
    follow = SoftUpdate(loss, eps=0.995)
    optimisers = [
        torch.optim.Adam(list(parameters), 3e-4)
        for parameters in (
            loss.actor_network_params.flatten_keys().values(),
            loss.qvalue_network_params.flatten_keys().values(),
            [loss.log_alpha],
        )
    ]
    batches = [
        TensorDict(
            {
                "observation": torch.randn(BATCH, NUMBERS),
                "action": spec.rand([BATCH]),
                ("next", "observation"): torch.randn(BATCH, NUMBERS),
                ("next", "reward"): torch.randn(BATCH, 1),
                ("next", "done"): torch.zeros(BATCH, 1, dtype=torch.bool),
                ("next", "terminated"): torch.zeros(BATCH, 1, dtype=torch.bool),
            },
            [BATCH],
        )
        for _ in range(8)
    ]
    turn = iter(range(10**9))

    def step() -> object:
        found = loss(batches[next(turn) % len(batches)])
        for optimiser in optimisers:
            optimiser.zero_grad()
        (found["loss_actor"] + found["loss_qvalue"] + found["loss_alpha"]).backward()
        for optimiser in optimisers:
            optimiser.step()
        follow.step()
        return found

    return {"": step}


def tianshou() -> dict[str, Step]:
    """Tianshou's DiscreteSAC, sampling from its own buffer, and with the batch given."""
    warnings.simplefilter("ignore")
    import gymnasium
    from tianshou.algorithm.modelfree.discrete_sac import DiscreteSAC, DiscreteSACPolicy
    from tianshou.algorithm.modelfree.sac import AutoAlpha
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Batch, ReplayBuffer
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
    from tianshou.utils.torch_utils import policy_within_training_step, torch_train_mode

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    space = gymnasium.spaces.Discrete(ACTIONS)

    def body() -> Net:
        return Net(state_shape=(NUMBERS,), hidden_sizes=list(WIDTHS))

    adam = AdamOptimizerFactory(lr=3e-4)
    actor = DiscreteActor(preprocess_net=body(), action_shape=ACTIONS, softmax_output=False)
    agent = DiscreteSAC(
        policy=DiscreteSACPolicy(actor=actor, action_space=space), policy_optim=adam,
        critic=DiscreteCritic(preprocess_net=body(), last_size=ACTIONS), critic_optim=adam,
        critic2=DiscreteCritic(preprocess_net=body(), last_size=ACTIONS), critic2_optim=adam,
        tau=0.005, gamma=0.99,
        alpha=AutoAlpha(0.5 * np.log(ACTIONS), 0.0, AdamOptimizerFactory(lr=3e-4)),
    )  # fmt: skip
    buffer = ReplayBuffer(STORED)
    for _ in range(STORED):
        buffer.add(
            Batch(
                obs=rng.normal(size=NUMBERS).astype(np.float32), act=int(rng.integers(ACTIONS)),
                rew=float(rng.normal()), terminated=bool(rng.random() < 0.02), truncated=False,
                obs_next=rng.normal(size=NUMBERS).astype(np.float32), info={},
            )
        )  # fmt: skip

    def sampling() -> object:
        with policy_within_training_step(agent.policy):
            return agent.update(buffer=buffer, sample_size=BATCH)

    batch, indices = buffer.sample(BATCH)
    batch = agent._preprocess_batch(batch, buffer, indices)
    batch.to_torch_()
    batch.returns = batch.returns.detach()

    def given() -> object:
        batch.pop("weight", None)  # the last update's errors, with their graph
        with policy_within_training_step(agent.policy), torch_train_mode(agent):
            return agent._update_with_batch(batch)

    return {"": sampling, ", batch given": given}
