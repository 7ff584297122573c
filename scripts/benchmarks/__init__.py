"""What `scripts/benchmark.py` measures: one module per part of the work, and the plain way to compare with."""
