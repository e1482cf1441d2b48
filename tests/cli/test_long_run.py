"""benchmarks/long_run.py in short: what a round of work leaves behind."""

import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import long_run


@pytest.mark.torture  # more than half a minute; what it would find is looked for by the side effects of single calls
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_rounds_leave_nothing_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(long_run, "COMMANDS", [long_run.COMMANDS[i] for i in (0, 2, 6)])
    monkeypatch.setattr(long_run, "ALLOWED", 1.5)  # the first rounds still fill caches
    assert long_run.main(["--rounds", "3"]) == 0  # of which the last is compared with the second
    assert "nothing grows" in capsys.readouterr().out


def test_what_grows_is_named():
    flat = {"MB": 100.0, "files": 8, "hooks": 0}
    rounds = [flat, flat, flat, {"MB": 106.0, "files": 9, "hooks": 0}]
    assert long_run.leaks(rounds) == ["MB: 100 before, 106 at the end", "files: 8 before, 9 at the end"]
    assert long_run.leaks([*rounds[:3], {**flat, "MB": 104.0}]) == []
