"""Make the golden run: a few answers written by a policy that mostly copies, all of it seeded.

    python tests/golden/make.py tests/golden

The same call gives the same bytes; a test holds the committed folders to that.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from flexattn import jsontext
from flexattn.audit.folder import RunFolder
from flexattn.audit.writer import RunLog
from flexattn.config import load_config
from flexattn.corpus import parse_corpus
from flexattn.env.collect import EpisodeSteps
from flexattn.env.core import Core
from flexattn.env.freehand import Freehand, generated_columns
from flexattn.env.vocabulary import END
from flexattn.env.world import World
from flexattn.errors import CatalogError
from flexattn.lexicon.bits import unpack
from flexattn.lexicon.entries import parse_catalog

INPUTS = Path(__file__).parent / "inputs"


def make(folder: Path, rounds: int = 3, seed: int = 11) -> RunFolder:
    """Write a run of `rounds` answers from each of four environments, with a hot swap between."""
    config = load_config(INPUTS / "config.yaml")
    corpus_bytes = (INPUTS / "corpus.jsonl").read_bytes()
    corpus = parse_corpus(corpus_bytes, "corpus.jsonl")
    first, second = (
        parse_catalog(jsontext.parse((INPUTS / name).read_bytes(), name, CatalogError), "tiny.json")
        for name in ("catalog.json", "catalog-2.json")
    )
    run = RunFolder.create(
        folder,
        config=(INPUTS / "config.yaml").read_bytes(),
        corpus=corpus_bytes,
        catalogs={first.file: first.canonical_bytes()},
        manifest={"seed": seed},
    )
    (run.path / "evaluations.jsonl").write_bytes(b'{"regime":"train","step":1}\n')
    world = World.build(corpus, first, config)
    rng = np.random.default_rng(seed)
    core = Core(world, 4, seed)
    with RunLog(run, config.log) as log:
        log.event("stage", stage="A", verdict="start")
        for number in range(rounds):
            if number == rounds - 1:
                world = world.with_catalog(second)
                run.add_catalog(second.canonical_bytes())
                log.event(
                    "catalog", catalog=second.sha256, file=second.file, version=second.version
                )
            core.reset(world=world)
            _write(core, log, rng)
        log.event("end")
    return run


def _write(core: Core, log: RunLog, rng: np.random.Generator) -> None:
    episodes, world, n = EpisodeSteps(core), core.world, core.num_envs
    running = np.ones(n, np.bool_)
    while running.any():
        active = running.copy()
        history = rng.integers(0, len(world.settings.history_chars), n).astype(np.int32)
        cap = rng.integers(0, len(world.settings.hit_cap_chars), n).astype(np.int32)
        target, legal = core.teacher(), core.legal()
        char = core.sample_legal(rng)
        for env in range(n):
            if target[env] < world.size and legal[env, target[env]] and rng.random() < 0.9:
                char[env] = target[env]
            elif rng.random() < 0.3:
                char[env] = rng.integers(3, world.size)  # now and then illegal, and replaced
        put = np.where(rng.random(n) < 0.05, target, -1).astype(np.int32)
        put[(char == END) | (put == char) | (target == END)] = -1
        steps = core.step(history, cap, char, put, active)
        episodes.add(history, cap, steps, active)
        for env in np.flatnonzero(active & (steps.terminated | steps.truncated)).tolist():
            log.episode(episodes.header(env), episodes.taken(env))
            running[env] = False


def make_generation(folder: Path, seed: int = 5) -> RunFolder:
    """Write a run of kind `generate`: four answers, mostly copied, all legal."""
    config = load_config(INPUTS / "config.yaml")
    corpus_bytes = (INPUTS / "corpus.jsonl").read_bytes()
    data = (INPUTS / "catalog.json").read_bytes()
    catalog = parse_catalog(jsontext.parse(data, "tiny.json", CatalogError), "tiny.json")
    run = RunFolder.create(
        folder,
        config=(INPUTS / "config.yaml").read_bytes(),
        corpus=corpus_bytes,
        catalogs={catalog.file: catalog.canonical_bytes()},
        manifest={"seed": seed},
        kind="generate",
    )
    world = World.build(parse_corpus(corpus_bytes, "corpus.jsonl"), catalog, config)
    rng = np.random.default_rng(seed)
    questions = ["什么是绿茶？", "什么是茶多酚？", "普洱茶和红茶有什么不同？", "你好"]
    limit = world.longest_answer + world.settings.slack
    with RunLog(run, config.log) as log:
        for env, question in enumerate(questions):
            paper = Freehand(world, [question], limit)
            steps: list[tuple[int, int, int, float]] = []
            while not paper.done[0]:
                legal = np.flatnonzero(unpack(paper.legal, world.size)[0])
                count = int(paper.n_legal[0])
                known = world.answer(env)
                t = int(paper.t[0])
                copied = t < len(known) and known[t] in legal and rng.random() < 0.9
                steps.append((int(rng.choice([2, 4])), int(rng.choice([3, 6])), count, 1 / count))
                char = known[t : t + 1] if copied else rng.choice(legal, 1)
                paper.write(char.astype(np.int32))
            text, (histories, caps, n_legal, p) = paper.text(0), zip(*steps, strict=True)
            columns = generated_columns(
                world, text, len(text) < len(steps), (histories, caps), n_legal, p, p, env
            )
            header = {
                "env": env, "record": None, "question": question, "catalog": catalog.sha256,
                "split": None, "start": 0, "align": "position", "slack": 8, "limit": limit,
            }  # fmt: skip
            log.episode(header, columns)
        log.event("end")
    return run


if __name__ == "__main__":
    print(make(Path(sys.argv[1]) / "sound").path)
    print(make_generation(Path(sys.argv[1]) / "sound-generation").path)
