"""msgspec is imported fast, and safely."""

from __future__ import annotations

import signal
import subprocess
import sys

from labctl.lab.client.nursery import search_path
from labctl.structs import Struct, replace

INTERRUPTED = """
import os, signal, sys
class Interrupt:  # as Ctrl-C at this moment
    def find_spec(self, name, path=None, target=None):
        if name == "datetime":
            os.kill(os.getpid(), signal.SIGINT)
assert "datetime" not in sys.modules
sys.meta_path.insert(0, Interrupt())
try:
    import labctl.structs
except KeyboardInterrupt:
    print("interrupted")
from labctl.structs import to_builtins
print(to_builtins({"a": (1, 2.5)}))
"""


def test_ctrl_c_while_msgspec_is_imported_is_neither_lost_nor_a_crash() -> None:
    program = f"import sys; sys.path[:0] = {search_path()!r}\n{INTERRUPTED}"
    ended = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "interrupted\n{'a': (1, 2.5)}\n"), ended.stderr


def test_a_struct_is_a_value_and_no_signal_stays_blocked() -> None:
    class Point(Struct, frozen=True):
        x: int
        y: int = 0

    assert replace(Point(1), y=2) == Point(1, 2)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM} == set()
