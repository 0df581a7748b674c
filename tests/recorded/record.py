"""Records the answers of the installed server anew: python -m tests.recorded.record [GROUP ...]

Run it only when an answer is meant to change, and read the difference before it is committed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.recorded.replay import ANSWERS, replay


def main(groups: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        answers = replay(Path(folder).resolve())
    ANSWERS.mkdir(exist_ok=True)
    for group, records in answers.items():
        if not groups or group in groups:
            lines = [json.dumps(record, ensure_ascii=False, separators=(",", ":")) for record in records]
            (ANSWERS / f"{group}.jsonl").write_text("\n".join(lines) + "\n")
            print(f"{group}: {len(records)} answers")


if __name__ == "__main__":
    main(sys.argv[1:])
