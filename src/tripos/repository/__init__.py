"""The model repository: which models are served, in which state, within one memory budget, while the others answer.

Tested in tests/api/test_admin.py, tests/api/test_reload.py and tests/api/test_loading.py.
"""

from tripos.repository.entry import LoadedModel, Opening
from tripos.repository.repository import ModelRepository
from tripos.repository.settings import Builder, ModelSpec, RouteSpec, Settings

__all__ = ["Builder", "LoadedModel", "ModelRepository", "ModelSpec", "Opening", "RouteSpec", "Settings"]
