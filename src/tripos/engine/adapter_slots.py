"""The low-rank adapters of a language model: which are loaded, in which slot, and who still uses them.

Owns the slots. A slot is given again only when no call and no sequence uses what was in it; whoever came before an
unload or a reload is answered by what it came for. Knows nothing of files: `read` does that.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakSet

from tripos.engine.sequence import Sequence, Status
from tripos.errors import EngineFailed, InvalidRequest, NotFound, Overloaded
from tripos.plan.ir import Adapter
from tripos.runtime.executor import Executor
from tripos.types import AdapterInfo

if TYPE_CHECKING:
    from tripos.models.files.lora import ReadAdapter

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")  # no comma: metrics list them
SPARE_SLOTS = 1  # so that an adapter can be loaded anew while its old self is in use
DRAIN_CHECK_S = 0.01


@dataclass(eq=False)
class LoadedAdapter:
    """An adapter in its slot. `sequences`: those that were made with it and still exist, ended or not."""

    info: AdapterInfo
    slot: int
    num_calls: int = 0
    sequences: WeakSet[Sequence] = field(default_factory=WeakSet)

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def is_idle(self) -> bool:
        return not self.num_calls and all(sequence.is_finished for sequence in self.sequences)

    def has(self, *statuses: Status) -> bool:
        return any(sequence.status in statuses for sequence in self.sequences)


class Adapters:
    """Loads and unloads, from any thread. The executor must have max_adapters + SPARE_SLOTS slots."""

    def __init__(self, executor: Executor, max_adapters: int, read: Callable[[str], ReadAdapter]) -> None:
        """`read(path)` raises ModelRefused for what cannot be used."""
        self.max_adapters = max_adapters
        self._executor = executor
        self._read = read
        self._free = list(range(max_adapters + SPARE_SLOTS - 1, -1, -1))
        self._loading: set[str] = set()
        self._named: dict[str, LoadedAdapter] = {}
        self._draining: list[LoadedAdapter] = []
        self._lock = threading.RLock()
        self._executor_lock = threading.Lock()  # against closing while an adapter is packed
        self._is_closed = False

    @property
    def loaded(self) -> list[LoadedAdapter]:
        return list(self._named.values())

    def load(self, name: str, path: str, *, in_place: bool = False) -> LoadedAdapter:
        """Read an adapter into a free slot; `in_place`: in the stead of the one of that name. Takes as long as reading.

        Raises ModelRefused, InvalidRequest (name, too many), Overloaded (all slots still in use) and EngineFailed (the
        model was unloaded meanwhile).
        """
        slot = self._take_slot(name, in_place)
        try:
            found = self._read(path)
            self._put(slot, found.modules)
        except BaseException:
            with self._lock:
                self._loading.discard(name)
                self._free.append(slot)
                self._reap()
            raise
        loaded = LoadedAdapter(AdapterInfo(name=name, digest=found.digest, num_parameters=found.num_parameters), slot)
        with self._lock:
            self._loading.discard(name)
            self._retire(name)
            self._named[name] = loaded
            self._reap()
        return loaded

    def close(self) -> None:
        """Touch the executor no more. Waits for an adapter that is being packed."""
        with self._executor_lock:
            self._is_closed = True

    def _put(self, slot: int, modules: Adapter) -> None:
        with self._executor_lock:
            if self._is_closed:
                raise EngineFailed("the model was unloaded while its adapter was read", retry_after_s=1.0)
            self._executor.load_adapter(slot, modules)

    def _take_slot(self, name: str, in_place: bool) -> int:
        if not NAME.fullmatch(name):
            message = (
                "an adapter's name has 1 to 128 characters of A-Z a-z 0-9 . _ : / @ -, the first a letter or digit"
            )
            raise InvalidRequest(message, param="lora_name")
        with self._lock:
            self._reap()
            if name in self._loading or (name in self._named and not in_place):
                how = "is being loaded" if name in self._loading else "is loaded: unload it first, or set load_inplace"
                raise InvalidRequest(f"the adapter {name} {how}", code="already_loaded", param="lora_name")
            others = (self._named.keys() | self._loading) - {name}
            if len(others) >= self.max_adapters:
                message = f"{len(others)} adapters are loaded, at most {self.max_adapters} may be (--max-adapters)"
                raise InvalidRequest(f"{message}: unload one", code="too_many_items", param="lora_name")
            if not self._free:
                message = "adapters that were unloaded still answer requests: retry when these have ended"
                raise Overloaded(message, retry_after_s=1.0)
            self._loading.add(name)
            return self._free.pop()

    def unload(self, name: str) -> LoadedAdapter:
        """Take no new calls for it; its slot comes free with its last one. Raises NotFound."""
        with self._lock:
            loaded = self._named.get(name)
            if loaded is None:
                raise NotFound(f"no adapter is named {name!a:.64}: loaded are {', '.join(self._named) or 'none'}")
            self._retire(name)
            self._reap()
        return loaded

    async def drained(self, loaded: LoadedAdapter) -> None:
        """Until nothing uses an unloaded adapter and its slot is free."""
        import asyncio

        while loaded in self._draining:
            with self._lock:
                self._reap()
            await asyncio.sleep(DRAIN_CHECK_S if loaded in self._draining else 0)

    def find(self, key: str) -> LoadedAdapter:
        """The adapter of a name or, of an `AdapterInfo.key`, that very one while it is there; then whichever has its
        name, for a call may come between a reload in place and the news of it. Raises NotFound.
        """
        name, _, digest = key.partition(",")
        with self._lock:
            current = [self._named[name]] if name in self._named else []
            known = [*current, *(each for each in self._draining if each.name == name)]
            loaded = next((each for each in known if each.info.digest == digest), known[0] if known else None)
            if loaded is None:
                raise NotFound(f"the adapter {name!a:.130} is not loaded", code="model_not_found", param="model")
            return loaded

    def attach(self, loaded: LoadedAdapter, sequences: list[Sequence]) -> None:
        """Note who uses an adapter that `find` gave. Raises NotFound when it is gone since."""
        with self._lock:
            if loaded not in (self._named.get(loaded.name), *self._draining):
                raise NotFound(f"the adapter {loaded.name} is not loaded", code="model_not_found", param="model")
            loaded.sequences.update(sequences)

    def enter(self, key: str) -> LoadedAdapter:
        """Find an adapter and keep it for one call, until `leave`. Raises NotFound."""
        with self._lock:
            loaded = self.find(key)
            loaded.num_calls += 1
            return loaded

    def leave(self, loaded: LoadedAdapter) -> None:
        """The call that entered has ended."""
        with self._lock:
            loaded.num_calls -= 1
            self._reap()

    def using(self, *statuses: Status) -> tuple[str, ...]:
        """Names of the adapters of sequences in these states, sorted."""
        with self._lock:
            known = [*self._named.values(), *self._draining]
            return tuple(sorted({each.name for each in known if each.has(*statuses)}))

    def _retire(self, name: str) -> None:
        if (old := self._named.pop(name, None)) is not None:
            self._draining.append(old)

    def _reap(self) -> None:
        """Free the slots of adapters that nothing uses any more. Never waits: `load` does it after packing."""
        idle = [each for each in self._draining if each.is_idle]
        if not idle or not self._executor_lock.acquire(blocking=False):
            return
        try:
            for loaded in idle:
                if not self._is_closed:
                    self._executor.load_adapter(loaded.slot, {})
                self._draining.remove(loaded)
                self._free.append(loaded.slot)
        finally:
            self._executor_lock.release()
