"""The lexicon: which spans are terms, what they are worth, and what may never be written.

Files: entries (the catalog file, loaded and checked), weights (idf x Zipf x two-character),
reference (the hit, naive: the definition), index (the same, fast and frozen), gate (similarity of
windows), banned (automaton over the emitted text), sources (term lists and background frequencies),
build (a catalog from them), store (versions in memory and on disk, hot swap).
"""
