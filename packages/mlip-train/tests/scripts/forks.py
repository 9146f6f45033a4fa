"""Runs a script several times, each in a fork of this process, so that a run costs no imports.

Arguments are conftest.py, the script, and the runs in JSON: the arguments of each, its variables of the environment and
a file for its standard error. The exit status is written to that name with `.status`.
"""

import json
import os
import runpy
import sys
import traceback
from pathlib import Path

import lightning.pytorch
import prelude

import mlip_train._fit

assert lightning.pytorch and mlip_train._fit and prelude.toys.ToyModel.model_name == "toy"


def run(script, arguments, environment, errors):
    """Run the script in this process as its own, then exit."""
    status = 1
    try:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
        os.environ.update(environment)
        sys.argv[:] = [script, sys.argv[1], *arguments]
        runpy.run_path(script, run_name="__main__")
        status = 0
    except SystemExit as e:
        status = e.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    for arguments, environment, errors in json.loads(sys.argv[3]):
        pid = os.fork()
        if not pid:
            run(sys.argv[2], arguments, environment, errors)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        Path(errors + ".status").write_text(str(status))
