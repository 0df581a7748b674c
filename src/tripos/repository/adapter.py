"""LoRA adapters: each is served under its own name by the model that loaded it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tripos.errors import InvalidRequest, shown
from tripos.service import Service
from tripos.types import AdapterInfo, Call, Event, Generate, ModelCard, Run

if TYPE_CHECKING:
    from tripos.repository.entry import Entry


@dataclass(frozen=True)
class Adapter:
    """A loaded adapter and the card of its route."""

    info: AdapterInfo
    card: ModelCard

    @classmethod
    def of(cls, base: ModelCard, info: AdapterInfo) -> Adapter:
        card = replace(
            base,
            name=info.name,
            parent=base.name,
            digest=info.digest,
            num_parameters=base.num_parameters + info.num_parameters,
            created=int(time.time()),
            max_adapters=0,
            adapters=(),
        )
        return cls(info, card)

    def stage(self, call: Call, run: Run) -> AsyncGenerator[Event, None]:
        """The innermost stage of the adapter's route: selects the adapter in the request."""
        if isinstance(call.request, Generate):
            call = replace(call, request=replace(call.request, adapter=self.info.key))
        return run(call)


def find_adapted(base: str, entries: Mapping[str, Entry], service: Service) -> Entry:
    """The entry whose model a new adapter is loaded into; `base` may be left out where there is one language model.

    Raises InvalidRequest, and NotFound and EngineFailed for a name that is not served.
    """
    models = {entry.name: entry.model for entry in entries.values() if entry.model is not None}
    able = [name for name, model in models.items() if model.card.task == "generate"]
    found = able
    if base:
        is_adapter, model = bool(service.card(base).parent), service.model(base)
        found = [name for name in able if models[name] is model and not is_adapter]
    if len(found) != 1:
        cause = f"{shown(base)} takes no adapters" if base else "say which model the adapter is for"
        listed = ", ".join(name for name in able if models[name].card.max_adapters) or "none"
        raise InvalidRequest(f"{cause}; these take some: {listed}", param="base_model_name")
    if not models[found[0]].card.max_adapters:
        raise InvalidRequest(f"{found[0]} takes no adapters: start the server with --max-adapters")
    return entries[found[0]]


def check_adapter_name(name: str, entry: Entry, in_place: bool, entries: Mapping[str, Entry], service: Service) -> None:
    """Raises InvalidRequest when a new adapter of `entry` cannot be served under `name`."""
    if name in service.routes and not (in_place and name in entry.adapters):
        is_adapter = any(name in each.adapters for each in entries.values())
        hint = "unload it first, or set load_inplace" if is_adapter else "choose another name"
        raise InvalidRequest(f"{shown(name)} is served already: {hint}", code="already_loaded", param="lora_name")
