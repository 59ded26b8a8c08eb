from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexattn.corpus import load_corpus, parse_corpus, split_of
from flexattn.errors import CorpusError
from flexattn.lexicon.banned import find_banned
from flexattn.lexicon.entries import load_catalog

ROOT = Path(__file__).parents[1]
GOOD = {"id": "r1", "term": "奥司他韦", "questions": ["什么是奥司他韦？"], "answer": "一种药。"}


def lines(*records: object) -> bytes:
    return "\n".join(json.dumps(r, ensure_ascii=False) for r in records).encode()


def without(key: str) -> dict[str, object]:
    return {k: v for k, v in GOOD.items() if k != key}


BAD = {
    "a missing answer": (without("answer"), "c:1: answer is missing, expected a text"),
    "a missing term": (without("term"), "c:1: term is missing"),
    "a missing question": (without("questions"), "c:1: questions is missing"),
    "an empty answer": ({**GOOD, "answer": "  "}, "c:1: answer is empty"),
    "an answer that is no text": ({**GOOD, "answer": 7}, "c:1: answer is 7, expected a text"),
    "an unknown key": ({**GOOD, "anwser": "x"}, "did you mean answer?"),
    "a record that is a list": ([1], "c:1: is a JSON list, expected an object"),
    "a split of another name": ({**GOOD, "split": "test"}, "split is test, expected train or"),
    "no question in the list": ({**GOOD, "questions": []}, "questions is empty"),
    "one question twice": ({**GOOD, "questions": ["什么？", "什么？"]}, "holds 什么？ twice"),
    "question beside questions": ({**GOOD, "question": "x"}, "both question and questions"),
    "logprobs of another length": ({**GOOD, "logprobs": [{}]}, "expected a list of 4 objects"),
    "a probability above one": ({**GOOD, "logprobs": [{"一": 1.0}] * 4}, "logprobs 1 is"),
}


@pytest.mark.parametrize(("record", "message"), BAD.values(), ids=BAD)
def test_a_bad_record_is_refused_with_its_line_and_reason(record: object, message: str) -> None:
    with pytest.raises(CorpusError) as caught:
        parse_corpus(lines(record), "c")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_id_may_stand_once() -> None:
    with pytest.raises(CorpusError, match="c:2: id r1 is a duplicate, it stands already on line 1"):
        parse_corpus(lines(GOOD, {**GOOD, "answer": "另一种。"}), "c")


def test_a_term_may_be_defined_twice_but_not_in_the_same_words() -> None:
    again = {**GOOD, "id": "r2"}
    assert len(parse_corpus(lines(GOOD, {**again, "answer": "抗病毒药。"}), "c").records) == 2
    with pytest.raises(
        CorpusError, match="c:2: term 奥司他韦 is a duplicate, it has the same answer on"
    ):
        parse_corpus(lines(GOOD, again), "c")


@pytest.mark.parametrize("data", [b"", b"\n \n", b"\xef\xbb\xbf"], ids=["none", "blank", "mark"])
def test_an_empty_corpus_is_refused(data: bytes) -> None:
    with pytest.raises(CorpusError, match="c: is empty, it holds no record"):
        parse_corpus(data, "c")


def test_broken_json_is_refused_with_its_line() -> None:
    with pytest.raises(CorpusError, match=r"c:2: column \d+ is no valid JSON"):
        parse_corpus(lines(GOOD) + b'\n{"id": "r2", ', "c")


def test_text_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(CorpusError, match=r"c:1: column \d+ is no valid JSON"):
        parse_corpus('{"id": "奥司他韦"}'.encode("gbk"), "c")


def test_a_key_twice_in_a_record_is_refused() -> None:
    data = '{"id": "a", "id": "b", "term": "药", "question": "?", "answer": "药"}'.encode()
    with pytest.raises(CorpusError, match="c:1: key id stands twice in one object"):
        parse_corpus(data, "c")


def test_nesting_deeper_than_100_levels_is_refused() -> None:
    with pytest.raises(CorpusError, match="is nested 101 levels deep, expected at most 100"):
        parse_corpus(b"[" * 101 + b"]" * 101, "c")
    with pytest.raises(CorpusError, match="nested 1000000 levels"):
        parse_corpus(b"[" * 1_000_000, "c")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file"):
        load_corpus(tmp_path / "none.jsonl")
    with pytest.raises(CorpusError, match="is a folder"):
        load_corpus(tmp_path)


def test_text_is_brought_to_nfc_when_read() -> None:
    decomposed = unicodedata.normalize("NFD", "Café酸")
    record = parse_corpus(lines({**GOOD, "answer": decomposed}), "c").records[0]
    assert record.answer == "Café酸"
    assert len(record.answer) == 5


def test_the_last_of_several_questions_is_the_held_out_phrasing() -> None:
    one = parse_corpus(lines(GOOD), "c").records[0]
    assert (one.train_questions, one.heldout_question) == (("什么是奥司他韦？",), None)
    two = parse_corpus(lines({**GOOD, "questions": ["甲？", "乙？", "丙？"]}), "c").records[0]
    assert (two.train_questions, two.heldout_question) == (("甲？", "乙？"), "丙？")


def test_a_single_question_may_be_given_as_a_text() -> None:
    record = {**without("questions"), "question": "什么是奥司他韦？"}
    assert parse_corpus(lines(record), "c").records[0].questions == ("什么是奥司他韦？",)


def test_the_split_follows_from_the_hash_of_the_term_unless_given() -> None:
    for term in ("奥司他韦", "神经氨酸酶", "青霉素", "高血压"):
        number = int(hashlib.sha256(term.encode()).hexdigest(), 16)
        assert split_of(term) == ("heldout" if number % 10 == 0 else "train")
        for split in ("train", "heldout"):
            record = {**GOOD, "term": term, "split": split}
            assert parse_corpus(lines(record), "c").records[0].split == split


def test_logprobs_are_kept_as_natural_logarithms() -> None:
    logprobs = [{"一": -0.1, "药": -2.5}, {}, {}, {"。": 0}]
    record = parse_corpus(lines({**GOOD, "logprobs": logprobs}), "c").records[0]
    assert record.logprobs == ({"一": -0.1, "药": -2.5}, {}, {}, {"。": 0.0})


def test_the_identity_of_a_corpus_is_the_hash_of_its_bytes() -> None:
    data = lines(GOOD)
    assert parse_corpus(data, "c").sha256 == hashlib.sha256(data).hexdigest()


@given(st.binary(max_size=80), st.integers(0, 200), st.integers(0, 20))
@settings(max_examples=200, deadline=None)
def test_harmed_files_are_accepted_or_refused_in_one_line(harm: bytes, at: int, cut: int) -> None:
    sound = lines(GOOD, {**GOOD, "id": "r2", "term": "青霉素"})
    data = sound[:at] + harm + sound[at + cut :]
    try:
        parse_corpus(data, "c")
    except CorpusError as error:
        told = str(error)
    else:
        told = "c:"
    assert told.startswith("c:")
    assert told.isprintable()


class TestMedicalCorpus:
    corpus = load_corpus(ROOT / "corpora/medical.jsonl")
    catalog = load_catalog(ROOT / "catalogs/medical.json")

    def test_it_has_terms_enough_in_both_splits(self) -> None:
        assert len(self.corpus.train) >= 300
        assert len(self.corpus.heldout) >= 40

    def test_names_belong_to_one_record_each(self) -> None:
        names = [name for r in self.corpus.records for name in (r.term, *r.aliases)]
        assert len(names) == len(set(names))
        assert not set(names) - set(self.catalog.by_term)

    def test_answers_are_40_to_140_characters_of_plain_chinese(self) -> None:
        for record in self.corpus.records:
            assert 40 <= len(record.answer) <= 140, record.id
            assert re.fullmatch(r"[\u4e00-\u9fff，。、；：]+。", record.answer), record.id
            assert record.term in record.answer, record.id

    def test_questions_are_five_and_name_the_term_or_an_alias(self) -> None:
        for record in self.corpus.records:
            assert len(record.questions) == 5, record.id
            for question in record.questions:
                assert any(name in question for name in (record.term, *record.aliases)), question

    def test_nothing_banned_stands_anywhere(self) -> None:
        for record in self.corpus.records:
            for text in (record.term, *record.aliases, *record.questions, record.answer):
                assert find_banned(text, self.catalog.banned) is None, text

    def test_the_question_of_the_sources_is_answered(self) -> None:
        asked = [r for r in self.corpus.train if "请问什么是‘奥司他韦’？" in r.train_questions]
        assert len(asked) == 1
        assert all(w in asked[0].answer for w in ("奥司他韦", "神经氨酸酶", "抑制剂"))
