"""Runs fit with the toy model: arguments are conftest.py, the configuration in JSON, and how the run ends.

``go`` lets it run; ``checkpoint`` kills it after a checkpoint inside an epoch; ``SIGKILL:3`` sends itself that signal
before the batch of step 3, ``SIGTERM:3:1`` process 1 alone.
"""

import json
import os
import signal
import sys
from pathlib import Path

from prelude import toys

from mlip_train import TrainConfig, TrainingModule, fit, from_plain
from mlip_train.training import checkpoint

assert toys.ToyModel.model_name == "toy"
end, _, moment = sys.argv[3].partition(":")
step, _, rank = moment.partition(":")
if end == "checkpoint":
    original_save = checkpoint.save

    def save(path, tree):
        original_save(path, tree)
        if tree["position"]:
            os._exit(9)

    checkpoint.save = save
elif end != "go":
    original_step = TrainingModule.training_step

    def training_step(self, batch, index):
        if self.steps == int(step) and (not rank or os.environ["RANK"] == rank):
            os.kill(os.getpid(), getattr(signal, end))
        return original_step(self, batch, index)

    TrainingModule.training_step = training_step

if __name__ == "__main__":
    plain = json.loads(sys.argv[2])
    try:
        fit(from_plain(TrainConfig, plain))
    except KeyboardInterrupt as e:
        print(f"{type(e).__name__} {e}", file=sys.stderr)
        state = checkpoint.load(Path(plain["output"]) / "checkpoint.safetensors")
        print(f"checkpoint of {state['steps']} steps", file=sys.stderr)
        sys.exit(128 + e.signum)
