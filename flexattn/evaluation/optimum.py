"""The best net_lexical that any choice of Lh and Lp can have while copying the reference, exactly.

    best = max over Lp_1..Lp_{T+1} of  sum_t ler_t - len_cost(min H, Lp_t)

While the answer is copied, step t stands at pointer t and only Lp changes what is credited. A state
of the dynamic programme is what a later step can notice: how far the text is covered by the segment
credited last, and how often each term that comes again was credited. Lh never pays here, so its
smallest choice is best. The end of the answer is a step too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from flexattn.config import Config, EnvSection, LexiconSection, RewardSection
from flexattn.evaluation import metrics
from flexattn.lexicon.entries import PUNCTUATION
from flexattn.lexicon.reference import gram_weights, grams, longest_capped_hit, similarity


@dataclass(frozen=True)
class Rules:
    """What of a configuration and its train answers decides a credit.

    Args:
      weights: term -> weight, the logged `idf`.
      gram_idf: bigram -> BM25 weight over the train answers.
      mean_length: mean train answer, bigrams.
      lexicon: U, nested and repeat.
      env: H, P and the gate.
      reward: lambda_lex and the length costs.
    """

    weights: Mapping[str, float]
    gram_idf: Callable[[str], float]
    mean_length: float
    lexicon: LexiconSection
    env: EnvSection
    reward: RewardSection

    @classmethod
    def of(cls, weights: Mapping[str, float], train: Sequence[str], config: Config) -> Rules:
        """Count the gate's bigrams over the train answers, as the environment does."""
        length = sum(len(grams(answer)) for answer in train) / len(train) if train else 0.0
        return cls(weights, gram_weights(train), length, config.lexicon, config.env, config.reward)

    @property
    def caps(self) -> tuple[int, ...]:
        """P, smallest first: of equally good caps the smallest is taken."""
        return tuple(sorted(self.env.hit_cap_chars))

    def cost(self, history_chars: int, hit_cap_chars: int) -> float:
        """len_cost of one step, reward."""
        r, longest = self.reward, max(self.lexicon.lengths)
        return (
            r.lambda_h * (history_chars / longest) ** r.alpha_h
            + r.lambda_p * (hit_cap_chars / longest) ** r.alpha_p
        )

    def offers(self, answer: str) -> list[dict[int, tuple[str, float]]]:
        """For each place, cap -> (term, delta) where the cap hits there; [|answer|]."""
        places = []
        for p, char in enumerate(answer):
            found: dict[int, tuple[str, float]] = {}
            for cap in self.caps:
                term = longest_capped_hit(
                    char, answer[p + 1 : p + cap], self.weights, self.lexicon.lengths, cap
                )
                if term is not None:
                    found[cap] = (term, self._gain(answer, p, term))
            places.append(found)
        return places

    def _gain(self, answer: str, p: int, term: str) -> float:
        env = self.env
        if self.reward.bonus == "hard":
            return self.reward.lambda_lex
        sim = similarity(
            answer[:p], term, answer, p, self.gram_idf, self.mean_length,
            window=env.gate_window, mix=env.gate_mix, k1=env.gate_k1, b=env.gate_b,
        )  # fmt: skip
        return self.reward.lambda_lex * max(0.0, sim - env.semantic_gate) * self.weights[term]


@dataclass(frozen=True)
class Optimum:
    """The best choices over one reference.

    Args:
      net_lexical: sum(ler) - sum(len_cost), reward.
      hit_cap_chars: Lp of each step, characters, the end step included, [T + 1].
    """

    net_lexical: float
    hit_cap_chars: tuple[int, ...]


def copied(answer: str, caps: Sequence[int], history_chars: int, rules: Rules) -> float:
    """net_lexical of copying `answer` with these caps and one Lh, reward.

    Args:
      answer: the reference, T characters.
      caps: Lp of each step, [T + 1], each one of P.
      history_chars: Lh of every step, characters.
      rules: what is credited.
    """
    return _copied(rules.offers(answer), caps, history_chars, rules)


def fixed_pairs(answers: Iterable[str], rules: Rules) -> dict[tuple[int, int], float]:
    """Mean net_lexical of copying with every fixed pair (Lh, Lp), reward; empty without answers."""
    offered = [rules.offers(answer) for answer in answers]
    narrow = min(rules.env.history_chars)
    found = {}
    for cap in rules.caps:
        made = [_copied(offers, [cap] * (len(offers) + 1), narrow, rules) for offers in offered]
        steps = sum(len(offers) + 1 for offers in offered)
        for history in rules.env.history_chars if made else ():
            # Lh changes nothing while copying but its cost
            more = rules.cost(history, cap) - rules.cost(narrow, cap)
            found[history, cap] = (math.fsum(made) - more * steps) / len(made)
    return found


def _copied(
    offers: Sequence[Mapping[int, tuple[str, float]]],
    caps: Sequence[int],
    history_chars: int,
    rules: Rules,
) -> float:
    covered, credits, total = 0, dict[str, int](), 0.0
    for t, cap in enumerate(caps):
        total -= rules.cost(history_chars, cap)
        hit = offers[t].get(cap) if t < len(offers) else None
        if hit is None or _blocked(covered - t, hit[0], rules):
            continue
        term, delta = hit
        total += delta * rules.lexicon.repeat ** credits.get(term, 0)
        if delta > 0.0:
            credits[term] = credits.get(term, 0) + 1
            covered = max(covered, t + len(term))
    return total


def best(answer: str, rules: Rules) -> Optimum:
    """Exact optimum over all sequences of Lp while `answer` is copied.

    Args:
      answer: the reference, T characters.
      rules: what is credited and what it costs.
    """
    offers = [*rules.offers(answer), {}]
    cost = {cap: rules.cost(min(rules.env.history_chars), cap) for cap in rules.caps}
    again = _last_repeats(offers)
    hope = _optimistic(offers, cost)
    floor = min(cost.values())

    # state: (characters still covered, ((term, credits), ..) of terms that come again) -> value
    layer: dict[_State, float] = {(0, ()): 0.0}
    trace: list[dict[_State, tuple[_State, int]]] = []
    for t, offer in enumerate(offers):
        # a state that can't catch up even when every hope comes true is dropped
        least = max(layer.values()) - floor * (len(offers) - t) - 1e-9
        following: dict[_State, float] = {}
        came: dict[_State, tuple[_State, int]] = {}
        for state, value in layer.items():
            if value + hope[t] < least:
                continue
            for cap in rules.caps:
                gain, to = _advance(state, t, offer.get(cap), again, rules)
                total = value + gain - cost[cap]
                if total > following.get(to, -math.inf):
                    following[to], came[to] = total, (state, cap)
        layer = following
        trace.append(came)

    state = max(layer, key=lambda s: (layer[s], s))
    value, caps = layer[state], []
    for came in reversed(trace):
        state, cap = came[state]
        caps.append(cap)
    return Optimum(value, tuple(reversed(caps)))


def optimum_of(answers: Iterable[str], rules: Rules) -> tuple[float | None, float | None]:
    """Mean best net_lexical over `answers`, and the lp_selectivity of those choices.

    Returns: reward and characters; None where there is no answer or nothing to select.
    """
    values: list[float] = []
    chosen: list[int] = []
    marked: list[bool] = []
    for answer in answers:
        found = best(answer, rules)
        opening = metrics.opening_places(
            answer, rules.weights, rules.lexicon.lengths, rules.caps, PUNCTUATION
        )
        values.append(found.net_lexical)
        chosen.extend(found.hit_cap_chars)
        marked.extend([*opening, False])
    return metrics.mean(values), metrics.selectivity(chosen, marked)


_State = tuple[int, tuple[tuple[str, int], ...]]


def _blocked(covered: int, term: str, rules: Rules) -> bool:
    """Whether a hit ends no later than the segment credited last, `covered` characters on."""
    return not rules.lexicon.nested and covered > 0 and len(term) <= covered


def _last_repeats(offers: Sequence[Mapping[int, tuple[str, float]]]) -> dict[str, int]:
    """The last place of each term that can be credited at two places or more."""
    places: dict[str, set[int]] = {}
    for t, offer in enumerate(offers):
        for term, delta in offer.values():
            if delta > 0.0:
                places.setdefault(term, set()).add(t)
    return {term: max(at) for term, at in places.items() if len(at) > 1}


def _optimistic(
    offers: Sequence[Mapping[int, tuple[str, float]]], cost: Mapping[int, float]
) -> list[float]:
    """An upper bound of what the steps from each place on can add, [T + 1] reward."""
    hope, total = [], 0.0
    for offer in reversed(offers):
        total += max((offer[cap][1] if cap in offer else 0.0) - cost[cap] for cap in cost)
        hope.append(total)
    return hope[::-1]


def _advance(
    state: _State, t: int, hit: tuple[str, float] | None, again: Mapping[str, int], rules: Rules
) -> tuple[float, _State]:
    """Credit of step `t` and the state after it; counts that nothing can ask for are forgotten."""
    covered, counts = state
    gain = 0.0
    if hit is not None and hit[1] > 0.0 and not _blocked(covered, hit[0], rules):
        term, delta = hit
        known = dict(counts)
        gain = delta * rules.lexicon.repeat ** known.get(term, 0)
        covered = max(covered, len(term))
        if term in again:
            counts = tuple(sorted((known | {term: known.get(term, 0) + 1}).items()))
    counts = tuple(pair for pair in counts if again[pair[0]] > t)
    return gain, (max(0, covered - 1), counts)
