"""Write the files that are medical.yaml with some lines changed: arms/, ablations/, stages, own.

    python configs/make.py            writes every file
    python configs/make.py --check    exit 1 where a file is not what this writes

So every file is complete, and what an arm differs in stands in one place. A key that is new in
medical.yaml reaches all of them by running this again.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
COLUMN = 37  # where a line's comment starts

# a corpus and a student small enough that ten seeds of every arm fit two cores and an hour
SIZE = {
    "seed": "0",
    "run.folder": "logs/acceptance",
    "corpus.records": "40",
    "corpus.heldout": "all",
    "env.guide_reach": "4",
    "agent.prior": "counts",
    "agent.hidden": "40",
    "agent.char_dim": "32",
    "agent.target_ema": "0.02",
    "agent.clone_lr": "8.0e-3",
    "agent.actor_lr": "1.0e-3",
    "agent.window_lr": "8.0e-3",
    "agent.critic_lr": "2.0e-3",
    "agent.rollout_noise": "0.2",
    "agent.curriculum.rho": "[0.0, 0.0]",
    "agent.curriculum.cloning": "curriculum",
    "agent.buffer_answers": "256",
    "train.clone_steps": "250",
    "train.warmup_steps": "10",
    "train.sac_steps": "180",
    "train.clone_batch_answers": "12",
    "train.batch_answers": "10",
    "train.rollout_answers": "24",
    "train.rollout_every": "12",
    "train.evaluate_every": "40",
    "train.evaluate_answers": "8",
    "train.checkpoint_every": "1000",
    "train.keep_checkpoints": "1",
}
# what the SAC steps would cost goes into cloning, so that wall-clock time is about the same
CLONING = {"train.clone_steps": "800", "train.warmup_steps": "0", "train.sac_steps": "0"}
FIXED = {"env.history_chars": "[2]", "env.hit_cap_chars": "[3]"}
SHORT = {
    "lexicon.lengths": "[2]", "env.history_chars": "[2]", "env.hit_cap_chars": "[2]",
}  # fmt: skip

BEFORE = {**SHORT, "reward.bonus": "hard", "env.guide": "none", "agent.prior": "none"}

ARMS: dict[str, tuple[str, dict[str, str]]] = {
    "flex": (
        "The candidate: three heads, gate and IDF, the guide mask, counts under the network,\n"
        "# cloning and then SAC.",
        {},
    ),
    "baseline": (
        "What there was: the same trainer with fixed Lh and Lp, U = {2}, a hard bonus, no guide\n"
        "# and no counts.",
        BEFORE,
    ),
    "baseline-long": (
        "The baseline with as many steps as it needs to write every clean answer.",
        {**BEFORE, "train.clone_steps": "450"},
    ),
    "cloning": (
        "Behaviour cloning alone on clean histories; no reinforcement learning.",
        {**CLONING, **FIXED, "agent.history_noise": "0.0"},
    ),
    "table": (
        "Stage A: the policy table and the counting model, no network.",
        {
            "stages.stage": "a",
            "train.clone_steps": "0",
            "train.warmup_steps": "0",
            "train.sac_steps": "0",
            "train.evaluate_every": "1",
        },
    ),
    "dagger": (
        "Cloning with noise in the history, then DAgger; no reinforcement learning.",
        {**CLONING, **FIXED, "train.clone_steps": "250", "train.dagger_steps": "200"},
    ),
}
for lh in (2, 3, 4, 6):
    ARMS[f"cloning-noise-lh{lh}"] = (
        f"Cloning with noise in the history, Lh = {lh}; no reinforcement learning. Lp reaches no\n"
        f"# character here, so this training stands for the fixed pairs ({lh}, 3) to ({lh}, 6).",
        {**CLONING, **FIXED, "env.history_chars": f"[{lh}]"},
    )

# each is flex without one part, or with one more
ABLATIONS: dict[str, tuple[str, dict[str, str]]] = {
    "hard-bonus": (
        "A hit pays lambda_lex flat: no gate, no IDF.", {"reward.bonus": "hard"},
    ),
    "u2": (
        "U = {2}: two-character terms alone may hit. L_max is 2 then, so H is {1, 2} and P is {2}.",
        {**SHORT, "env.history_chars": "[1, 2]"},
    ),
    "one-head": (
        "One head: SAC chooses the character alone; Lh and Lp stay at the best fixed pair.", FIXED,
    ),
    "stability": (
        "The stability term on: the same state under two draws of (Lh, Lp).",
        {"agent.stability_weight": "0.1"},
    ),
    "no-guide": ("No guide mask: every character of the vocabulary.", {"env.guide": "none"}),
    "reach-2": ("The guide looks two characters back, not four.", {"env.guide_reach": "2"}),
    "no-counts": ("No counts under the network.", {"agent.prior": "none"}),
    "cloning-only": (
        "Cloning alone under the same heads; what SAC would cost goes into cloning.", CLONING,
    ),
}  # fmt: skip

# the whole medical job in each stage; what a stage has no use for is 0
STAGES: dict[str, tuple[str, dict[str, str]]] = {
    "a": (
        "Stage A: a policy table over counts, no network; runs where torch isn't installed.",
        {
            "stages.stage": "a", "train.clone_steps": "0", "train.warmup_steps": "0",
            "train.sac_steps": "0", "train.evaluate_every": "10", "train.checkpoint_every": "10",
        },
    ),
    "b": (
        "Stage B: SAC chooses Lh and Lp, stage A's counts write the characters.",
        {
            "stages.stage": "b", "train.clone_steps": "0", "train.warmup_steps": "40",
            "train.sac_steps": "400", "train.batch_answers": "32", "train.evaluate_every": "100",
            "train.checkpoint_every": "100", "agent.critic_lr": "2.0e-3",
        },
    ),
    "c": (
        "Stage C: SAC chooses Lh, Lp and the characters, a learned filter before the index.",
        {"lexicon.learned": "true"},
    ),
}  # fmt: skip

# docs/your-own-domain.md
OWN = (
    "A domain of your own: the two files that docs/your-own-domain.md makes, a middling student.",
    {
        "run.name": "own", "corpus.path": "own/corpus.jsonl", "lexicon.catalog": "own/catalog.json",
        "agent.hidden": "128", "agent.char_dim": "64", "agent.clone_lr": "4.0e-3",
        "train.clone_steps": "300", "train.warmup_steps": "40", "train.sac_steps": "240",
        "train.final_answers": "200",
    },
)  # fmt: skip


def changed(base: str, title: str, changes: dict[str, str]) -> str:
    """The text of `base` with another title and some values; comments stay where they are."""
    left = dict(changes)
    path: list[str] = []
    lines = []
    body = re.sub(r"\A(#[^\n]*\n)+", "", base)
    for line in body.splitlines():
        found = re.match(r"( *)(\w+):([^#]*)(#.*)?$", line)
        if found:
            indent, key, _, comment = found.groups()
            path = [*path[: len(indent) // 2], key]
            value = left.pop(".".join(path), None)
            if value is not None:
                line = f"{indent}{key}: {value}".ljust(COLUMN - 1) + " " + (comment or "")
        lines.append(line.rstrip())
    if left:
        raise SystemExit(f"configs/make.py: medical.yaml has no {', '.join(left)}")
    head = f"# {title}\n# Written by configs/make.py from medical.yaml; change it there.\n"
    return head + "\n".join(lines) + "\n"


def files() -> dict[Path, str]:
    """Every file with its text."""
    base = (HERE / "medical.yaml").read_text(encoding="utf-8")
    made = {}
    for folder, table in (("arms", ARMS), ("ablations", ABLATIONS)):
        for name, (title, changes) in table.items():
            own = {**SIZE, "run.name": name, **changes}
            made[HERE / folder / f"{name}.yaml"] = changed(base, title, own)
    for name, (title, changes) in STAGES.items():
        own = {"run.name": f"stage_{name}", "train.final_answers": "400", **changes}
        made[HERE / f"stage_{name}.yaml"] = changed(base, title, own)
    made[HERE / "own.yaml"] = changed(base, *OWN)
    return made


def main() -> int:
    """Write or check."""
    stale = []
    for path, text in files().items():
        if "--check" in sys.argv[1:]:
            old = path.read_text(encoding="utf-8") if path.exists() else ""
            stale += [path.name] if old != text else []
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"not what configs/make.py writes: {', '.join(stale)}; run it", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
