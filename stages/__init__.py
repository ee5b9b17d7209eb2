"""The staged offline jobs and their command line: files in, files out.

Jobs, in their order; each module is the subcommand of its name:
1. prepare: check and encode the user's tables, split the log
2. compute_popularity: count the training interactions of each item
3. compute_mi: measure the mutual information of each pair of item features
4. build_views: draw pairs of partial views of each item
5. train: train the two towers, with or without SSL
6. export_embeddings: write the vectors of items and queries
7. evaluate: measure recall of head, tail and cold items

Packages:
- user_tables: read, check and encode the user's own tables
- learning: from artifacts to a trained model
- experiments: tune and ablate, which train many models
- commands: init, run, status, clean and show-views
- run_folder: names, lock, publication and verified reading of artifacts
- terminal: settings file, console, errors, signals, worker processes
"""
