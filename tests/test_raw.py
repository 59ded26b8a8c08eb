"""Raw tables of every form become the same corpus; what is left out is said."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from flexattn import catalog
from flexattn.corpus import load_corpus
from flexattn.errors import CorpusError
from flexattn.raw import gather

ROWS = [("复利", "复利是把利息并入本金再计算利息的方法。"), ("净值", "净值是份额的价格。")]
TABLES = {
    "tsv": "term\tanswer\n" + "".join(f"{t}\t{a}\n" for t, a in ROWS),
    "csv": "\ufeffterm,answer\r\n" + "".join(f'{t},"{a}"\r\n' for t, a in ROWS),
    "jsonl": "".join(
        orjson.dumps({"term": t, "answer": a, "source": "x"}).decode() + "\n" for t, a in ROWS
    ),
}


def read(path: Path, text: str, *templates: str, **columns: str) -> list[dict[str, object]]:
    path.write_text(text, encoding="utf-8", newline="")
    return gather([path], columns, templates, prefix="r", most_chars=0).records


@pytest.mark.parametrize("form", TABLES)
def test_a_table_of_any_form_gives_the_same_records(form: str, tmp_path: Path) -> None:
    found = read(tmp_path / "table", TABLES[form], "什么是{}？", "{}是什么意思？")
    assert found == [
        {
            "id": f"r{n:05d}",
            "term": t,
            "questions": [f"什么是{t}？", f"{t}是什么意思？"],
            "answer": a,
        }
        for n, (t, a) in enumerate(ROWS, 1)
    ]


def test_a_tables_own_names_questions_aliases_and_ids_are_taken(tmp_path: Path) -> None:
    text = "名称\t释义\t别名\tid\tquestion\n复利\t 利滚\n利。\t利滚利; 复息\tf7\t复利呢？\n"
    text = text.replace(" 利滚\n利。", '" 利滚\n利。"')
    (record,) = read(tmp_path / "t", text, "什么是{}？", term="名称", answer="释义", aliases="别名")
    assert record == {
        "id": "f7", "term": "复利", "aliases": ["利滚利", "复息"],
        "questions": ["复利呢？", "什么是复利？"], "answer": "利滚利。",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("a\tb\n1\t2\n", "t:1: has no column term, it has a, b", id="no term"),
        pytest.param("term\tanswer\n复利\t\n", "no row of 1 has a term", id="nothing left"),
        pytest.param('{"term": "复利"}\n', "t:1: has no column answer, it has term", id="answer"),
        pytest.param("term\tanswer\n复利\t利\t多\n", "t:2: has more cells", id="a cell too many"),
        pytest.param("term\tanswer\tid\n甲乙\t一。\tx\n丙丁\t二。\tx\n", "t:3: id x stands already",
                     id="an id twice"),
        pytest.param("term,answer\n复利," + "利" * 140_000 + "\n", "is no table row: field larger",
                     id="a cell too long"),
        pytest.param("term\tanswer\tsplit\n甲乙\t一。\ttest\n", "split is test, expected train",
                     id="bad split"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_refused_with_its_place(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError) as error:
        read(tmp_path / "t", text)
    assert said in str(error.value).replace('"', "'")


def test_the_command_writes_corpus_and_terms_and_says_what_it_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out, terms = (tmp_path / name for name in ("raw.tsv", "corpus.jsonl", "terms.txt"))
    table.write_text(TABLES["tsv"] + "净值\t净值是份额的价格。\n坏账\t\n", encoding="utf-8")
    words = [str(table), "--out", str(out), "--terms", str(terms), "--ask", "什么是{}？"]
    assert catalog.main(["corpus", *words]) == 0
    said = capsys.readouterr().out
    assert "2 rows left out" in said
    assert "raw.tsv:4: 净值 has this answer already" in said
    assert "raw.tsv:5: answer empty" in said
    assert terms.read_text(encoding="utf-8") == "复利\n净值\n"
    assert [record.term for record in load_corpus(out).records] == ["复利", "净值"]
    assert catalog.main(["corpus", *words, "--column", "definition=answer"]) == 2
    assert "--column definition=answer: expected NAME=HEADER" in capsys.readouterr().err


def test_answers_that_are_too_long_are_left_out(tmp_path: Path) -> None:
    table = tmp_path / "t"
    table.write_text(TABLES["tsv"], encoding="utf-8")
    made = gather([table], {}, (), prefix="r", most_chars=10)
    assert [record["term"] for record in made.records] == ["净值"]
    assert "has 19 characters, at most 10 are asked for" in made.dropped[0]
