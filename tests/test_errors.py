from __future__ import annotations

import pytest

from flexattn import errors
from flexattn.errors import FlexAttnError, MissingExtraError, command


def test_every_error_a_user_can_cause_is_a_value_error() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    ours = [kind for kind in kinds if issubclass(kind, Exception)]
    assert len(ours) >= 8
    assert all(issubclass(kind, FlexAttnError) for kind in ours)
    assert issubclass(FlexAttnError, ValueError)


def test_a_command_ends_with_2_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def main(argv: object = None) -> int:
        raise errors.ConfigError("a.yaml: seed is missing; add it")

    assert main() == 2
    assert capsys.readouterr().err == "error: a.yaml: seed is missing; add it\n"


def test_a_missing_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def main(argv: object = None) -> int:
        raise FileNotFoundError(2, "No such file or directory", "gone.json")

    assert main() == 2
    assert capsys.readouterr().err == "error: gone.json: No such file or directory\n"


def test_ctrl_c_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def main(argv: object = None) -> int:
        raise KeyboardInterrupt

    assert main() == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_defect_of_ours_keeps_its_traceback() -> None:
    @command
    def main(argv: object = None) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main()


def test_a_command_that_succeeds_gives_its_own_code() -> None:
    assert command(lambda argv: 3)([]) == 3


def test_a_missing_extra_says_what_to_install() -> None:
    assert str(MissingExtraError("--parquet", "query")) == (
        "--parquet needs an optional library; install it with: pip install 'flexattn[query]'"
    )
