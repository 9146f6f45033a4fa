"""The command line: the whole way, and one line for what a user can mend."""

import json

import h5py
import pytest

import spice_data
from spice_data.cli import main


def test_the_whole_way(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line in (
        "info example",
        "verify example",
        "select example --neutral --elements H C N O --max-force 5 --no-isolated-atoms 6 -o s.json",
        "convert s.json a.store",
        "verify a.store",
        "info a.store",
        "stats a.store",
        "split a.store split.json --by molecule --ratios 80:10:10 --seed 7",
        "convert a.store a.xyz",
        "convert a.xyz b.store",
        "download --list",
    ):
        assert main(line.split()) == 0, line
    out = capsys.readouterr().out
    for text in (
        "102 groups, 1,022 conformations",
        "- neutral",
        "- max-force 5 eV/Å",
        "kept",
        "checksums right",
        "bfba2224b6540e1390a579569b475510",
    ):
        assert text in out
    with spice_data.Store("a.store") as a, spice_data.Store("b.store") as b:
        assert len(a) == len(b) > 800 and a.elements == ("H", "C", "N", "O")
        parts = spice_data.Split.load("split.json", a)
        assert parts.by == "molecule" and parts.seed == 7
    assert json.loads((tmp_path / "s.json").read_text())["format"] == "spice-data-selection"


def test_filters_while_converting(tmp_path, capsys):
    target = str(tmp_path / "w.store")
    assert main(["convert", "example", target, "--subset", "SPICE Water*", "--subset", "*Dipeptides*"]) == 0
    assert "80 frames of 8 molecules" in capsys.readouterr().out
    assert main(["convert", "example", target]) == 1
    assert "required a new file" in capsys.readouterr().err
    assert main(["convert", "example", target, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("info nowhere.hdf5", "nowhere.hdf5"),
        ("select example --subset Nonsense*", "'Nonsense*'"),
        ("select example --elements H Qq", "'Qq'"),
        ("select example --max-force -1", "limit"),
        ("split nowhere.store s.json", "nowhere.store"),
        ("download 9.9", "'9.9'"),
        ("convert example nowhere/a.store", "'nowhere'"),
        ("select example -o nowhere/s.json", "nowhere"),
        ("convert example .", "new file"),
        ("download --folder nowhere", "nowhere"),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 1
    error = capsys.readouterr().err
    assert error.startswith("spice-data: ") and message in error and error.count("\n") == 1


@pytest.fixture
def made(tmp_path, monkeypatch, spice_file):
    """A file of each kind, all made from ``small.hdf5``, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for line in (
        "select small.hdf5 -o s.json",
        "convert small.hdf5 a.store",
        "convert a.store a.xyz",
        "split a.store p.json --ratios 1:1:1",
    ):
        assert main(line.split()) == 0, line
    return tmp_path


@pytest.mark.parametrize("source", ["s.json", "a.xyz", "a.store"])
def test_filters_that_would_be_ignored(made, capsys, source):
    target = "b.xyz" if source == "a.store" else "b.store"
    assert main(f"convert {source} {target} --elements H O --max-force 1".split()) == 1
    assert "elements H O, max-force 1 eV/Å: required a file" in capsys.readouterr().err
    assert not (made / target).exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("convert a.store a.xyz", "a new file"),
        ("convert a.store a.store --overwrite", "than the source"),
        ("convert a.store b.store", "ending in .xyz"),
        ("convert small.hdf5 b.xyz", "ending in .xyz"),
        ("convert small.hdf5 small.hdf5 --overwrite", "than the source"),
        ("convert small.hdf5 link.store --overwrite", "than the source"),
        ("convert s.json small.hdf5 --overwrite", "than the source"),
        ("convert s.json s.json --overwrite", "than the source"),
        ("convert a.xyz a.xyz --overwrite", "than the source"),
        ("select small.hdf5 -o small.hdf5", "'spice-data-selection' to replace"),
        ("select small.hdf5 -o p.json", "'spice-data-selection' to replace"),
        ("split a.store a.store", "'spice-data-split' to replace"),
        ("split a.store s.json", "'spice-data-split' to replace"),
    ],
)
def test_nothing_is_overwritten_unasked(made, capsys, line, message):
    (made / "link.store").symlink_to("small.hdf5")
    before = {p.name: p.read_bytes() for p in made.iterdir()}
    assert main(line.split()) == 1
    assert message in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in made.iterdir() if not p.name.endswith(".lock")} == {
        k: v for k, v in before.items() if not k.endswith(".lock")
    }


def test_what_is_made_anew_is_replaced(made):
    for line in (
        "select small.hdf5 --neutral -o s.json",
        "convert s.json a.store --overwrite",
        "convert a.store a.xyz --overwrite",
        "split a.store p.json --ratios 1:1:1",
    ):
        assert main(line.split()) == 0, line
    with spice_data.Store("a.store") as store:
        assert len(store) == (made / "a.xyz").read_text().count("energy=") / 2 == 8
        assert len(spice_data.Split.load("p.json", store).val) == 3


def test_bad_ratios(tmp_path, capsys):
    path = str(tmp_path / "a.store")
    assert main(["convert", "example", path]) == 0
    assert main(["split", path, str(tmp_path / "s"), "--ratios", "most:few"]) == 1
    assert "'most:few'" in capsys.readouterr().err


def test_verify_finds_a_defect(spice_file, capsys):
    assert main(["verify", str(spice_file)]) == 0
    with h5py.File(spice_file, "r+") as file:
        file["water/conformations"].attrs["units"] = "parsec"
    assert main(["verify", str(spice_file)]) == 1
    out, err = capsys.readouterr()
    assert "PROBLEM" in out and "parsec" in out and "no defective group" in err


def test_verify_checks_a_released_file(tmp_path, capsys):
    path = tmp_path / "SPICE-2.0.1.hdf5"
    path.write_bytes(spice_data.example_path().read_bytes())
    assert main(["verify", str(path)]) == 1
    assert "37479271148 bytes" in capsys.readouterr().err
    assert main(["verify", str(path), "--no-md5"]) == 0


def test_download_command(site, tmp_path, monkeypatch, capsys):
    import hashlib

    from spice_data import releases

    entry = releases.release("test")._replace(
        size=len(site.data), md5=hashlib.md5(site.data).hexdigest(), urls=()
    )
    monkeypatch.setattr("spice_data.source.release", lambda name: entry)
    assert main(["download", "test", "--folder", str(tmp_path), "--mirror", site.url]) == 0
    assert (tmp_path / "SPICE-test.hdf5").read_bytes() == site.data
    assert str(tmp_path) in capsys.readouterr().out


def test_help_and_version(capsys):
    for arguments in (["--version"], ["--help"], ["select", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
    assert spice_data.__version__ in capsys.readouterr().out


def test_the_test_set_by_its_name(tmp_path, group_writer, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with h5py.File("SPICE-test.hdf5", "w") as file:
        for name in ("WP0", "ALA-ARG-ASN-ASP-CYS"):
            del group_writer(file, name)["subset"]
    for line in (
        "info SPICE-test.hdf5",
        "verify SPICE-test.hdf5",
        "select SPICE-test.hdf5 --subset *peptides -o s.json",
        "convert s.json selected.store",
        "convert SPICE-test.hdf5 filtered.store --neutral",
        "convert SPICE-test.hdf5 whole.store",
    ):
        assert main(line.split()) == 0, line
    assert "small ligands" in capsys.readouterr().out
    with spice_data.Store("selected.store") as selected, spice_data.Store("whole.store") as whole:
        assert selected.subsets == ("pentapeptides",) and len(whole) == 2 * len(selected) == 8
