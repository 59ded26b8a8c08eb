"""What a new version of a catalog changes: terms, weights, kinds, ids and bans."""

from __future__ import annotations

from dataclasses import dataclass

from flexattn.lexicon.entries import Catalog
from flexattn.lexicon.weights import term_weights


@dataclass(frozen=True)
class Changes:
    """From an old version to a new one, each change in words.

    Attributes:
      groups: title and changes, in the order in which they are shown.
      moved: ids that name another term than before, which no later version may do.
    """

    groups: tuple[tuple[str, list[str]], ...]
    moved: list[str]


def find_changes(old: Catalog, new: Catalog) -> Changes:
    """Compare two versions of one catalog."""
    before, after = old.by_term, new.by_term
    weight_before = dict(zip(before, term_weights(old.columns, old.documents)))
    weight_after = dict(zip(after, term_weights(new.columns, new.documents)))
    both = [term for term in after if term in before]
    moved = [
        f"{entry.id}: '{old.by_id[entry.id].term}' -> '{entry.term}'"
        for entry in new.entries
        if entry.id in old.by_id and old.by_id[entry.id].term != entry.term
    ]
    reweighted = [
        f"{term}: {weight_before[term]:.6f} -> {weight_after[term]:.6f}"
        for term in both
        if weight_before[term] != weight_after[term]
    ]
    of_another_kind = [
        f"{term}: {before[term].kind or '-'} -> {after[term].kind or '-'}"
        for term in both
        if before[term].kind != after[term].kind
    ]
    renumbered = [
        f"{term}: #{before[term].id} -> #{after[term].id}"
        for term in both
        if before[term].id != after[term].id
    ]
    groups = (
        ("added", [f"{term} #{after[term].id}" for term in after if term not in before]),
        ("removed", [f"{term} #{before[term].id}" for term in before if term not in after]),
        ("reweighted", reweighted),
        ("of another kind", of_another_kind),
        ("renumbered", renumbered),
        ("banned now", [text for text in new.banned if text not in old.banned]),
        ("no longer banned", [text for text in old.banned if text not in new.banned]),
        ("ids that name another term", moved),
    )
    return Changes(groups, moved)
