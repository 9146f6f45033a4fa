"""Downloads from a server on this machine that drops connections and lies."""

import hashlib
import subprocess
import sys
import threading
import time

import pytest

import spice_data
from spice_data.download import RetryPolicy, check_file, download, fetch, file_md5
from spice_data.download import _releases as releases

QUICK = RetryPolicy(timeout=5.0, attempts=3, pause=0.001)


@pytest.fixture
def get(site, tmp_path):
    """Fetch the site's file to ``tmp_path / "f"``."""

    def fetch_it(*urls, size=None, md5=None, **kwargs):
        kwargs.setdefault("retry", QUICK)
        md5 = md5 or hashlib.md5(site.data).hexdigest()
        size = size or len(site.data)
        return fetch(urls or [site.url], tmp_path / "f", size, md5, **kwargs)

    return fetch_it


def _left(tmp_path):
    return sorted(p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock"))


def test_download(site, get, tmp_path):
    calls = []
    assert get(progress=lambda done, total: calls.append((done, total))) == tmp_path / "f"
    assert (tmp_path / "f").read_bytes() == site.data
    assert calls[-1] == (len(site.data), len(site.data)) and calls == sorted(calls)
    assert _left(tmp_path) == ["f"]
    get()
    assert len(site.ranges) == 1  # a right file is not fetched again


def test_dropped_connections_are_continued(site, get, tmp_path):
    site.script = ["drop 1000000", "drop 700000", "status 503", "drop 1", "drop 500000"]
    get()
    assert (tmp_path / "f").read_bytes() == site.data
    starts = [0 if r is None else int(r[6:-1]) for r in site.ranges]
    assert starts == [0, 1000000, 1700000, 1700000, 1700001, 2200001]


def test_continues_in_a_later_call(site, get, tmp_path):
    site.script = ["drop 2000000", "status 500", "status 500", "status 500"]
    with pytest.raises(ConnectionError, match=r"3 attempts without progress.*500"):
        get()
    assert _left(tmp_path) == [".f.part"]
    get()
    assert (tmp_path / "f").read_bytes() == site.data
    assert site.ranges[-1] == "bytes=2000000-"
    assert _left(tmp_path) == ["f"]


@pytest.mark.parametrize("lie", ["ignore-range", "other-start", "status 416"])
def test_lies_about_ranges(site, get, tmp_path, lie):
    site.script = ["drop 1000000", lie]
    get()
    assert (tmp_path / "f").read_bytes() == site.data


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (["other-size"], "bytes instead of 3000000"),
        (["drop 10", "other-size"], "bytes instead of 3000000"),
        (["too-long"], "of unknown length instead of 3000000 bytes"),
        (["drop 10", "too-long"], "more than 3000000 bytes"),
        (["portal"], "text/html of unknown length"),
        (["corrupt"], "md5 .* instead of"),
        (["status 404"], "status 404"),
        (["status 403"], "status 403"),
    ],
)
def test_a_bad_mirror_is_left_for_the_next(site, get, tmp_path, script, reason):
    site.script = list(script)
    get(site.url + "?bad", site.url)
    assert (tmp_path / "f").read_bytes() == site.data
    (tmp_path / "f").unlink()
    site.script = list(script)
    with pytest.raises(ConnectionError, match=rf"no mirror has the file: .*{reason}"):
        get()
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("lie", ["portal", "status 416", "ignore-range", "other-start"])
def test_a_part_outlives_a_mirror_that_does_not_continue_it(site, get, tmp_path, lie):
    part = tmp_path / ".f.part"
    part.write_bytes(site.data[:2_900_000])
    site.script = [lie, "status 404"]
    with pytest.raises(ConnectionError, match="no mirror"):
        get(*([site.url] if lie != "portal" else [site.url, site.url]))
    assert part.read_bytes() == site.data[:2_900_000]
    site.ranges.clear()
    site.script = [lie]
    get(site.url + "?bad", site.url)  # the second mirror continues before the first is asked for everything
    assert site.ranges == ["bytes=2900000-"] * 2 and (tmp_path / "f").read_bytes() == site.data


def test_the_longer_of_two_starts_is_kept(site, get, tmp_path):
    part = tmp_path / ".f.part"
    part.write_bytes(site.data[:1_000_000])
    site.script = ["status 416", "drop 500000", "drop 2000000", "status 404"]
    with pytest.raises(ConnectionError, match="status 404"):
        get()
    assert part.read_bytes() == site.data[:2_000_000] and _left(tmp_path) == [".f.part"]
    get()
    assert site.ranges[-1] == "bytes=2000000-" and (tmp_path / "f").read_bytes() == site.data


def test_a_wrong_start_left_by_another_file(site, get, tmp_path):
    (tmp_path / ".f.part").write_bytes(b"z" * 1_000_000)
    get()
    assert (tmp_path / "f").read_bytes() == site.data
    assert site.ranges == ["bytes=1000000-", None]


def test_a_part_that_is_too_long(site, get, tmp_path):
    (tmp_path / ".f.part").write_bytes(b"z" * 4_000_000)
    get()
    assert (tmp_path / "f").read_bytes() == site.data


def test_nobody_listens(get, tmp_path):
    with pytest.raises(ConnectionError, match="attempts without progress"):
        get("http://127.0.0.1:9/file")
    assert _left(tmp_path) == []


def test_existing_wrong_file_is_kept(site, get, tmp_path):
    (tmp_path / "f").write_bytes(b"something else")
    with pytest.raises(spice_data.DataError, match=r"3000000 bytes.*14"):
        get()
    assert (tmp_path / "f").read_bytes() == b"something else" and site.ranges == []


def test_a_flipped_bit_is_found(site, tmp_path):
    path, md5 = tmp_path / "f", hashlib.md5(site.data).hexdigest()
    path.write_bytes(site.data)
    check_file(path, len(site.data), md5)
    damaged = bytearray(site.data)
    damaged[1_234_567] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(spice_data.DataError, match=f"must have md5 {md5}, got {file_md5(path)}"):
        check_file(path, len(site.data), md5)


def test_proxy(site, get, tmp_path):
    get("http://nowhere.invalid/file", proxy=site.url.removesuffix("/file"))
    assert (tmp_path / "f").read_bytes() == site.data


def test_proxy_of_the_environment(site, get, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", site.url.removesuffix("/file"))
    monkeypatch.setenv("http_proxy", site.url.removesuffix("/file"))
    get("http://nowhere.invalid/file")
    assert (tmp_path / "f").read_bytes() == site.data


def _process(site, tmp_path, wait):
    md5 = hashlib.md5(site.data).hexdigest()
    code = f"""
from spice_data.download import fetch
fetch([{site.url!r}], {str(tmp_path / "f")!r}, {len(site.data)}, {md5!r}, wait={wait})
"""
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("wait", [False, True])
def test_two_processes(site, get, tmp_path, wait):
    site.script = ["wait"]
    first = threading.Thread(target=get)
    first.start()
    while not site.ranges:
        time.sleep(0.01)
    second = _process(site, tmp_path, wait)
    if wait:
        site.release.set()
        assert second.wait(60) == 0
    else:
        assert "BlockingIOError" in second.communicate(timeout=60)[1]
        site.release.set()
    first.join()
    assert (tmp_path / "f").read_bytes() == site.data
    assert len(site.ranges) == 1  # whoever came second found the file complete, or gave up
    if second.stderr:
        second.stderr.close()


def test_full_disk(site, get, tmp_path):
    md5 = hashlib.md5(site.data).hexdigest()
    code = f"""
import resource
from spice_data.download import fetch
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
fetch([{site.url!r}], {str(tmp_path / "f")!r}, {len(site.data)}, {md5!r})
"""
    run = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=60)
    assert run.returncode == 1 and "File too large" in run.stderr
    assert _left(tmp_path) == [".f.part"]
    get()
    assert (tmp_path / "f").read_bytes() == site.data
    assert site.ranges[1] is not None


def test_too_little_space_is_said_beforehand(site, get, tmp_path):
    with pytest.raises(OSError, match="more bytes are needed"):
        get(size=1 << 60)
    assert site.ranges == []


def test_releases():
    table = releases.releases()
    spice = table["2.0.1"]
    assert (spice.file, spice.size) == ("SPICE-2.0.1.hdf5", 37479271148)
    assert (spice.md5, spice.record) == ("bfba2224b6540e1390a579569b475510", 10975225)
    assert (spice.groups, spice.conformations, spice.license) == (113999, 2008628, "CC0-1.0")
    assert all(str(r.record) in url for r in table.values() for url in r.urls)
    with pytest.raises(ValueError, match=r"3\.0"):
        releases.release("3.0")


def test_download_by_name(site, tmp_path, monkeypatch):
    entry = releases.release("2.0.1")._replace(size=len(site.data), md5=hashlib.md5(site.data).hexdigest())
    monkeypatch.setattr("spice_data.download._fetch.release", lambda name: entry._replace(urls=(site.url,)))
    assert download("2.0.1", tmp_path, retry=QUICK) == tmp_path / "SPICE-2.0.1.hdf5"
    with pytest.raises(NotADirectoryError, match="nowhere"):
        download("2.0.1", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ('{"files": [{"key": "SPICE-test.hdf5", "size": 3, "checksum": "md5:abc"}]}', None),
        ('{"files": [{"key": "other", "size": 3, "checksum": "md5:abc"}]}', "StopIteration"),
        ('{"files": [{"key": "SPICE-test.hdf5", "size": 3, "checksum": "sha1:abc"}]}', "sha1"),
        ("not JSON", "JSON"),
    ],
)
def test_size_and_md5_of_the_record(site, answer, problem):
    import requests

    site.data = answer.encode()
    entry = releases.release("test")
    with requests.Session() as session:
        if problem is None:
            found = releases.completed(entry, session, 5.0, site.url)
            assert (found.size, found.md5) == (3, "abc")
        else:
            with pytest.raises(ConnectionError, match=problem):
                releases.completed(entry, session, 5.0, site.url)
