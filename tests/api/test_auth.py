"""With a key configured, everything needs it but /livez and /readyz."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.api.running import TinyModel, error_code, running
from tripos.api.auth import Keys, read_keys
from tripos.api.routes import ROUTES
from tripos.errors import ConfigError, EnvironmentProblem, Unauthorized

KEY, OTHER = "k" * 32, "o" * 32
PUBLIC = {"/livez", "/readyz"}
WRONG = [
    ({}, "missing_api_key"),
    ({"authorization": ""}, "missing_api_key"),
    ({"authorization": "Bearer"}, "invalid_api_key"),
    ({"authorization": "Bearer " + "x" * 32}, "invalid_api_key"),
    ({"authorization": "Basic " + KEY}, "invalid_api_key"),
    ({"authorization": "Bearer " + KEY + "x"}, "invalid_api_key"),
    ({"authorization": "Bearer ' OR 1=1 --"}, "invalid_api_key"),
    ({"authorization": "Bearer " + "k" * 5000}, "invalid_api_key"),
    ({"x-api-key": ""}, "missing_api_key"),
    ({"x-api-key": "x" * 32}, "invalid_api_key"),
    ({"x-api-key": "Bearer " + KEY}, "invalid_api_key"),
    ({"x-api-key": KEY, "authorization": "Bearer " + KEY}, "invalid_api_key"),
]
RIGHT = [{"authorization": f"bearer {KEY}"}, {"authorization": f"Bearer {OTHER}"}, {"x-api-key": KEY}]


def test_only_the_probes_are_public() -> None:
    assert {route.path for route in ROUTES if route.is_public} == PUBLIC


async def test_every_route_asks_for_the_key() -> None:
    async with running(TinyModel(), keys=Keys([KEY, OTHER])) as server:
        for route in ROUTES:
            path = route.path.replace("{name:path}", "tiny").replace("{name}", "tiny")
            for headers, code in WRONG:
                response = await server.http.request(route.method, path, headers=headers)
                if route.is_public:
                    assert response.status_code == 200
                else:
                    assert (response.status_code, error_code(response)) == (401, code), (path, headers)
            for headers in (
                {"authorization": f"bearer {KEY}"},
                {"authorization": f"Bearer {OTHER}"},
                {"x-api-key": KEY},
            ):
                response = await server.http.request(route.method, path, headers=headers)
                assert response.status_code != 401, path


@pytest.mark.parametrize("path", ["/V1/models", "//v1/models", "/v1/./models", "/v1/%6dodels", "/v1/models?key=" + KEY])
async def test_no_spelling_of_a_path_goes_round_the_key(path: str) -> None:
    async with running(TinyModel(), keys=Keys([KEY])) as server:
        answer = await server.raw(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        assert answer.split()[1] in (b"401", b"404")


async def test_two_authorization_headers_are_none() -> None:
    async with running(TinyModel(), keys=Keys([KEY])) as server:
        header = f"authorization: Bearer {KEY}\r\n"
        answer = await server.raw(
            f"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{header}{header}\r\n".encode()
        )
        assert answer.split()[1] == b"401"


async def test_one_key_does_not_see_the_prefixes_of_another(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with running(TinyModel(), keys=Keys([KEY, OTHER])) as server:

        async def cached(key: str) -> int:
            body = {"model": "tiny", "prompt": "x" * 100, "max_tokens": 1}
            response = await server.post("/v1/completions", body, authorization=f"Bearer {key}")
            count: int = response.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
            return count

        assert await cached(KEY) == 0
        assert await cached(KEY) > 0
        assert await cached(OTHER) == 0
    assert KEY not in caplog.text


def test_keys_are_kept_as_digests_only() -> None:
    assert KEY not in repr(vars(Keys([KEY])))


def test_keys_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}\n\n{OTHER}\n")
    keys = read_keys(str(file))
    assert keys.principal([(b"authorization", f"Bearer {KEY}".encode())]) != keys.principal(
        [(b"x-api-key", OTHER.encode())]
    )
    with pytest.raises(Unauthorized):
        keys.principal([(b"authorization", b"Bearer " + b"x" * 32)])


@pytest.mark.parametrize("text", ["", "# none\n", "short\n", "a b" * 10 + "\n"])
def test_a_file_without_usable_keys_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(ConfigError):
        read_keys(str(file))


def test_a_file_that_cannot_be_read_is_an_environment_problem(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem):
        read_keys(str(tmp_path / "absent"))
