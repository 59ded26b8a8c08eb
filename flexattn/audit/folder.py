"""A run folder holds everything that a replay needs, and exists before the first step.

    config.yaml  manifest.json  corpus.jsonl  catalogs/<sha256>.json  steps-00000.jsonl  head.json

Every file is written aside and renamed, so that none is ever half there. A corpus past 64 MB stays
where it is; the manifest then holds its path and hash.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flexattn.audit.chain import canonical, settings_sha256, sha256_hex
from flexattn.audit.schema import FORMS, SCHEMA, is_hex
from flexattn.errors import AuditError

RUN_SCHEMA = "flexattn.run/1"
KINDS = ("train", "generate", "stages")  # a log of stages has no end: it goes on
MANIFEST = "manifest.json"
CONFIG = "config.yaml"
CORPUS = "corpus.jsonl"
CATALOGS = "catalogs"
EVALUATIONS = "evaluations.jsonl"
HEAD = "head.json"
COPY_AT_MOST_BYTES = 64_000_000
MAX_MANIFEST_BYTES = 1 << 24
TAIL_BYTES = 1 << 20


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: aside, synced, renamed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise AuditError(f"{path}: cannot be written: {error.strerror}") from None


def plain_name(name: str) -> bool:
    """Whether `name` names a file in its own folder: no separator, no drive, no leading dot."""
    bad = set('/\\:#"') & set(name)
    return bool(name) and not bad and not name.startswith(".") and name.isprintable()


@dataclass(frozen=True)
class RunFolder:
    """A run folder whose manifest has been read; `kind` is one of KINDS."""

    path: Path
    kind: str
    config_sha256: str
    manifest_sha256: str
    corpus_sha256: str
    catalogs: Mapping[str, str]
    manifest: Mapping[str, Any]

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        config: bytes,
        corpus: bytes,
        catalogs: Mapping[str, bytes],
        corpus_path: str = "",
        manifest: Mapping[str, Any] | None = None,
        kind: str = "train",
    ) -> RunFolder:
        """Make the folder with all that stands before the first step.

        Args:
          path: the folder; it may exist, but hold no run yet.
          config: config.yaml, resolved; its values are hashed without the section `run`.
          corpus: bytes of the corpus file.
          catalogs: catalog file name, as steps name it -> its canonical bytes (RFC 8785).
          corpus_path: where the corpus lies, absolute; needed past 64 MB.
          manifest: further entries such as seed, versions and code; no clock time, no folder, or
            two equal runs would differ.
          kind: one of KINDS.

        Raises: AuditError where the folder holds a run already or can't be written.
        """
        folder = Path(path)
        if (folder / MANIFEST).exists() or any(folder.glob("steps-*")):
            raise AuditError(
                f"{folder}: holds a run already; choose another run.name, or go on with --resume"
            )
        for name in catalogs:
            if not plain_name(name):
                raise AuditError(f"{folder}: catalog file {name!r}, expected a plain file name")
        settings = _settings(config, str(folder / CONFIG))
        where: dict[str, Any] = {"sha256": sha256_hex(corpus), "bytes": len(corpus)}
        copied = len(corpus) <= COPY_AT_MOST_BYTES
        if not copied:
            if not corpus_path:
                raise AuditError(f"{folder}: the corpus is past 64 MB, expected its path")
            where["path"] = corpus_path
        value: dict[str, Any] = {
            **(manifest or {}),
            "schema": RUN_SCHEMA,
            "log": SCHEMA,
            "kind": kind,
            "sample": settings.get("log", {}).get("sample", 1.0),
            "config": settings_sha256(settings),
            "corpus": where,
            "catalogs": [
                {"file": name, "sha256": sha256_hex(data)} for name, data in catalogs.items()
            ],
        }
        canonical(value)  # whole numbers past 2**53, NaN and the like are refused here
        text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        try:
            (folder / CATALOGS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AuditError(f"{folder}: cannot be made: {error.strerror}") from None
        write_file(folder / CONFIG, config)
        if copied:
            write_file(folder / CORPUS, corpus)
        for data in catalogs.values():
            write_file(folder / CATALOGS / f"{sha256_hex(data)}.json", data)
        write_file(folder / MANIFEST, text)
        return cls._from_manifest(folder, text)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Read the manifest of an existing run folder.

        Raises: AuditError where it is no run folder or its manifest is damaged.
        """
        folder = Path(path)
        file = folder / MANIFEST
        if not folder.is_dir():
            raise AuditError(f"{folder}: is no folder, expected a run folder such as logs/medical")
        if not file.is_file():
            raise AuditError(
                f"{folder}: holds no {MANIFEST}, expected a run folder such as train writes"
            )
        if file.stat().st_size > MAX_MANIFEST_BYTES:
            raise AuditError(f"{file}: has more than 16 MiB, expected a manifest")
        return cls._from_manifest(folder, file.read_bytes())

    @classmethod
    def _from_manifest(cls, folder: Path, text: bytes) -> RunFolder:
        file = folder / MANIFEST
        try:
            value = orjson.loads(text)
            catalogs = {entry["sha256"]: entry["file"] for entry in value["catalogs"]}
            facts = (value["kind"], value["config"], value["corpus"]["sha256"])
            float(value["sample"])
        except (ValueError, KeyError, TypeError) as error:
            found = "is no JSON" if isinstance(error, ValueError) else f"lacks or garbles {error}"
            raise AuditError(f"{file}: {found}, expected a manifest of {RUN_SCHEMA}") from None
        if value.get("schema") != RUN_SCHEMA:
            raise AuditError(
                f"{file}: schema is {value.get('schema')!r}, this version reads {RUN_SCHEMA}"
            )
        if value.get("log") not in FORMS:
            raise AuditError(
                f"{file}: log is {value.get('log')!r}, this version reads {' and '.join(FORMS)}"
            )
        kind, config, corpus = facts
        hashes = (config, corpus, *catalogs)
        if not all(is_hex(sha, 64) for sha in hashes) or kind not in KINDS:
            raise AuditError(f"{file}: a hash or the kind is garbled, expected {RUN_SCHEMA}")
        if not all(isinstance(name, str) and plain_name(name) for name in catalogs.values()):
            raise AuditError(f"{file}: a catalog's file is no plain file name")
        return cls(folder, kind, config, sha256_hex(text), corpus, catalogs, value)

    @property
    def form(self) -> str:
        """The log's form, one of `schema.FORMS`."""
        return str(self.manifest["log"])

    def run_fields(self) -> dict[str, Any]:
        """Fields of the log's `run` event: hashes alone, equal for equal inputs."""
        return {
            "schema": self.form,
            "kind": self.kind,
            "config": self.config_sha256,
            "manifest": self.manifest_sha256,
            "corpus": self.corpus_sha256,
            "catalogs": list(self.catalogs),
        }

    def add_catalog(self, data: bytes) -> str:
        """Keep a catalog (canonical bytes) that a hot swap brings; returns its SHA-256."""
        sha = sha256_hex(data)
        write_file(self.path / CATALOGS / f"{sha}.json", data)
        return sha

    def catalog_bytes(self, sha: str) -> bytes:
        """Bytes of a catalog that the run used.

        Raises: AuditError where the file is missing or was changed.
        """
        file = self.path / CATALOGS / f"{sha}.json"
        return _read_hashed(file, sha, "the catalog")

    def corpus_bytes(self) -> bytes:
        """Bytes of the corpus that the run used.

        Raises: AuditError where the file is missing or was changed.
        """
        away = self.manifest["corpus"].get("path")
        file = Path(away) if away else self.path / CORPUS
        return _read_hashed(file, self.corpus_sha256, "the corpus")

    def config_text(self) -> str:
        """The text of config.yaml.

        Raises: AuditError where it is missing or its values, `run` aside, are not the run's.
        """
        file = self.path / CONFIG
        try:
            text = file.read_bytes()
        except OSError as error:
            raise AuditError(f"{file}: {error.strerror}, expected the run's settings") from None
        found = settings_sha256(_settings(text, str(file)))
        if found != self.config_sha256:
            raise AuditError(
                f"{file}: its settings hash to {found[:8]}, the manifest says "
                f"{self.config_sha256[:8]}; it was changed after the run began"
            )
        return text.decode("utf-8")

    def evaluations_sha256(self) -> str | None:
        """SHA-256 of evaluations.jsonl, None where there is none."""
        file = self.path / EVALUATIONS
        return sha256_hex(file.read_bytes()) if file.is_file() else None

    def step_files(self) -> list[Path]:
        """The log's files in their order, whether plain or compressed."""
        return sorted(p for p in self.path.glob("steps-*.jsonl*") if _is_step_file(p.name))

    def ended(self) -> bool:
        """Whether the log's last lines are the event `end` and the seal that covers it."""
        files = self.step_files()
        if not files:
            return False
        with files[-1].open("rb") as file:
            file.seek(max(0, files[-1].stat().st_size - TAIL_BYTES))
            lines = file.read().splitlines()[-2:]
        return (
            len(lines) == 2
            and lines[0].startswith(b'{"event":"end"')
            and lines[1].startswith(b'{"event":"seal"')
        )


def _settings(text: bytes, where: str) -> dict[str, Any]:
    """The values of config.yaml as the file has them, not as today's models would fill them up."""
    try:
        value = YAML(typ="safe", pure=True).load(text.decode("utf-8"))
        canonical(value)
    except (YAMLError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise AuditError(f"{where}: is no YAML of plain values: {reason}") from None
    if not isinstance(value, dict):
        raise AuditError(f"{where}: holds no sections, expected the run's settings")
    return value


def _is_step_file(name: str) -> bool:
    stem = name.removesuffix(".zst").removesuffix(".jsonl").removeprefix("steps-")
    return len(stem) >= 5 and stem.isdecimal() and not name.endswith(".part")


def _read_hashed(file: Path, sha: str, what: str) -> bytes:
    if not plain_name(file.name) or file.is_symlink():
        raise AuditError(f"{file}: is a link or no plain file name, expected {what} of the run")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise AuditError(f"{file}: {error.strerror}, expected {what} of the run") from None
    found = sha256_hex(data)
    if found != sha:
        raise AuditError(
            f"{file}: hashes to {found[:8]}, the run used {sha[:8]}; {what} was changed since"
        )
    return data
