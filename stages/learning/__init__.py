"""Train a model from the artifacts: settings, inputs, the fit, checkpoints, model files."""
