"""Writes requirements/*.txt: every distribution of each set, pinned with the hashes of all its files.

Run through `make lock`. Knows the sets, nothing about where packages come from.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent / "pyproject.toml"


def compile_set(name: str, lines: list[str], constraints: list[str], *flags: str) -> None:
    """Resolve `lines` together with the sets already locked, so that one environment can hold them all."""
    command = [str(Path(sys.executable).parent / "uv"), "pip", "compile", "--quiet", "--universal", "--generate-hashes"]
    command += ["--python-version", "3.11", "--no-header", "--no-annotate", "--no-emit-index-url", "-", *flags]
    for constraint in constraints:
        command += ["--constraint", str(HERE / f"{constraint}.txt")]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, cwd=HERE)
    if done.returncode != 0:
        sys.exit(done.stderr)
    (HERE / f"{name}.txt").write_text(f"# `make lock` wrote this.\n{done.stdout}")


def main() -> None:
    project = tomllib.loads(PROJECT.read_text())
    runtime = project["project"]["dependencies"]
    dev = project["project"]["optional-dependencies"]["dev"]
    compile_set("runtime", runtime, [])
    compile_set("build", project["build-system"]["requires"], ["runtime"])
    compile_set("cmake", ["cmake>=3.25,<5", "ninja>=1.11"], ["runtime", "build"])
    compile_set("dev", runtime + dev, ["runtime", "build"])
    compile_set("models", project["project"]["optional-dependencies"]["minilm"], [], "--no-deps")
    compile_set("docs", ["sphinx>=8", "myst-parser>=4"], [])


if __name__ == "__main__":
    main()
