from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexattn.evaluation import metrics
from flexattn.evaluation.metrics import Perturbation, Terms
from flexattn.lexicon.reference import find_terms

MARKS = frozenset("，。、；：")
TERMS = Terms.of(["神经氨酸酶", "抑制剂", "流感病毒", "流感", "病毒", "奥司他韦"])
REFERENCE = "奥司他韦是作用于神经氨酸酶的抑制剂，用于流感。"


def edits(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("流感病毒", [(0, "流感病毒")], id="the longest at a place"),
        pytest.param("甲流感", [(1, "流感")], id="any place"),
        pytest.param("神经氨酸", [], id="an unfinished term is none"),
        pytest.param("病毒病毒", [(0, "病毒"), (2, "病毒")], id="each place"),
        pytest.param("", [], id="nothing in nothing"),
    ],
)
def test_terms_are_found_leftmost_and_longest(text: str, found: list[tuple[int, str]]) -> None:
    assert TERMS.find(text) == found


@given(st.text("神经氨酸酶流感病毒", max_size=20))
@settings(max_examples=100, deadline=None)
def test_terms_are_found_where_the_lexicons_definition_finds_them(text: str) -> None:
    assert TERMS.find(text) == find_terms(text, TERMS.terms, longest=5)


@pytest.mark.parametrize(
    ("output", "recall"),
    [
        pytest.param(REFERENCE, 1.0, id="all"),
        pytest.param("流感病毒", 0.25, id="a shorter term inside a longer one is a substring"),
        pytest.param("", 0.0, id="an empty output"),
        pytest.param("抑制剂抑制剂", 0.25, id="distinct terms count once"),
    ],
)
def test_term_recall_counts_distinct_terms_of_the_reference(output: str, recall: float) -> None:
    assert metrics.term_recall(output, REFERENCE, TERMS) == recall


def test_a_reference_without_a_term_defines_no_recall_and_the_mean_leaves_it_out() -> None:
    assert metrics.term_recall("流感", "今天天气好。", TERMS) is None
    assert metrics.mean([1.0, None, 0.0]) == 0.5
    assert metrics.mean([None]) is None


@pytest.mark.parametrize(
    ("output", "rate"),
    [
        pytest.param("神经氮酸酶", 1.0, id="a wrong character"),
        pytest.param("神经酸酶", 1.0, id="a missing character"),
        pytest.param("神经氨氨酸酶", 1.0, id="a character too many"),
        pytest.param("神经氨酸酶", 0.0, id="the term itself"),
        pytest.param("的神经氨酸酶与", 0.0, id="a term and its neighbours"),
        pytest.param("神经酸酶抑制剂流感", 0.5, id="over term places"),
        pytest.param("流血", 0.0, id="terms of two characters are too short"),
        pytest.param("", 0.0, id="an empty output"),
        pytest.param("作用于神经", 0.0, id="nothing near"),
    ],
)
def test_typo_rate_counts_places_one_edit_from_a_term(output: str, rate: float) -> None:
    assert metrics.typo_rate(output, "酶", TERMS) == rate


def test_what_stands_in_the_reference_is_no_typo() -> None:
    assert metrics.typo_rate("神经酸酶", "旧称神经酸酶。", TERMS) == 0.0


@given(st.text("神经氨酸酶抑制剂", max_size=7))
@settings(max_examples=200, deadline=None)
def test_misspelt_is_levenshtein_distance_one(piece: str) -> None:
    near = any(len(t) >= 3 and edits(piece, t) == 1 for t in TERMS.terms)
    assert TERMS.misspelt(piece) == (near and piece not in TERMS.terms)


@pytest.mark.parametrize(
    ("output", "share"),
    [
        pytest.param("流感病", 0.0, id="seen pairs"),
        pytest.param("流病", 1.0, id="both characters of an unseen pair"),
        pytest.param("流感，病", 0.0, id="a pair with a mark does not count"),
        pytest.param("龘，流感", 1 / 3, id="an unseen character"),
        pytest.param("流感流", 2 / 3, id="the share is over Chinese characters"),
        pytest.param("。A1", 0.0, id="no Chinese character"),
        pytest.param("", 0.0, id="an empty output"),
    ],
)
def test_word_noncompliance_is_a_share_of_chinese_characters(output: str, share: float) -> None:
    got = metrics.word_noncompliance(output, {"流感", "感病", "A1"}, set("流感病A1"), MARKS)
    assert got == pytest.approx(share)


@given(st.text("甲乙丙丁", max_size=90), st.text("甲乙丙丁", max_size=90))
@settings(max_examples=60, deadline=None)
def test_the_bit_parallel_lcs_is_the_lcs(a: str, b: str) -> None:
    row = [0] * (len(b) + 1)
    for x in a:
        last = 0
        for j, y in enumerate(b, 1):
            row[j], last = (last + 1 if x == y else max(row[j], row[j - 1])), row[j]
    assert metrics.lcs_length(a, b) == row[-1]


def test_rouge_l_is_the_f1_of_the_lcs_without_white_space() -> None:
    assert metrics.rouge_l("磷酸 奥司", "磷酸奥司") == 1.0
    assert metrics.rouge_l("甲乙", "甲丙丁乙") == pytest.approx(2 * 2 / 6)
    assert metrics.rouge_l("", "甲") == 0.0
    assert metrics.rouge_l("甲", " ") is None


@pytest.mark.parametrize(
    ("output", "reference", "f1"),
    [
        (
            "奥司他韦是一种神经氨酸酶抑制剂。",
            "磷酸奥司他韦是一种作用于神经氨酸酶的特异性抑制剂。",
            0.7804878048780487,
        ),
        (
            "流感病毒引起的急性呼吸道传染病",
            "流行性感冒是流感病毒引起的急性呼吸道传染病。",
            0.8108108108108109,
        ),
        ("用于治疗高血压 和心绞痛", "主要用于高血压、心绞痛的治疗。", 0.6153846153846153),
        ("甲乙丙", "丁戊己", 0.0),
    ],
)
def test_rouge_l_has_the_values_of_rouge_score_over_characters(
    output: str, reference: str, f1: float
) -> None:
    # rouge-score 0.1.2 with a tokenizer of single characters; its default gives 0 for all of these
    assert metrics.rouge_l(output, reference) == pytest.approx(f1, abs=1e-12)


def test_net_lexical_is_credit_minus_cost() -> None:
    assert metrics.net_lexical([0.1, 0.0, 0.2], [0.05, 0.05, 0.05]) == pytest.approx(0.15)


def test_a_cap_should_open_where_a_term_longer_than_the_shortest_cap_can_hit() -> None:
    reference = "磷酸奥司他韦抗流感"
    terms = {"奥司他韦", "流感", "抗流感"}
    places = metrics.opening_places(reference, terms, (2, 3, 4), (3, 4), MARKS)
    assert [i for i, open_ in enumerate(places) if open_] == [2]
    capped = metrics.opening_places(reference, {"奥司他韦"}, (2, 3, 4), (2, 3), MARKS)
    assert not any(capped)  # its length is in U, but no cap reaches it


def test_history_should_widen_at_a_clause_and_at_a_term() -> None:
    places = metrics.turning_places("用于流感，治疗，", TERMS, MARKS)
    assert [i for i, turn in enumerate(places) if turn] == [0, 2, 5]


def test_selectivity_compares_the_means_of_both_sides_and_past_the_end_is_elsewhere() -> None:
    marks = metrics.at_pointers([True, False, True], [0, 1, 2, 3, 4])
    assert marks == [True, False, True, False, False]
    assert metrics.selectivity([6, 3, 5, 3, 3], marks) == pytest.approx(2.5)
    assert metrics.selectivity([6, 3], [True, True]) is None


def test_shares_of_hits() -> None:
    segments = ["-", "流感", "神经氨酸酶", "-"]
    assert metrics.hit_rate(segments) == 0.5
    assert metrics.long_term_share(segments) == 0.5
    assert metrics.top100_share(segments, {"流感"}) == 0.5
    assert metrics.hit_rate([]) is None
    assert metrics.long_term_share(["-"]) is None


def test_the_most_frequent_terms_are_a_hundred_with_ties_by_code_point() -> None:
    counts = {f"t{i:03d}": 1 for i in range(200)} | {"z": 9}
    top = metrics.most_frequent(counts)
    assert len(top) == 100
    assert {"z", "t000", "t098"} <= top
    assert "t099" not in top


def test_histogram_and_entropy_show_a_collapse() -> None:
    assert metrics.histogram([3, 3, 6, 6], [3, 4, 6]) == {3: 0.5, 4: 0.0, 6: 0.5}
    assert metrics.entropy({3: 0.5, 4: 0.0, 6: 0.5}) == pytest.approx(math.log(2))
    assert metrics.entropy({3: 1.0, 4: 0.0}) == 0.0


def test_the_replacement_stream_is_a_function_of_seed_record_and_step() -> None:
    few = Perturbation.of(7, 0.03, "甲乙丙丁，A")
    many = Perturbation.of(7, 0.10, "丁丙乙甲")
    first = [few("r1", step) for step in range(1, 20001)]
    assert first == [few("r1", step) for step in range(1, 20001)]
    assert first != [few("r2", step) for step in range(1, 20001)]
    assert first != [Perturbation.of(8, 0.03, "甲乙丙丁")("r1", step) for step in range(1, 20001)]
    written = [char for char in first if char]
    assert set(written) == set("甲乙丙丁")
    assert len(written) / len(first) == pytest.approx(0.03, abs=0.005)
    assert all(many("r1", step) == char for step, char in enumerate(first, 1) if char)


def test_without_chinese_characters_nothing_is_replaced() -> None:
    assert Perturbation.of(7, 1.0, "abc")("r", 1) is None
