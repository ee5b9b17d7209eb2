"""Simple baselines: sparse matrices in, scores and lists out.

The columns of every matrix are the items in the order of their popularity, the most popular first. So items with equal
scores, and items without a score, keep that order.
"""
