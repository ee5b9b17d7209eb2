"""Tensor routines without recommender concepts: softmax, pooling, optimisers, prefetching, ragged arrays."""
