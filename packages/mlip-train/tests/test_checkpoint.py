"""Checkpoint files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mlip_train.training import checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec.*")


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    tree = {
        "a": [1, 2.5, None, float("inf")],
        0: (True, "x"),
        "t": torch.arange(3),
        "empty": torch.zeros(0, 3),
    }
    checkpoint.save(tmp_path / "c", tree)
    back = checkpoint.load(tmp_path / "c")
    assert back["a"] == tree["a"] and back[0] == (True, "x")
    assert torch.equal(back["t"], tree["t"]) and back["empty"].shape == (0, 3)
    with pytest.raises(TypeError, match=r"checkpoint must hold plain data and tensors, got object"):
        checkpoint.save(tmp_path / "c", {"x": object()})
    assert checkpoint.load(tmp_path / "c")["a"] == tree["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
