"""inference.py --all and xai.py --all: tables, folders, what a kill leaves, several processes."""

import csv
import json
import multiprocessing
import os
import random
import shutil
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, by_torchrun
from PIL import Image

import inference
import xai
from crackcam import classifier, distributed, runtime
from crackcam.batch import folders, streaming
from crackcam.cli import console
from crackcam.data import images
from crackcam.explain import heatmaps
from crackcam.methods import NAMED
from crackcam.models import checkpoint, heads, pretrained, stages, target_layers
from crackcam.preprocessing import Preprocessing, squash
from crackcam.types import ModelCard

SCRIPTS = {"inference.py": inference, "xai.py": xai}
CALLS = {
    "inference.py": ["--image", "flight", "--all", "--batch-size", "4", "--precision", "fp32"],
    "xai.py": ["--image", "flight", "--all", "--batch-size", "4", "--method", "gradcam"],
}
TABLES = {"inference.py": Path("outputs/predictions_images.csv"), "xai.py": Path("outputs/xai_images_gradcam.csv")}


@pytest.fixture(scope="module")
def flown(tiny_data, tmp_path_factory):
    """flight/: 36 pictures and their masks in folders, two files that are none; a network that tells some apart."""
    root = tmp_path_factory.mktemp("flown")
    shutil.copytree(tiny_data, root / "flight")
    (root / "flight/readme.txt").write_text("no picture")
    (root / "flight/test/Negative/torn.jpg").write_bytes(
        next((root / "flight/test/Negative").iterdir()).read_bytes()[:900]
    )
    torch.manual_seed(3)
    network = pretrained.build_classifier("squeezenet1_1", 2)
    head = network.get_submodule(heads.head_name(network))
    torch.nn.init.normal_(head.weight, std=0.2)
    card = ModelCard("squeezenet1_1", ["Negative", "Positive"], 64)
    machine = runtime.Runtime(torch.device("cpu"), torch.float32)
    pixels = [squash(images.read_image(path), 64) for path in sorted((root / "flight/train").rglob("*.jpg"))]
    with torch.no_grad():
        logits = network.eval()(machine.input(classifier.stacked(pixels)))
        head.bias[1] -= (logits[:, 1] - logits[:, 0]).median() + 1e-3
    checkpoint.save(root / "weights/model.safetensors", network, card)
    return root


@pytest.fixture
def flight(flown, tmp_path, monkeypatch):
    """A copy of it: the working directory."""
    shutil.copytree(flown, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def run(capsys, script, *flags):
    code = SCRIPTS[script].main([*CALLS[script], *flags])
    return code, *capsys.readouterr()


def table(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def written(folder="outputs"):
    """All files below, by name; the document beside a table without what differs between calls."""
    found = {str(p): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}
    for name in [name for name in found if name.endswith(".json")]:
        document = json.loads(found[name])
        found[name] = {key: value for key, value in document.items() if key != "command"}
    return found


def expected_files():
    return [str(path) for path in images.list_files(Path("flight"))]


# -- one process -----------------------------------------------------------------------------------------------------


def test_a_folder_tree_as_a_table(flight, capsys):
    code, out, err = run(capsys, "inference.py")
    assert code == 0
    assert out.splitlines()[0] == "72 pictures, 2 files not readable"
    rows = table(TABLES["inference.py"])
    assert list(rows[0]) == ["file", "true", "predicted", "p_Negative", "p_Positive", "error"]
    assert [row["file"] for row in rows] == expected_files()
    broken = {Path(row["file"]).name: row["error"] for row in rows if row["error"]}
    assert broken == {"readme.txt": "not a picture", "torn.jpg": "truncated"}
    assert {row["predicted"] for row in rows if not row["error"]} == {"Negative", "Positive"}
    network, _ = checkpoint.load(Path("weights/model.safetensors"), torch.device("cpu"))
    for row in rows[::7]:
        if row["error"]:
            continue
        pixels = torch.from_numpy(squash(images.read_image(Path(row["file"])), 64).copy()).permute(2, 0, 1)[None] / 255
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        with torch.no_grad():
            by_hand = network((pixels - mean) / std).softmax(1)[0]
        assert float(row["p_Positive"]) == pytest.approx(float(by_hand[1]), abs=2e-6)
    document = json.loads(TABLES["inference.py"].with_suffix(".json").read_text())
    assert (document["pictures"], document["unreadable"], document["accuracy"]) == (72, 2, None)
    assert len(document["checkpoint"]["sha256"]) == 64
    assert not TABLES["inference.py"].with_name("predictions_images.csv.part").exists()
    assert "warning: flight/test/Negative/torn.jpg: truncated" in err


def test_json_lines_say_the_same(flight, capsys):
    run(capsys, "inference.py")
    code, _, _ = run(capsys, "inference.py", "--output", "outputs/lines.jsonl")
    assert code == 0
    lines = [json.loads(line) for line in Path("outputs/lines.jsonl").read_text().splitlines()]
    for line, row in zip(lines, table(TABLES["inference.py"]), strict=True):
        assert line["file"] == row["file"]
        assert line.get("error", "") == row["error"]
        if "error" not in line:
            assert line["predicted"] == row["predicted"] == next(iter(line["probabilities"]))
            assert f"{line['probabilities']['Positive']:.6f}" == row["p_Positive"]


def test_an_overlay_of_each_picture_in_shards(flight, capsys, monkeypatch):
    monkeypatch.setattr(folders, "SHARD", 10)
    run(capsys, "inference.py")
    code, out, _ = run(capsys, "xai.py", "--save-maps", "maps")
    assert code == 0
    assert out.splitlines()[1] == "wrote outputs/xai_images_gradcam.csv, outputs/xai_images_gradcam, maps"
    rows, predictions = table(TABLES["xai.py"]), table(TABLES["inference.py"])
    assert [row["file"] for row in rows] == expected_files()
    for i, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
        assert (row["predicted"], row["error"]) == (prediction["predicted"], prediction["error"])
        if row["error"]:
            assert row["overlay"] == row["max"] == ""
            continue
        assert row["target"] == row["predicted"]
        assert float(row["probability"]) == pytest.approx(float(prediction[f"p_{row['predicted']}"]), abs=2e-6)
        overlay = Path(row["overlay"])
        assert overlay.parent == Path(f"outputs/xai_images_gradcam/{i // 10:05d}")
        picture, heat = images.read_image(Path(row["file"])), np.load(row["map"])
        assert Path(row["map"]).parent == Path(f"maps/{i // 10:05d}")
        assert Image.open(overlay).format == "JPEG"
        assert images.read_image(overlay).shape == picture.shape
        assert heat.shape == picture.shape[:2]
        assert float(row["max"]) == pytest.approx(heat.max(), rel=0.05)
        cold = heat == 0
        if cold.any() and not cold.all():
            shown = images.read_image(overlay).astype(int)
            change = np.abs(shown - picture).mean(axis=2)
            assert change[heat > 0.5 * heat.max()].mean() > change[cold].mean()
    assert len({row["overlay"] for row in rows if row["overlay"]}) == 72
    assert max(len(list(shard.iterdir())) for shard in Path("outputs/xai_images_gradcam").iterdir()) <= 10


def test_class_folders_explain_each_picture_by_what_it_is_predicted_to_be(flight, capsys):
    code = xai.main(["--data", "flight", "--all", "--method", "eigencam", "--style", "sidebyside"])
    out, _ = capsys.readouterr()
    assert code == 0
    rows = table("outputs/xai_all_eigencam.csv")
    assert [row["true"] for row in rows] == ["Negative"] * 7 + ["Positive"] * 6
    assert all(row["target"] == row["predicted"] for row in rows)
    assert Image.open(rows[0]["overlay"]).width > 2 * Image.open(rows[0]["file"]).width
    right = sum(row["true"] == row["predicted"] for row in rows if not row["error"])
    assert f"12 pictures, accuracy {right / 12:.4f}, 1 file not readable" in out


def test_what_was_found_stands_in_the_table(flight, capsys):
    code, _, err = run(capsys, "xai.py", "--style", "mask")
    assert code == 2
    assert "--style mask --all needs --threshold" in err
    code, _, _ = run(capsys, "xai.py", "--style", "mask", "--threshold", "0.01", "--type", "Positive")
    assert code == 2
    code, _, _ = run(capsys, "xai.py", "--style", "mask", "--threshold", "0.01", "--save-maps", "maps")
    assert code == 0
    rows = [row for row in table(TABLES["xai.py"]) if not row["error"]]
    for row in rows[::9]:
        assert float(row["share"]) == pytest.approx((np.load(row["map"]) > 0.01).mean(), abs=1e-3)
        assert row["threshold"] == "0.01"


@pytest.mark.parametrize("flag", ["--verify", "--metrics", "--report", "--anatomy", "--masks=masks", "--method=all"])
def test_flags_that_need_all_pictures_at_once(flight, capsys, flag):
    code = xai.main(["--all", "--image", "flight", flag])
    assert code == 2
    assert "--all draws picture after picture" in capsys.readouterr().err or flag == "--anatomy"


def test_flags_of_all_alone(flight, capsys):
    for script in SCRIPTS.values():
        assert script.main(["--resume"]) == 2
        assert "--resume goes on with --all: add it" in capsys.readouterr().err
        assert script.main(["--all", "--output", "x.png"]) == 2
        assert "must end in .csv or .jsonl" in capsys.readouterr().err


@pytest.mark.parametrize("method", [name for name, m in NAMED.items() if m.passes == "1"])
def test_one_run_predicts_and_explains_as_two_do(method):
    torch.manual_seed(0)
    built, names = pretrained.build_classifier("resnet18", 2).eval(), ["layer2"]
    if method == "evidence":
        built = stages.add_multiscale_head(built, 2, 64).eval()
    if method in ("refinecam", "cam"):
        names = ["layer4"] if method == "cam" else ["layer2", "layer3"]
    machine = runtime.Runtime(torch.device("cpu"), torch.float32)
    network = classifier.LoadedModel(built, ModelCard("resnet18", ["no", "yes"], 64), machine, None)
    layers = target_layers.find_target_layers(built, 64, names)
    pixels = torch.randint(0, 256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pictures = list(pixels.permute(0, 2, 3, 1).numpy())
    for wanted in (None, 1):
        args = xai.build_parser().parse_args(["--method", method])
        chances, targets, heats = heatmaps.explained(args, network, network, method, layers, pixels, pictures, wanted)
        expected = classifier.predict(network, pixels, 3)
        assert np.allclose(chances, expected, atol=1e-6)
        assert targets == (expected.argmax(axis=1).tolist() if wanted is None else [1] * 3)
        two = heatmaps.heatmaps(network, method, layers, pixels, targets)
        assert torch.allclose(torch.stack(heats), two, rtol=1e-4, atol=1e-6)


def test_reading_ahead_is_bounded_and_threads_stay_as_they_were(flight):
    """Memory: no more than so many batches are decoded ahead of the network, or wait behind it."""
    before = torch.get_num_threads()
    files = [("", path) for path in sorted(Path("flight/train").rglob("*.jpg"))] * 8
    done = streaming.Run(Path("outputs/x.csv"), files, 4, {}, "trying")
    Path("outputs").mkdir()
    begun, worked, leads = [], [0], []

    def prepare(picture):
        begun.append(1)
        return picture

    def work(items):
        leads.append(len(begun) - worked[0])
        worked[0] += len(items)
        return [lambda: {"seen": 1} for _ in items]

    streaming.stream(done, prepare, work, resume=False)
    assert sum(row["seen"] for row in streaming.rows(done)) == len(files) == 192
    assert max(leads) <= 3 * 4 + 1
    assert torch.get_num_threads() == before


# -- kills -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_torn_lines_are_cut_off(flight, capsys, monkeypatch, script):
    """Ctrl-C after some batches; then what a kill in the middle of a write leaves: half of a batch, half of a line."""
    run(capsys, script)
    whole = written()
    shutil.rmtree("outputs")
    calls, real = [], Preprocessing.apply

    def interrupted(self, picture):
        calls.append(1)
        if len(calls) == 40:
            raise KeyboardInterrupt
        return real(self, picture)

    monkeypatch.setattr(Preprocessing, "apply", interrupted)
    code, _, err = run(capsys, script)
    assert code == 130
    assert "interrupted" in err
    assert not TABLES[script].exists()
    journal = Path(f"{TABLES[script]}.part/0.jsonl")
    lines = journal.read_text().splitlines()
    assert 4 <= len(lines) < 40
    assert len(lines) % 4 == 0
    journal.write_text("\n".join(lines) + "\n" + lines[0] + "\n" + lines[1][:30])
    if script == "xai.py":
        Path("outputs/xai_images_gradcam/00000/.0000039_half.77.jpg").write_bytes(b"half")
        Path("outputs/xai_images_gradcam/00000/.keep").touch()  # none of ours
        whole["outputs/xai_images_gradcam/00000/.keep"] = b""
    monkeypatch.setattr(Preprocessing, "apply", real)
    code, _, err = run(capsys, script, "--resume")
    assert code == 0
    assert f"resuming behind {len(lines)} pictures" in err
    assert written() == whole


@pytest.mark.parametrize("script", SCRIPTS)
def test_another_run_is_not_gone_on_with(flight, capsys, monkeypatch, script):
    code, _, err = run(capsys, script, "--resume")
    assert code == 0
    assert "note: nothing to resume" in err
    code, out, err = run(capsys, script, "--resume")
    assert code == 0
    assert f"nothing to resume: {TABLES[script]} is complete" in err
    assert out.startswith("72 pictures")
    monkeypatch.setattr(folders, "_write_table", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(capsys, script)[0] == 130
    for flags, said in (
        (["--batch-size", "8"], "batch-size was 4, is 8"),
        (["--precision", "bf16"], "precision was fp32, is bf16"),
        (["--image", "flight/test"], "another list of files"),
        *([(["--style", "contours"], "style was overlay, is contours")] if script == "xai.py" else []),
    ):
        code, _, err = run(capsys, script, "--resume", *flags)
        assert code == 2
        assert said in err
    network, card = checkpoint.load(Path("weights/model.safetensors"), torch.device("cpu"))
    heads.apply_temperature(network, 2.0)
    checkpoint.save(Path("weights/model.safetensors"), network, card)
    code, _, err = run(capsys, script, "--resume")
    assert code == 2
    assert "another weights" in err
    assert "leave --resume out" in err


def test_what_a_complete_run_has_not_is_not_passed_over(flight, capsys):
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


def child(script, flags, environment, log):
    os.environ.update(environment)
    with Path(log).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    if "SLOW" in environment:  # so that a moment can be met
        real = Preprocessing.apply
        Preprocessing.apply = lambda *a: time.sleep(0.01) or real(*a)
    sys.exit(SCRIPTS[script].main([*CALLS[script], *flags]))


def start(script, *flags, log="log.txt", **environment):
    """The script in a process of its own, of a server that has imported torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torchvision", "matplotlib.figure", "cv2"])
    process = context.Process(target=child, args=(script, flags, environment, log))
    process.start()
    return process


def finish(process):
    process.join(300)
    assert process.exitcode == 0


def lines_in(journal):
    try:
        return journal.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def killed_and_resumed(script, moments, seed):
    """An uninterrupted run, and one killed at so many random moments; their files must be equal."""
    finish(start(script))
    whole = written()
    shutil.rmtree("outputs")
    journal, draw = Path(f"{TABLES[script]}.part/0.jsonl"), random.Random(seed)
    kills, flags = 0, []
    while kills < moments:
        moment = lines_in(journal) + draw.randrange(12)
        process = start(script, *flags, SLOW="1")
        while process.exitcode is None and lines_in(journal) < moment:
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


# -- several processes -------------------------------------------------------------------------------------------------


def torchrun(script, processes, *flags):
    """What torchrun sets, without the seconds that it takes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    return [
        start(
            script, *flags, log=f"log{r}.txt", **place, RANK=str(r), LOCAL_RANK=str(r), LOCAL_WORLD_SIZE=str(processes)
        )
        for r in range(processes)
    ]


def same_rows(one, many):
    assert len(one) == len(many) == 74
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
    while lines_in(Path(f"{TABLES[script]}.part/1.jsonl")) < 8 and second.exitcode is None:
        time.sleep(0.001)
    second.kill()
    first.join(120)
    assert second.exitcode == -9
    assert first.exitcode not in (0, None)
    assert not TABLES[script].exists()
    for process in torchrun(script, 2, "--resume"):
        finish(process)
    resumed = table(TABLES[script])
    shutil.rmtree("outputs")
    finish(start(script))
    same_rows(table(TABLES[script]), resumed)


def test_processes_with_other_files_do_not_start(flight, capsys, monkeypatch):
    monkeypatch.setattr(distributed, "all_gather", lambda found: [found, {**found, "list of files": "others"}])
    code, _, err = run(capsys, "inference.py")
    assert code == 2
    assert "not all processes have the same list of files: each needs the same files at the same place" in err
    assert not Path("outputs/predictions_images.csv.part").exists()


def test_two_runs_do_not_write_one_journal(flight, capsys):
    if not streaming.fcntl:
        pytest.skip("files cannot be locked here")
    journal = Path("outputs/predictions_images.csv.part/0.jsonl")
    journal.parent.mkdir(parents=True)
    with journal.open("a+b") as file:
        streaming.fcntl.flock(file, streaming.fcntl.LOCK_EX)
        code, _, err = run(capsys, "inference.py")
    assert code == 2
    assert f"another run is writing {journal}" in err


def test_torchrun_without_all(flight, capsys, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "here"}.items():
        monkeypatch.setenv(name, value)
    assert inference.main([]) == 2
    assert "several processes share the pictures of --all" in capsys.readouterr().err
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


# -- memory ------------------------------------------------------------------------------------------------------------


def test_freed_memory_is_kept_unless_the_user_says_otherwise(monkeypatch):
    import ctypes

    asked = []

    class Library:
        def __init__(self, name):
            pass

        def mallopt(self, what, value):
            asked.append((what, value))
            return value <= 2**25 or what == -1  # an old glibc

    monkeypatch.setattr(ctypes, "CDLL", Library)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    console.keep_freed_memory()
    assert asked == [(-1, 2**31 - 1), (-3, 2**30), (-3, 2**25)]
    asked.clear()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    console.keep_freed_memory()
    assert asked == []
