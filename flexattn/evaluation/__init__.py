"""How a student is judged: metrics, the exact optimum, statistics, the verdict and its page.

Answers: metrics (pure functions), decoding (greedy, nucleus), rows (one line an answer and regime),
bert (BERTScore by a local model), overlap (BLEU and chrF, beside).
Possible: optimum (what perfect copying earns at best), pairs (what fixed Lh and Lp would cost).
Arms: arms (runs of one, read from folders), compare (bounds over seeds and prompts), acceptance
(every KPI's verdict), beside (arms without rewards, goals), throughput (rounds of bench).
Shown: page (one self-contained HTML file), pictures (its SVG).
"""
