"""inference.py --all and xai.py --all: what an interruption leaves, and --resume."""

import os
import random
import shutil
import time
from pathlib import Path

import pytest
import torch
from flights import SCRIPTS, TABLES, finish, lines_in, run, start, written

from crackcam.batch import folders
from crackcam.models import checkpoint, heads
from crackcam.preprocessing import Preprocessing


@pytest.mark.parametrize("script", SCRIPTS)
def test_torn_lines_are_cut_off(flight, capsys, monkeypatch, script):
    """Ctrl-C after some batches; then what a kill in the middle of a write leaves: half of a batch, half of a line."""
    run(capsys, script)
    whole = written()
    shutil.rmtree("outputs")
    calls, real = [], Preprocessing.apply

    def interrupted(self, image):
        calls.append(1)
        if len(calls) == 24:
            raise KeyboardInterrupt
        return real(self, image)

    monkeypatch.setattr(Preprocessing, "apply", interrupted)
    code, _, err = run(capsys, script)
    assert code == 130
    assert "interrupted" in err
    assert not TABLES[script].exists()
    journal = Path(f"{TABLES[script]}.part/0.jsonl")
    lines = journal.read_text().splitlines()
    assert 4 <= len(lines) < 24
    assert len(lines) % 4 == 0
    journal.write_text("\n".join(lines) + "\n" + lines[0] + "\n" + lines[1][:30])
    if script == "xai.py":
        Path("outputs/xai_images_gradcam/00000/.0000023_half.77.jpg").write_bytes(b"half")
        Path("outputs/xai_images_gradcam/00000/.keep").touch()  # none of ours
        Path("outputs/.xai_images_gradcam.77.json").write_text("")
        younger = Path("outputs/.xai_images_gradcam.78.csv")  # of a run that is writing now
        younger.touch()
        os.utime(younger, (time.time() + 60,) * 2)
        whole[str(younger)] = b""
        whole["outputs/xai_images_gradcam/00000/.keep"] = b""
    monkeypatch.setattr(Preprocessing, "apply", real)
    code, _, err = run(capsys, script, "--resume")
    assert code == 0
    assert f"resuming after {len(lines)} images" in err
    assert written() == whole


@pytest.mark.parametrize("script", SCRIPTS)
def test_another_run_is_not_resumed(flight, capsys, monkeypatch, script):
    code, _, err = run(capsys, script, "--resume")
    assert code == 0
    assert "nothing to resume at " in err
    code, out, err = run(capsys, script, "--resume")
    assert code == 0
    assert f"nothing to resume: {TABLES[script]} is complete" in err
    assert out.startswith("32 images")
    monkeypatch.setattr(folders, "_write_table", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(capsys, script)[0] == 130
    for flags, message in (
        (["--batch-size", "8"], "batch-size was 4, is 8"),
        (["--precision", "bf16"], "precision was fp32, is bf16"),
        (["--image", "flight/test"], "another list of files"),
        *([(["--style", "contours"], "style was overlay, is contours")] if script == "xai.py" else []),
    ):
        code, _, err = run(capsys, script, "--resume", *flags)
        assert code == 2
        assert message in err
    network, card = checkpoint.load(Path("weights/model.safetensors"), torch.device("cpu"))
    heads.apply_temperature(network, 2.0)
    checkpoint.save(Path("weights/model.safetensors"), network, card)
    code, _, err = run(capsys, script, "--resume")
    assert code == 2
    assert "another weights" in err
    assert "leave --resume out" in err


def test_a_report_that_a_complete_run_lacks(flight, capsys):
    run(capsys, "inference.py")
    code, _, err = run(capsys, "inference.py", "--resume", "--report")
    assert code == 2
    assert "predictions_images.csv is complete, without outputs/report.html: leave --resume or --report out" in err
    assert not Path("outputs/report.html").exists()
    assert run(capsys, "inference.py", "--report")[0] == 0
    assert run(capsys, "inference.py", "--report", "--resume")[0] == 0
    for damaged in ("{", "7"):
        Path("outputs/predictions_images.json").write_text(damaged)
        code, _, err = run(capsys, "inference.py", "--resume")
        assert code == 2
        assert "outputs/predictions_images.json is damaged: leave --resume out" in err


def killed_and_resumed(script, moments, seed):
    """An uninterrupted run, and one killed at so many random moments; their files must be equal."""
    finish(start(script))
    whole = written()
    shutil.rmtree("outputs")
    journal, draw = Path(f"{TABLES[script]}.part/0.jsonl"), random.Random(seed)
    kills, flags = 0, []
    while kills < moments:
        moment = lines_in(journal) + draw.randrange(12)
        process = start(script, *flags, slowly=True)
        while process.is_alive() and lines_in(journal) < moment:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.03))
        process.kill()
        process.join()
        kills += process.exitcode == -9
        flags = ["--resume"]
        if process.exitcode == 0:  # it was done before its moment came
            assert written() == whole
            shutil.rmtree("outputs")
            flags = []
    finish(start(script, "--resume"))
    assert written() == whole


@pytest.mark.parametrize("script", SCRIPTS)
def test_killed_twice(flight, script):
    killed_and_resumed(script, 2, seed=1)


@pytest.mark.torture
@pytest.mark.parametrize("script", SCRIPTS)
def test_killed_at_twenty_random_moments(flight, script):
    killed_and_resumed(script, 20, seed=0)
