"""The passes over whole chunks are those of `networks`, up to bfloat16's rounding."""

from __future__ import annotations

import pytest
import torch

from flexattn.agents.networks import Actor, Critics, Foresight, Sequence, Sizes
from flexattn.agents.trunks import (
    HALF,
    critic_trunk,
    policy,
    policy_step,
    taken_value,
    twin_advantages,
)
from flexattn.config import load_config, resolve_path
from flexattn.env.settings import Settings

SETTINGS = ("agent.hidden=64", "agent.char_dim=32", "attention.impl=reference")
# the normalisation takes float32 weights, and torch.compile fuses that itself
pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")

CONFIG = load_config(resolve_path("configs/gpu.yaml"), SETTINGS)
SIZES = Sizes(characters=90, known_characters=100, max_steps=20)
N, S1, REACH, QUESTIONS = 3, 8, 5, 4


def close(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal but for the rounding of a few products in bfloat16."""
    theirs = theirs.float()
    error = (mine.float() - theirs).norm() / theirs.norm()
    assert float(error) < 0.03, float(error)


def rows() -> dict[str, torch.Tensor]:
    """N answers from their start, characters that a window may reach before them as padding."""
    draw = torch.Generator().manual_seed(2)
    token = torch.randint(3, 90, (N, REACH + S1), generator=draw, dtype=torch.int32)
    token[:, : REACH + 1] = 0
    asked = torch.tensor([[0], [3], [1]], dtype=torch.int32).expand(N, REACH + S1)
    return {
        "token": token,
        "asked": asked.contiguous(),
        "questions": torch.randint(3, 100, (QUESTIONS, 24), generator=draw),
        "step": torch.arange(S1, dtype=torch.int32).expand(N, S1).contiguous(),
        "sketch": torch.randn(N, S1, 64, generator=draw),
        "future": torch.randint(3, 90, (N, S1, 9), generator=draw, dtype=torch.int32),
        "covered": torch.randint(0, 4, (N, S1), generator=draw).float(),
        "offer": torch.randn(N, S1, 4, generator=draw) * 0.05,
    }


def seen(r: dict[str, torch.Tensor]) -> Sequence:
    """The same as an actor on the CPU takes it."""
    return Sequence(
        token=r["token"][:, REACH:].long(),
        sketch=r["sketch"],
        question=r["questions"][r["asked"][:, 0].long()],
        step=r["step"].long(),
    )


def actor() -> Actor:
    torch.manual_seed(1)
    return Actor(SIZES, CONFIG.env, CONFIG.agent, CONFIG.attention)


@torch.no_grad()
def test_the_policy_of_a_chunk_is_the_actors_under_every_window() -> None:
    net, r = actor(), rows()
    log_h, log_p, logits = policy(
        net, r["token"], r["questions"], r["asked"], r["step"], r["sketch"], 128
    )
    token, fixed = net.embed(seen(r))
    state = net.state(net.encoder.forward_multi(token, net.windows), fixed)
    close(log_h, torch.log_softmax(net.history_logits(token, fixed), -1))
    close(log_p, torch.log_softmax(net.cap_logits(state, token, fixed), -1))
    close(logits[..., :90].view(4, N, S1, 90), net.char_head(state))


@torch.no_grad()
def test_a_step_of_the_policy_looks_as_far_back_as_it_drew() -> None:
    net, r = actor(), rows()
    log_h, log_p, logits = policy(
        net, r["token"], r["questions"], r["asked"], r["step"], r["sketch"], 128
    )
    t = S1 - 1
    table = net.question(r["questions"]).float()
    widths = torch.tensor(net.windows, dtype=torch.int32)
    for choice in range(4):
        upto = log_h[:, t].exp().cumsum(-1)
        inside = upto[:, choice] - log_h[:, t, choice].exp() / 2
        lh, lp, out = policy_step(
            net, r["token"][:, t:].T, table, r["asked"][:, t:].T, r["step"][:, t],
            r["sketch"][:, t], widths, inside, torch.zeros(N), 128, 90,
        )  # fmt: skip
        assert (lh == choice).all()
        assert (lp == 0).all()
        close(out, logits.view(4, N, S1, 128)[choice, :, t])
    assert log_p.shape == (4, N, S1, 4)


@torch.no_grad()
def test_the_critics_of_a_chunk_are_the_critics() -> None:
    torch.manual_seed(3)
    critics, r = Critics(SIZES, CONFIG.env, CONFIG.agent), rows()
    torch.nn.init.normal_(critics.history_part.weight, std=0.1)
    torch.nn.init.normal_(critics.cap_part.weight, std=0.1)
    cost = torch.tensor([0.02, 0.03, 0.04, 0.06])
    h, base, q_h, q_p = critic_trunk(
        critics, r["token"][:, REACH:].flatten(), r["questions"], r["asked"][:, REACH:].flatten(),
        r["step"].flatten(), r["sketch"].flatten(0, 1), r["future"].flatten(0, 1),
        r["covered"].flatten(), r["offer"].flatten(0, 1), cost,
    )  # fmt: skip
    everywhere = torch.ones(N, S1, dtype=torch.bool)
    foresight = Foresight(r["future"].long(), r["covered"], r["offer"])
    features = critics.features(seen(r), foresight, everywhere)
    their_h, their_p = critics.window_values(features, cost)
    close(q_h, their_h)
    close(q_p, their_p)
    taken = torch.randint(3, 90, (N * S1,))
    close(taken_value(critics, h, base, taken), critics.char_value(features.char, taken))
    every = base[..., None] + twin_advantages(critics, h, 128)[..., :90].float()
    dense = critics.value(features.char) + features.char @ critics.action.transpose(1, 2)
    close(every, dense)
    assert h.dtype == HALF
    assert q_p.dtype == torch.float32


def test_answers_in_one_row_see_nothing_of_each_other() -> None:
    net = actor()
    x = torch.randn(1, 12, 32)
    step = torch.cat([torch.arange(7), torch.arange(5)])[None].int()
    windows = [(step + 1).clamp(max=width) for width in net.windows]
    both = net.encoder.forward_choices(x, windows, net.windows)
    apart = [net.encoder.forward_multi(part, net.windows) for part in (x[:, :7], x[:, 7:])]
    torch.testing.assert_close(both, torch.cat(apart, 2), rtol=1e-5, atol=1e-5)
    later = net.encoder.forward_choices(x, windows, net.windows, 4)
    torch.testing.assert_close(later, both[:, :, 4:], rtol=1e-5, atol=1e-5)


def test_settings_of_the_gpu_are_the_medical_ones_but_for_sizes_of_batches() -> None:
    medical = load_config(resolve_path("configs/medical.yaml"))
    gpu = load_config(resolve_path("configs/gpu.yaml"))
    assert Settings.of(gpu) == Settings.of(medical)
    assert gpu.agent == medical.agent.model_copy(update={"prior": "none"})
    assert gpu.train.device == "cuda"
