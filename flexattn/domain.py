"""A domain is corpus, catalog and the world made of them, of a configuration or a run folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from flexattn.audit.folder import CONFIG, COPY_AT_MOST_BYTES, RunFolder
from flexattn.config import Config, parse_config, resolve_path
from flexattn.corpus import Corpus, evenly, load_corpus, parse_corpus
from flexattn.env.world import World
from flexattn.errors import ConfigError
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
        every = config.corpus.heldout == "all"
        corpus = load_corpus(path, config.corpus.records, heldout=every)
        data = evenly(path.read_bytes(), config.corpus.records, str(path), heldout=every)
        if config.corpus.records and len(data) > COPY_AT_MOST_BYTES:
            raise ConfigError(
                f"corpus.records: {config.corpus.records} records of {path} take {len(data)} "
                f"bytes, expected at most {COPY_AT_MOST_BYTES}, since a run folder keeps its own "
                f"copy; lower it, or cut the file"
            )
        catalog = load_catalog(resolve_path(config.lexicon.catalog))
        return cls(
            config,
            corpus,
            data,
            path.resolve(),
            catalog,
            World.build(corpus, catalog, config),
        )

    def under(self, folder: RunFolder, sha256: str | None) -> Domain:
        """The same domain under another catalog version of the run; None: as it is.

        Raises: AuditError where that version's file is missing or was changed.
        """
        if sha256 in (None, self.catalog.sha256):
            return self
        data = folder.catalog_bytes(str(sha256))
        catalog = parse_catalog(orjson.loads(data), self.catalog.file)
        return replace(self, catalog=catalog, world=self.world.with_catalog(catalog))

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
