"""Shared by all tests: a tiny generated data set, and a tiny network trained on it by the real train.py, once."""

import contextlib
import gc
import hashlib
import os
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from browsers import browser, opened  # noqa: F401  # fixtures
from processes import run_python

# torch and the library are imported where they are used: the process that only hands tests to others does without.

ROOT = Path(__file__).parents[1]
FIGURES = ["training_curves", "confusion_matrix", "reliability", "prediction_grid", "heatmap_grid", "comparison"]
TINY_TRAINING = ["--pretrained", "none", "--image-size", "64", "--epochs", "2", "--batch-size", "8", "--workers", "0"]

# pytest-xdist runs tests side by side: one thread each, also in the processes that they start. Before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

# Nothing that is imported is garbage, and looking for it takes a sixth of the time. Until all tests are collected.
gc.disable()


def tiny_config(**others):
    """The settings of TINY_TRAINING, from Python."""
    from crackcam import TrainConfig

    return TrainConfig(**{"pretrained": "none", "image_size": 64, "epochs": 2, "batch_size": 8, "workers": 0, **others})


def run_code(code, *arguments):
    """Python code in a process of its own, in the working directory; it must end well."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done


def by_torchrun(processes, *command):
    """A script and its arguments in several interpreters, by the real torchrun."""
    code = "import sys; from torch.distributed import run; sys.exit(run.main())"
    return run_python(code, "--standalone", f"--nproc_per_node={processes}", *command, timeout=900)


@dataclass
class Workplace:
    """A folder with data/, weights/ and outputs/, as a user's clone has them."""

    root: Path

    def files(self, folder: str) -> set[str]:
        return {p.relative_to(self.root).as_posix() for p in (self.root / folder).rglob("*") if p.is_file()}


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """data/ with 12 + 12 training images and 6 + 6 for testing."""
    from crackcam.data.synthetic import write_sample

    root = tmp_path_factory.mktemp("tiny") / "data"
    write_sample(root, counts={"train": 12, "test": 6})
    return root


def shared_by_run(tmp_path_factory, name, make):
    """A folder that the processes of a run share: the first one that needs it makes it."""
    from filelock import FileLock

    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    with FileLock(f"{folder}.lock"):
        if not Path(f"{folder}.made").exists():
            folder.mkdir()
            make(folder)
            Path(f"{folder}.made").touch()
    return folder


def train_in(folder, data, *flags):
    """Makes a folder a workplace after ``python train.py`` with these flags."""
    import train

    shutil.copytree(data, folder / "data")
    with contextlib.chdir(folder):
        assert train.main([*TINY_TRAINING, *flags]) == 0


@pytest.fixture(scope="session")
def trained(tiny_data, tmp_path_factory):
    """A workplace after ``python train.py``, with the default network, ResNet-18; tests read it and write elsewhere."""
    return Workplace(shared_by_run(tmp_path_factory, "trained", lambda folder: train_in(folder, tiny_data)))


@pytest.fixture(scope="session")
def trained_small(tiny_data, tmp_path_factory):
    """The same with a network of a thirtieth of the weights, whose layers have the same names.

    Two epochs teach it nothing. With a head that is drawn instead, each class is predicted for half of the images, and
    most images have evidence for both.
    """
    import torch

    from crackcam.models import checkpoint

    def make(folder):
        train_in(folder, tiny_data, "--arch", "timm/test_resnet")
        path = folder / "weights/model.safetensors"
        model, card = checkpoint.load(path, torch.device("cpu"))
        torch.manual_seed(1)
        draw_head(model, card, tiny_data / "test", std=1)
        checkpoint.save(path, model, card)

    return Workplace(shared_by_run(tmp_path_factory, "trained_small", make))


def draw_head(model, card, folder, std):
    """A random head that predicts one of two classes for half of the images of a folder."""
    import torch

    from crackcam.data import images
    from crackcam.models import heads

    head = model.get_submodule(heads.head_name(model))
    torch.nn.init.normal_(head.weight, std=std)
    arrays = [images.read_image(path) for path in sorted(folder.rglob("*.jpg"))]
    pixels = torch.stack([torch.tensor(card.preprocessing.apply(array)).permute(2, 0, 1) for array in arrays])
    with torch.no_grad():
        logits = model(card.preprocessing.normalize(pixels, torch.device("cpu")))
        head.bias[1] -= (logits[:, 1] - logits[:, 0]).median() + 1e-3


@pytest.fixture
def place(trained_small, tmp_path, monkeypatch):
    """A copy of the workplace with the small network, to break at will; the working directory."""
    shutil.copytree(trained_small.root, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return Workplace(tmp_path / "place")


@pytest.fixture
def fresh(tiny_data, tmp_path, monkeypatch):
    """A workplace with data and nothing else; the working directory."""
    shutil.copytree(tiny_data, tmp_path / "fresh" / "data")
    monkeypatch.chdir(tmp_path / "fresh")
    return Workplace(tmp_path / "fresh")


@pytest.fixture
def without_figures(monkeypatch):
    """For tests of what a script computes, not of what it draws: these figures take as long as a short training."""
    for name in FIGURES:
        monkeypatch.setattr(f"crackcam.render.figures.{name}", lambda *_, **__: None)


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_data, tmp_path_factory):
    """A checkpoint of a random SqueezeNet, 64 px, that predicts one class for half of the images of tiny_data/train."""
    import torch

    from crackcam.models import checkpoint, pretrained
    from crackcam.types import ModelCard

    torch.manual_seed(3)
    model = pretrained.build_classifier("squeezenet1_1", 2).eval()
    card = ModelCard("squeezenet1_1", ["Negative", "Positive"], 64)
    draw_head(model, card, tiny_data / "train", std=0.2)
    path = tmp_path_factory.mktemp("tiny_checkpoint") / "model.safetensors"
    checkpoint.save(path, model, card)
    return path


@pytest.fixture(scope="session")
def flown(tiny_data, tiny_checkpoint, tmp_path_factory):
    """flight/: 32 images in folders, 12 of them drawn masks, and two unreadable files; weights/model.safetensors."""
    root = tmp_path_factory.mktemp("flown")
    shutil.copytree(tiny_data, root / "flight")
    (root / "flight/masks").rename(root / "flight/drawn")  # masks would be left out
    for folder, count in {"train/Negative": 4, "train/Positive": 4, "drawn": 12}.items():
        for path in sorted((root / "flight" / folder).rglob("*.*"))[count:]:
            path.unlink()
    (root / "flight/readme.txt").write_text("no image")
    whole = min((root / "flight/test/Negative").iterdir()).read_bytes()
    (root / "flight/test/Negative/torn.jpg").write_bytes(whole[:900])
    (root / "weights").mkdir()
    shutil.copy(tiny_checkpoint, root / "weights/model.safetensors")
    return root


@pytest.fixture
def flight(flown, tmp_path, monkeypatch):
    """A copy of it: the working directory."""
    shutil.copytree(flown, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


class Remembered:
    """Results that the processes of a run share, each in a file that is named by what it follows from."""

    def __init__(self, folder):
        self.folder = folder

    def get(self, key, make):
        path = self.folder / hashlib.sha1(repr(key).encode()).hexdigest()
        if not path.exists():
            part = path.with_suffix(f".{os.getpid()}")
            part.write_bytes(pickle.dumps(make()))
            part.replace(path)
        return pickle.loads(path.read_bytes())


@pytest.fixture(scope="session")
def remembered(tmp_path_factory):
    return Remembered(shared_by_run(tmp_path_factory, "remembered", lambda folder: None))


LIBRARIES = {"torch", "torchvision", "timm", "crackcam", "narrow_resnet"}


def _architecture(model):
    """The layers of a model; None where their code is none of ours, or something watches them."""
    kinds = [type(module) for module in model.modules()]
    if any(kind.__module__.split(".")[0] not in LIBRARIES for kind in kinds):
        return None
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return None
    return repr(model), kinds


@pytest.fixture
def examined_once(remembered, monkeypatch):
    """Which layers are grids takes seconds to tell: of an architecture it is told once in a test run.

    Tests of the examination itself, and of weights that make a difference to it, leave this out.
    """
    from crackcam.models import target_layers

    examine = target_layers._examine

    def recall(model, image_size):
        architecture = _architecture(model)
        if architecture is None:
            return examine(model, image_size)
        return remembered.get((image_size, architecture), lambda: examine(model, image_size))

    monkeypatch.setattr(target_layers, "_examine", recall)


@pytest.fixture
def exported_once(remembered, monkeypatch):
    """Exporting a graph takes seconds: those of the same models, for the same sizes, are made once in a test run."""
    import torch

    from crackcam.models import graphs

    export = graphs.export_graph

    def identity(model):
        digest = hashlib.sha1(repr(model).encode())
        for name, tensor in model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
        settings = [{k: v for k, v in vars(m).items() if isinstance(v, int | float | str)} for m in model.modules()]
        return digest.hexdigest(), settings

    def recall(model, inputs, names):
        key = identity(model), inputs.shape, names
        return remembered.get(key, lambda: export(model, inputs, names))

    monkeypatch.setattr(graphs, "export_graph", recall)


@pytest.fixture(autouse=True)
def _scripts_examine_once(request):
    if request.node.get_closest_marker("cli"):
        request.getfixturevalue("examined_once")


def _folder_of(variable):
    return Path(os.environ[variable]) if variable in os.environ else None


@pytest.fixture(scope="session")
def real_data():
    """The folder of real images."""
    folder = _folder_of("CRACKCAM_DATA")
    if folder is None:
        pytest.skip("CRACKCAM_DATA names no folder of real images")
    return folder


@pytest.fixture
def imagenet_weights(monkeypatch):
    """Real ImageNet weights of SqueezeNet in torch's cache."""
    folder = _folder_of("CRACKCAM_WEIGHTS")
    if folder is None:
        pytest.skip("CRACKCAM_WEIGHTS names no folder of ImageNet weights")
    monkeypatch.setenv("TORCH_HOME", str(folder))


@pytest.fixture
def no_network(monkeypatch):
    """Whatever looks up a machine's name or connects fails the test, also where the error is caught."""
    asked = []

    def refuse(*arguments, **_):
        asked.append(arguments)
        raise AssertionError(f"the network was asked for: {arguments}")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    yield
    assert not asked


def pytest_ignore_collect(collection_path, config):
    """Modules that are slow as a whole are not imported where slow tests are left out anyway."""
    if "not slow" not in config.option.markexpr or not collection_path.name.startswith("test_"):
        return None
    return (
        bool(re.search(r"^pytestmark = \[?pytest.mark.slow\b", collection_path.read_text("utf-8"), re.MULTILINE))
        or None
    )


def pytest_collection_finish():
    """Modules and tests stay: nobody need look at them for garbage."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items):
    """Marks each test by the folder that it lies in."""
    for item in items:
        folder = Path(item.path).parent.name
        if folder in ("unit", "cli", "browser"):
            item.add_marker(folder)
