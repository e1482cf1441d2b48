"""The checkpoint file: what it refuses, that reading it runs no code, and what is kept of an earlier one."""

import json
import logging
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from crackcam import files
from crackcam.errors import UserError
from crackcam.models import checkpoint
from crackcam.models.pretrained import build_classifier
from crackcam.types import ModelCard

CPU = torch.device("cpu")


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    card = ModelCard("squeezenet1_1", ["b", "ä ö", "10"], 64, split={"val": ["train/b/1.jpg"]})
    card.thresholds = {"gradcam": {"b": 0.1, "ä ö": 1e-9}}
    checkpoint.save(path, build_classifier("squeezenet1_1", 3), card)
    return path


def with_card(path, change):
    tensors = checkpoint.read_tensors(path)
    document = {"schema": 1, "arch": "squeezenet1_1", "classes": ["a", "b", "c"], "image_size": 64}
    document.update(change)
    save_file(tensors, path, metadata={"crackcam": json.dumps(document)})


def test_round_trip(file):
    model, card = checkpoint.load(file, CPU)
    again = file.with_name("again.safetensors")
    checkpoint.save(again, model, card)
    other, other_card = checkpoint.load(again, CPU)
    assert card == other_card
    assert card.classes == ["b", "ä ö", "10"]
    assert other_card.thresholds == {"gradcam": {"b": 0.1, "ä ö": 1e-9}}
    assert not model.training
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(x), other(x))


@pytest.mark.slow
def test_buffers_that_no_file_contains(tmp_path):
    """The indices of LeViT's attention biases: created with the model, or its predictions are wrong."""
    arch, path = "timm/levit_128s", tmp_path / "model.safetensors"
    network = build_classifier(arch, 2)
    assert set(dict(network.named_buffers())) - set(network.state_dict())
    checkpoint.save(path, network, ModelCard(arch, ["a", "b"], 224))
    model, _ = checkpoint.load(path, CPU)
    for name, buffer in network.named_buffers():
        assert torch.equal(model.get_buffer(name), buffer), name
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.allclose(model(image), network.eval()(image), atol=1e-5)


@pytest.mark.slow
def test_a_regnet_which_cannot_be_built_on_the_meta_device(tmp_path):
    path, network = tmp_path / "model.safetensors", build_classifier("regnet_y_400mf", 2)
    checkpoint.save(path, network, ModelCard("regnet_y_400mf", ["a", "b"], 64))
    model, _ = checkpoint.load(path, CPU)
    image = torch.randn(1, 3, 64, 64)
    assert torch.allclose(model(image), network.eval()(image), atol=1e-5)
    with_card(path, {"arch": "regnet_y_400mf"})
    with pytest.raises(UserError, match="does not fit regnet_y_400mf with 3 classes"):
        checkpoint.load(path, CPU)


def test_a_card_from_before_thresholds(file):
    with_card(file, {})
    assert checkpoint.load(file, CPU)[1].thresholds == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 7}, "has schema 7, this version reads 1: train again"),
        ({"arch": "resnet18"}, "does not fit resnet18 with 3 classes"),
        ({"arch": "resnet19"}, "no architecture 'resnet19'"),
        ({"classes": ["a", "b"]}, "does not fit squeezenet1_1 with 2 classes"),
        ({"schema": "new"}, "is damaged .invalid schema"),
        ({"classes": ["a", "b", "b"]}, "is damaged .invalid classes"),
        ({"classes": [1, 2, 3]}, "is damaged .invalid classes"),
        ({"image_size": "large"}, "is damaged .invalid image_size"),
        ({"surprise": 1}, "is damaged .*surprise"),
    ],
)
def test_cards_that_are_refused(file, change, message):
    with_card(file, change)
    with pytest.raises(UserError, match=message):
        checkpoint.load(file, CPU)


@pytest.mark.parametrize("fraction", [0, 0.0001, 0.5, 0.99])
def test_truncated(file, fraction):
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(UserError, match="is truncated or not a safetensors file"):
        checkpoint.load(file, CPU)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("was-here"),))


def test_no_code_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, write in (
        ("a.pth", lambda p: torch.save({"fc.weight": Evil()}, p)),
        ("b.pth", lambda p: p.write_bytes(pickle.dumps(Evil()))),
        ("c.pth", lambda p: p.write_bytes(b"")),
        ("d.pth", lambda p: torch.save([1, 2], p)),
        ("e.pth", lambda p: torch.save(torch.nn.Linear(1, 1), p)),
    ):
        write(Path(name))
        with pytest.raises(UserError, match="state_dict"):
            checkpoint.load(Path(name), CPU, "resnet18", ["a", "b"])
    assert not Path("was-here").exists()


def test_names_left_by_compile_and_data_parallel(file, tmp_path):
    tensors = checkpoint.read_tensors(file)
    path = tmp_path / "plain.pth"
    for prefix in ("module.", "_orig_mod.", "_orig_mod.module."):
        torch.save({"state_dict": {prefix + name: t for name, t in tensors.items()}}, path)
        assert checkpoint.read_tensors(path).keys() == tensors.keys()
    model, card = checkpoint.load(path, CPU, "squeezenet1_1", ["x", "y", "z"])
    assert card.classes == ["x", "y", "z"]
    assert all(torch.equal(tensors[name], t) for name, t in model.state_dict().items())


def test_a_checkpoint_stores_its_architecture(file):
    with pytest.raises(UserError, match="already stores its architecture and classes; drop arch and classes"):
        checkpoint.load(file, CPU, "squeezenet1_1", ["a", "b", "c"])


@pytest.mark.slow
def test_the_bundled_model():
    model, card = checkpoint.load(checkpoint.BUNDLED, CPU)
    assert card.classes == ["Negative", "Positive"]
    assert card.head == "multiscale"
    assert "speaking" in model.state_dict()  # a name in files
    assert model.class_mask.tolist() == [0, 1]


@pytest.mark.slow
def test_a_file_of_an_earlier_version_is_written_as_it_was(tmp_path):
    """Same metadata, same tensors, so that earlier versions read what this one writes."""
    model, card = checkpoint.load(checkpoint.BUNDLED, CPU)
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, model, card, half=True)
    assert path.read_bytes() == checkpoint.BUNDLED.read_bytes()


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_have_the_permissions_of_ordinary_files(file, umask):
    before = os.umask(umask)
    try:
        model, card = checkpoint.load(file, CPU)
        checkpoint.save(file, model, card)
        files.write_json(file.with_name("a.json"), {})
        files.write_csv(file.with_name("a.csv"), [{"a": 1}])
    finally:
        os.umask(before)
    for path in (file, file.with_name("a.json"), file.with_name("a.csv")):
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask, path
    assert {path.name for path in file.parent.iterdir()} == {"model.safetensors", "a.json", "a.csv"}


CARD = ModelCard("squeezenet1_1", ["b", "ä ö", "10"], 64, training={"data": "data"})


@pytest.fixture
def trained(file):
    """Weights of a training on the folder data."""
    model, _ = checkpoint.load(file, CPU)
    checkpoint.save(file, model, CARD)
    return file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "classes", "data", "kept"),
    [
        ("squeezenet1_1", CARD.classes, "data", False),
        ("resnet18", CARD.classes, "data", False),
        ("squeezenet1_1", CARD.classes, str(Path("data").absolute()), False),
        ("squeezenet1_1", CARD.classes, "other", True),
        ("squeezenet1_1", ["b", "ä ö"], "data", True),
        ("squeezenet1_1", CARD.classes[::-1], "data", True),
    ],
)
def test_weights_of_other_classes_or_data_are_kept(trained, caplog, arch, classes, data, kept):
    content, previous = trained.read_bytes(), trained.with_name("model.previous.safetensors")
    card = ModelCard(arch, classes, 64, training={"data": data})
    with caplog.at_level(logging.INFO):
        assert checkpoint.keep_previous(trained, card) == (previous if kept else None)
    assert trained.read_bytes() == content
    assert previous.exists() == kept
    if kept:
        assert previous.read_bytes() == content
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert record.getMessage() == f"{trained} was trained on other classes or data: keeping it as {previous}"


@pytest.mark.parametrize("content", [b"", b"notes", None])
def test_a_foreign_file_in_the_place_of_weights_is_kept(tmp_path, content):
    path, previous = tmp_path / "model.safetensors", tmp_path / "model.previous.safetensors"
    if content is None:  # tensors without a card
        save_file({"weight": torch.zeros(2)}, path)
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    previous.write_text("of a training before that")
    assert checkpoint.keep_previous(path, CARD) == previous
    assert previous.read_bytes() == before


def test_nothing_to_keep(tmp_path):
    assert checkpoint.keep_previous(tmp_path / "model.safetensors", CARD) is None
    assert not list(tmp_path.iterdir())


def test_loading_draws_no_random_numbers(tiny_checkpoint):
    """They would be replaced by the weights of the file."""
    before = torch.get_rng_state()
    checkpoint.load(tiny_checkpoint, CPU)
    assert torch.equal(torch.get_rng_state(), before)
