"""Search spaces: one file a theme, each with a function `space(trial)` that asks an Optuna trial for dotted settings."""
