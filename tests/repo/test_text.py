"""Nothing in the tree ties it to one machine, one registry or one person's folders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.repo.tree import ROOT, name_of, text_files

# Written in pieces so that this file does not match itself.
FORBIDDEN = re.compile(
    "|".join(["/work" + "/", "/root" + "/", "/ho" + r"me/\w", "/opt/" + "pypi", "pypi" + r"\.org", "python" + "hosted"])
)
HOSTS = re.compile(r"\bhttps?://([^/\s:\"'`)>\]}]+)")
ALLOWED_HOSTS = re.compile(
    r"127\.0\.0\.1|localhost|\[::1\]|\[?\{.*|testserver|test|a|[\w.-]*example(\.com|\.org)?|www\.apache\.org|arxiv\.org"
    r"|github\.com|huggingface\.co|json-schema\.org|\$.*|tripos;|app\.example;"
)


@pytest.mark.parametrize("path", text_files(), ids=name_of)
def test_text_names_no_machine_and_no_registry(path: Path) -> None:
    text = path.read_text(errors="replace")
    assert not FORBIDDEN.findall(text)
    if name_of(path) != "tests/repo/test_text.py":
        assert not [host for host in HOSTS.findall(text) if not ALLOWED_HOSTS.fullmatch(host)]


@pytest.mark.parametrize("name", ["runtime", "build", "cmake", "dev", "docs"])
def test_every_locked_distribution_has_a_version_and_hashes(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines
    assert not [line for line in lines if not re.match(r"\S+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)]
