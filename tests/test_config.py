from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flexattn.config import Config, dump_config, load_config, parse_config, resolve_path
from flexattn.errors import ConfigError

CONFIGS = Path(__file__).parents[1] / "configs"
MEDICAL = (CONFIGS / "medical.yaml").read_text(encoding="utf-8")


def changed(key: str, value: str) -> str:
    """The medical file with one line changed; `key` as it stands in front of the colon."""
    lines = [
        line.split(key + ":")[0] + f"{key}: {value}" if line.strip().startswith(key + ":") else line
        for line in MEDICAL.splitlines()
    ]
    assert "\n".join(lines) != MEDICAL.rstrip("\n")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_file_is_complete_and_explains_each_key(file: Path) -> None:
    config = load_config(file)
    tree = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    written = parse_config(dump_config(config), "again").model_dump()
    assert written == config.model_dump()
    missing = [
        f"{name}.{key}"
        for name, info in Config.model_fields.items()
        for key in getattr(info.annotation, "model_fields", {})
        if key not in tree.get(name, {})
    ]
    assert missing == []
    bare = [
        line
        for line in file.read_text(encoding="utf-8").splitlines()
        if ":" in line.partition("#")[0]
        and not line.rstrip().endswith(":")
        and "#" not in line
        and line.strip().split(":")[0] not in ("history", "cap", "char")
    ]
    assert bare == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            MEDICAL.replace("history_chars:", "histroy_chars:"),
            "a.yaml: env.histroy_chars is not a known key; did you mean env.history_chars?",
            id="an unknown key, with a suggestion",
        ),
        pytest.param(changed("seed", "seven"), "a.yaml: seed is 'seven': ", id="a wrong type"),
        pytest.param(changed("gamma", "1.5"), "a.yaml: agent.gamma is 1.5: ", id="out of range"),
        pytest.param(
            changed("lengths", "[1, 2, 3]"),
            "a.yaml: lexicon.lengths contains 1, expected lengths of 2 or more",
            id="U containing 1",
        ),
        pytest.param(
            MEDICAL.replace("seed: 7", ""), "a.yaml: seed is missing; add it", id="a missing key"
        ),
        pytest.param("env: [", "a.yaml:1: is no valid YAML", id="no YAML"),
        pytest.param("- 1", "a.yaml: holds list, expected sections", id="no sections"),
        pytest.param(changed("hit_cap_chars", "[3, 99]"), "99", id="a cap longer than any term"),
        pytest.param(changed("gamma", ".nan"), "a.yaml: agent.gamma", id="not a number"),
        pytest.param(changed("seed", "-1"), "a.yaml: seed is -1: ", id="a negative seed"),
        pytest.param(
            changed("seed", str(2**53)), "a.yaml: seed is ", id="a seed that JSON doesn't hold"
        ),
        pytest.param(
            changed("dagger_beta", "[2, 0]"), "agent.dagger_beta.0 is 2: ", id="a chance above 1"
        ),
        pytest.param(
            changed("bc_weight", "[-1, 0]"), "agent.bc_weight.0 is -1: ", id="a weight below 0"
        ),
        pytest.param(
            changed("rho", "[0, 1.5]"), "agent.curriculum.rho.1 is 1.5: ", id="a share above 1"
        ),
        pytest.param(
            MEDICAL.replace("char: [0.02, 0.003]", "char: [-1, 0]"),
            "agent.kappa.char.0 is -1: ",
            id="an entropy target below 0",
        ),
        pytest.param(
            changed("kv_heads", "3"),
            "attention.kv_heads is 3, expected a divisor of",
            id="kv_heads",
        ),
        pytest.param(
            changed("char_dim", "36"),
            "agent.char_dim is 36, expected a multiple of 8",
            id="char_dim",
        ),
        pytest.param(
            changed("impl", "triton"),
            "attention.impl is triton, which runs on cuda, but train.device is cpu",
            id="a kernel of another device",
        ),
        pytest.param(
            changed("hidden", "1000000000000"),
            "agent.hidden is 1000000000000: ",
            id="no such memory",
        ),
    ],
)
def test_a_bad_file_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "a.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_are_those_of_yaml_1_2() -> None:
    assert parse_config(changed("actor_lr", "1e-4"), "a.yaml").agent.actor_lr == 1e-4


def test_an_override_sets_one_key() -> None:
    config = parse_config(MEDICAL, "a.yaml", ["agent.actor_lr=3e-5", "env.history_chars=[2, 5]"])
    assert config.agent.actor_lr == 3e-5
    assert config.env.history_chars == (2, 5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        pytest.param("agent.actor_lr", "expected section.key=value", id="no value"),
        pytest.param("agent.actorlr=1", "did you mean agent.actor_lr?", id="an unknown key"),
        pytest.param("seed.deep=1", "seed is a value, expected a section", id="below a value"),
    ],
)
def test_a_bad_override_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        parse_config(MEDICAL, "a.yaml", [override])


def test_a_configuration_cannot_be_changed() -> None:
    config = parse_config(MEDICAL, "a.yaml")
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]


def test_a_path_is_found_beside_the_package_when_it_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_path("configs/medical.yaml").is_file()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "medical.yaml").write_text("mine")
    assert resolve_path("configs/medical.yaml").read_text() == "mine"
    with pytest.raises(ConfigError, match="no such file, neither in"):
        resolve_path("configs/none.yaml")


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no configuration file"):
        load_config(tmp_path)


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    file = tmp_path / "gbk.yaml"
    file.write_bytes("run: 配置".encode("gbk"))
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load_config(file)
