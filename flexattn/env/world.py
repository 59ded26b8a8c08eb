"""A `World` is everything a step looks up, frozen: corpus, catalog and config as arrays.

Environments share it and never write to it. A new catalog version makes a new world over the same
corpus tables (`with_catalog`); vocabulary and ids stay, so that environments can go over to it
one by one at their next episode's start.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from flexattn.config import Config
from flexattn.corpus import Corpus, Record
from flexattn.env.mask import MaskTables, build_mask
from flexattn.env.questions import QuestionEncoder
from flexattn.env.settings import Rules, Settings, rules_of
from flexattn.env.tables import (
    AnswerTables,
    CatalogPart,
    TermTables,
    build_answers,
    build_terms,
)
from flexattn.env.vocabulary import END, Vocabulary
from flexattn.errors import EnvironmentSpecError
from flexattn.lexicon.banned import BannedAutomaton
from flexattn.lexicon.entries import Catalog
from flexattn.lexicon.gate import GramTable, count_grams
from flexattn.lexicon.index import TermIndex
from flexattn.lexicon.learned import LearnedFilter, LearnedIndex
from flexattn.lexicon.weights import term_weight

Ids = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FILTER_BYTES = 1.0  # of the learned filter, for each term


@dataclass(frozen=True, eq=False)
class World:
    """Frozen tables that all environments share; build it with `World.build`.

    Attributes:
      settings: numbers of the config.
      vocabulary: characters and ids.
      records: the corpus's records, by index.
      answers: corpus tables.
      grams: bigram weights.
      train: [.] int64, indices of the train records.
      heldout: [.] int64, the others.
      terms: catalog tables.
      mask: A(s).
      rules: the step's numbers.
      term_list: terms by index.
      entry_ids: [terms] int64, the catalog's ids.
      catalog_file: name that a log uses.
      catalog_sha256: the catalog's hash, 64 hex digits.
      catalog: the catalog itself; None for a conformance case.
      banned: strings that may never be written: the catalog's, and those of `with_bans`.
      questions: text of a question -> ids.
      question_ids: [Q, question_chars] int32, the questions of all records.
      question_start: [R + 1] int64, each record's run in it; where it has two or more, the last one
        is the held-out phrasing.
    """

    settings: Settings
    vocabulary: Vocabulary
    records: tuple[Record, ...]
    answers: AnswerTables
    grams: GramTable
    train: Places
    heldout: Places
    terms: TermTables
    mask: MaskTables
    rules: Rules
    term_list: Sequence[str]
    entry_ids: Places
    catalog_file: str
    catalog_sha256: str
    catalog: Catalog | None
    banned: tuple[str, ...]
    questions: QuestionEncoder
    question_ids: Ids
    question_start: Places

    @classmethod
    def build(cls, corpus: Corpus, catalog: Catalog, config: Config) -> World:
        """Build all tables.

        Raises: EnvironmentSpecError where there is nothing to train on, or no answer holds a term.
        """
        settings = Settings.of(config)
        if not corpus.train:
            raise EnvironmentSpecError(
                f"{corpus.path}: has no train record, expected at least one; "
                f'give a record "split": "train"'
            )
        world = cls._assemble(corpus.records, CatalogPart.of(catalog, settings), settings)
        if not (world.terms.target >= 0).any():
            raise EnvironmentSpecError(
                f"{corpus.path}: no answer holds a term of {catalog.file} with a length in "
                f"{list(settings.lengths)}; use a catalog of the corpus's domain"
            )
        return world

    @classmethod
    def from_case(cls, case: Mapping[str, Any]) -> World:
        """World of a conformance case, the form of tests/golden/cases.json; every answer is train.

        The case's answer is record `case["answer"]`; document frequencies are counted here. Its
        actions become ids by `case_actions`.
        """
        given: dict[str, Any] = dict(case.get("reward", {}))
        renamed = {"tau": "semantic_gate"}
        resync = given.pop("resync", False)
        settings = Settings(
            lengths=tuple(given.pop("lengths", (2, 3, 4, 5, 6, 8))),
            history_chars=tuple(sorted({action[0] for action in case["actions"]} or {2})),
            hit_cap_chars=tuple(sorted({action[1] for action in case["actions"]} or {3})),
            align="resync" if resync else "position",
            slack=len(case["actions"]) + 1,
            **{renamed.get(key, key): value for key, value in given.items()},
        )
        answers = case["answers"]
        texts = [entry["term"] for entry in case["terms"]]
        weights = [
            term_weight(
                entry["term"],
                sum(entry["term"] in answer for answer in answers),
                len(answers),
                entry.get("zipf"),
                settings.two_char,
            )
            for entry in case["terms"]
        ]
        terms = CatalogPart(
            tuple(texts), np.array(weights, np.float64), np.arange(len(texts), dtype=np.int64),
            (), "case.json", "0" * 64, frozenset, None,
        )  # fmt: skip
        records = tuple(
            Record(str(n), "", (), ("",), answer, "train") for n, answer in enumerate(answers)
        )
        written = "".join(char for action in case["actions"] for char in action[2:])
        return cls._assemble(records, terms, settings, written)

    def case_actions(self, case: Mapping[str, Any]) -> list[tuple[int, int, int, int]]:
        """Actions of a case as (Lh index, Lp index, emitted id, written id)."""
        char_ids = {"": END, **self.vocabulary.ids}
        return [
            (
                self.settings.history_chars.index(lh),
                self.settings.hit_cap_chars.index(lp),
                char_ids[char],
                char_ids[written[0]] if written else char_ids[char],
            )
            for lh, lp, char, *written in case["actions"]
        ]

    def with_catalog(self, catalog: Catalog) -> World:
        """The same corpus under another catalog version; ids and state shapes stay."""
        return self._assemble(
            self.records, CatalogPart.of(catalog, self.settings), self.settings, corpus_of=self
        )

    def with_bans(self, banned: Iterable[str]) -> World:
        """The same world and catalog with further banned strings, for answers begun before them."""
        every = tuple(dict.fromkeys((*self.banned, *banned)))
        goto, blocked = _ban_tables(every, self.vocabulary)
        words = self.mask.blocked.shape[1]
        mask = self.mask._replace(goto=goto, blocked=np.ascontiguousarray(blocked[:, :words]))
        return dataclasses.replace(self, mask=mask, banned=every)

    def encode_question(self, text: str) -> Ids:
        """What an actor sees of a question, [question_chars] int32."""
        return self.questions.encode(text)

    def record_index(self, record_id: object) -> int:
        """Index of the record with this id.

        Raises: EnvironmentSpecError where the corpus has none.
        """
        index = self._index_of.get(str(record_id))
        if index is None:
            raise EnvironmentSpecError(
                f"record {record_id!r} is not in the corpus; its first is {self.records[0].id!r}"
            )
        return index

    @cached_property
    def _index_of(self) -> dict[str, int]:
        return {record.id: n for n, record in enumerate(self.records)}

    @cached_property
    def _unnamed(self) -> dict[int, str]:
        """Questions that name no record, by number."""
        every = enumerate(q for record in self.records for q in record.questions)
        return {n: text for n, text in every if self.questions.needs_terms(text)}

    def _question_ids_under(self, questions: QuestionEncoder) -> Ids:
        """`question_ids` under another catalog: questions that name a record stay as they are."""
        ids = self.question_ids.copy()
        for n, text in self._unnamed.items():
            ids[n] = questions.encode(text)
        return ids

    def answer(self, record: int) -> Ids:
        """Ids of a record's answer, those outside the train vocabulary included."""
        start = self.answers.start[record]
        return self.answers.ids[start : start + self.answers.size[record]]

    @cached_property
    def index(self) -> TermIndex | LearnedIndex:
        """Finds terms in texts without a teacher, such as a generated answer.

        With `lexicon.learned` a learned filter of `FILTER_BYTES` a term goes before the exact
        index; the hits are the same.
        """
        exact = TermIndex.build(self.term_list)
        if not self.settings.learned:
            return exact
        answers = [self.records[record].answer for record in self.train]
        nbytes = round(FILTER_BYTES * len(self.term_list))
        return LearnedIndex(exact, LearnedFilter.fit(self.term_list, answers, nbytes))

    @property
    def tables(self) -> tuple[AnswerTables, TermTables, MaskTables, GramTable, Rules]:
        """What the compiled step takes of a world."""
        return self.answers, self.terms, self.mask, self.grams, self.rules

    @property
    def catalog_short(self) -> str:
        """The first 8 hex digits of the catalog's hash; what a step line calls `cat`."""
        return self.catalog_sha256[:8]

    @property
    def size(self) -> int:
        """V, ids that an action may have."""
        return self.vocabulary.size

    @property
    def longest_answer(self) -> int:
        """Characters of the longest answer."""
        return int(self.answers.size.max())

    @classmethod
    def _assemble(
        cls,
        records: tuple[Record, ...],
        terms: CatalogPart,
        settings: Settings,
        written: str = "",
        corpus_of: World | None = None,
    ) -> World:
        train_texts = [record.answer for record in records if record.split == "train"]
        if corpus_of is None:
            vocabulary = Vocabulary.build(
                train_texts, [record.answer for record in records] + [written]
            )
            in_train = np.array([record.split == "train" for record in records])
            grams = count_grams(
                [vocabulary.encode(text) for text in train_texts], vocabulary.alphabet
            )
            answers = build_answers(records, vocabulary, grams, settings)
            train, heldout = np.flatnonzero(in_train), np.flatnonzero(~in_train)
        else:
            vocabulary, grams, answers = corpus_of.vocabulary, corpus_of.grams, corpus_of.answers
            train, heldout = corpus_of.train, corpus_of.heldout
        if corpus_of is not None and corpus_of.banned == terms.banned:
            # the same arrays: environments of both versions find them in the cache
            goto, blocked = corpus_of.mask.goto, corpus_of.mask.blocked
        else:
            goto, blocked = _ban_tables(terms.banned, vocabulary)
        names = {name: r.term for r in reversed(records) for name in (*r.aliases, r.term) if name}
        names.update({r.term: r.term for r in records if r.term})
        questions = QuestionEncoder(
            vocabulary,
            names,
            terms.topics,
            settings.question_chars,
            settings.question == "raw",
        )
        counts = [len(record.questions) for record in records]
        return cls(
            settings=settings,
            vocabulary=vocabulary,
            records=records,
            answers=answers,
            grams=grams,
            train=train,
            heldout=heldout,
            terms=build_terms(terms, records, vocabulary, answers, settings),
            mask=build_mask(
                vocabulary,
                train_texts,
                terms.texts,
                goto,
                blocked,
                settings.guide == "ngram",
                settings.guide_reach,
            ),
            rules=rules_of(settings, vocabulary.size),
            term_list=terms.texts,
            entry_ids=terms.ids,
            catalog_file=terms.file,
            catalog_sha256=terms.sha256,
            catalog=terms.catalog,
            banned=terms.banned,
            questions=questions,
            question_ids=(
                questions.encode_all(q for record in records for q in record.questions)
                if corpus_of is None
                else corpus_of._question_ids_under(questions)
            ),
            question_start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        )


def _ban_tables(
    banned: Iterable[str], vocabulary: Vocabulary
) -> tuple[Ids, npt.NDArray[np.uint64]]:
    """Transitions [S, A] and blocked characters [S, words] of the banned automaton."""
    automaton = BannedAutomaton.build(banned, vocabulary.ids, vocabulary.alphabet, vocabulary.size)
    return np.ascontiguousarray(automaton.goto, np.int32), automaton.blocked
