"""One YAML file, complete and strict, becomes one frozen `Config`; an unknown key is an error.

Every section has a model here and each constructor elsewhere takes its own section. Units stand in
the field names or in the comment of the shipped files. Numbers such as 1e-4 are numbers (YAML 1.2).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flexattn.errors import ConfigError

MAX_CONFIG_BYTES = 1 << 20
MAX_SEED = 2**53 - 1  # the largest integer that the manifest's JSON holds exactly


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Ints = Annotated[tuple[int, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
Guards = Annotated[
    tuple[Literal["term_recall", "rouge_l", "word_noncompliance", "typo_rate"], ...],
    BeforeValidator(_as_tuple),
    Field(min_length=1),
]
Unit = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Shares = Annotated[tuple[Unit, Unit], BeforeValidator(_as_tuple)]
Weights = Annotated[tuple[NonNegative, NonNegative], BeforeValidator(_as_tuple)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
# a width or a length that memory is taken for: what is larger is a slip, not a plan
Size = Annotated[int, Field(ge=1, le=1 << 16)]
Amount = Annotated[int, Field(ge=0)]
Reach = Annotated[int, Field(ge=1, le=16)]


class Section(BaseModel):
    """A frozen part of the configuration that knows no other keys than its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class RunSection(Section):
    """Name of the run and the folder that holds run folders."""

    name: str = Field(min_length=1, max_length=100, pattern=r"^[\w][\w.\-]*$")
    folder: str = "logs"


class CorpusSection(Section):
    """The teacher's answers."""

    path: str
    records: Amount = 0
    heldout: Literal["among", "all"] = "among"


class LexiconSection(Section):
    """Which terms may hit, and what a term of two characters or a repeated credit is worth."""

    catalog: str
    lengths: Ints
    two_char: Unit = 0.7
    nested: bool = False
    repeat: Unit = 0.5
    ban_immediately: bool = False
    watch: bool = False
    learned: bool = False

    @field_validator("lengths")
    @classmethod
    def _lengths(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if 1 in value:
            raise ValueError(
                "contains 1, expected lengths of 2 or more; single characters earn nothing"
            )
        if min(value) < 2 or max(value) > 32 or list(value) != sorted(set(value)):
            raise ValueError(f"is {list(value)}, expected increasing lengths between 2 and 32")
        return value


class EnvSection(Section):
    """The environment: choices of Lh and Lp, the gate, the guide, what an observation holds."""

    history_chars: Ints
    hit_cap_chars: Ints
    semantic_gate: Unit = 0.75
    gate_window: Size = 12
    gate_mix: Unit = 0.5
    gate_k1: NonNegative = 1.2
    gate_b: Unit = 0.75
    align: Literal["position", "resync"] = "position"
    guide: Literal["ngram", "none"] = "ngram"
    guide_reach: Reach = 2
    slack: Amount = 8
    num_envs: Count = 64
    question: Literal["terms", "raw"] = "terms"
    question_chars: Size = 24
    max_history: Size = 16
    sketch_dim: Size = 64
    future_chars: Size = 8


class RewardSection(Section):
    """Weights of one step's reward; units are reward unless the shipped file says otherwise."""

    lambda_lex: NonNegative = 0.30
    lambda_h: NonNegative = 0.08
    lambda_p: NonNegative = 0.10
    alpha_h: Positive = 1.0
    alpha_p: Positive = 1.0
    eta1: NonNegative = 0.15
    eta2: NonNegative = 1.0
    progress: NonNegative = 1.0
    p_punct: NonNegative = 0.01
    p_repeat: NonNegative = 0.05
    p_noncompliant: NonNegative = 0.05
    near: Unit = 0.3
    radius: Annotated[int, Field(ge=0, le=16)] = 2
    soft: Literal["match", "teacher"] = "match"
    bonus: Literal["gated", "hard"] = "gated"


class KappaSection(Section):
    """Entropy targets kappa * log|A(s)| per head, [first, last] over the SAC steps."""

    history: Shares
    cap: Shares
    char: Shares


class CurriculumSection(Section):
    """Which (Lh, Lp) the teacher's answers come with: short, then mixed, then the domain's own."""

    rho: Shares = (0.0, 1.0)
    cloning: Literal["uniform", "curriculum"] = "uniform"


class AgentSection(Section):
    """Masked discrete SAC, and the teacher's side of it."""

    hidden: Size = 256
    char_dim: Size = 128
    gamma: Unit = 0.997
    target_ema: Unit = 0.005
    clone_lr: Positive = 2e-3
    actor_lr: Positive = 1e-4
    window_lr: Positive = 1e-3
    critic_lr: Positive = 1e-3
    alpha_lr: Positive = 3e-4
    alpha_first: Positive = 0.01
    kappa: KappaSection
    grad_clip: Positive = 10.0
    bc_weight: Weights = (1.0, 1.0)
    prior: Literal["none", "counts"] = "none"
    history_noise: Unit = 0.1
    rollout_noise: Unit = 0.0
    dagger_beta: Shares = (0.5, 0.0)
    demo_fraction: Unit = 0.5
    buffer_answers: Count = 1024
    critic_target: Literal["parts", "sum"] = "parts"
    expectation: Literal["exact", "sampled"] = "exact"
    cql_weight: NonNegative = 0.0
    stability_weight: NonNegative = 0.0
    clone_target: Literal["character", "teacher"] = "character"
    forbidden_teacher: Literal["relabel", "reject"] = "relabel"
    curriculum: CurriculumSection = CurriculumSection()


class AttentionSection(Section):
    """The encoder over the written history."""

    impl: Literal["auto", "reference", "banded", "triton"] = "auto"
    heads: Size = 4
    kv_heads: Size = 4
    position: Literal["rope", "alibi", "none"] = "rope"
    gate: bool = True


class TrainSection(Section):
    """Budgets, all in steps: one step is one gradient update."""

    clone_steps: Amount
    dagger_steps: Amount = 0
    warmup_steps: Amount
    sac_steps: Amount
    clone_batch_answers: Count = 32
    batch_answers: Count = 16
    rollout_answers: Count = 64
    rollout_chars: Count = 64
    rollout_every: Count = 8
    evaluate_every: Count = 500
    evaluate_answers: Count = 64
    final_answers: Amount = 0
    bert_model: str = ""
    bert_layer: Count = 8
    checkpoint_every: Count = 500
    keep_checkpoints: Count = 3
    threads: Annotated[int, Field(ge=1, le=1024)] = 2
    device: Literal["cpu", "cuda"] = "cpu"
    tensorboard: bool = False


class LogSection(Section):
    """The audit log."""

    seal_lines: Annotated[Count, Field(le=100_000)] = 4096
    segment_mb: Positive = 256.0
    sample: Unit = 1.0
    queue_records: Count = 65536


class StagesSection(Section):
    """Which stage writes: A no network, B steers Lh and Lp, C writes the characters too."""

    stage: Literal["a", "b", "c"] = "c"
    passes: Count = 2
    share: Unit = 0.1
    guards: Guards = ("term_recall", "rouge_l", "word_noncompliance")
    margin: Unit = 0.02
    least_answers: Count = 100


class Config(Section):
    """A complete configuration; `configs/medical.yaml` explains every key."""

    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    run: RunSection
    corpus: CorpusSection
    lexicon: LexiconSection
    env: EnvSection
    reward: RewardSection
    agent: AgentSection
    attention: AttentionSection
    train: TrainSection
    log: LogSection
    stages: StagesSection = StagesSection()

    @model_validator(mode="after")
    def _choices_fit_lengths(self) -> Config:
        longest = max(self.lexicon.lengths)
        for name in ("history_chars", "hit_cap_chars"):
            values = getattr(self.env, name)
            if min(values) < 1 or max(values) > longest or list(values) != sorted(set(values)):
                raise ValueError(
                    f"env.{name} is {list(values)}, expected increasing values within 1..{longest} "
                    f"(max of lexicon.lengths)"
                )
        if self.env.max_history < max(self.env.history_chars):
            raise ValueError(
                f"env.max_history is {self.env.max_history}, expected at least "
                f"{max(self.env.history_chars)}, the largest of env.history_chars"
            )
        return self

    @model_validator(mode="after")
    def _heads_fit(self) -> Config:
        # said here, where nothing is written yet; the encoder would raise inside a run folder
        dim, attention = self.agent.char_dim, self.attention
        if attention.heads % attention.kv_heads:
            raise ValueError(
                f"attention.kv_heads is {attention.kv_heads}, expected a divisor of "
                f"attention.heads, {attention.heads}"
            )
        parts = 2 * attention.heads if attention.position == "rope" else attention.heads
        if dim % parts:
            raise ValueError(
                f"agent.char_dim is {dim}, expected a multiple of {parts} for "
                f"{attention.heads} attention.heads with position {attention.position}"
            )
        wanted = {"banded": "cpu", "triton": "cuda"}.get(attention.impl, self.train.device)
        if wanted != self.train.device:
            raise ValueError(
                f"attention.impl is {attention.impl}, which runs on {wanted}, but train.device is "
                f"{self.train.device}; set attention.impl=auto"
            )
        return self


def resolve_path(path: str | Path) -> Path:
    """Find `path` relative to the working folder, else among the data inside the installed package.

    Raises: ConfigError where it is in neither.
    """
    asked = Path(path)
    if asked.exists() or asked.is_absolute():
        if not asked.exists():
            raise ConfigError(f"{path}: no such file; check the path")
        return asked
    package = Path(__file__).resolve().parent
    for root in (package / "data", package.parent):
        if (root / asked).exists():
            return root / asked
    raise ConfigError(
        f"{path}: no such file, neither in {Path.cwd()} nor among the package's own data "
        f"(configs/, catalogs/, corpora/); check the path"
    )


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file, apply `section.key=value` overrides, check everything.

    Args:
      path: the file; relative to the working folder, else to the packaged data.
      overrides: such as "agent.actor_lr=1e-4"; the value is read as YAML.

    Raises: ConfigError, one line naming the file and the key.
    """
    file = resolve_path(path)
    if file.is_dir() or file.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: is no configuration file, expected YAML of at most 1 MiB")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from None
    return parse_config(text, str(path), overrides)


def parse_config(text: str, where: str, overrides: Iterable[str] = ()) -> Config:
    """Check the text of a configuration; `where` stands in front of every error."""
    tree = _parse_yaml(text, where)
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{where}: holds {type(tree).__name__}, expected sections such as env and agent"
        )
    for override in overrides:
        _apply_override(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error)}") from None


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise ConfigError(f"{where}{line}: is no valid YAML: {problem}") from None
    except RecursionError:
        raise ConfigError(f"{where}: is nested too deeply, expected two or three levels") from None


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML text, keys in the order of the models."""
    from io import StringIO

    stream = StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(_plain(config.model_dump()), stream)
    return stream.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple) else value


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            f"--set {override}: expected section.key=value, such as agent.actor_lr=1e-4"
        )
    *parents, last = key.strip().split(".")
    node = tree
    for parent in parents:
        inner = node.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {parent} is a value, expected a section")
        node = inner
    node[last] = _parse_yaml(value, f"--set {override}")


def _explain(error: ValidationError) -> str:
    """One line for an unknown key, with a suggestion, else for the first defect."""
    defects = error.errors()
    # a misspelt key is missing too; the spelling is what helps
    first = next((d for d in defects if d["type"] == "extra_forbidden"), defects[0])
    location = ".".join(str(part) for part in first["loc"])
    kind, message = first["type"], first["msg"]
    if kind == "extra_forbidden":
        near = _suggest(location)
        return f"{location} is not a known key" + (
            f"; did you mean {near}?" if near else "; remove it"
        )
    if kind == "missing":
        return f"{location} is missing; add it (configs/medical.yaml shows every key)"
    if kind == "value_error":
        message = message.removeprefix("Value error, ")
        return f"{location} {message}" if location else message
    found = repr(first["input"])
    found = found if len(found) <= 60 else found[:57] + "..."
    return f"{location} is {found}: {message[0].lower() + message[1:]}"


def _suggest(location: str) -> str | None:
    known = list(_keys(Config, ""))
    near = difflib.get_close_matches(location, known, n=1, cutoff=0.6)
    return near[0] if near else None


def _keys(model: type[BaseModel], prefix: str) -> Iterable[str]:
    for name, info in model.model_fields.items():
        yield prefix + name
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _keys(info.annotation, f"{prefix}{name}.")
