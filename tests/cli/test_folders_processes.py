"""inference.py --all and xai.py --all in several processes."""

import shutil
import time
from pathlib import Path

import pytest
from conftest import ROOT, by_torchrun
from flights import CALLS, SCRIPTS, TABLES, finish, lines_in, start, table, torchrun
from PIL import Image

import inference


def same_rows(one, many):
    assert len(one) == len(many) == 34
    for a, b in zip(one, many, strict=True):
        for name in a:
            if name.startswith(("p_", "probability", "max")) and a[name]:
                assert float(a[name]) == pytest.approx(float(b[name]), abs=1e-5)
            else:
                assert a[name] == b[name]


def shared_by(script, processes):
    finish(start(script))
    one = table(TABLES[script])
    shutil.rmtree("outputs")
    for process in torchrun(script, processes):
        finish(process)
    same_rows(one, table(TABLES[script]))
    for row in one:
        assert row.get("overlay", "") == "" or Image.open(row["overlay"]).format == "JPEG"
    assert "wrote outputs" in Path("log0.txt").read_text()
    for r in range(1, processes):
        assert Path(f"log{r}.txt").read_text() == ""
    assert not Path(f"{TABLES[script]}.part").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_two_processes_make_the_table_of_one(flight, script):
    shared_by(script, 2)


@pytest.mark.torture
@pytest.mark.parametrize("script", SCRIPTS)
def test_three_processes_make_the_table_of_one(flight, script):
    shared_by(script, 3)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_process_that_dies_takes_the_others_along_and_leaves_no_table(flight, script):
    first, second = torchrun(script, 2)
    while lines_in(Path(f"{TABLES[script]}.part/1.jsonl")) < 8 and second.is_alive():
        time.sleep(0.001)
    second.kill()
    first.join(120)
    assert first.exitcode not in (None, 0)
    second.join(120)
    assert second.exitcode == -9
    assert not TABLES[script].exists()
    for process in torchrun(script, 2, "--resume"):
        finish(process)
    resumed = table(TABLES[script])
    shutil.rmtree("outputs")
    finish(start(script))
    same_rows(table(TABLES[script]), resumed)


def test_torchrun_without_all(flight, capsys, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "here"}.items():
        monkeypatch.setenv(name, value)
    assert inference.main([]) == 2
    assert "several processes split the images of --all" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    assert inference.main([]) == 2
    assert "error in process 1: several processes" in capsys.readouterr().err


@pytest.mark.torture
@pytest.mark.parametrize("script", SCRIPTS)
def test_torchrun_itself(flight, script):
    finish(start(script))
    one = table(TABLES[script])
    shutil.rmtree("outputs")
    done = by_torchrun(2, ROOT / script, *CALLS[script])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote outputs") == 1
    same_rows(one, table(TABLES[script]))
