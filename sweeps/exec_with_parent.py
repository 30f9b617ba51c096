"""Executes a command pinned to cores; on Linux it gets SIGTERM when its parent dies.

    python -I sweeps/exec_with_parent.py PARENT CORES COMMAND...

PARENT is the process id of the parent; CORES are core numbers such as 0,1, or empty for all.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, cores, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it died before prctl
            sys.exit(128 + signal.SIGTERM)
        if cores:
            os.sched_setaffinity(0, map(int, cores.split(",")))
    os.execvp(command[0], command)
