"""Pictures show what the records hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pictures = pytest.importorskip(
    "benchmarks.pictures", reason="matplotlib is not installed", exc_type=ImportError
)


def test_the_chart_of_speed_shows_the_records() -> None:
    text = (pictures.RESULTS / "speed.svg").read_text()
    for sides in pictures.speeds().values():
        for ours, theirs in sides:
            note = f"{ours / theirs:.1f}×" if theirs else f"({pictures._plain(ours)} "
            assert note in text, "python -m benchmarks.pictures draws it"
    assert len(text) < 50_000


def test_a_changed_record_changes_the_chart(tmp_path: Path) -> None:
    names = ["inference", *(f"train_{preset}" for preset in pictures.PRESETS)]
    for name in names:
        (tmp_path / f"{name}.json").write_text((pictures.RESULTS / f"{name}.json").read_text())
    data = json.loads((tmp_path / "train_small.json").read_text())
    data["results"][0]["steps_per_s"] = {"full": 77.7, "nequip-allegro compiled": 1.0}
    (tmp_path / "train_small.json").write_text(json.dumps(data))
    pictures.speed(tmp_path / "speed.svg", tmp_path)
    assert "77.7×" in (tmp_path / "speed.svg").read_text()


def test_the_learning_curves_are_drawn_from_the_record_as_it_is(tmp_path: Path) -> None:
    """A record holds its commit and date beside its runs."""
    pictures.accuracy(tmp_path / "accuracy.png")
    assert (tmp_path / "accuracy.png").stat().st_size > 10_000


def test_the_picture_of_the_demo_states_the_fitted_order(tmp_path: Path) -> None:
    """Energies whose error is exactly quadratic in the time step give the order 2.00."""
    wave = np.sin(np.linspace(0.0, 20.0, 50))
    runs = [
        {"host": "ASE", "dt_fs": dt, "time_ps": list(range(50)), "energy_eV": list(dt**2 * wave)}
        for dt in (1.0, 0.5, 0.25)
    ]
    figure, axis = pictures.plt.subplots()
    pictures._law(axis, {"atoms": 10, "runs": runs})
    assert "fitted order 2.00" in axis.get_legend().get_texts()[1].get_text()
    pictures.plt.close(figure)
