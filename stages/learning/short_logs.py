"""The batch for a short log, and a warning of too few steps."""

from dataclasses import replace

from stages.terminal import console, settings_file

from .settings import TrainSettings

FEW_STEPS = 500  # in all epochs together; with fewer, a model is still close to its first weights
ENOUGH_STEPS = 80  # in one epoch


def largest_batch(interactions: int) -> int:
    """Return the largest power of two that gives an epoch ENOUGH_STEPS steps; at least 32."""
    return max(32, 1 << max(interactions // ENOUGH_STEPS, 1).bit_length() - 1)


def warn_of_few_steps(rows: int, settings: TrainSettings) -> None:
    """Warn if a short log gives too few steps to learn from, and name flags that give more."""
    steps = max(rows // settings.batch_size, 1)
    if settings.ssl and settings.ssl_every > steps:
        console.warn(
            f"an epoch has {steps} step{'s' * (steps > 1)} and the self-supervised task is in one of every "
            f"{settings.ssl_every} steps: some epochs lack it; try --ssl-every {steps}"
        )
    if steps * settings.epochs >= FEW_STEPS:
        return
    size = min(largest_batch(rows), settings.batch_size)
    epochs = max(settings.epochs, -(-2 * FEW_STEPS // max(rows // size, 1)))
    better = replace(settings, batch_size=size, epochs=epochs, patience=max(settings.patience, epochs // 4))
    changed = {
        name: getattr(better, name)
        for name in ("batch_size", "epochs", "patience")
        if getattr(better, name) != getattr(settings, name)
    }
    flags = [part for name, value in changed.items() for part in settings_file.flags(name, value)]
    console.warn(
        f"{rows:,} interactions are {steps} step{'s' * (steps > 1)} an epoch at --batch-size {settings.batch_size}, "
        f"{steps * settings.epochs} in all: too few to learn from; "
        f"try train {' '.join(flags)}, or the same under [train] of the settings file"
    )
