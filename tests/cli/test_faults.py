"""Full disks, signals, lack of memory, killed workers: earlier results stay, no partial file, the right exit code."""

import csv
import errno
import itertools
import json
import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import tqdm.std
from conftest import ROOT, TINY_TRAINING, run_code
from PIL import Image

import inference
import train
import xai
from crackcam import files
from crackcam.cli import console
from crackcam.data import pixels, storage
from crackcam.errors import UserError
from crackcam.models import checkpoint, pretrained
from crackcam.models.loaded import LoadedModel
from crackcam.training import resume
from crackcam.types import ModelCard

QUICK = [*TINY_TRAINING, "--arch", "squeezenet1_1", "--epochs", "1"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "model.safetensors"
    torch.manual_seed(0)
    checkpoint.save(path, pretrained.build_classifier("squeezenet1_1", 2), ModelCard("squeezenet1_1", ["a", "b"], 64))
    return path


@pytest.fixture
def flight(tmp_path, monkeypatch, network):
    """in/ with five images, and weights/; the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("weights").mkdir()
    shutil.copy(network, "weights/model.safetensors")
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(f"in/{i}.png")


def contents(*folders):
    return {str(p): p.read_bytes() for folder in folders for p in Path(folder).rglob("*") if p.is_file()}


# -- disks -----------------------------------------------------------------------------------------------------------


@contextmanager
def files_of_at_most(size):
    """As on a full disk: no file grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save_network(path):
    network = torch.nn.Linear(100, 100)
    checkpoint.save(path.with_suffix(".safetensors"), network, ModelCard("linear", ["a", "b"], 8))


def save_state(path):
    part = torch.nn.Linear(100, 100)
    resume.StateFile(path, {}).write({"model": part, "optimizer": part, "schedule": part}, [], {})


@pytest.mark.parametrize(
    ("save", "suffix"),
    [
        (save_network, ".safetensors"),
        (save_state, ".resume"),
        (lambda path: files.write_json(path, {"a": "b" * 9000}), ".json"),
        (lambda path: files.write_csv(path, [{"a": "b" * 9000}]), ".csv"),
    ],
)
def test_a_full_disk_is_an_error_of_the_system_and_earlier_files_stay(tmp_path, save, suffix):
    """Safetensors and torch.save raise errors of their own for it."""
    path = tmp_path / f"result{suffix}"
    path.write_bytes(b"earlier")
    with files_of_at_most(4000), pytest.raises(OSError, match="File too large") as raised:
        save(path)
    assert raised.value.errno == errno.EFBIG
    assert contents(tmp_path) == {str(path): b"earlier"}


@pytest.mark.parametrize("script", [inference, xai])
def test_a_full_disk_through_the_scripts(flight, capsys, script):
    flags = ["--image", "in", *(["--method", "gradcam"] if script is xai else [])]
    assert script.main(flags) == 0
    before = contents("outputs", "weights")
    with files_of_at_most(300):
        assert script.main(flags) == 2
    assert "error: File too large: outputs/" in capsys.readouterr().err
    assert contents("outputs", "weights") == before
    with files_of_at_most(300):
        assert script.main([*flags, "--all"]) == 2
    assert not [name for name in contents("outputs") if name.endswith((".csv", ".jsonl.csv"))]
    assert script.main([*flags, "--all"]) == 0


def test_room_for_images_is_reserved_before_they_are_written(monkeypatch):
    """Where the disk fills up later, training would end after hours; a sparse file that is mapped, by a signal."""
    monkeypatch.setattr(storage, "IN_MEMORY", 0)
    room = r"has no room for 0\.1 GB of decoded images \(file too large\): set TMPDIR to a folder on a larger disk"
    with files_of_at_most(10_000), pytest.raises(UserError, match=room):
        storage.allocate((5000, 3, 64, 64))
    assert storage.allocate((2, 3, 8, 8)).shape == (2, 3, 8, 8)


def test_a_real_full_disk(flight, capsys):
    Path("small").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", "small"], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        Path("small/filler").write_bytes(bytes(150_000))
        assert inference.main(["--image", "in", "--output", "small/grid.png", "--report", "small/page.html"]) == 2
        assert "error: No space left on device: small/" in capsys.readouterr().err
        assert all(name in ("small/filler", "small/page.html", "small/grid.png") for name in contents("small"))
        with pytest.raises(OSError, match="No space left on device"):
            checkpoint.save(
                Path("small/m.safetensors"),
                pretrained.build_classifier("squeezenet1_1", 2),
                ModelCard("x", ["a"], 8),
            )
        with pytest.raises(OSError, match="No space left on device"):
            save_large_state(Path("small/m.resume"))
        assert all(name in ("small/filler", "small/page.html", "small/grid.png") for name in contents("small"))
    finally:
        subprocess.run(["umount", "small"], check=True)


def save_large_state(path):
    part = torch.nn.Linear(300, 300)
    resume.StateFile(path, {}).write({"model": part, "optimizer": part, "schedule": part}, [], {})


@pytest.mark.parametrize("script", [inference, xai, train])
def test_where_nothing_can_be_written(flight, capsys, script):
    name = "/proc/model.safetensors" if script is train else "/proc/grid.png"
    assert script.main(["--output", name, *([] if script is train else ["--image", "in"])]) == 2
    assert f"error: cannot write {name}: " in capsys.readouterr().err


def test_long_names_fit(tmp_path):
    """The temporary name is no longer than the file's own, for 255 bytes are the most."""
    for stem in ("x" * 250, "ü" * 125):
        files.write_json(tmp_path / f"{stem}.json", {})
    assert len(list(tmp_path.iterdir())) == 2


# -- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_in_the_middle_of_a_file(flight, monkeypatch, capsys, number, code, request):
    # A shell's background jobs ignore Ctrl-C, and so would these tests there.
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    flags = ["--image", "in"]
    assert inference.main(flags) == 0
    before = contents("outputs")
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    replace = Path.replace

    def killed(path, target):
        assert path.stat().st_size
        os.kill(os.getpid(), number)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    assert inference.main([*flags, "--seed", "3"]) == code
    assert contents("outputs") == before
    assert inference.main([*flags, "--all"]) == code
    assert {name for name in contents("outputs") if ".part/" not in name} == set(before)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_import_comes_to_its_end(tmp_path, number, code):
    """Exceptions out of Python that C++ calls, as torch does while it is imported, abort a process."""
    (tmp_path / "imported.py").write_text(f"import os\nos.kill(os.getpid(), {number:d})\nwhole = True")
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]\n"
        "from crackcam.cli import console\n"
        "@console.command\n"
        "def main(argv=None):\n"
        "    import imported\n"
        "    print(imported.whole, flush=True)\n"
        "    time.sleep(60)\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.returncode) == ("True\n", code), done.stderr


SCRIPTS = {
    "train.py": [*QUICK, "--epochs", "3"],
    "inference.py": ["--image", "in", "--report"],
    "xai.py": ["--image", "in", "--method", "gradcam", "--save-maps", "outputs/maps"],
}


@pytest.mark.torture
@pytest.mark.parametrize("script", SCRIPTS)
def test_signals_at_random_moments(flight, tiny_data, script):
    """Thirty, of three kinds: results of earlier runs stay whole, and where the script still can, nothing else does."""
    shutil.copytree(tiny_data, "data")
    command = [sys.executable, str(ROOT / script), *SCRIPTS[script]]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    takes = time.perf_counter() - start
    whole = {name for name in contents("outputs", "weights") if not name.endswith((".resume", ".previous"))}
    chance, codes, lost = random.Random(8), set(), set()
    heeds = {signal.SIGTERM: {143, -15}, signal.SIGINT: {130, -2, 1}, signal.SIGKILL: {-9}}
    for kind in itertools.islice(itertools.cycle(heeds), 30):
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        time.sleep(takes * chance.uniform(0.2, 1))
        process.send_signal(kind)
        _, err = process.communicate(timeout=300)
        codes.add(process.returncode)
        assert process.returncode in {0, *heeds[kind]}, err
        assert process.returncode != 1 or "crackcam" not in err, err  # imports are not ours
        left = set(contents("outputs", "weights")) - whole
        hidden = {name for name in left if Path(name).name.startswith(".")}
        if kind != signal.SIGKILL:
            assert not hidden - lost, err
        lost = hidden
        checkpoint.load(Path("weights/model.safetensors"), CPU)
        for name in whole & set(contents("outputs")):
            if name.endswith(".json"):
                json.loads(Path(name).read_text())
            if name.endswith(".png"):
                Image.open(name).load()
        assert whole <= set(contents("outputs", "weights"))
    assert {143, 130, -9} <= codes
    subprocess.run(command, check=True, capture_output=True)


# -- memory, processes, clocks ------------------------------------------------------------------------------------------


class Small(torch.nn.Module):
    """Accepts so many images at a time; the GPU has no memory for more."""

    def __init__(self, most):
        super().__init__()
        self.most, self.batches = most, []

    def forward(self, x):
        self.batches.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return x.mean(dim=(2, 3))[:, :2]


def test_a_batch_that_a_gpu_cannot_hold_is_halved_and_stays_so(caplog):
    caplog.set_level(logging.INFO, "crackcam")
    card = ModelCard("small", ["a", "b"], 8)
    pixels = torch.randint(0, 256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    large, small = (LoadedModel(Small(most), card) for most in (99, 6))
    expected = large.all_probabilities(pixels, 20)
    assert large.model.batches == [20, 20]
    assert np.array_equal(small.all_probabilities(pixels, 20), expected)
    assert small.model.batches == [20, 10, 5, 5, 5, 5, 5, 5, 5, 5]
    assert caplog.messages == [f"out of memory: continuing with {number} images at a time" for number in (10, 5)]
    with pytest.raises(torch.OutOfMemoryError):
        LoadedModel(Small(0), card).all_probabilities(pixels, 4)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory on the GPU: try a smaller --batch-size"),
        (MemoryError(), "out of memory: try a smaller --batch-size, or smaller images"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
            "out of memory: try a smaller --batch-size",
        ),
    ],
)
def test_lack_of_memory_is_one_line(capsys, error, advice):
    @console.command
    def main(argv=None):
        raise error

    assert main([]) == 2
    assert capsys.readouterr().err == f"error: {advice}\n"


@pytest.mark.torture
def test_lack_of_memory_for_real(flight):
    code = (
        "import resource, sys, inference\n"
        "import crackcam.cli.predict, crackcam.batch.folders, crackcam.classifier\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20,) * 2)\n"
        "sys.exit(inference.main(sys.argv[1:]))"
    )
    Image.new("RGB", (12_000, 12_000)).save("in/large.png")
    flags = ["--image", "in", "--all", "--batch-size", "4"]
    run_code(code, *flags)
    with Path("outputs/predictions_images.csv").open() as file:
        errors = {row["file"]: row["error"] for row in csv.DictReader(file)}
    assert errors == {**{f"in/{i}.png": "" for i in range(5)}, "in/large.png": "not enough memory"}


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_one_line(fresh, monkeypatch, capsys):
    Path("weights").mkdir()
    Path("weights/model.safetensors").write_bytes(b"earlier")
    monkeypatch.setattr(pixels.AugmentedSplit, "__getitem__", die)
    assert train.main([*QUICK, "--workers", "1"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: a worker process was killed")
    assert contents("weights") == {"weights/model.safetensors": b"earlier"}


@pytest.mark.torture
def test_two_trainings_into_one_file(flight, tiny_data):
    shutil.copytree(tiny_data, "data")
    command = [sys.executable, str(ROOT / "train.py"), *QUICK, "--epochs", "3"]
    both = [subprocess.Popen([*command, "--seed", seed], stderr=subprocess.PIPE, text=True) for seed in "12"]
    ends = [(process.communicate(timeout=600)[1], process.returncode) for process in both]
    assert [code for _, code in ends] == [0, 0], ends
    checkpoint.load(Path("weights/model.safetensors"), CPU)
    # The weights that were there were of other data.
    assert {p.name for p in Path("weights").iterdir()} == {"model.safetensors", "model.previous.safetensors"}


def test_a_clock_that_goes_backwards(flight, monkeypatch):
    assert inference.main(["--image", "in", "--all", "--batch-size", "2"]) == 0
    before = Path("outputs/predictions_images.csv").read_bytes()
    clock = itertools.count(10**9, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    monkeypatch.setattr(tqdm.std, "time", time.time)
    assert inference.main(["--image", "in", "--all", "--batch-size", "2"]) == 0
    assert Path("outputs/predictions_images.csv").read_bytes() == before


def test_no_split_goes_through_shared_memory(fresh, without_figures, monkeypatch):
    """Docker gives 64 MB of it, and Python 3.14 does not fork by default."""
    shared, this, share = [], os.getpid(), torch.UntypedStorage._share_fd_cpu_

    def watch(storage, *arguments):
        if os.getpid() == this:  # workers share their batches
            shared.append(storage.nbytes())
        return share(storage, *arguments)

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", watch)
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)
    try:
        assert train.main([*QUICK, "--workers", "2"]) == 0
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert shared == []
    by_workers = checkpoint.load(Path("weights/model.safetensors"), CPU)[0].state_dict()
    assert train.main([*QUICK, "--workers", "0"]) == 0
    alone = checkpoint.load(Path("weights/model.safetensors"), CPU)[0].state_dict()
    assert all(torch.equal(by_workers[name], alone[name]) for name in alone)


@pytest.mark.parametrize(
    "text",
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
        "shared memory. Please try to raise your shared memory limit.",
        "unable to write to file </torch_42_1>: No space left on device (28)",
        "unable to mmap 4816896 bytes from file </torch_42_1>: Cannot allocate memory (12)",
        "unable to open shared memory object </torch_42_1> in read-write mode: Too many open files (24)",
    ],
)
def test_lack_of_shared_memory_has_its_advice(capsys, text):
    @console.command
    def main(argv=None):
        raise RuntimeError(text)

    assert main([]) == 2
    assert capsys.readouterr().err == (
        "error: out of shared memory: in Docker add --shm-size 2g, or --ipc host; or try --workers 0, and --resume\n"
    )
