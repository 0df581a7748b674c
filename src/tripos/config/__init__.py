"""Settings: flags, environment and tripos.toml → option structs. The only reader of TRIPOS_ variables.

One exception, so that the library also obeys them: runtime/native.py reads TRIPOS_ISA, TRIPOS_NATIVE_LIBRARY
and TRIPOS_PROFILE.
Owns names, defaults, ranges and units of every setting (options.py); refuses to know what the settings do.
Tested in tests/unit/test_config.py.
"""

from tripos.config.file import DEFAULT_FILE, find_file
from tripos.config.options import (
    DEFAULT_MODEL,
    LIVE_SETTINGS,
    NATIVE_VARIABLES,
    PREFIX,
    STAGES,
    DeadlineStage,
    LimitsStage,
    ModelOptions,
    NeedOptions,
    RouteOptions,
    Rule,
    ServerOptions,
    ServiceOptions,
    StageOptions,
    flag,
    flags,
    settings,
    tables,
    variable,
)
from tripos.config.read import effective, model_options, read_environment, read_options
from tripos.config.values import hint, parse, parse_bytes

__all__ = [
    "DEFAULT_FILE",
    "DEFAULT_MODEL",
    "LIVE_SETTINGS",
    "NATIVE_VARIABLES",
    "PREFIX",
    "STAGES",
    "DeadlineStage",
    "LimitsStage",
    "ModelOptions",
    "NeedOptions",
    "RouteOptions",
    "Rule",
    "ServerOptions",
    "ServiceOptions",
    "StageOptions",
    "effective",
    "find_file",
    "flag",
    "flags",
    "hint",
    "model_options",
    "parse",
    "parse_bytes",
    "read_environment",
    "read_options",
    "settings",
    "tables",
    "variable",
]
