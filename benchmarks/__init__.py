"""What `python -m flexattn.bench SUITE` measures, one module a suite, peers in the same run."""
