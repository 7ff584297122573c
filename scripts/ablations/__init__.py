"""The parts of scripts/ablation.py: rows, runs, tables, and figures on synthetic defects."""
