"""A text whose encoding does not end: the loop, other models and the end of the server do not wait for it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from tripos.build.encoder import open_encoder_model
from tripos.config import ModelOptions
from tripos.models.files.source import open_source
from tripos.models.text import side_thread
from tripos.predict.encoder import INLINE_CHARS, EncoderModel
from tripos.runtime.reference import ReferenceExecutor
from tripos.types import Call, Embed, Event

GOLDEN = Path(__file__).parents[2] / "models" / "golden_encoders"


def loaded() -> EncoderModel:
    options = ModelOptions(source=str(GOLDEN / "static-mean"))
    return open_encoder_model(options, open_source(options.source), ReferenceExecutor).load(1 << 40)


async def events(model: EncoderModel, text: str) -> list[Event]:
    call = Call(id="0", route="x", request=Embed(inputs=(text,), truncate_to=0))
    return [event async for event in model.run(call)]


async def test_others_answer_while_one_text_never_becomes_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_thread, "GRACE_S", 0.05)
    stuck, other, gate = loaded(), loaded(), threading.Event()
    await stuck.start()
    await other.start()

    def encode_all(texts: Any) -> Any:
        gate.wait()
        return []

    monkeypatch.setattr(stuck.tokenizer, "encode_all", encode_all)
    waiting = asyncio.create_task(events(stuck, "card " * INLINE_CHARS))
    while not stuck._waiting.num_chars:
        await asyncio.sleep(0)
    assert len(await events(other, "card " * INLINE_CHARS)) == 2
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await stuck.stop()
    await other.stop()
    gate.set()
