"""The configuration of a run: every setting, and how files and the command line change it.

Defaults come first, then a TOML file, then --set. A setting has one dotted name everywhere:
`loss.margin` in files, on the command line, in search spaces, studies and reports.
"""

from distributed.config.changes import (
    RENAMED,
    apply_changes,
    changes_from_defaults,
    check_exists,
    find_settings,
    flatten,
    setting_fields,
)
from distributed.config.settings import (
    AGGREGATIONS,
    CACHE_MODES,
    LEAST_BATCH,
    MIN_ROWS_PER_OWN_NORM,
    OPTIMISERS,
    SAMPLERS,
    STREAM_ENGINES,
    Config,
    DataConfig,
    InferenceConfig,
    OptimConfig,
    ScalingConfig,
    StageConfig,
    split_list,
)
from distributed.config.sources import (
    by_dotted_name,
    describe_settings,
    load_config,
    parse_assignments,
    read_config_file,
    settings_file,
    to_toml,
)

__all__ = [
    "AGGREGATIONS",
    "CACHE_MODES",
    "LEAST_BATCH",
    "MIN_ROWS_PER_OWN_NORM",
    "OPTIMISERS",
    "RENAMED",
    "SAMPLERS",
    "STREAM_ENGINES",
    "Config",
    "DataConfig",
    "InferenceConfig",
    "OptimConfig",
    "ScalingConfig",
    "StageConfig",
    "apply_changes",
    "by_dotted_name",
    "changes_from_defaults",
    "check_exists",
    "describe_settings",
    "find_settings",
    "flatten",
    "load_config",
    "parse_assignments",
    "read_config_file",
    "setting_fields",
    "settings_file",
    "split_list",
    "to_toml",
]
