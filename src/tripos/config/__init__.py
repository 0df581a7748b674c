"""Settings: flags, environment and tripos.toml → option structs. The only reader of TRIPOS_ variables.

One exception, so that the library also obeys them: runtime/native.py reads TRIPOS_ISA, TRIPOS_NATIVE_LIBRARY
and TRIPOS_PROFILE.
Owns names, defaults, ranges and units of every setting (options.py); refuses to know what the settings do.
Tested in tests/unit/test_config.py.
"""

from tripos.config.file import DEFAULT_FILE as DEFAULT_FILE
from tripos.config.file import find_file as find_file
from tripos.config.options import DEFAULT_MODEL as DEFAULT_MODEL
from tripos.config.options import LIVE_SETTINGS as LIVE_SETTINGS
from tripos.config.options import NATIVE_VARIABLES as NATIVE_VARIABLES
from tripos.config.options import PREFIX as PREFIX
from tripos.config.options import STAGES as STAGES
from tripos.config.options import DeadlineStage as DeadlineStage
from tripos.config.options import LimitsStage as LimitsStage
from tripos.config.options import ModelOptions as ModelOptions
from tripos.config.options import NeedOptions as NeedOptions
from tripos.config.options import RouteOptions as RouteOptions
from tripos.config.options import Rule as Rule
from tripos.config.options import ServerOptions as ServerOptions
from tripos.config.options import ServiceOptions as ServiceOptions
from tripos.config.options import StageOptions as StageOptions
from tripos.config.options import flag as flag
from tripos.config.options import flags as flags
from tripos.config.options import settings as settings
from tripos.config.options import tables as tables
from tripos.config.options import variable as variable
from tripos.config.read import effective as effective
from tripos.config.read import model_options as model_options
from tripos.config.read import read_environment as read_environment
from tripos.config.read import read_options as read_options
from tripos.config.values import hint as hint
from tripos.config.values import parse as parse
from tripos.config.values import parse_bytes as parse_bytes
