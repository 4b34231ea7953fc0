"""Search spaces, one file for each theme.

Each file has a function `space(trial)` that suggests dotted settings by an Optuna trial.
"""
