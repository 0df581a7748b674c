"""Which models are in memory: load, unload and reload them while the others answer, within one memory budget."""

from tripos.repository.entry import Opening, Parts
from tripos.repository.repository import Residents

__all__ = ["Opening", "Parts", "Residents"]
