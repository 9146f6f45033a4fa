"""The regression checker: it catches a planted slow-down and a planted extra operator, and passes noise."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ci.regressions import counters, page, ratios, runs  # noqa: E402
from ci.regressions.counting import count  # noqa: E402

BENCHMARK = """
import os
import pytest

WORK = {"reference": 20_000, "ours": int(30_000 * float(os.environ["SLOWER"]))}

@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("provider", WORK)
def test_planted(benchmark, provider, size):
    benchmark.extra_info["provider"] = provider
    if provider == "ours":
        benchmark.extra_info["reference"] = "reference"
    def call():
        total = 0
        for k in range(size * WORK[provider]):
            total += k
        return total
    benchmark(call)
"""


@pytest.fixture
def timed(tmp_path):
    """Runs the planted benchmark, ours slower by a factor, and returns its JSON."""
    (tmp_path / "test_planted.py").write_text(BENCHMARK)

    def run(slower: float, name: str) -> Path:
        out = tmp_path / name
        command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(tmp_path)]
        command += ["-p", "no:cacheprovider", "--benchmark-max-time=0.3", f"--benchmark-json={out}"]
        environment = {**os.environ, "SLOWER": str(slower)}
        done = subprocess.run(
            [*command, "test_planted.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return out

    return run


def checker(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ci.regressions", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_planted_slow_down(timed, tmp_path):
    record = tmp_path / "ratios.json"
    before = timed(1.0, "before.json")
    assert checker("ratios", before, "--record", record, "--update").returncode == 0
    assert checker("ratios", before, "--record", record).returncode == 0
    slow = [timed(2.5, "slow.json"), timed(2.5, "slow again.json")]
    once = checker("ratios", slow[0], "--record", record)
    assert once.returncode == 3, once.stdout  # asks for a second run
    both = checker("ratios", *slow, "--record", record)
    assert both.returncode == 1 and both.stdout.count("fail: ") == 2, both.stdout


def test_unchanged_code_passes(timed, tmp_path):
    record = tmp_path / "ratios.json"
    assert checker("ratios", timed(1.0, "a.json"), "--record", record, "--update").returncode == 0
    again = [timed(1.0, "b.json"), timed(1.0, "c.json")]
    done = checker("ratios", *again, "--record", record)
    assert done.returncode == 0, done.stdout


def test_noise_passes_and_growth_does_not():
    """Least times that scatter by 8 % pass; one bad run is forgiven by its rerun; growth in both is not."""
    rng = random.Random(0)
    recorded = {f"benchmark {k}": 0.5 + k for k in range(200)}
    noisy = [{n: r * rng.uniform(0.96, 1.08) for n, r in recorded.items()} for _ in range(2)]
    assert {v.level for v in ratios.check(recorded, noisy[:1])} == {"ok"}
    bad = {**noisy[0], "benchmark 7": 4 * recorded["benchmark 7"]}
    assert [v.name for v in ratios.check(recorded, [bad]) if v.level == "fail"] == ["benchmark 7"]
    assert {v.level for v in ratios.check(recorded, [bad, noisy[1]])} == {"ok"}
    for growth, level in ((1.09, "ok"), (1.11, "warn"), (1.24, "warn"), (1.26, "fail"), (0.5, "ok")):
        grown = {n: growth * r for n, r in recorded.items()}
        assert {v.level for v in ratios.check(recorded, [grown, grown])} == {level}


def test_new_and_gone_benchmarks_are_named():
    verdicts = ratios.check({"old": 1.0}, [{"new": 1.0}])
    assert [(v.name, v.level) for v in verdicts] == [("new", "new"), ("old", "gone")]


def test_reference_must_be_in_the_run():
    benchmark = {
        "fullname": "test_x[ours]",
        "params": {"provider": "ours"},
        "extra_info": {"reference": "vesin"},
        "stats": {"min": 1.0},
    }
    with pytest.raises(ValueError, match="reference 'vesin' in the same run"):
        ratios.ratios({"benchmarks": [benchmark]})


def test_planted_extra_operator():
    x, w = torch.randn(8, 4), torch.randn(4, 4)
    recorded = {"product": count(lambda: (x @ w).relu())}
    assert recorded["product"]["flops"] == 2 * 8 * 4 * 4
    assert recorded["product"]["peak_bytes"] == 2 * 8 * 4 * 4
    assert counters.differences(recorded, {"product": count(lambda: (x @ w).relu())}) == []
    planted = counters.differences(recorded, {"product": count(lambda: (x @ w).clone().relu())})
    assert "more: product · dispatched 2 → 3" in planted
    assert "more: product · operators · aten.clone.default 0 → 1" in planted
    fewer = counters.differences(recorded, {"product": count(lambda: x @ w)})
    assert "fewer: product · dispatched 2 → 1" in fewer


def test_operators_count_by_their_formulas():
    import equitensor as eq

    centres = torch.tensor([0, 0, 2])
    offsets = eq.row_offsets(centres, 3)
    w, y = torch.randn(3, 2, 5), torch.randn(3, 4)
    found = count(lambda: eq.to_atoms(w, y, centres, offsets))
    assert found["flops"] == 2 * 3 * 4 * 5 and found["operators"] == {"equitensor.to_atoms.default": 1}
    tp = eq.TensorProduct("1o", "1o", "0e")
    a, b, v = torch.randn(7, 3, 5), torch.randn(7, 3, 5), torch.randn(tp.weight_shape(5))
    assert count(lambda: tp(a, b, v))["flops"] == 3 * 7 * 5 * 3  # three coefficients


def test_counters_of_another_torch_are_refused():
    counters.same_version("torch", "2.13.0", "2.13.0+cpu")
    with pytest.raises(counters.OtherVersion, match=r"required 2\.13\.0.*got 2\.12\.1"):
        counters.same_version("torch", "2.13.0", "2.12.1")


def test_a_kept_run_and_the_page(timed, tmp_path, monkeypatch):
    for number, name in enumerate(("one.json", "two.json")):
        run = json.loads(timed(1.0, name).read_text())
        run["datetime"] = f"2026-01-0{number + 1}T00:00:00"
        (tmp_path / name).write_text(json.dumps(run))
        kept = json.loads(runs.keep(tmp_path / name, tmp_path / "runs").read_text())
        figure = kept["figures"]["test_planted.py::test_planted[ours-1]"]
        assert figure["provider"] == "ours" and 0 < figure["milliseconds"] < 1000
    monkeypatch.setattr(page, "FOLDER", tmp_path / "runs")
    text = page.write(tmp_path / "page.html").read_text()
    assert "test_planted[ours-1]" in text and "2026-01-02T00:00:00" in text
    assert "Exact counters" in text and "results/demo.json" in text
    assert "http" not in text.replace("http://www.w3.org", "") and "<script" not in text
