"""Legal rows on a GPU against the formulas of `losses`, in Triton's interpreter without one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from flexattn.agents import losses
from flexattn.agents.masked import entropy, masked_log_softmax

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
CHOICES, STATES, ACTIONS = 3, 7, 128


def problem(device: str) -> tuple[torch.Tensor, ...]:
    """Logits, A(s) as booleans and packed (one row with a single action), aims, twin Q."""
    torch.manual_seed(4)
    logits = torch.randn(CHOICES, STATES, ACTIONS) * 3.0
    legal = torch.rand(STATES, ACTIONS) < 0.2
    legal[0] = False
    legal[:, 100] = True
    aim = torch.tensor([100, 100, 3, 5, 100, 100, -1])
    legal[2, 3], legal[3, 5] = True, False
    bits = legal.view(STATES, -1, 64).long() << torch.arange(64)
    q, base = torch.randn(2, STATES, ACTIONS), torch.randn(2, STATES) * 20.0
    alpha = torch.tensor(0.3)
    made = (logits, legal, bits.sum(-1), aim.int(), q, base, alpha)
    return tuple(x.to(device) for x in made)


def agree(device: str) -> None:
    from flexattn.agents.rows import row_sample, row_values

    logits, legal, words, aim, q, base, alpha = problem(device)
    mine, theirs = (logits.clone().requires_grad_() for _ in range(2))
    value, nats, aimed, right = row_values(mine, words, aim, q, base, alpha)
    log_pi = masked_log_softmax(theirs, legal)
    least = torch.where(legal, (q + base[..., None]).amin(0), 0.0)
    expected = losses.soft_value(log_pi, least, alpha)
    known = legal.gather(1, aim.clamp(min=0).long()[:, None])[:, 0] & (aim >= 0)
    told = log_pi.gather(2, aim.clamp(min=0).long().expand(CHOICES, -1)[..., None])[..., 0]
    told = torch.where(known, told, 0.0)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(aimed, told, rtol=1e-5, atol=1e-5)
    nothing = torch.where(legal, log_pi, 0.0).detach()
    spread = entropy(torch.where(legal, log_pi, -1e9)).detach()
    torch.testing.assert_close(nats, spread, rtol=1e-5, atol=1e-5)
    best = torch.where(legal, nothing, -1e9).argmax(-1)
    assert torch.equal(right[:, known].bool(), (best == aim)[:, known])
    weights = torch.randn_like(value), torch.randn_like(aimed)
    (value * weights[0] + aimed * weights[1]).sum().backward()
    (expected * weights[0] + told * weights[1]).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    # every draw is legal, and draws follow pi
    many = 2000 if device == "cuda" else 40
    uniform = (torch.arange(many, device=device) + 0.5) / many
    rows = torch.full((many,), 1, device=device)
    drawn = row_sample(logits[0][rows].contiguous(), words[rows].contiguous(), uniform, ACTIONS)
    assert legal[1, drawn.long()].all()
    share = torch.bincount(drawn.long(), minlength=ACTIONS).float() / many
    pi = torch.where(legal[1], log_pi[0, 1].detach().exp(), 0.0)
    assert float((share - pi).abs().max()) < 1.5 / many
    even = row_sample(None, words[rows].contiguous(), uniform, ACTIONS)
    counts = torch.bincount(even.long(), minlength=ACTIONS)[legal[1]]
    assert int(counts.max() - counts.min()) <= 2
    assert int(row_sample(None, words[:1], uniform[:1], ACTIONS)) == 100


def test_interpreted_rows_have_the_values_and_gradients_of_the_formulas() -> None:
    ran = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": PATHS},
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_rows_on_the_gpu_have_the_values_and_gradients_of_the_formulas() -> None:
    agree("cuda")


if __name__ == "__main__":
    agree("cpu")
