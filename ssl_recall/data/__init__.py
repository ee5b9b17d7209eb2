"""The data that the model reads: codes, vocabularies, encoded tables, interactions, splits, stored views."""
