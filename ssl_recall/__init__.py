"""Two-tower item retrieval with a self-supervised item tower: the mathematics, without files or flags."""
