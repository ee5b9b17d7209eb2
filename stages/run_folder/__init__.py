"""Run folders: layout, lock, manifest, staleness, publication."""
