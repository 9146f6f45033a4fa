"""The regression checker: it catches a planted slow-down and a planted extra operator, and passes noise."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ci.regressions import counters, page, ratios, runs  # noqa: E402
from ci.regressions.counting import count  # noqa: E402

from mlip_export.products import rewrite  # noqa: E402

CLOCK = """
import os, random

rng = random.Random(os.environ["SEED"])
time = 0.0

def work(seconds):
    \"\"\"Takes that long or longer: the scatter of a shared machine, and now and then ten times as long.\"\"\"
    global time
    time += seconds * (1 + rng.expovariate(20) + 10 * (rng.random() < 0.1))

def now():
    global time
    time += 1e-9
    return time
"""
BENCHMARK = """
import os
import clock
import pytest

WORK = {"reference": 0.020, "ours": 0.030 * float(os.environ["SLOWER"])}
BUSY = float(os.environ["BUSY"])

@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("provider", WORK)
def test_planted(benchmark, provider, size):
    benchmark.extra_info["provider"] = provider
    if provider == "ours":
        benchmark.extra_info["reference"] = "reference"
    busy = BUSY if (provider, size) == ("reference", 2) else 1.0
    benchmark(lambda: clock.work(size * WORK[provider] * busy))
"""


@pytest.fixture
def timed(tmp_path):
    """Runs the planted benchmark, ours slower by a factor, and returns its JSON.

    Its clock and its noise are planted as well, so that no verdict depends on how busy this machine is. `busy`: the
    factor by which one of the references was slowed down all the while it was timed.
    """
    (tmp_path / "test_planted.py").write_text(BENCHMARK)
    (tmp_path / "clock.py").write_text(CLOCK)

    def run(slower: float, name: str, busy: float = 1.0) -> Path:
        out = tmp_path / name
        command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(tmp_path)]
        command += ["-p", "no:cacheprovider", "--benchmark-timer=clock.now", f"--benchmark-json={out}"]
        planted = {"SLOWER": str(slower), "BUSY": str(busy), "SEED": name, "PYTHONPATH": str(tmp_path)}
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}  # no worker of xdist
        done = subprocess.run(
            [*command, "test_planted.py"],
            cwd=tmp_path,
            env=inherited | planted,
            capture_output=True,
            text=True,
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
    recorded = list(next(iter(json.loads(record.read_text()).values())).values())
    assert recorded == pytest.approx([1.5, 1.5], rel=0.02)  # least times have next to no noise
    assert checker("ratios", before, "--record", record).returncode == 0
    slow = [timed(1.4, "slow.json"), timed(1.4, "slow again.json")]
    once = checker("ratios", slow[0], "--record", record)
    assert once.returncode == 3, once.stdout  # asks for a second run
    both = checker("ratios", *slow, "--record", record)
    assert both.returncode == 1 and both.stdout.count("fail: ") == 2, both.stdout


def test_noise_passes(timed, tmp_path):
    record = tmp_path / "ratios.json"
    assert checker("ratios", timed(1.0, "a.json"), "--record", record, "--update").returncode == 0
    done = checker("ratios", timed(1.0, "b.json"), "--record", record)
    assert done.returncode == 0 and done.stdout.count("ok: ") == 2, done.stdout


def test_a_busy_reference_neither_spoils_the_record_nor_hides_growth(timed, tmp_path):
    """One of two runs had its reference slowed down from start to end, so that its ratio is too good."""
    record = tmp_path / "ratios.json"
    runs = timed(1.0, "busy.json", busy=2.0), timed(1.0, "quiet.json")
    assert checker("ratios", *runs, "--record", record, "--update").returncode == 0
    assert checker("ratios", timed(1.0, "later.json"), "--record", record).returncode == 0
    slow = timed(1.4, "slow.json"), timed(1.4, "slow and busy.json", busy=2.0)
    done = checker("ratios", *slow, "--record", record)
    assert done.returncode == 1 and done.stdout.count("fail: ") == 2, done.stdout


def planted_run(times: dict[str, float]) -> dict:
    """What pytest-benchmark would have written, of these least times by provider."""
    benchmarks = [
        {
            "fullname": f"test_x[{provider}]",
            "params": {"provider": provider},
            "extra_info": {"reference": "vesin"} if provider == "ours" else {},
            "stats": {"min": time},
        }
        for provider, time in times.items()
    ]
    return {"benchmarks": benchmarks}


def test_the_least_time_of_each_counts():
    bad, good = planted_run({"ours": 8.0, "vesin": 2.0}), planted_run({"ours": 3.0, "vesin": 4.0})
    assert ratios.ratios(bad) == {"test_x[ours]": 4.0}
    assert ratios.ratios(bad, good) == {"test_x[ours]": 1.5}


@pytest.mark.parametrize(
    "growth, level", [(1.09, "ok"), (1.11, "warn"), (1.24, "warn"), (1.26, "fail"), (0.5, "ok")]
)
def test_levels(growth, level):
    assert [v.level for v in ratios.check({"a": 0.5, "b": 7.0}, {"a": growth * 0.5, "b": 7.0})] == [
        level,
        "ok",
    ]


def test_new_and_gone_benchmarks_are_named():
    verdicts = ratios.check({"old": 1.0}, {"new": 1.0})
    assert [(v.name, v.level) for v in verdicts] == [("new", "new"), ("old", "gone")]


def test_reference_must_be_in_the_run():
    with pytest.raises(ValueError, match="reference 'vesin' in the same run, got \\['ours'\\]"):
        ratios.ratios(planted_run({"ours": 1.0}))


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


def without_fusion(*_):
    """Stands for the search of silu behind a product, and finds none."""
    return None


def with_a_copy(graph_module, op, x, *rest):
    """Stands for the insertion of a product, and copies its argument first."""
    copy = graph_module.graph.call_function(torch.ops.aten.clone.default, (x,))
    return INSERT(graph_module, op, copy, *rest)


def without_the_first_product(graph_module, node):
    """Stands for the search of a product's constant matrix, and overlooks the first product's."""
    first = next(n for n in graph_module.graph.nodes if n.target is torch.ops.aten.mm.default)
    return None if node is first.args[1] else CONSTANT(graph_module, node)


INSERT, CONSTANT = rewrite._call, rewrite._constant
FAULTS = {
    "_silu": (without_fusion, ["more: program · operators · aten.silu.default 0 → "]),
    "_call": (with_a_copy, ["more: program · operators · aten.clone.default 1 → "]),
    "_constant": (
        without_the_first_product,
        [
            "more: program · operators · aten.mm.default 0 → ",
            "fewer: program · operators · mlip_export.product",
        ],
    ),
}


def test_faults_planted_in_the_packed_program(monkeypatch):
    pytest.importorskip("triton")
    from ci.regressions import counted

    whole = counted.model
    monkeypatch.setattr(counted, "model", lambda preset: whole(preset, l_max=1, num_layers=1, latent_depth=1))
    recorded = {"program": counted.packed("small")}
    for place, (fault, expected) in FAULTS.items():
        with monkeypatch.context() as planted:
            planted.setattr(rewrite, place, fault)
            found = counters.differences(recorded, {"program": counted.packed("small")})
        missing = [line for line in expected if not any(f.startswith(line) for f in found)]
        assert not missing, (place, missing, found)


def test_operators_count_by_their_formulas():
    import equitensor as eq

    centers = torch.tensor([0, 0, 2])
    offsets = eq.row_offsets(centers, 3)
    w, y = torch.randn(3, 2, 5), torch.randn(3, 4)
    found = count(lambda: eq.to_atoms(w, y, centers, offsets))
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
        kept = json.loads(runs.keep(tmp_path / name, "pytest …", tmp_path / "runs").read_text())
        figure = kept["figures"]["test_planted.py::test_planted[ours-1]"]
        assert figure["provider"] == "ours" and 0 < figure["milliseconds"] < 1000
    monkeypatch.setattr(page, "FOLDER", tmp_path / "runs")
    text = page.write(tmp_path / "page.html").read_text()
    assert "test_planted[ours-1]" in text and "2026-01-02T00:00:00" in text
    assert "Exact counters" in text and "results/demo.json" in text
    assert "http" not in text.replace("http://www.w3.org", "") and "<script" not in text
