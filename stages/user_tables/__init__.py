"""Read, check and encode the user's tables."""
