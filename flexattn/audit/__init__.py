"""What happened, in files that show any later change: the run folder, its log, their reading.

Written: schema (what a line is), lines (its bytes), files and folder (where they lie), writer (in
the order of finished episodes), chain (seals), sha256, digests, merkle and tree (hashes of many
lines), alone (one process at a time), archive (compressed), recover (a torn end).
Read: cut, reader and aside (segments, verified), story (the order of events), verify (both in one
pass), findings, episodes, older (logs of the older form).
Shown and vouched for: printing, view, page, query; proof, note, vouching.

The log is tamper-evident, not tamper-proof: whoever rewrites the whole folder is caught only by a
head hash kept elsewhere.
"""
