"""The environment: one batched step, and what stands around it.

Seen: spec (what an actor sees, what critics see, the glossary), vocabulary (characters and ids),
questions (what an actor sees of one), sketch (what lies further back), mask (A(s) as packed bits).
Stepped: settings (the numbers of the step), world (frozen tables of corpus, catalog, config),
tables (answers and terms as arrays), reward (one function a term), kernel (the compiled step), core
(the batched step), freehand (answers without a teacher), reference (the step, naive: the
definition); on a GPU device (the batched step), device_kernel (one launch), device_parts (of it).
Told: records (a finished episode as columns), collect (its steps until then), typeset (its lines,
compiled), decimals (a number's digits), scan (decisions out of lines), rerun (whole episodes from
decisions), derive and derive_generation (lines in, differences out), difference (what they say),
pool (a whole run derived in processes), conformance (cases).
Offered: lexical (gymnasium.Env), vector (gymnasium.vector.VectorEnv).
"""
