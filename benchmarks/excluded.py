"""What the package cannot do on purpose, done once: top-p in training, and chi shown to the actor.

Arms: the configuration as it is; *top-p*, where rollouts, targets, the actor's loss and its entropy
know the fewest characters that hold 0.95 of pi; *chi*, where the actor reads a code of the target
character in the last numbers of its sketch. The actor of *chi* is asked twice: with the code, as
it was trained, and without it, as everybody who asks a question must.

    python -m benchmarks.excluded --config configs/arms/flex.yaml --seeds 1 2 3
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from flexattn.agents import policy
from flexattn.agents.batches import Batch, Batches
from flexattn.agents.cloning import CloneBatch, TeacherAnswers
from flexattn.agents.legal import LegalSets, legal_log_softmax
from flexattn.agents.masked import ILLEGAL
from flexattn.agents.networks import Sequence
from flexattn.agents.sac import Learner
from flexattn.assess import ONLINE, Assessment
from flexattn.config import Config, load_config
from flexattn.display import Display
from flexattn.domain import Domain
from flexattn.env.core import Core
from flexattn.env.spec import Observation
from flexattn.env.vocabulary import UNK
from flexattn.evaluation.decoding import reshape
from flexattn.evaluation.rows import summary
from flexattn.training import Training

ARMS = ("as it is", "top-p", "chi")
REGIMES = ("greedy", "top_p", "noise_10")
KPIS = ("term_recall", "rouge_l", "word_noncompliance")
BITS = 12  # of a character's code
LAST = 10  # SAC steps over which entropy and temperature are averaged
Figures = dict[str, float]


class Chi:
    """The code of the target character in an actor's sketch, while it is shown."""

    def __init__(self, characters: int) -> None:
        """Take |V|."""
        bits = np.arange(max(characters, UNK + 1))[:, None] >> np.arange(BITS) & 1
        self.code = torch.from_numpy(bits.astype(np.float32) * 2.0 - 1.0)
        self.shown = True

    def put(self, sketch: Tensor, target: Tensor) -> None:
        """Write the code of `target` [...], or zeros, into `sketch` [..., S]."""
        known = torch.where(target < len(self.code), target, UNK)
        sketch[..., -BITS:] = self.code[known] if self.shown else 0.0

    def install(self, stack: ExitStack) -> None:
        """Everything that makes what an actor sees."""
        clone, learn, observe = TeacherAnswers.batch, Batches.of, Core.observe

        def cloning(answers: TeacherAnswers, *args: Any, **options: Any) -> CloneBatch:
            batch = clone(answers, *args, **options)
            target = torch.full(batch.rows.shape, UNK)
            target[batch.rows] = torch.where(batch.accepted, batch.legal.ids[batch.teacher], UNK)
            return replace(batch, seen=self._seeing(batch.seen, target))

        def learning(batches: Batches, answers: Any) -> Batch:
            batch = learn(batches, answers)
            return replace(batch, seen=self._seeing(batch.seen, batch.foresight.future[..., 0]))

        def observing(core: Core) -> Observation:
            seen = observe(core)
            self.put(torch.from_numpy(seen.sketch), torch.from_numpy(core.teacher()).long())
            return seen

        stack.enter_context(patch.object(TeacherAnswers, "batch", cloning))
        stack.enter_context(patch.object(Batches, "of", learning))
        stack.enter_context(patch.object(Core, "observe", observing))

    def _seeing(self, seen: Sequence, target: Tensor) -> Sequence:
        sketch = seen.sketch.clone()
        self.put(sketch, target)
        return replace(seen, sketch=sketch)


def nucleus(log_pi: Tensor, legal: LegalSets) -> Tensor:
    """log pi of the fewest legal characters that hold 0.95, the rest at `ILLEGAL`, [C, J]."""
    row, start = legal.row.numpy(), legal.start.numpy()
    keep = np.zeros(log_pi.shape, bool)
    for kept, pi in zip(keep, log_pi.detach().double().exp().numpy()):
        order = np.lexsort((-pi, row))
        before = pi[order].cumsum() - pi[order]
        before -= before[start[:-1]][row[order]]
        kept[order] = before < ONLINE.top_p
    cut = log_pi.masked_fill(~torch.from_numpy(keep), ILLEGAL)
    return legal_log_softmax(cut, legal)


def truncate(stack: ExitStack, characters: int) -> None:
    """SAC knows the nucleus alone; the teacher's character is still cloned under all of pi."""
    policies, corrected, sample = Learner.policies, Learner._corrected, policy.sample
    whole: dict[str, Tensor] = {}

    def cut_policies(learner: Learner, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        log_h, log_p, whole["log_a"] = policies(learner, batch)
        return log_h, log_p, nucleus(whole["log_a"], batch.legal)

    def uncut_corrected(learner: Learner, batch: Batch, log_a: Tensor) -> Tensor:
        return corrected(learner, batch, whole["log_a"])

    def cut_sample(log_pi: Tensor, generator: torch.Generator) -> Tensor:
        if log_pi.shape[-1] == characters:
            kept, _ = reshape(log_pi.double().exp().numpy(), ONLINE)
            log_pi = torch.from_numpy(kept).log().clamp(min=ILLEGAL).float()
        return sample(log_pi, generator)

    stack.enter_context(patch.object(Learner, "policies", cut_policies))
    stack.enter_context(patch.object(Learner, "_corrected", uncut_corrected))
    stack.enter_context(patch.object(policy, "sample", cut_sample))


def learn(arm: str, config: Config, say: Callable[[str], None]) -> dict[str, Figures]:
    """Train one seed of an arm; KPIs by what was asked, and the state of its temperature."""
    domain = Domain.of_config(config)
    world, last = domain.world, []
    update = Learner.update

    def noted(learner: Learner, *args: Any, **options: Any) -> dict[str, float]:
        stats = update(learner, *args, **options)
        if "entropy_char" in stats:
            last.append((stats["entropy_char"], stats["alpha_char"]))
        return stats

    with ExitStack() as stack, Display(quiet=True) as display:
        stack.enter_context(patch.object(Learner, "update", noted))
        chi = Chi(world.size)
        if arm == "chi":
            chi.install(stack)
        if arm == "top-p":
            truncate(stack, world.size)
        training = Training(config, world, None, display, torch.device("cpu"))
        for _ in training.run():
            pass
        nats, alpha = np.mean(last[-LAST:], axis=0)
        found = {f"{arm}: last entropy, nats, and alpha": {"nats": nats, "alpha": alpha}}
        frequency = {entry.term: entry.df for entry in domain.catalog.entries}
        assessment = Assessment(world, frequency, config.seed)
        for shown in (True, False) if arm == "chi" else (False,):
            chi.shown = shown
            for regime in REGIMES:
                rows = list(assessment.rows(training.student, regime, training.step))
                figures = summary(rows)
                name = f"{arm}{' still shown' if shown else ''}, {regime}"
                found[name] = {kpi: figures[kpi] or 0.0 for kpi in KPIS}
                say(f"seed {config.seed}: {name}: {found[name]}")
    return found


def main() -> int:
    """Train every arm with every seed, in turns, and print the means and the single seeds."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.excluded", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--config", default="configs/arms/flex.yaml", help="configuration file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds")
    given = parser.parse_args()
    torch.set_num_threads(1)
    every: dict[tuple[str, str], list[float]] = defaultdict(list)
    for seed in given.seeds:
        for arm in ARMS:
            config = load_config(given.config, [*given.sets, f"seed={seed}"])
            for name, figures in learn(arm, config, lambda line: print(line, flush=True)).items():
                for figure, value in figures.items():
                    every[name, figure].append(value)
    print("| arm, asked | figure | mean | seeds |\n|---|---|---|---|")
    for (name, figure), values in every.items():
        each = ", ".join(f"{value:.3f}" for value in values)
        print(f"| {name} | {figure} | {statistics.mean(values):.3f} | {each} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
