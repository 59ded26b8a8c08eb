"""The lexicon: which spans are terms, what they are worth, and what may never be written.

Catalog: entries (the file, loaded), columns (the same by column), defects (what makes it none),
weights (idf x Zipf x two-character), sources (term lists and background frequencies), build (a
catalog from them), coverage (what terms cover of texts).
Matching: reference (the hit, naive: the definition), index (the same, fast and frozen), learned (a
filter before it), gate (similarity of windows), bits (packed sets), banned (automaton over the
emitted text), compiled (what Numba compiles, cached).
Versions: store (one switch after everything that can fail), switches (the journal of them), inbox
(how new ones come in), aside (large ones are checked in a process of their own), signature
(Ed25519, optional), meaning (an id names one term for ever), changes (what a new one changes).
"""
