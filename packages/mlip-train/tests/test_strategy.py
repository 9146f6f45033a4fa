"""Several gloo processes against one: the same gradients, and the same training through Lightning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from processes import run_together


def succeed(script: str, runs: list[tuple[list[str], int]]) -> None:
    """Run a script with lists of arguments in numbers of processes; all end well."""
    for ends in run_together(script, runs):
        assert all(end.returncode == 0 for end in ends), "\n".join(end.stderr[-2000:] for end in ends)


PLAIN: dict[str, Any] = {
    "group": 6,
    "frames": 36,
    "unused": False,
    "bucket": 0.0,
    "overlap": False,
    "seeds": False,
    "dtype": "float64",
}
UNEVEN = {"group": 12, "frames": 40}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "buckets, seeds": {"bucket": 1e-4, "seeds": True},
    "accumulated, uneven": UNEVEN,
    "mixed precision": UNEVEN | {"unused": True, "dtype": "float32"},  # float32 weights beside float64 ones
    "unused": {"frames": 31, "unused": True},
    "overlapped": {"bucket": 1e-4, "overlap": True},
    "overlapped, accumulated, uneven": UNEVEN | {"bucket": 1e-4, "overlap": True},
    "overlapped, mixed, unused": UNEVEN
    | {"bucket": 1e-4, "overlap": True, "unused": True, "dtype": "float32"},
}


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: pytest.TempPathFactory, make_frames: Any) -> dict[int, Any]:
    """Gradients and losses of every case by 1, 2 and 3 processes."""
    folder = tmp_path_factory.mktemp("gradients")
    ase.io.write(folder / "f.xyz", make_frames(40))
    arguments = [str(folder), json.dumps([PLAIN | case for case in CASES.values()])]
    succeed("gradients.py", [(arguments, world) for world in (1, 2, 3)])
    return {world: json.loads((folder / f"{world}.json").read_text()) for world in (1, 2, 3)}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_gradients_of_one_two_and_three_processes(name: str, gradients: dict[int, Any]) -> None:
    number, case = list(CASES).index(name), PLAIN | CASES[name]
    reference, losses, _ = gradients[1][number]
    assert len(reference) > 1
    assert all(step["unused"] is None for step in reference)
    assert any(step["sometimes"] is not None for step in reference) == case["unused"]
    tolerance = 1e-12 if case["dtype"] == "float64" else 1e-5
    for world in (2, 3):
        found, other, during = gradients[world][number]
        assert np.allclose(other, losses, rtol=tolerance, atol=0)
        assert len(found) == len(reference)
        assert (during > 0) == case["overlap"]  # some buckets were reduced while the backward ran
        for a, b in zip(found, reference, strict=True):
            for name in b:
                assert (a[name] is None) == (b[name] is None)
                if b[name] is not None:
                    assert np.abs(np.subtract(a[name], b[name])).max() <= tolerance * max(
                        np.abs(b[name]).max(), 1.0
                    )


@pytest.mark.slow
def test_overlapped_gradients_of_two_processes_are_those_of_one_reduction(gradients: dict[int, Any]) -> None:
    """To the last bit: a sum of two numbers has one order."""
    names = list(CASES)
    for plain, overlapped in (
        ("plain", "overlapped"),
        ("accumulated, uneven", "overlapped, accumulated, uneven"),
        ("mixed precision", "overlapped, mixed, unused"),
    ):
        a, b = (gradients[2][names.index(name)][:2] for name in (plain, overlapped))
        assert a == b


@pytest.mark.slow
def test_training_does_not_depend_on_the_number_of_processes(
    plain_run: dict[str, Any], tmp_path: Path
) -> None:
    rows, runs, cases = {}, [], ((1, "eager"), (2, "eager"), (2, "full"), (2, "overlap"))
    for world, way in cases:
        plain = json.loads(json.dumps(plain_run))
        plain["output"] = str(tmp_path / f"run{world}{way}")
        plain["data"]["cache"] = str(tmp_path / f"cache{world}")
        plain["batch"] = {"frames": 4, "accumulate": 2 // world}
        plain["optimizer"]["clip"] = 0.5
        plain["ema"] = 0.9
        plain["logging"]["report"] = False
        plain["hardware"] |= {"devices": world}
        if way == "overlap":
            plain["hardware"] |= {"overlap": True, "bucket_mib": 1e-4}
            plain["data"]["resident"] = True
        plain["compile"] = {"mode": "full" if way == "full" else "eager"}
        runs.append(([json.dumps(plain), "go"], world))
    succeed("fit.py", runs)
    for world, way in cases:
        table = np.genfromtxt(tmp_path / f"run{world}{way}" / "metrics.csv", delimiter=",", names=True)
        rows[world, way] = np.array([[row[n] for n in table.dtype.names if n != "seconds"] for row in table])
    assert rows[1, "eager"].shape[0] == 2
    assert np.allclose(rows[1, "eager"], rows[2, "eager"], rtol=1e-10, atol=0)
    assert np.allclose(rows[1, "eager"], rows[2, "full"], rtol=1e-10, atol=0)
    assert np.array_equal(rows[2, "eager"], rows[2, "overlap"])


@pytest.mark.slow
def test_two_processes_resume_in_mid_epoch_to_the_same_numbers(
    plain_run: dict[str, Any], tmp_path: Path
) -> None:
    plain = plain_run | {"batch": {"frames": 3}, "schedule": {"name": "cosine", "minimum": 0.0}}
    plain["logging"] = {"progress": False, "report": False, "checkpoint_steps": 3}
    plain["hardware"] = plain_run["hardware"] | {"devices": 2}
    rows = {}
    ends = {"whole": ["go"], "broken": ["checkpoint", "go"], "stopped": ["SIGTERM:1:1", "go"]}
    runs = [(name, end) for name in ends for end in ends[name]]
    found = run_together(
        "fit.py",
        [([json.dumps(plain | {"output": str(tmp_path / name)}), end], 2) for name, end in runs],
    )
    for (name, end), both in zip(runs, found, strict=True):
        assert all((process.returncode == 0) == (end == "go") for process in both), both
        if (
            name == "stopped" and end != "go"
        ):  # one got a signal, and both agreed to end after the step behind
            assert all("Interrupted SIGTERM: stopped after step 3" in process.stderr for process in both)
    for name in ends:
        table = np.genfromtxt(tmp_path / name / "metrics.csv", delimiter=",", names=True)
        rows[name] = np.array([[row[n] for n in table.dtype.names if n != "seconds"] for row in table])
        assert table["lr"][-1] == 0.0
    assert np.allclose(rows["whole"], rows["broken"], rtol=1e-12, atol=0)
    assert np.allclose(rows["whole"], rows["stopped"], rtol=1e-12, atol=0)


@pytest.mark.slow
def test_autocast_with_accumulation_and_clipping_equals_standard_ddp(tmp_path: Path) -> None:
    strategies = ("sync", "ddp")
    succeed("autocast.py", [([s, str(tmp_path / s)], 2) for s in strategies])
    found = {s: torch.load(tmp_path / s, weights_only=True) for s in strategies}
    for name, value in found["ddp"].items():
        assert value.dtype == torch.float32
        assert torch.allclose(found["sync"][name], value, rtol=1e-5, atol=1e-7), name


def test_arguments_are_checked() -> None:
    from mlip_train import SyncAfterBackward

    with pytest.raises(ValueError, match="op must be 'sum' or 'mean', got 'max'"):
        SyncAfterBackward(op="max")
    with pytest.raises(ValueError, match=r"bucket_mib must be greater than 0 with overlap, got 0\.0"):
        SyncAfterBackward(overlap=True)
