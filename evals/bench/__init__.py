"""Benchmarks of the classifier: published difficulty rules as baselines, and edits that must not matter."""
