"""flexattn: a teacher's terms, distilled into a student small enough to audit.

The way through the house, and who lives where:

    config      one strict YAML file           errors      one line for what a user can mend
    corpus      teacher answers                lexicon     catalog, hits, gate, banned terms
    env         the step, its reward, masks    attention   per-query windows; can be lifted out
    episode     run(env, policy) -> steps      agents      masked discrete SAC, checkpoints
    audit       log, seals, reading            evaluation  metrics, statistics, acceptance
    domain      corpus + catalog + world       experience  demonstrations and rollouts
    seeds       many runs side by side         job         one run, from folder to last line
    cluster     the same runs on Ray
    stages      A counts, B steers, C writes   training    the phases, step by step
    assess      what a student can do          resident    the phases on one GPU
    display     what a long training shows     jsontext    strict JSON
    generation  strategies, answers, their log
    memory      unused pages go back           live        new catalogs for a running training
    raw         raw tables become a corpus     diagnostics  what the heads do
    values      what each choice was worth     derivation  numbers derived again
    views       episodes for people to look at

Verbs, each `python -m flexattn.<verb>`: train, generate, replay, report, catalog, bench.
"""

from __future__ import annotations

from importlib.util import find_spec

__version__ = "0.1.0"

# attention can be used where the environment's libraries are not installed
if find_spec("gymnasium") is not None:
    from gymnasium.envs.registration import register

    register(
        id="flexattn/Lexical-v0",
        entry_point="flexattn.env.lexical:LexicalEnv",
        vector_entry_point="flexattn.env.vector:LexicalVectorEnv",
    )
