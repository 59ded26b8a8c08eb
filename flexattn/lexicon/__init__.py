"""The lexicon: which spans are terms, what they are worth, and what may never be written.

Catalog: entries (the file, loaded), defects (what makes it none), weights (idf x Zipf x
two-character), sources (term lists and background frequencies), build (a catalog from them).
Matching: reference (the hit, naive: the definition), index (the same, fast and frozen), gate
(similarity of windows), bits (packed sets), banned (automaton over the emitted text).
Versions: store (one switch after everything that can fail), inbox (how new ones come in), aside
(large ones are checked in a process of their own), signature (Ed25519, optional).
"""
