"""A small medical world for the agents: the first answers of the shipped corpus."""

from __future__ import annotations

import numba
import pytest
import torch

from flexattn.config import Config, load_config, resolve_path
from flexattn.corpus import parse_corpus
from flexattn.env.world import World
from flexattn.lexicon.entries import load_catalog


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tests share their cores with other work; threads that wait for each other crawl then."""
    torch.set_num_threads(1)
    numba.set_num_threads(1)


@pytest.fixture(scope="session")
def config() -> Config:
    return load_config(
        "configs/medical.yaml",
        [
            "agent.hidden=48",
            "agent.char_dim=32",
            "agent.prior=none",
            "train.threads=1",
            "train.rollout_answers=6",
        ],
    )


@pytest.fixture(scope="session")
def world(config: Config) -> World:
    lines = resolve_path(config.corpus.path).read_bytes().splitlines(keepends=True)
    few = parse_corpus(b"".join(lines[:24]), config.corpus.path)
    return World.build(few, load_catalog(resolve_path(config.lexicon.catalog)), config)
