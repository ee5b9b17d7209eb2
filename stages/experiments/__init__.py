"""Commands that train many models: tune and ablate."""
