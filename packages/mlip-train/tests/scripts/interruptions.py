"""Interrupts a run at random moments and continues it; prints how each ended, and whether it equals a whole run.

Arguments are conftest.py, the configuration in JSON, the signal, the number of moments and a seed. Every run is a fork
of this process, so that a moment costs no imports.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from prelude import toys

from mlip_train import TrainConfig, fit, from_plain
from mlip_train.training import checkpoint

assert toys.ToyModel.model_name == "toy"


def start(plain):
    """Fork a process that runs fit and exits as the command line does."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        sys.stderr = open(os.devnull, "w")
        fit(from_plain(TrainConfig, plain))
        status = 0
    except KeyboardInterrupt as e:
        status = 128 + getattr(e, "signum", signal.SIGINT)
    finally:
        os._exit(status)


def end(pid):
    """Return the exit status as a shell gives it."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return 128 - code if code < 0 else code


def numbers(folder):
    """Everything that two equal runs share: the checkpoint but for times, and the bytes of the weights."""
    state = checkpoint.load(folder / "checkpoint.safetensors")
    history = [{k: v for k, v in row.items() if k != "seconds"} for row in state["history"]]
    tensors = {f"{part}.{k}": v for part in ("model", "average") for k, v in state[part].items()}
    for i, optimizer in enumerate(state["optimizer"].get("optimizers", [state["optimizer"]])):
        for j, moments in optimizer["state"].items():
            tensors |= {f"{i}.{j}.{k}": v for k, v in moments.items()}
    from safetensors.torch import load_file

    tensors |= load_file(folder / "model.safetensors")
    return history, state["schedule"], tensors


def same(a, b):
    """Whether two runs ended in the same numbers, to the last bit."""
    (history, schedule, x), (other, rates, y) = numbers(a), numbers(b)
    return (
        history == other
        and schedule == rates
        and x.keys() == y.keys()
        and all(torch.equal(x[key], y[key]) for key in x)
    )


def main():
    plain, number = json.loads(sys.argv[2]), getattr(signal, sys.argv[3])
    moments, draw = int(sys.argv[4]), random.Random(f"{sys.argv[3]}{sys.argv[5]}")
    root = Path(plain["output"])
    whole = root / "whole"
    begin = time.monotonic()
    assert end(start(plain | {"output": str(whole)})) == 0
    duration = time.monotonic() - begin
    for moment in range(moments):
        folder = root / f"{sys.argv[3]}{moment}"
        part = plain | {"output": str(folder)}
        after = draw.uniform(0.0, duration)
        pid = start(part)
        time.sleep(after)
        os.kill(pid, number)
        first = end(pid)
        path = folder / "checkpoint.safetensors"
        steps = checkpoint.load(path)["steps"] if path.exists() else 0
        last = end(start(part))
        row = {
            "after": round(after, 3),
            "status": first,
            "steps": steps,
            "then": last,
            "same": same(whole, folder),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
