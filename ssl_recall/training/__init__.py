"""From (seed, epoch, step) to a batch, from a batch to a gradient step; the settings and the state of a training."""
