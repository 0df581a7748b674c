"""The files of this checkout, for the tests that read them."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = {".bin", ".gguf", ".gz", ".ico", ".npz", ".png", ".safetensors"}


def tracked(*suffixes: str, under: str = "") -> list[Path]:
    """Files that git tracks or would track, with one of the suffixes (or any)."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", under or "."]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in sorted(set(listed.split("\0"))) if name]
    return [path for path in paths if path.is_file() and (not suffixes or path.suffix in suffixes)]


def text_files() -> list[Path]:
    return [path for path in tracked() if path.suffix not in BINARY]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))
