"""Exact retrieval over the whole catalogue, its metrics and intervals, and comparisons of models."""
