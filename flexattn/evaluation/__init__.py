"""How a student is judged: metrics, the exact optimum, statistics, the verdict and its page."""
