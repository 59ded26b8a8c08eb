"""The one-headed core: a masked problem with a closed form, and fast paths against dense ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flexattn.agents.discrete import DiscreteSac, Settings, Transitions
from flexattn.agents.legal import LegalSets
from flexattn.agents.mlp import MlpActor, MlpCritics
from flexattn.agents.soft import reference_soft_values, soft_values

CPU = torch.device("cpu")
STATES, ACTIONS, ALPHA, GAMMA = 6, 7, 0.3, 0.9


def _sets(mask: np.ndarray) -> LegalSets:
    octets = np.packbits(mask, axis=-1, bitorder="little")
    words = np.zeros((len(mask), -(-mask.shape[1] // 64) * 8), np.uint8)
    words[:, : octets.shape[1]] = octets
    return LegalSets.of(words.view(np.uint64), mask.shape[1], CPU)


def _agent(
    inputs: int, hidden: tuple[int, ...], actions: int, settings: Settings, by_rows: bool = False
) -> DiscreteSac:
    torch.manual_seed(0)
    critics = MlpCritics(inputs, hidden, actions, by_rows=by_rows)
    return DiscreteSac(MlpActor(inputs, hidden, actions), critics, settings)


@pytest.mark.parametrize("by_rows", [False, True], ids=["whole table", "rows taken"])
def test_a_masked_problem_is_solved_to_its_closed_form(by_rows: bool) -> None:
    rng = np.random.default_rng(3)
    legal = rng.random((STATES, ACTIONS)) < 0.5
    legal[np.arange(STATES), rng.integers(0, ACTIONS, STATES)] = True
    legal[2] = np.eye(ACTIONS, dtype=bool)[4]  # a state with one legal action
    # an illegal action would pay best: an agent that ever counts one is far off
    reward = np.where(legal, rng.normal(size=(STATES, ACTIONS)), 50.0)
    after = rng.integers(0, STATES, (STATES, ACTIONS))
    ends = rng.random((STATES, ACTIONS)) < 0.2

    # soft value iteration: V = alpha log sum over A(s) of exp(Q / alpha)
    v = np.zeros(STATES)
    for _ in range(400):
        q = reward + GAMMA * np.where(ends, 0.0, v[after])
        v = ALPHA * np.log(np.where(legal, np.exp(q / ALPHA), 0.0).sum(-1))

    state, action = legal.nonzero()
    eye = torch.eye(STATES)
    batch = Transitions(
        state=eye[state], legal=_sets(legal[state]), taken=torch.from_numpy(action),
        reward=torch.from_numpy(reward[state, action]).float(),
        terminated=torch.from_numpy(ends[state, action]),
        after=eye[after[state, action]], legal_after=_sets(legal[after[state, action]]),
    )  # fmt: skip
    agent = _agent(
        STATES, (), ACTIONS,
        Settings(gamma=GAMMA, target_ema=0.1, actor_lr=0.03, critic_lr=0.03, alpha_lr=0.0,
                 alpha_first=ALPHA), by_rows,
    )  # fmt: skip
    for _ in range(1500):
        agent.update(batch)
    sets = _sets(legal)
    with torch.no_grad():
        found_q = agent.critics.values(agent.critics.features(eye), sets)
        found_v, _ = soft_values(agent.actor.logits(eye, sets), found_q, torch.tensor(ALPHA), sets)
    assert np.allclose(found_q.numpy(), q[legal], atol=0.02)
    assert np.allclose(found_v.numpy(), v, atol=0.02)
    assert all(legal[s, a] for s, a in enumerate(agent.act(eye, torch.from_numpy(legal))))


@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
def test_an_untrained_agent_acts_legally(sampled: bool) -> None:
    rng = np.random.default_rng(0)
    legal = rng.random((500, 30)) < 0.1
    legal[:, 7] = True
    agent = _agent(5, (16,), 30, Settings())
    generator = torch.Generator().manual_seed(0) if sampled else None
    acted = agent.act(torch.randn(500, 5), torch.from_numpy(legal), generator)
    assert legal[np.arange(500), acted.numpy()].all()


def test_one_sweep_gives_the_values_entropies_and_gradients_of_the_formulas() -> None:
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    mask = rng.random((40, 70)) < 0.2
    mask[np.arange(40), rng.integers(0, 70, 40)] = True
    mask[0] = np.eye(70, dtype=bool)[69]
    sets = _sets(mask)
    alpha = torch.tensor(0.7, dtype=torch.float64)
    logits = (3 * torch.randn(len(sets.ids), dtype=torch.float64)).requires_grad_(True)
    q = torch.randn(2, len(sets.ids), dtype=torch.float64)
    mix = torch.randn(40, dtype=torch.float64)
    ours, theirs = (f(logits, q, alpha, sets) for f in (soft_values, reference_soft_values))
    grads = [torch.autograd.grad((v * mix).sum(), logits)[0] for v, _ in (ours, theirs)]
    assert torch.allclose(ours[0], theirs[0], atol=1e-12)
    assert torch.allclose(ours[1], theirs[1], atol=1e-12)
    assert torch.allclose(*grads, atol=1e-12)
    assert ours[1][0] == 0.0  # one legal action: no entropy
    assert torch.isfinite(grads[0]).all()


def test_dense_sweeps_give_the_same_as_the_formulas() -> None:
    torch.manual_seed(1)
    alpha = torch.tensor(0.7, dtype=torch.float64)
    logits = (3 * torch.randn(9, 30, dtype=torch.float64)).requires_grad_(True)
    q = torch.randn(2, 9, 30, dtype=torch.float64)
    ours, theirs = (f(logits, q, alpha, None) for f in (soft_values, reference_soft_values))
    grads = [torch.autograd.grad(v.square().sum(), logits)[0] for v, _ in (ours, theirs)]
    assert torch.allclose(ours[0], theirs[0], atol=1e-12)
    assert torch.allclose(ours[1], theirs[1], atol=1e-12)
    assert torch.allclose(*grads, atol=1e-12)


def test_updates_over_lists_equal_dense_ones_where_everything_is_legal() -> None:
    rng = np.random.default_rng(2)
    n, actions = 12, 9
    everything = _sets(np.ones((n, actions), bool))
    shared = {
        "state": torch.randn(n, 4), "taken": torch.from_numpy(rng.integers(0, actions, n)),
        "reward": torch.randn(n), "terminated": torch.from_numpy(rng.random(n) < 0.3),
        "after": torch.randn(n, 4),
    }  # fmt: skip
    sides = []
    for legal in (None, everything):
        agent = _agent(4, (16, 16), actions, Settings(kappa=0.4, alpha_lr=0.01))
        for _ in range(3):
            update = agent.update(Transitions(**shared, legal=legal, legal_after=legal))
        sides.append((agent, update))
    (dense, one), (listed, two) = sides
    for a, b in zip(dense.actor.parameters(), listed.actor.parameters()):
        assert torch.allclose(a, b, atol=2e-5)
    assert torch.allclose(one.alpha, two.alpha)
    assert torch.allclose(one.entropy, two.entropy, atol=1e-5)


def test_only_the_rows_taken_move_when_the_table_learns_by_rows() -> None:
    agent = _agent(3, (8,), 50, Settings(), by_rows=True)
    before = agent.critics.weight.clone()
    taken = torch.tensor([4, 9, 4, 30])
    batch = Transitions(
        torch.randn(4, 3), None, taken, torch.ones(4), torch.zeros(4, dtype=torch.bool),
        torch.randn(4, 3), None,
    )  # fmt: skip
    for _ in range(3):
        agent.update(batch)
    moved = (agent.critics.weight != before).any(-1)
    assert moved.nonzero()[:, 1].unique().tolist() == [4, 9, 30]
    assert torch.equal(moved[0], moved[1])


@pytest.mark.parametrize("adam", [False, True], ids=["plain step", "Adam's step"])
def test_a_uniform_policy_over_legal_actions_keeps_alpha_bounded(adam: bool) -> None:
    """A target of 0.98 log|A| over all actions would drive alpha up for good."""
    mask = np.zeros((16, 64), bool)
    mask[:, :20] = True
    sets = _sets(mask)
    agent = _agent(
        3, (8,), 64,
        Settings(kappa=0.98, alpha_lr=0.01, alpha_adam=adam, actor_lr=0.0, critic_lr=0.0),
    )  # fmt: skip
    torch.nn.init.zeros_(agent.actor.head.weight)
    torch.nn.init.zeros_(agent.actor.head.bias)
    batch = Transitions(
        torch.randn(16, 3), sets, torch.zeros(16, dtype=torch.int64), torch.zeros(16),
        torch.zeros(16, dtype=torch.bool), torch.randn(16, 3), sets,
    )  # fmt: skip
    for _ in range(100):
        update = agent.update(batch)
    assert update.alpha < 1.0


def test_two_halves_at_once_give_the_bits_of_one_after_the_other() -> None:
    rng = np.random.default_rng(4)
    mask = rng.random((64, 90)) < 0.2
    taken = rng.integers(0, 90, 64)
    mask[np.arange(64), taken] = True
    sets = _sets(mask)
    batch = Transitions(
        torch.randn(64, 6), sets, torch.from_numpy(taken), torch.randn(64),
        torch.from_numpy(rng.random(64) < 0.1), torch.randn(64, 6), sets,
    )  # fmt: skip
    sides = []
    for two_threads in (False, True):
        torch.manual_seed(0)
        agent = DiscreteSac(
            MlpActor(6, (32, 32), 90), MlpCritics(6, (32, 32), 90, by_rows=True),
            Settings(alpha_adam=True), two_threads=two_threads,
        )  # fmt: skip
        for _ in range(30):
            update = agent.update(batch)
        networks = agent.actor, agent.critics, agent.target
        weights = [p.detach() for network in networks for p in network.parameters()]
        sides.append([*weights, update.critic_loss, update.actor_loss, update.alpha])
    assert all(torch.equal(one, two) for one, two in zip(*sides))


def test_an_error_in_the_actors_half_is_raised_and_moves_nothing() -> None:
    torch.manual_seed(0)
    agent = DiscreteSac(
        MlpActor(6, (32,), 9), MlpCritics(6, (32,), 9), Settings(), two_threads=True
    )  # fmt: skip
    before = [parameter.clone() for parameter in agent.critics.parameters()]
    agent.actor.head.weight.data = torch.zeros(1, 9, 5)  # does not fit the layer below
    batch = Transitions(
        torch.randn(20, 6), None, torch.zeros(20, dtype=torch.int64), torch.randn(20),
        torch.zeros(20, dtype=torch.bool), torch.randn(20, 6), None,
    )  # fmt: skip
    with pytest.raises(RuntimeError):
        agent.update(batch)
    assert all(torch.equal(a, b) for a, b in zip(before, agent.critics.parameters()))
