"""python -m tripos, and the command tripos: an interrupt ends it quietly while its modules are still read, too.

Tested in tests/repo/test_imports.py.
"""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from tripos.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
