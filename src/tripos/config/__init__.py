"""Settings: flags and environment → option structs. The only reader of TRIPOS_ variables.

One exception, so that the library also obeys them: runtime/native.py reads TRIPOS_ISA and TRIPOS_NATIVE_LIBRARY.
Owns names, defaults, ranges and units of every setting (options.py); refuses to know what the settings do.
"""

from tripos.config.options import (
    DEFAULT_MODEL,
    NATIVE_VARIABLES,
    PREFIX,
    ModelOptions,
    ServerOptions,
    ServiceOptions,
    flag,
    settings,
    variable,
)
from tripos.config.read import is_loopback, read_environment, read_options
from tripos.config.values import parse, parse_bytes

__all__ = [
    "DEFAULT_MODEL",
    "NATIVE_VARIABLES",
    "PREFIX",
    "ModelOptions",
    "ServerOptions",
    "ServiceOptions",
    "flag",
    "is_loopback",
    "parse",
    "parse_bytes",
    "read_environment",
    "read_options",
    "settings",
    "variable",
]
