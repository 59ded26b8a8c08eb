"""How questions become answers where no teacher is at hand: one file an idea, no network known.

request (who asks what), trace (every decision of answers written side by side), sampling (one
character at a time), beam (the likeliest answer), choosing (one of several), strategy (which of
these, with its numbers), ledger (the audit log of answers), explain (what a reader sees of one).
"""
