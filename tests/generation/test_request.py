from __future__ import annotations

from pathlib import Path

import pytest

from flexattn.errors import FlexAttnError
from flexattn.generation.request import Request, in_batches, read_requests


def test_a_file_of_questions_is_read_in_order_and_lines_name_those_without_an_id(
    tmp_path: Path,
) -> None:
    file = tmp_path / "asked.jsonl"
    file.write_text('{"id": "x", "question": "什么是肝？"}\n\n{"question": "什么是肺？"}\n')
    read = list(read_requests(str(file)))
    assert read == [Request("x", "什么是肝？"), Request("3", "什么是肺？")]
    assert [len(batch) for batch in in_batches(iter(read * 3), 4)] == [4, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no question"),
        ("[1]\n", "1: is"),
        ('{"question": ""}\n', "question is"),
        ('{"question": 3}\n', "question is 3"),
        ('{"question": "肝", "name": 1}\n', "name is not a known key"),
        ('{"question": "肝", "id": true}\n', "id is True"),
        ('{"id": 1, "question": "肝"}\n{"id": "1", "question": "肺"}\n', "2: id '1' stands twice"),
        ('{"question": "肝"\n', "asked.jsonl:1"),
        ('{"question": "' + "肝" * 30_000 + '"}\n', "is longer than"),
    ],
)
def test_a_bad_line_is_named_with_file_line_and_reason(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "asked.jsonl"
    file.write_text(text)
    with pytest.raises(FlexAttnError) as caught:
        list(read_requests(str(file)))
    assert said in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_a_draw_depends_on_the_request_alone() -> None:
    one, other = Request("a", "什么是肝？"), Request("b", "什么是肝？")
    assert (one.uniforms(1, 0, 5) == one.uniforms(1, 0, 9)[:5]).all()
    for different in (other.uniforms(1, 0, 5), one.uniforms(2, 0, 5), one.uniforms(1, 1, 5)):
        assert (one.uniforms(1, 0, 5) != different).any()
