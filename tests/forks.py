"""``train.py`` and other scripts as command lines, without a new interpreter for each run.

An interpreter takes three seconds of a processor to import torch and Lightning, and most runs of
the tests take less than one. So they are forks of a server, which has imported what ``train.py``
imports and has done nothing else. A test of imports, or of processes, starts one: ``anew=True``.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parents[1]
TRAIN = ROOT / "train.py"

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["imports_of_a_run"])


def start(*options, program=TRAIN, cwd=ROOT, anew=False, **environment):
    """Start a run, and return its process: a `subprocess.Popen`, or what has its methods."""
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("PL_")}
    environment = inherited | environment
    command = [str(program), *map(str, options)]
    if not anew:
        return Fork(command, cwd, environment)
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=take_ctrl_c,
    )


def take_ctrl_c():
    """Stop at a SIGINT; a shell has what it starts in the background ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def run(*options, **arguments):
    """Run to the end; return the exit code and what was printed."""
    process = start(*options, **arguments)
    try:
        output, _ = process.communicate(timeout=600)
    except subprocess.TimeoutExpired as late:
        process.kill()
        pytest.fail(f"it took more than {late.timeout} seconds:\n{late.output}")
    return process.returncode, output


class Fork:
    """A run in a fork of the server, with the methods of `subprocess.Popen`."""

    def __init__(self, command, cwd, environment):
        self.stdout = tempfile.NamedTemporaryFile("r")  # noqa: SIM115
        arguments = (command, str(cwd), dict(environment), self.stdout.name)
        self._process = _server.Process(target=_run, args=arguments)
        with mock.patch.dict(os.environ, environment):  # the first one starts the server
            self._process.start()

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("train.py", timeout, self.stdout.read())
        return self.returncode

    def communicate(self, timeout=None):
        self.wait(timeout)
        return self.stdout.read(), None

    def send_signal(self, number):
        if self.returncode is None:
            os.kill(self._process.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def _run(command, cwd, environment, output):
    """Be ``python *command``; this runs in the fork."""
    take_ctrl_c()
    with open(output, "ab", buffering=0) as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = command
    sys.path.insert(0, str(Path(command[0]).parent))
    try:
        runpy.run_path(command[0], run_name="__main__")
    finally:  # as an interpreter ends; multiprocessing would wait for joblib's idle workers before
        threading._shutdown()
        atexit._run_exitfuncs()
