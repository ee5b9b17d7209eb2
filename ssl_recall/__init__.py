"""Two-tower item retrieval with a self-supervised item tower: the mathematics, without files or flags.

Modules:
- popularity: share of each item in the training log, for the logQ correction
- mutual_information: mutual information between item features, in nats
- views: two corrupted views of every item
- neighbours: pairs of items that share a rare value
- towers: query tower and item tower over one embedding table
- losses: main loss, self-supervised loss, their weighted sum
- embedding: unit vectors of a catalogue and of its queries

Packages:
- data: codes, encoded tables, interactions, splits, stored views
- training: from (seed, epoch, step) to a batch, from a batch to a gradient step
- kernels: softmax, pooling, optimisers and prefetching, free of recommender concepts
- evaluation: exact retrieval, metrics, intervals, comparisons of models
"""
