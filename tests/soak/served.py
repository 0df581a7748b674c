"""A server in a process of its own over the real engine and a scripted executor, and its ledger when it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = textwrap.dedent("""
    import json, logging, sys
    from tests.api.running import NUM_BLOCKS, TinyModel
    from tripos.api.http import connection as protocol
    from tripos.api.http.server import serve
    from tripos.config import ServerOptions
    from tripos.controls.deadline import deadline
    from tripos.controls.limits import limits
    from tripos.service import Service
    logging.getLogger("tripos.access").setLevel(logging.WARNING)
    protocol.STALL_S = float(sys.argv[2])
    service, tiny = Service(), TinyModel(window=int(sys.argv[1]))
    service.add(tiny, (limits(max_model_len=tiny.card.max_model_len), deadline()))
    serve(service, ServerOptions(port=0), on_ready=lambda address: print(address, flush=True))
    tiny.engine.pool.check_integrity()
    print(json.dumps({"held": tiny.num_held, "free": tiny.engine.pool.num_available, "all": NUM_BLOCKS}))
""")


class Server:
    """`process` listens on `port`."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    @property
    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def served(window: int = 64, stall_s: float = 30.0) -> Iterator[Server]:
    """Stopped by SIGTERM; then it must have exited with 0, holding nothing, without a traceback. `stall_s`: how long a
    client may not read.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(window), str(stall_s)], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield Server(process, int(process.stdout.readline().rpartition(":")[2]))
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    ledger = json.loads(out.splitlines()[-1])
    assert ledger == {"held": 0, "free": ledger["all"], "all": ledger["all"]}
    assert process.returncode == 0
    assert "Traceback" not in err, err[-3000:]
