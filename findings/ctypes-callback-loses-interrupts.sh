#!/usr/bin/env bash
# A Python function that C calls back does not catch what a signal's handler raises, though its whole body is one
# try/except BaseException: the handler runs at the function's start, before the try. ctypes then prints "Exception
# ignored", and the call into C goes on and returns as if nothing had been: Ctrl-C is lost.
#
# Seen: CPython 3.11 to 3.13, a signal at 100 moments of a qsort: most are lost, none of them by cffi 2.0.0, whose onerror
# is given the exception.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet cffi==2.0.0
cat > "$folder/sort.py" <<'PYTHON'
import ctypes
import platform
import signal
import sys
import threading
import time

import cffi

ROUNDS, NUMBERS = 100, list(range(5000, 0, -1))
ffi = cffi.FFI()
ffi.cdef("void qsort(void *, size_t, size_t, int (*)(const void *, const void *));")
qsort = ffi.dlopen(None).qsort
INTS = ctypes.POINTER(ctypes.c_int)
caught = []


class Interrupt(BaseException):
    pass


def handler(number, frame):
    raise Interrupt


def compare(a, b):
    try:
        return a[0] - b[0]
    except BaseException as error:
        caught.append(error)
        return 0


@ffi.callback("int(const void *, const void *)", onerror=lambda kind, error, trace: caught.append(error))
def compare_cffi(a, b):
    return compare(ffi.cast("int *", a), ffi.cast("int *", b))


def sort_ctypes(called=ctypes.CFUNCTYPE(ctypes.c_int, INTS, INTS)(compare)):
    ctypes.CDLL(None).qsort((ctypes.c_int * len(NUMBERS))(*NUMBERS), ctypes.c_size_t(len(NUMBERS)), ctypes.c_size_t(4), called)


def sort_cffi():
    qsort(ffi.new("int[]", NUMBERS), len(NUMBERS), 4, compare_cffi)


def num_lost(sort):
    ignored, around = [], 0
    sys.unraisablehook = ignored.append
    caught.clear()
    main = threading.get_ident()
    for i in range(ROUNDS):
        sender = threading.Thread(target=lambda: (time.sleep(i * 1e-4), signal.pthread_kill(main, signal.SIGUSR1)))
        try:
            sender.start()
            while sender.is_alive():
                sort()
            sender.join()
        except Interrupt:
            around += 1
        sender.join()
    print(f"{sort.__name__}: of {ROUNDS} signals {len(caught)} caught in the callback, {around} around the call, "
          f"{len(ignored)} lost")
    return len(ignored)


signal.signal(signal.SIGUSR1, handler)
print("CPython", platform.python_version(), "cffi", cffi.__version__)
lost, lost_cffi = num_lost(sort_ctypes), num_lost(sort_cffi)
sys.exit(not (lost > 0 and lost_cffi == 0))
PYTHON
"$folder/venv/bin/python" "$folder/sort.py"
