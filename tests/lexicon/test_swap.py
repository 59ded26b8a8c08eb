"""Catalog versions under running environments: a step belongs to its episode's version."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import ahocorasick
import numpy as np
import orjson
import pytest

from flexattn.config import load_config
from flexattn.corpus import load_corpus
from flexattn.env.core import Core
from flexattn.env.world import World
from flexattn.lexicon.entries import load_catalog, parse_catalog
from flexattn.lexicon.store import CatalogStore, Version

ROOT = Path(__file__).parents[2]
ENVS = 64


@pytest.fixture(scope="module")
def world() -> World:
    return World.build(
        load_corpus(ROOT / "corpora/medical.jsonl"),
        load_catalog(ROOT / "catalogs/medical.json"),
        load_config(ROOT / "configs/medical.yaml"),
    )


def medical() -> dict[str, Any]:
    made: dict[str, Any] = json.loads((ROOT / "catalogs/medical.json").read_text(encoding="utf-8"))
    return made


def write_versions(folder: Path, count: int) -> list[Path]:
    """Versions with other weights each, and each without another tenth of the terms."""
    paths = []
    for k in range(count):
        obj = medical()
        obj["version"] = str(k)
        obj["documents"] += 100 * k  # so that every weight says which version it comes from
        obj["entries"] = [entry for entry in obj["entries"] if entry["id"] % 10 != k]
        path = folder / f"medical-{k}.json"
        path.write_bytes(orjson.dumps(obj))
        paths.append(path)
    return paths


class Walk:
    """A random legal walk of 64 environments that checks and times every step."""

    def __init__(self, store: CatalogStore[World], seed: int = 0) -> None:
        self.store = store
        self.core = Core(store.current.built, ENVS)
        self.rng = np.random.default_rng(seed)
        self.owner: list[Version[World]] = [store.current] * ENVS
        self.hits = 0
        self.wrong: list[str] = []
        self.versions: set[int] = set()
        self.begin(np.arange(ENVS))

    def begin(self, which: np.ndarray) -> None:
        version = self.store.current
        for i in which:
            self.owner[i] = version
        self.versions.add(version.revision)
        self.core.reset(which, world=version.built)

    def step(self) -> float:
        settings = self.core.world.settings
        started = time.perf_counter()
        lh = self.rng.integers(0, len(settings.history_chars), ENVS)
        lp = self.rng.integers(0, len(settings.hit_cap_chars), ENVS)
        drawn = self.core.sample_legal(self.rng)
        # mostly the teacher's character, so that terms are hit
        chars = np.where(self.rng.random(ENVS) < 0.1, drawn, self.core.teacher())
        steps = self.core.step(lh, lp, chars)
        over = np.flatnonzero(steps.terminated | steps.truncated)
        took = time.perf_counter() - started
        for i in np.flatnonzero(steps.term >= 0):
            self.hits += 1
            made = self.owner[i].built
            entry = self.owner[i].catalog.by_term.get(made.term_list[steps.term[i]])
            if self.core.world_of(int(i)).catalog_sha256 != self.owner[i].catalog.sha256:
                self.wrong.append(f"env {i} is in another version")
            if entry is None or steps.idf[i] != made.terms.weight[steps.term[i]]:
                self.wrong.append(f"env {i} version {self.owner[i].catalog.version}")
        if len(over):
            self.begin(over)
        return took


def swap_all(store: CatalogStore[World], paths: list[Path], count: int, pause_s: float) -> None:
    for n in range(count):
        store.swap(paths[n % len(paths)])
        time.sleep(pause_s)


def walk_under_swaps(
    store: CatalogStore[World], paths: list[Path], swaps: int, pause_s: float = 0.0
) -> tuple[Walk, np.ndarray]:
    walk = Walk(store)
    walk.step()  # compiled before the swaps begin
    thread = threading.Thread(target=swap_all, args=(store, paths, swaps, pause_s))
    thread.start()
    times = []
    while thread.is_alive():
        times.append(walk.step())
    thread.join()
    return walk, np.array(times)


def test_every_step_belongs_to_the_version_its_episode_began_with(
    world: World, tmp_path: Path
) -> None:
    store = CatalogStore(tmp_path / "kept", world.with_catalog, keep_built=4)
    paths = write_versions(tmp_path, 3)
    for path in paths:
        store.swap(path)
    walk, times = walk_under_swaps(store, paths, 60, pause_s=0.01)
    assert not walk.wrong
    assert walk.hits > 100
    assert len(walk.versions) > 2
    assert len(times) > 60
    assert store.current.revision == len(store.switches)


@pytest.mark.slow
def test_ten_thousand_swaps_under_64_environments(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = CatalogStore(tmp_path / "kept", world.with_catalog, keep_built=9)
    paths = write_versions(tmp_path, 8)
    for path in paths:
        store.swap(path)
    quiet = Walk(store)
    without = np.array([quiet.step() for _ in range(4000)])[500:]
    walk, times = walk_under_swaps(store, paths, 10_000, pause_s=0.02)
    without = np.concatenate([without, [quiet.step() for _ in range(4000)]])
    before, during = np.percentile(without, 99) * 1e6, np.percentile(times, 99) * 1e6
    with capsys.disabled():
        print(
            f"\n10,000 swaps, {len(times):,} steps of 64: p99 {before:.0f} us without, "
            f"{during:.0f} us with, longest {times.max() * 1e3:.1f} ms; {walk.hits:,} hits, "
            f"{len(walk.versions)} revisions seen"
        )
    assert not walk.wrong
    assert during <= 2 * before


@pytest.mark.slow
def test_a_million_terms_are_built_beside_64_environments(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    obj = medical()
    words = [entry["term"] for entry in obj["entries"]]
    rng = np.random.default_rng(1)
    terms = dict.fromkeys(words)
    while len(terms) < 1_000_000:
        pair = words[rng.integers(len(words))] + words[rng.integers(len(words))]
        terms.setdefault(pair[:12])
    obj["entries"] += [
        {"id": 10_000 + n, "term": term, "df": 0, "zipf": None}
        for n, term in enumerate(list(terms)[len(words) :])
    ]
    obj["lengths"] = sorted(set(map(len, terms)))
    path = tmp_path / "medical.json"
    path.write_bytes(orjson.dumps(obj))
    store = CatalogStore(tmp_path / "kept", world.with_catalog)
    store.adopt(load_catalog(ROOT / "catalogs/medical.json"))
    walk = Walk(store)
    without = [walk.step() for _ in range(4000)][500:]
    future, started, times = store.submit(path), time.perf_counter(), []
    while not future.done():
        times.append(walk.step())
    took = time.perf_counter() - started
    for _ in range(2000):  # so that the episodes of the old version end
        walk.step()
    without += [walk.step() for _ in range(4000)]
    store.close()
    before, during = np.percentile(without, 99) * 1e6, np.percentile(times, 99) * 1e6
    with capsys.disabled():
        print(
            f"\na million terms in {took:.1f} s beside {len(times):,} steps of 64: p99 "
            f"{before:.0f} us without, {during:.0f} us with, longest {max(times) * 1e3:.0f} ms"
        )
    assert len(future.result().catalog.entries) == 1_000_000
    assert not walk.wrong
    assert during <= 2 * before


def test_a_ban_that_acts_at_once_holds_in_answers_begun_before_it(
    world: World, tmp_path: Path
) -> None:
    store = CatalogStore(tmp_path / "kept", world.with_catalog, ban_immediately=True)
    store.adopt(load_catalog(ROOT / "catalogs/medical.json"))
    walk = Walk(store)
    for _ in range(10):
        walk.step()
    obj = medical()
    obj["banned"] += ["抑制", "治疗", "患者", "感染"]
    path = tmp_path / "stricter.json"
    path.write_bytes(orjson.dumps(obj))
    store.swap(path)
    assert len(store.bans) == 4
    walk.begin(np.arange(ENVS))  # what a caller does that sees the bans grow
    chars = {number: char for char, number in world.vocabulary.ids.items()}
    texts = [""] * ENVS
    for _ in range(150):
        walk.step()
        steps = walk.core.steps
        for i in range(ENVS):
            over = steps.terminated[i] or steps.truncated[i]
            texts[i] += "\n" if over else chars.get(int(steps.char[i]), "")
    assert count_banned(texts, ["抑制", "治疗", "患者", "感染"]) == 0


def emitted_under_bans(world: World, steps: int, envs: int) -> tuple[list[str], list[str]]:
    """What a random policy writes under 1,000 bans that it would often break, and the bans."""
    rng = np.random.default_rng(11)
    alphabet = [c for c in world.vocabulary.ids if "一" <= c <= "鿿"]
    follow = sorted({a.answer[i : i + 2] for a in world.records for i in range(len(a.answer) - 1)})
    pairs = [pair for pair in follow if all("一" <= c <= "鿿" for c in pair)]
    bans = {pairs[i] for i in rng.choice(len(pairs), 600, replace=False)}
    while len(bans) < 1000:
        bans.add("".join(rng.choice(alphabet, rng.integers(2, 4))))
    obj = medical()
    obj["banned"] = sorted(bans)
    core = Core(world.with_catalog(parse_catalog(obj, "medical.json")), envs)
    core.reset()
    chars = np.array([""] * world.vocabulary.alphabet, dtype=object)
    for char, number in world.vocabulary.ids.items():
        chars[number] = char
    texts: list[list[str]] = [[] for _ in range(envs)]
    zeros = np.zeros(envs, np.int64)
    for _ in range(steps):
        step = core.step(zeros, zeros, core.sample_legal(rng))
        assert not step.illegal.any()
        for text, char in zip(texts, chars[step.char]):
            text.append(char)
        over = np.flatnonzero(step.terminated | step.truncated)
        if len(over):
            for i in over:
                texts[i].append("\n")  # bans hold within one answer
            core.reset(over)
    return ["".join(text) for text in texts], sorted(bans)


def count_banned(texts: list[str], bans: list[str]) -> int:
    """An independent search, marks left out as a reader would."""
    peer = ahocorasick.Automaton()
    for ban in bans:
        peer.add_word(ban, ban)
    peer.make_automaton()
    marks = str.maketrans("", "", "，。、；：")
    return sum(1 for text in texts for _ in peer.iter(text.translate(marks)))


def test_a_random_policy_writes_no_banned_term(world: World) -> None:
    texts, bans = emitted_under_bans(world, 300, 64)
    assert sum(map(len, texts)) >= 300 * 64
    assert count_banned(texts, bans) == 0
    unbanned = [record.answer for record in world.records]
    assert count_banned(unbanned, bans) > 1000  # the search does find them


@pytest.mark.slow
def test_ten_million_characters_hold_no_banned_term(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, bans = emitted_under_bans(world, 2500, 4096)
    written = sum(map(len, texts))
    with capsys.disabled():
        print(f"\n{written:,} characters of a random policy, {len(bans)} bans, 0 broken")
    assert written >= 10_000_000
    assert count_banned(texts, bans) == 0
