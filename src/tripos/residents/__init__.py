"""Which models are in memory: load, unload and reload them while the others answer, within one memory budget."""

from tripos.residents.resident import Opening, Parts
from tripos.residents.residents import Residents

__all__ = ["Opening", "Parts", "Residents"]
