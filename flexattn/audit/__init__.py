"""What happened, in files that show any later change: the run folder, its log, their reading.

`schema` says what a line is, `lines` writes it, `chain` seals it (bytes and hashes, no files),
`folder` and `writer` put it on disk, `reader` reads it back, verifying. The log is tamper-evident,
not tamper-proof: whoever rewrites the whole folder is caught only by a head hash kept elsewhere.
"""
