"""Run train.py in forks of a process that has its imports, which take most of a small run's time.

For each line on stdin, {"options": [...], "environment": {...}, "output": FILE}, it prints the
fork's number, and how the fork has ended.
"""

import json
import os
import runpy
import sys
from importlib import import_module

import train

import_module("matplotlib.backends.backend_agg")
import_module("torch.utils.tensorboard")

if __name__ == "__main__":
    for line in sys.stdin:
        given = json.loads(line)
        pid = os.fork()
        if not pid:  # leave the loop, and end as a program does
            break
        print("fork", pid, flush=True)
        print("exit", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    else:
        os._exit(0)

    os.environ |= given["environment"]
    output = os.open(given["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["train.py", *given["options"]]
    runpy.run_path(train.__file__, run_name="__main__")
