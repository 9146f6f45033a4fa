"""The command line: every command, and one line for user errors."""

import json

import h5py
import pytest

import spice_data
from spice_data.cli import main


def test_the_whole_way(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line in (
        "info example --quiet",
        "check example",
        "select example --neutral --elements H C N O --max-force 5 --no-isolated-atoms 6 -o s.json",
        "convert s.json -o a.store",
        "check a.store",
        "info a.store",
        "split a.store -o split.json --by molecule --ratios 80:10:10 --seed 7",
        "convert a.store -o a.xyz",
        "convert a.xyz -o b.store",
        "download --list",
    ):
        assert main(line.split()) == 0, line
    out = capsys.readouterr().out
    for text in (
        "102 groups, 1,022 conformations",
        "- neutral",
        "- max-force 5 eV/Å",
        "kept",
        "checksums correct",
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
    assert (
        main(["convert", "example", "-o", target, "--subset", "SPICE Water*", "--subset", "*Dipeptides*"])
        == 0
    )
    assert "80 frames of 8 molecules" in capsys.readouterr().out
    assert main(["convert", "example", "-o", target]) == 2
    assert "must be a new file" in capsys.readouterr().err
    assert main(["convert", "example", "-o", target, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("info nowhere.hdf5", "nowhere.hdf5"),
        ("select example --subset Nonsense*", "'Nonsense*'"),
        ("select example --elements H Qq", "'Qq'"),
        ("select example --max-force -1", "limit"),
        ("split nowhere.store -o s.json", "nowhere.store"),
        ("download 9.9", "'9.9'"),
        ("convert example -o nowhere/a.store", "'nowhere/a.store'"),
        ("select example -o nowhere/s.json", "nowhere"),
        ("convert example -o .", "new file"),
        ("download -o nowhere", "nowhere"),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"spice-data {line.split()[0]}: ") and message in error and error.count("\n") == 1


@pytest.fixture
def made(tmp_path, monkeypatch, spice_file):
    """A file of each kind, all made from ``small.hdf5``, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for line in (
        "select small.hdf5 -o s.json",
        "convert small.hdf5 -o a.store",
        "convert a.store -o a.xyz",
        "split a.store -o p.json --ratios 1:1:1",
    ):
        assert main(line.split()) == 0, line
    return tmp_path


@pytest.mark.parametrize("source", ["s.json", "a.xyz", "a.store"])
def test_filters_that_would_be_ignored(made, capsys, source):
    target = "b.xyz" if source == "a.store" else "b.store"
    assert main(f"convert {source} -o {target} --elements H O --max-force 1".split()) == 2
    assert (
        "source must be a SPICE file for the filters elements H O, max-force 1 eV/Å"
        in capsys.readouterr().err
    )
    assert not (made / target).exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("convert a.store -o a.xyz", "a new file"),
        ("convert a.store -o a.store --overwrite", "than the source"),
        ("convert a.store -o b.store", "must end in .xyz"),
        ("convert small.hdf5 -o b.xyz", "must not end in .xyz"),
        ("convert small.hdf5 -o small.hdf5 --overwrite", "than the source"),
        ("convert small.hdf5 -o link.store --overwrite", "than the source"),
        ("convert s.json -o small.hdf5 --overwrite", "than the source"),
        ("convert s.json -o s.json --overwrite", "than the source"),
        ("convert a.xyz -o a.xyz --overwrite", "than the source"),
        ("select small.hdf5 -o small.hdf5", "of format 'spice-data-selection'"),
        ("select small.hdf5 -o p.json", "of format 'spice-data-selection'"),
        ("split a.store -o a.store", "of format 'spice-data-split'"),
        ("split a.store -o s.json", "of format 'spice-data-split'"),
    ],
)
def test_existing_files_are_not_overwritten(made, capsys, line, message):
    (made / "link.store").symlink_to("small.hdf5")
    before = {p.name: p.read_bytes() for p in made.iterdir()}
    assert main(line.split()) == 2
    assert message in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in made.iterdir() if not p.name.endswith(".lock")} == {
        k: v for k, v in before.items() if not k.endswith(".lock")
    }


def test_overwrite(made):
    for line in (
        "select small.hdf5 --neutral -o s.json",
        "convert s.json -o a.store --overwrite",
        "convert a.store -o a.xyz --overwrite",
        "split a.store -o p.json --ratios 1:1:1",
    ):
        assert main(line.split()) == 0, line
    with spice_data.Store("a.store") as store:
        assert len(store) == (made / "a.xyz").read_text().count("energy=") / 2 == 8
        assert len(spice_data.Split.load("p.json", store).val) == 3


def test_bad_ratios(tmp_path, capsys):
    path = str(tmp_path / "a.store")
    assert main(["convert", "example", "-o", path]) == 0
    assert main(["split", path, "-o", str(tmp_path / "s"), "--ratios", "most:few"]) == 2
    assert "'most:few'" in capsys.readouterr().err


def test_check_finds_a_defect(spice_file, capsys):
    assert main(["check", str(spice_file)]) == 0
    with h5py.File(spice_file, "r+") as file:
        file["water/conformations"].attrs["units"] = "parsec"
    assert main(["check", str(spice_file)]) == 2
    out, err = capsys.readouterr()
    assert "PROBLEM" in out and "parsec" in out and "no defective group" in err


def test_check_of_a_released_file(tmp_path, capsys):
    path = tmp_path / "SPICE-2.0.1.hdf5"
    path.write_bytes(spice_data.example_path().read_bytes())
    assert main(["check", str(path)]) == 2
    assert "must have 37479271148 bytes" in capsys.readouterr().err
    assert main(["check", str(path), "--no-md5"]) == 0


def test_download_command(site, tmp_path, monkeypatch, capsys):
    import hashlib

    from spice_data.download import _releases as releases

    entry = releases.release("test")._replace(
        size=len(site.data), md5=hashlib.md5(site.data).hexdigest(), urls=()
    )
    monkeypatch.setattr("spice_data.download._fetch.release", lambda name: entry)
    assert main(["download", "test", "-o", str(tmp_path), "--mirror", site.url]) == 0
    assert (tmp_path / "SPICE-test.hdf5").read_bytes() == site.data
    assert str(tmp_path) in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"spice-data {spice_data.__version__}\n"


@pytest.mark.parametrize("command", ["", "download", "info", "check", "select", "convert", "split"])
def test_help_has_an_example(capsys, command):
    with pytest.raises(SystemExit, match="0"):
        main([*command.split(), "--help"])
    out = capsys.readouterr().out
    assert "example" in out and f"spice-data {command or 'convert'}" in out


@pytest.mark.parametrize("line", ["", "nonsense", "convert example", "split a.store", "info"])
def test_usage_errors(capsys, line):
    with pytest.raises(SystemExit, match="2"):
        main(line.split())
    assert "usage: spice-data" in capsys.readouterr().err


def test_interruption(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("spice_data.commands.inspect", interrupted)
    assert main(["info", "example"]) == 130
    assert capsys.readouterr().err == "spice-data info: interrupted; the same command continues\n"


def test_info_and_check_of_extended_xyz(made, capsys):
    for command in ("info", "check"):
        assert main([command, "a.xyz"]) == 0
        out = capsys.readouterr().out
        assert "a.xyz: 12 frames, keys" in out and "energy 12, forces 12, stress 0" in out
    text = (made / "a.xyz").read_text()
    (made / "b.xyz").write_text(text[: len(text) - 40])
    assert main(["check", "b.xyz"]) == 2
    assert "'b.xyz', frame 11 (line 60) must" in capsys.readouterr().err
    assert main(["check", "none.xyz"]) == 2


def test_implausible_units_are_reported(made, capsys):
    text = (
        (made / "a.xyz")
        .read_text()
        .replace('pbc="F F F"', 'Lattice="9 0 0 0 9 0 0 0 9" stress="1 0 0 0 2 0 0 0 30"')
    )
    (made / "s.xyz").write_text(text)
    assert main("convert s.xyz -o s.store".split()) == 0
    err = capsys.readouterr().err
    assert err == "spice-data: warning: largest stress component 30 eV/Å³ (4,807 GPa): check its unit\n"
    assert main("check s.xyz --stress-unit GPa".split()) == 0
    assert capsys.readouterr().err == ""
    assert main("check s.xyz --stress-unit GPa --energy-unit hartree --length-unit bohr".split()) == 0
    assert "largest force component" in capsys.readouterr().err


def test_labels_of_other_files(made, capsys):
    text = (made / "a.xyz").read_text().replace(" energy=", " REF_energy=")
    (made / "r.xyz").write_text(text)
    assert main("convert r.xyz a.xyz -o r.store".split()) == 2
    assert "'energy' must be present" in capsys.readouterr().err
    options = "--energy-key REF_energy --energy-unit hartree --index :2"
    assert main(f"convert r.xyz -o r.store {options}".split()) == 0
    assert "labels: energy 2, forces 2, stress 0\n  r.xyz: 2 frames" in capsys.readouterr().out
    with spice_data.Store("r.store") as r, spice_data.Store("a.store") as a:
        assert r[1].energy == pytest.approx(27.211386245988 * a[1].energy)
    assert main("convert r.xyz r.xyz -o two.store --energy-key REF_energy".split()) == 0
    assert len(spice_data.Store("two.store")) == 24
    assert main("convert small.hdf5 -o b.store --energy-unit hartree".split()) == 2
    assert "must be left out for a SPICE file" in capsys.readouterr().err
    assert main("convert small.hdf5 a.xyz -o b.store".split()) == 2
    assert "source must be one SPICE file" in capsys.readouterr().err


def test_the_test_set_by_its_name(tmp_path, group_writer, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with h5py.File("SPICE-test.hdf5", "w") as file:
        for name in ("WP0", "ALA-ARG-ASN-ASP-CYS"):
            del group_writer(file, name)["subset"]
    for line in (
        "info SPICE-test.hdf5",
        "check SPICE-test.hdf5",
        "select SPICE-test.hdf5 --subset *peptides -o s.json",
        "convert s.json -o selected.store",
        "convert SPICE-test.hdf5 -o filtered.store --neutral",
        "convert SPICE-test.hdf5 -o whole.store",
    ):
        assert main(line.split()) == 0, line
    assert "small ligands" in capsys.readouterr().out
    with spice_data.Store("selected.store") as selected, spice_data.Store("whole.store") as whole:
        assert selected.subsets == ("pentapeptides",) and len(whole) == 2 * len(selected) == 8
