"""Child processes that do not outlive their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
# Loaded now, as nothing can be loaded safely between fork and exec.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent(parent: int) -> bool:
    """Let the kernel kill this process when the thread that started it ends; True where it can (Linux).

    Args:
        parent: process id of the parent; where that has ended already, so does this process.
    """
    if _LIBC is None:
        return False
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    return True
