"""Where the time of a training goes: each part's own time, what it calls for others taken off.

    python -m flexattn.bench train --profile --candidate configs/medical.yaml

Parts are taken apart by wrapping the functions at their borders. A backward pass belongs to heads
or critics, whose loss it is of; the encoder's share of it lies between the moments when the
gradients of its output and of its input are known. Phases are run for a few steps each, and count
as often as the configuration has them; the log's thread is counted by its processor time.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from flexattn import training
from flexattn.agents import batches, buffer, cloning, networks, policy, sac
from flexattn.attention.encoder import Encoder
from flexattn.audit.writer import RunLog
from flexattn.bench import Row
from flexattn.config import Config
from flexattn.display import Display
from flexattn.domain import Domain
from flexattn.job import create_folder
from flexattn.training import Training

WRITES = "student writes"
LEARNING = ("encoder", "heads", "critics", "optimiser")
# wrapped on the way in; the last word is the part that its own time counts for
BORDERS: tuple[tuple[Any, str, str], ...] = (
    (training, "write_answers", "environment"),
    (policy.Student, "__call__", WRITES),
    (RunLog, "episode", "log"),
    (cloning.TeacherAnswers, "batch", "batches"),
    (batches.Batches, "of", "batches"),
    (buffer.AnswerBuffer, "take", "batches"),
    (training, "concatenate", "batches"),
    (sac.Learner, "clone", "heads"),
    (sac.Learner, "update", "heads"),
    (networks.Critics, "features", "critics"),
    (networks.Critics, "char_values", "critics"),
    (networks.Critics, "char_value", "critics"),
    (networks.Critics, "window_values", "critics"),
    (torch.optim.Adam, "step", "optimiser"),
    (torch.nn.utils, "clip_grad_norm_", "optimiser"),
    (sac, "follow", "optimiser"),
    (training, "give_back", "memory"),
    (training, "keep_small", "memory"),
    (Display, "advance", "display"),
)


class Watch:
    """Seconds of each part; the one on top of the stack runs."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.stack = ["other"]
        self.since = time.perf_counter()

    def turn(self) -> None:
        """Book what has passed since the last turn."""
        now = time.perf_counter()
        self.seconds[self.stack[-1]] += now - self.since
        self.since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs inside belongs to `name`, unless it enters a part of its own."""
        self.turn()
        self.stack.append(name)
        try:
            yield
        finally:
            self.turn()
            self.stack.pop()

    def switch(self, name: str) -> None:
        """Within a backward pass: what runs now is another part."""
        self.turn()
        self.stack[-1] = name

    def take(self) -> dict[str, float]:
        """The seconds so far, which start again from 0."""
        self.turn()
        found, self.seconds = dict(self.seconds), defaultdict(float)
        return found


def shares(config: Config, steps: int) -> Iterator[Row]:
    """Milliseconds a step of each part, characters a second, of each phase and of the whole."""
    watch = Watch()
    whole: dict[str, float] = defaultdict(float)
    characters = 0.0
    train = config.train
    counts = {"clone": train.clone_steps, "critics": train.warmup_steps, "sac": train.sac_steps}
    short = {
        "clone_steps": min(steps, train.clone_steps),
        # one more than whole turns of rollouts, since the first step is left out
        "warmup_steps": min(train.rollout_every + 1, train.warmup_steps),
        "sac_steps": min(steps + 1, train.sac_steps),
        "dagger_steps": 0,
    }
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:  # the log closes first
        made = config.model_copy(
            update={
                "train": train.model_copy(update=short),
                "run": config.run.model_copy(update={"folder": str(Path(place))}),
            }
        )
        domain = Domain.of_config(made)
        _wrap(watch, stack)
        torch.set_num_threads(train.threads)
        display = stack.enter_context(Display(quiet=True))
        log = stack.enter_context(RunLog(create_folder(domain), made.log))
        ongoing = Training(made, domain.world, log, display, torch.device(train.device))
        phase, began, before = "", 0, 0
        borders = {"clone": short["clone_steps"]}
        borders["critics"] = borders["clone"] + short["warmup_steps"]
        borders["sac"] = borders["critics"] + short["sac_steps"]
        warm = 2  # steps that compile and fill caches
        for step in ongoing.run():
            name = next(name for name, last in borders.items() if step <= last)
            if name != phase or step <= warm:
                # the first step of a phase holds what is done once, such as demonstrations
                once = watch.take()
                if step > warm:
                    for part, seconds in once.items():
                        whole[part] += seconds
                phase, began, before = name, step, ongoing.characters
                continue
            if step == borders[name]:
                done, learnt = step - began, ongoing.characters - before
                spent = watch.take()
                _show(name, spent)
                for part, seconds in spent.items():
                    whole[part] += seconds / done * counts[name]
                    yield Row("train", f"{name}/{part}", "flexattn", seconds / done * 1e3, "ms")
                yield Row("train", name, "flexattn", learnt / sum(spent.values()), "tokens/s")
                characters += learnt / done * counts[name]
        log.event("end")
    _show("the whole training", whole)
    for part, seconds in whole.items():
        yield Row("train", f"whole/{part}", "flexattn", seconds, "s")
    yield Row("train", "whole", "flexattn", characters / sum(whole.values()), "tokens/s")


def _show(name: str, spent: dict[str, float]) -> None:
    """Print each part's share, the largest first."""
    print(name)
    for part, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        kind = "" if part in LEARNING else "  (no learning)"
        print(f"{seconds / sum(spent.values()):7.1%}  {part}{kind}")


def _wrap(watch: Watch, stack: ExitStack) -> None:
    """Wrap every border until the stack is left."""
    for owner, name, part in BORDERS:
        stack.enter_context(patch.object(owner, name, _counted(watch, getattr(owner, name), part)))
    for name in ("forward", "forward_multi"):
        stack.enter_context(patch.object(Encoder, name, _encoded(watch, getattr(Encoder, name))))
    backward = torch.Tensor.backward
    part_of = {"critics": "critics"}

    def step(self: Any, optimiser: Any, network: Any, loss: Any) -> None:
        side = part_of["critics"] if network is self.critics else "heads"
        with watch.part("optimiser"):

            def timed(tensor: Any, *args: Any, **options: Any) -> None:
                with watch.part(side):
                    backward(tensor, *args, **options)

            with patch.object(torch.Tensor, "backward", timed):
                learner_step(self, optimiser, network, loss)

    learner_step = sac.Learner._step
    stack.enter_context(patch.object(sac.Learner, "_step", step))
    take = RunLog._take

    def taken(*args: Any) -> None:
        began = time.thread_time()
        take(*args)
        watch.seconds["log, its thread"] += time.thread_time() - began

    stack.enter_context(patch.object(RunLog, "_take", taken))


def _counted(watch: Watch, function: Callable[..., Any], part: str) -> Callable[..., Any]:
    def counted(*args: Any, **options: Any) -> Any:
        with watch.part(part):
            return function(*args, **options)

    return counted


def _encoded(watch: Watch, function: Callable[..., Any]) -> Callable[..., Any]:
    """Counts the pass forward, and marks where the pass backward enters and leaves the encoder."""

    def encoded(self: Encoder, x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        if WRITES in watch.stack:
            return function(self, x, *args, **options)
        with watch.part("encoder"):
            out: torch.Tensor = function(self, x, *args, **options)
        if out.requires_grad and x.requires_grad:
            out.register_hook(lambda _: watch.switch("encoder"))
            x.register_hook(lambda _: watch.switch("heads"))
        return out

    return encoded
