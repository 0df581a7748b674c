"""The model repository: which models are served, in which state, within one memory budget, while the others answer."""

from tripos.repository.entry import Opening
from tripos.repository.repository import ModelRepository
from tripos.repository.settings import Builder, ModelSpec, RouteSpec, Settings

__all__ = ["Builder", "ModelRepository", "ModelSpec", "Opening", "RouteSpec", "Settings"]
