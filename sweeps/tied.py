"""Becomes the command it is given; on Linux, SIGTERM reaches that command when the process that
started it dies.

    python -I sweeps/tied.py STARTER CORES COMMAND...

STARTER is that process's id; CORES are those to stay on, such as 0,1, or empty for all.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    starter, cores, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(starter):  # it died before that
            sys.exit(128 + signal.SIGTERM)
        if cores:
            os.sched_setaffinity(0, map(int, cores.split(",")))
    os.execvp(command[0], command)
