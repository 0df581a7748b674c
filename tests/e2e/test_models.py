"""`tripos serve` with a service file, and `tripos models` beside it: real processes and engine, the demo model."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

KEY, ADMIN = "g" * 24, "a" * 24
FILE = """\
[server]
port = 0
memory = "512MiB"
api_key_file = "keys"

[models.one]
source = "demo:assistant"
max_sequences = 4

[models.later]
source = "demo:assistant"
max_sequences = 4
preload = false

[routes.alias]
model = "one"
"""


def tripos(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tripos", *arguments], cwd=folder, capture_output=True, text=True, timeout=60
    )


@dataclass
class Server:
    folder: Path
    url: str
    process: subprocess.Popen[str]

    def models(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return tripos(self.folder, "models", "--url", self.url, *arguments)

    def states(self) -> dict[str, str]:
        listed = self.models("list")
        assert listed.returncode == 0, listed.stderr
        rows = [line.split() for line in listed.stdout.splitlines()[1:-1]]
        return {row[0]: row[1] for row in rows}

    def ask(self, model: str) -> httpx.Response:
        body = {"model": model, "prompt": "Hello", "max_tokens": 2}
        headers = {"authorization": f"Bearer {KEY}"}
        return httpx.post(self.url + "/v1/completions", json=body, headers=headers, timeout=30, trust_env=False)

    def change(self, action: str, name: str) -> httpx.Response:
        url, headers = f"{self.url}/admin/models/{action}", {"authorization": f"Bearer {ADMIN}"}
        return httpx.post(url, json={"name": name}, headers=headers, timeout=30, trust_env=False)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def until(self, words: str) -> None:
        end_s = time.monotonic() + 30
        while words not in self.log():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < end_s, self.log()
            time.sleep(0.05)

    def size_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024

    def num_held(self) -> tuple[int, int]:
        """Threads, and descriptors without connections, which end when the server sees that their clients left."""
        folder = Path(f"/proc/{self.process.pid}")
        files = [os.readlink(each) for each in (folder / "fd").iterdir() if each.is_symlink()]
        return len(os.listdir(folder / "task")), sum(not file.startswith("socket:") for file in files)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    (folder / "tripos.toml").write_text(FILE)
    keys = folder / "keys"
    keys.write_text(f"{KEY}\n{ADMIN} admin\n")
    keys.chmod(0o600)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tripos", "serve"], cwd=folder, stderr=log, text=True, start_new_session=True
        )
    found = Server(folder, "", process)
    try:
        found.until("listening on ")
        found.url = re.findall(r"listening on (\S+)", found.log())[0]
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert "Traceback" not in found.log()


def test_models_come_and_go_and_give_back_what_they_took(server: Server) -> None:
    assert server.states() == {"one": "ready", "later": "unloaded"}
    assert [server.ask(name).status_code for name in ("one", "alias", "later")] == [200, 200, 404]

    for arguments in (("load", "later"), ("reload", "later", "--weights", "int8"), ("unload", "later")):
        done = server.models(*arguments)
        assert done.returncode == 0, done.stderr
        assert server.ask("later").status_code == (404 if arguments[0] == "unload" else 200)

    def once() -> None:
        for action in ("load", "reload", "unload"):
            assert server.change(action, "later").status_code == 200

    once()
    size_mib, before = server.size_mib(), server.num_held()
    for _ in range(3):
        once()
    assert server.num_held() == before
    assert server.size_mib() < size_mib + 8


def test_refusals_say_why_and_change_nothing(server: Server) -> None:
    for arguments, words in (
        (("load", "x", "/etc"), "model_roots"),
        (("load", "one"), "one is ready"),
        (("load", "x", "demo:absent"), "ships no such model"),
        (("unload", "later"), "not loaded"),
        (("unload", "nobody"), "no model is named"),
        (("load", "x", "demo:assistant", "--max-model-len", "9999999"), "context length"),
    ):
        done = server.models(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("tripos: ")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    assert server.states() == {"one": "ready", "later": "unloaded"}


def test_only_the_admin_key_may(server: Server) -> None:
    only = server.folder / "only"
    only.write_text(KEY + "\n")
    done = server.models("--api-key-file", str(only), "list")
    assert (done.returncode, "scope admin" in done.stderr) == (2, True)
    for key, status in ((KEY, 403), ("x" * 24, 401)):
        headers = {"authorization": f"Bearer {key}"}
        assert httpx.get(server.url + "/admin/models", headers=headers, trust_env=False).status_code == status


def test_a_signal_reads_the_file_again(server: Server) -> None:
    file = server.folder / "tripos.toml"
    file.write_text(FILE.replace("max_sequences = 4", "max_sequences = 8", 1).replace("[models.later]", "[models.new]"))
    server.process.send_signal(signal.SIGHUP)
    server.until("SIGHUP: reloaded: ['one']; unloaded: ['later']")
    assert server.states() == {"one": "ready", "new": "unloaded"}
    file.write_text(FILE + "modle = 1\n")
    server.process.send_signal(signal.SIGHUP)
    server.until("SIGHUP: nothing was changed: tripos.toml:17: ")
    done = server.models("reload")  # reads the same file itself
    assert (done.returncode, "did you mean model?" in done.stderr) == (2, True)
    file.write_text(FILE)
    done = server.models("reload")
    assert done.returncode == 0, done.stderr
    assert "reloaded: ['one']" in done.stdout
    assert server.states() == {"one": "ready", "later": "unloaded"}
    assert server.ask("alias").status_code == 200


def test_nobody_there_is_an_environment_problem(tmp_path: Path) -> None:
    for url, status in (
        ("http://127.0.0.1:9", 3),
        ("ftp://127.0.0.1", 2),
        ("http://127.0.0.1:x", 2),
        ("nonsense:x", 2),
        ("[::1", 2),
        ("unix:/no/such/socket", 3),
    ):
        done = tripos(tmp_path, "models", "--url", url, "list")
        assert done.returncode == status, done.stderr
        assert done.stderr.count("\n") == 1
        assert "--url" in done.stderr


def test_config_shows_and_checks(tmp_path: Path) -> None:
    (tmp_path / "tripos.toml").write_text(FILE.replace('api_key_file = "keys"\n', ""))
    shown = tripos(tmp_path, "config", "show", "--drain-s", "5")
    rows = {line.split()[0]: line.split()[1:] for line in shown.stdout.splitlines()}
    assert rows["server.memory"] == ["536870912", "tripos.toml:3"]
    assert rows["server.drain_s"] == ["5", "flag", "--drain-s"]
    assert rows["models.one.max_sequences"] == ["4", "tripos.toml:7"]
    checked = tripos(tmp_path, "config", "check")
    assert (checked.returncode, "2 models, 1 route:" in checked.stdout) == (0, True)
    small = tripos(tmp_path, "config", "check", "--memory", "1MiB")
    assert (small.returncode, "--memory" in small.stderr) == (4, True)
    (tmp_path / "tripos.toml").write_text(FILE)
    assert tripos(tmp_path, "config", "check").returncode == 3  # there is no key file
    assert tripos(tmp_path, "config", "show", "--config", "absent.toml").returncode == 2
