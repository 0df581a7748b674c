"""Another kind of model takes one request, one file and one registration, and is served as every other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.api.running import running_service
from tests.unit.build.transcriber import OpenedTranscriber, Transcribe
from tests.unit.models.files.writing import LLAMA_CONFIG, model_folder
from tripos.build import kinds
from tripos.build.service import build_repository
from tripos.config import ModelOptions, ServiceOptions
from tripos.errors import InvalidRequest
from tripos.pipeline.chain import result_of
from tripos.types import Call, Generate, known_requests

REGISTRATION = kinds.Registration(
    accepts=lambda config: config["architectures"] == ["SomeForTranscription"], open=OpenedTranscriber
)


async def test_a_new_kind_of_model_is_opened_served_and_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "KINDS", [REGISTRATION, *kinds.KINDS])
    folder = model_folder(tmp_path, config__json={**LLAMA_CONFIG, "architectures": ["SomeForTranscription"]})
    options = ServiceOptions(models=(ModelOptions(source=str(folder), name="ears"),))
    repository = build_repository(options)
    repository.fill(lambda phase, done: None, lambda rows: None)
    async with running_service(repository.service, repository=repository) as server:
        (listed,) = (await server.http.get("/v1/models")).json()["data"]
        assert (listed["id"], listed["task"]) == ("ears", "transcribe")
        call = Call(id="c", route="ears", request=Transcribe(audio=b"abc", language="English"))
        assert (await result_of(server.service.run(call))).texts == ("3 bytes in English",)
        with pytest.raises(InvalidRequest, match="ears transcribes recordings"):
            await result_of(server.service.run(Call(id="c", route="ears", request=Generate(prompt="x"))))
        assert (await server.http.get("/readyz")).status_code == 200
        assert (await server.post("/admin/models/reload", {"name": "ears"})).json()["state"] == "ready"
    assert Transcribe in known_requests()
