"""Model files changed at random: each is refused by file and field or loads, at once; no signal, no traceback."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.soak.model_files import Case, FileMutator, Model, lay, models

COUNT = 200  # of each seed; with --soak 50 twenty thousand in all
SEEDS = (9, 10)
MOST_CPU_S = 5.0  # for one case; of processor time, since the machine may be busy
MOST_WALL_S = 60.0  # what takes longer waits for something
ROOT = Path(__file__).resolve().parents[2]


class Child:
    """The process of opened.py, begun anew where it died."""

    def __init__(self, stderr: Path) -> None:
        self._stderr = stderr
        self._process: subprocess.Popen[str] | None = None

    def open(self, spec: Path) -> dict[str, Any]:
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{spec}\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            is_ready = selector.select(MOST_WALL_S)
        line = process.stdout.readline() if is_ready else ""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        if not is_ready:
            process.kill()
        self.close()
        status = process.returncode
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return {"outcome": "died" if is_ready else "hangs", "message": how, "cpu_s": 0.0}

    def _start(self) -> subprocess.Popen[str]:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with self._stderr.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.soak.opened"], cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
            )  # fmt: skip
        return self._process

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate(timeout=60)
            self._process = None


def names_file_and_field(message: str, case: Case) -> bool:
    """The refusal names the file that was changed, or one that no longer agrees with it, and what of it."""
    lacking = {"config.json", "model.safetensors"}  # what a directory without its first file is searched for
    names = {Path(name).name for name in case.model.files} | lacking
    _, _, reason = message.partition(": ")
    return any(name in reason for name in names) or "tensor " in reason


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Model]]:
    folder = tmp_path_factory.mktemp("honest")
    found = models(tmp_path_factory.mktemp("written"))
    for model in found:
        for name, data in model.files.items():
            (folder / model.name / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / model.name / name).write_bytes(data)
    return folder, found


def test_the_honest_ones_load(honest: tuple[Path, list[Model]], tmp_path: Path) -> None:
    folder, found = honest
    child = Child(tmp_path / "stderr")
    for model in found:
        answer = child.open(folder / model.name / model.source)
        assert answer["outcome"] == "loads", (model.name, answer)
    child.close()


@pytest.mark.soak
@pytest.mark.parametrize("seed", SEEDS)
def test_changed_files_are_refused_by_name_or_load(
    honest: tuple[Path, list[Model]], tmp_path: Path, soak: int, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, found = honest
    mutator, child = FileMutator(seed, found), Child(tmp_path / "stderr")
    outcomes: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    faults: list[str] = []
    longest_s = 0.0
    for i in range(COUNT * soak):
        case = mutator.draw()
        answer = child.open(lay(case, folder, tmp_path / "case"))
        outcomes[answer["outcome"]] += 1
        kinds[f"{Path(case.file).suffix[1:]} {case.how}"] += 1
        longest_s = max(longest_s, answer["cpu_s"])
        message = answer.get("message", "")
        is_fine = answer["outcome"] == "loads" or (
            answer["outcome"] == "refused" and names_file_and_field(message, case)
        )
        if not is_fine or answer["cpu_s"] > MOST_CPU_S:
            faults.append(f"{i} {case.model.name}/{case.file} {case.how} {answer}")
    child.close()
    with capsys.disabled():
        if soak > 1:
            print(f"\n{COUNT * soak:,} changed files: {dict(outcomes)}; at most {longest_s:.2f} s of processor time")
            print(f"by kind {dict(sorted(kinds.items()))}")
    stderr = (tmp_path / "stderr").read_text(errors="replace")
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults[:40])
    assert "Traceback" not in stderr, stderr[-3000:]
