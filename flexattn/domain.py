"""A domain is corpus, catalog and the world made of them, of a configuration or a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import orjson

from flexattn.audit.folder import CONFIG, RunFolder
from flexattn.config import Config, parse_config, resolve_path
from flexattn.corpus import Corpus, load_corpus, parse_corpus
from flexattn.env.world import World
from flexattn.lexicon.entries import Catalog, load_catalog, parse_catalog


@dataclass(frozen=True)
class Domain:
    """What a run is about, and the bytes that a run folder keeps of it."""

    config: Config
    corpus: Corpus
    corpus_bytes: bytes
    corpus_path: Path
    catalog: Catalog
    world: World

    @classmethod
    def of_config(cls, config: Config) -> Domain:
        """Read the corpus and the catalog that a configuration names.

        Raises: ConfigError, CorpusError, CatalogError or EnvironmentSpecError, one line each.
        """
        path = resolve_path(config.corpus.path)
        corpus = load_corpus(path)
        catalog = load_catalog(resolve_path(config.lexicon.catalog))
        return cls(
            config,
            corpus,
            path.read_bytes(),
            path.resolve(),
            catalog,
            World.build(corpus, catalog, config),
        )

    @classmethod
    def of_run(cls, folder: RunFolder) -> Domain:
        """Read what a run used, from its own folder; changed files are refused.

        Raises: AuditError where a file is missing or was changed.
        """
        config = parse_config(folder.config_text(), str(folder.path / CONFIG))
        data = folder.corpus_bytes()
        corpus = parse_corpus(data, str(folder.path / Path(config.corpus.path).name))
        sha, name = next(iter(folder.catalogs.items()))
        catalog = parse_catalog(orjson.loads(folder.catalog_bytes(sha)), name)
        return cls(
            config,
            corpus,
            data,
            folder.path / "corpus.jsonl",
            catalog,
            World.build(corpus, catalog, config),
        )
