"""Settings file, console, errors, signals, worker processes."""
