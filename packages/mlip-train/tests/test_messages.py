"""F15: messages about bad data name the file and what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import pytest

from mlip_train import TrainConfig, from_plain
from mlip_train.training.prepare import prepare

ZERO = "0 0 0 0 0 0 0 0 0"


def slab(folder: Path, frames: list[Any]) -> None:
    for atoms in frames:
        atoms.calc.results.pop("stress")
        atoms.pbc = (True, True, False)
    ase.io.write(folder / "bad.xyz", frames)


def flat(folder: Path, frames: list[Any]) -> None:
    (folder / "bad.xyz").write_text(
        f'2\nLattice="{ZERO}" Properties=species:S:1:pos:R:3:forces:R:3 energy=-1 virial="{ZERO}" pbc="T T T"\n'
        "H 0 0 0 0 0 0\nH 0 0 .74 0 0 0\n"
    )


def empty(folder: Path, frames: list[Any]) -> None:
    (folder / "bad.xyz").write_text("")


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (slab, {"loss": {"stress": 1.0}}, r"bad.xyz.*a stress needs three periodic axes"),
        (flat, {}, r"bad.xyz', frame 0, key 'virial' must come with a cell of non-zero volume"),
        (empty, {}, r"bad.xyz' must have at least one frame"),
    ],
)
def test_f15_files(
    toy: Any,
    plain_run: dict[str, Any],
    make_frames: Callable[..., Any],
    tmp_path: Path,
    make: Callable[..., None],
    changes: dict[str, Any],
    message: str,
) -> None:
    make(tmp_path, make_frames(8, periodic=True))
    data = {"train": [{"path": str(tmp_path / "bad.xyz")}], "loaders": 0}
    with pytest.raises(ValueError, match=message):
        prepare(from_plain(TrainConfig, plain_run | {"data": data} | changes))


def test_f15_values(toy: Any, plain_run: dict[str, Any]) -> None:
    (source,) = plain_run["data"]["train"]
    for changes, message in (
        ({"data": {"train": [source | {"take": "100:"}]}}, r"at least one frame, got none from .*frames.xyz"),
        ({"model": {"start_from": "none.safetensors"}}, r"model.start_from must be an existing model file"),
        ({"loss": {"element_weights": {"C": 2.0}}}, r"loss.element_weights must name elements of the model"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            prepare(from_plain(TrainConfig, plain_run | changes))
