"""The model repository: which models are served, in which state, within one memory budget, while the others answer.

Tested in tests/api/test_admin.py, tests/api/test_reload.py and tests/api/test_loading.py.
"""

from tripos.repository.entry import LoadedModel as LoadedModel
from tripos.repository.entry import Opening as Opening
from tripos.repository.entry import Progress as Progress
from tripos.repository.entry import Table as Table
from tripos.repository.repository import ModelRepository as ModelRepository
from tripos.repository.settings import Builder as Builder
from tripos.repository.settings import ModelSpec as ModelSpec
from tripos.repository.settings import RouteSpec as RouteSpec
from tripos.repository.settings import Settings as Settings
