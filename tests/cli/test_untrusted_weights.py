"""Untrusted weights: nothing of them is run, memory is bounded, and one line says what is wrong."""

import json
import os
import pickle
import random
import re
import struct
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY_TRAINING
from mutating import ESCAPE, join_file, mutated, split_file, with_card
from PIL import Image
from processes import run_python

import inference
import train
import xai
from crackcam.errors import UserError
from crackcam.models import checkpoint, pretrained, stages
from crackcam.text import visible
from crackcam.training import resume
from crackcam.training.resume import StateFile
from crackcam.types import ModelCard

CPU = torch.device("cpu")
UNPRINTABLE = re.compile(r"[^\x20-\x7e\n\u00a1-\u02ff]")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """An undamaged checkpoint of a small model."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "sound.safetensors"
    card = ModelCard("squeezenet1_1", ["a", "b", "c"], 64, split={"val": ["train/b/1.jpg"]})
    checkpoint.save(path, pretrained.build_classifier("squeezenet1_1", 3), card)
    return path.read_bytes()


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A folder with an image, the working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Image.new("RGB", (32, 24), "grey").save("image.png")


def look(weights, *flags):
    """inference.py over the one image."""
    return inference.main(["--image", "image.png", "--all", "--weights", str(weights), "--output", "o.csv", *flags])


def refused(capsys, code, message=""):
    """The one line of an error."""
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (code, out, len(errors)) == (2, "", 1), (code, out, err)
    assert "Traceback" not in err
    assert not UNPRINTABLE.search(err), err
    assert re.search(message, errors[0]), errors[0]


def try_mutations(sound, count, seed, capsys):
    """Exit codes of so many, each from a seed of its own, so that one can be run again."""
    codes = []
    for number in range(count):
        Path("m.safetensors").write_bytes(mutated(sound, random.Random(f"{seed}/{number}")))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            codes.append(look("m.safetensors"))
        out, err = capsys.readouterr()
        assert codes[-1] in (0, 2), (number, err)
        assert "Traceback" not in err
        assert sum(line.startswith("error: ") for line in err.splitlines()) == (codes[-1] == 2), (number, err)
        assert not UNPRINTABLE.search(out + err), (number, out, err)
        files = {path.name for path in Path().iterdir()}
        assert files <= {"image.png", "m.safetensors", "o.csv", "o.json"}, (number, files)
        assert [path.name for path in Path("..").iterdir()] == ["here"]
    return codes


def test_mutations_end_well(sound, there, capsys):
    codes = try_mutations(sound, 80, 0, capsys)
    assert {0, 2} == set(codes)


@pytest.mark.torture
def test_many_mutations_end_well(sound, there, capsys):
    try_mutations(sound, int(os.environ.get("CRACKCAM_MUTATIONS", "5000")), 1, capsys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 10**9}, "damaged .invalid image_size"),
        ({"image_size": -64}, "damaged .invalid image_size"),
        ({"image_size": True}, "damaged .invalid image_size"),
        ({"image_size": 8}, "does not run on 8 px inputs"),
        ({"classes": ["a", "b", f"c{ESCAPE}"]}, "damaged .invalid classes"),
        ({"classes": ["a", "b", "c\nerror: all is well"]}, "damaged .invalid classes"),
        ({"classes": [str(i) for i in range(10**6)]}, "damaged .invalid classes"),
        ({"classes": [str(i) for i in range(90_000)]}, "does not fit squeezenet1_1 with 90,000 classes"),
        ({"classes": "abc"}, "damaged .invalid classes"),
        ({"classes": []}, "damaged .invalid classes"),
        ({"mean": [0, 0, float("nan")]}, "damaged .invalid mean"),
        ({"std": [1, 1, 0]}, "damaged .invalid std"),
        ({"resize": "large"}, "damaged .invalid resize"),
        ({"interpolation": "../x"}, "damaged .invalid interpolation"),
        ({"max_scale": -1}, "damaged .invalid max_scale"),
        ({"head": "hydra"}, "damaged .invalid head"),
        ({"head": "multiscale"}, "damaged .no stages"),
        ({"head": "multiscale", "stages": {"features.99": 64}}, "damaged .*has no attribute"),
        ({"head": "multiscale", "stages": {"features.2": 10**12}}, "damaged .invalid stages"),
        ({"head": "multiscale", "stages": {"features.2": 64}}, "does not fit squeezenet1_1"),
        ({"split": {"val": ["train/b/../../../secret.jpg"]}}, "damaged .invalid split"),
        ({"split": {"val": ["/etc/secret.jpg"]}}, "damaged .invalid split"),
        ({"split": {ESCAPE: []}}, "damaged .invalid split"),
        ({"thresholds": {"evidence": {"a": "high"}}}, "damaged .invalid thresholds"),
        ({"thresholds": {"evidence": {"a": 10**400}}}, "damaged .invalid thresholds"),
        ({"thresholds": {"evidence": {"a": float("inf")}}}, "damaged .invalid thresholds"),
        ({"arch": "fasterrcnn_resnet50_fpn"}, "is a detector"),
        ({"arch": "timm/hf_hub:timm/resnet18"}, "no architecture 'timm/hf_hub:timm/resnet18' in timm"),
        ({"arch": "timm/local-dir:/tmp"}, "no architecture 'timm/local-dir:/tmp' in timm"),
        ({"arch": "timm/resnet18.nonsense"}, "no architecture 'timm/resnet18.nonsense' in timm"),
        ({"arch": f"resnet18{ESCAPE}"}, "no architecture"),
        ({"schema": ESCAPE}, "damaged .invalid schema"),
        ({"schema": 7}, "has schema 7, this version reads 1"),
    ],
)  # fmt: skip
def test_cards_that_lie(sound, there, capsys, no_network, change, message):
    Path("w.safetensors").write_bytes(with_card(sound, **change))
    refused(capsys, look("w.safetensors"), message)
    assert not Path("o.csv").exists()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{", "[]", "7", '{"schema": 1}', '{"schema": 1' + "0" * 5000 + "}", ""]
)
def test_cards_that_are_none(text):
    with pytest.raises(UserError, match="the model card in w is damaged"):
        checkpoint.parse_card(text, Path("w"))


def test_stages_that_do_not_belong_to_the_model(sound, there, capsys):
    """Its tensors fit; only a forward pass shows that a layer has no grid."""
    model = stages.with_maps(pretrained.build_classifier("squeezenet1_1", 3), {"features.0": 64, "classifier.1": 3}, 3)
    wrong = stages.with_maps(pretrained.build_classifier("squeezenet1_1", 3), {"features.0": 64, "features.1": 17}, 3)
    for network in (model, wrong):
        card = ModelCard("squeezenet1_1", ["a", "b", "c"], 64, head="multiscale", stages=network.stages)
        checkpoint.save(Path("w.safetensors"), network, card)
        refused(capsys, look("w.safetensors"), "does not run on 64 px inputs")


def test_nan_and_infinite_values(sound, there, capsys):
    Path("w.safetensors").write_bytes(sound)
    tensors = checkpoint.read_tensors(Path("w.safetensors"))
    for value in (float("nan"), float("inf")):
        bad = {name: tensor.clone() for name, tensor in tensors.items()}
        bad["features.0.weight"][0, 0, 0, 0] = value
        torch.save(bad, "w.pth")
        given = ["--arch", "squeezenet1_1", "--classes", "a,b,c"]
        refused(capsys, look("w.pth", *given), "contains NaN or infinite values in features.0.weight")
        with pytest.raises(UserError, match="NaN or infinite values"):
            pretrained.load_backbone(pretrained.build_classifier("squeezenet1_1", 3), Path("w.pth"))
    large = {name: tensor * 1e30 for name, tensor in tensors.items()}  # finite, but their sums are not
    torch.save(large, "w.pth")
    refused(capsys, look("w.pth", *given), "does not return a finite logit for each of its 3 classes")


def test_wrong_kinds_of_tensors(sound, there, capsys):
    Path("w.safetensors").write_bytes(sound)
    tensors = checkpoint.read_tensors(Path("w.safetensors"))
    weight = tensors["features.0.weight"]
    given = ["--arch", "squeezenet1_1", "--classes", "a,b,c"]
    for other, message in (
        (weight.long(), "features.0.weight is torch.int64, not torch.float32"),
        (weight.to(torch.complex64), "is not a weight tensor .torch.complex64"),
        (weight.to(torch.float8_e4m3fn), "is not a weight tensor .torch.float8"),
        (weight.to_sparse(), "is not a weight tensor"),
        (weight.to("meta"), "is not a weight tensor"),
        (weight[:1], "size mismatch for features.0.weight"),
        (torch.zeros(1).expand(10**6, 10**6), "size mismatch for features.0.weight"),
    ):
        torch.save({**tensors, "features.0.weight": other}, "w.pth")
        refused(capsys, look("w.pth", *given), message)
    for state in ({**tensors, 7: weight}, {**tensors, "extra": weight}, {}, {"state_dict": []}, weight, 7, None):
        torch.save(state, "w.pth")
        refused(capsys, look("w.pth", *given))
    for name in ("a,a,b", f"a,b{ESCAPE},c"):
        torch.save(tensors, "w.pth")
        refused(capsys, look("w.pth", "--arch", "squeezenet1_1", "--classes", name), "error: --classes: ")


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("was-here"),))


def test_no_pickle_is_run_wherever_it_lies(there, capsys):
    for write in (
        lambda: Path("w.pth").write_bytes(pickle.dumps(Evil())),
        lambda: torch.save({"weight": Evil()}, "w.pth"),
        lambda: torch.save({"weight": Evil()}, "w.pth", _use_new_zipfile_serialization=False),
    ):
        write()
        refused(capsys, look("w.pth", "--arch", "resnet18", "--classes", "a,b"), "contains more than tensors")
        Path("w.resume").write_bytes(Path("w.pth").read_bytes())
        with pytest.raises(UserError, match="is damaged"):
            resume.read_state(Path("w.resume"))
    assert not Path("was-here").exists()


def test_a_compressed_file_is_not_decompressed(there, capsys):
    torch.save({"weight": torch.zeros(5_000_000)}, "whole.pth")
    with zipfile.ZipFile("whole.pth") as whole, zipfile.ZipFile("w.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for member in whole.infolist():
            packed.writestr(member.filename, whole.read(member))
    assert Path("w.pth").stat().st_size < 100_000
    refused(capsys, look("w.pth", "--arch", "resnet18", "--classes", "a,b"), "damaged or contains more than tensors")


BOMBS = """
import resource, sys
import inference
from crackcam.batch import folders
from crackcam.models import checkpoint
taken = 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1])
resource.setrlimit(resource.RLIMIT_AS, (taken + 2**30,) * 2)
for name in sys.argv[1:]:
    assert inference.main(["--image", "image.png", "--all", "--weights", name, "--output", "o.csv"]) == 2, name
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory by Linux's means")
def test_memory_is_bounded(sound, there):
    """A gigabyte more than the libraries is enough to refuse what asks for thousands."""
    header, tensors = split_file(sound)
    first = next(name for name in header if name != "__metadata__")
    shape = {**header, first: {**header[first], "shape": [2**30, 2**20]}}
    beyond = {**header, first: {**header[first], "data_offsets": [0, 2**50]}}
    files = {
        "length": struct.pack("<Q", 2**60) + sound[8:],
        "shape": join_file(shape, tensors),
        "beyond": join_file(beyond, tensors),
        "classes": with_card(sound, classes=[str(i) for i in range(100_000)], arch="vgg16"),
        "large": with_card(sound, arch="vit_h_14"),
        "side": with_card(sound, image_size=10**9),
    }
    for name, content in files.items():
        Path(f"{name}.safetensors").write_bytes(content)
    names = [f"{name}.safetensors" for name in files]
    done = run_python(BOMBS, *names, path=[ROOT])
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error: ") == len(names), done.stderr


def test_states_that_lie(place, capsys):
    """One field after another of a real state is replaced: each is refused in one line."""

    class StopError(BaseException):
        pass

    training = [*TINY_TRAINING, "--arch", "squeezenet1_1", "--image-size", "32"]
    real, kept = StateFile.write, Path("weights/model.resume")

    def write_and_stop(self, *arguments):
        real(self, *arguments)
        raise StopError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StateFile, "write", write_and_stop)
        with pytest.raises(StopError):
            train.main(training)
    state = torch.load(kept, weights_only=True)
    capsys.readouterr()
    for change in (
        {"run": 7}, {"run": {}}, {"history": [{}]}, {"history": []}, {"best": {}}, {"model": {}},
        {"history": [{**state["history"][0], "epoch": ESCAPE}]}, {"optimizer": {"state": {}, "param_groups": []}},
        {"schedule": {**state["schedule"], "step": 7}},
        {"optimizer": {**state["optimizer"], "state": {
            key: {**entry, "exp_avg": torch.zeros(1, 1)} for key, entry in state["optimizer"]["state"].items()}}},
    ):  # fmt: skip
        torch.save({**state, **change}, kept)
        code = train.main([*training, "--resume"])
        refused(capsys, code, "model.resume is damaged|belongs to a run")


def onnx_file(path, nodes, initializers=(), outputs=("logits", ["n", 3]), card=None):
    """An ONNX file with a model card of ours."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    h = onnx.helper
    graph = h.make_graph(
        [h.make_node(*node[:3], **node[3]) for node in nodes], "g",
        [h.make_tensor_value_info("pictures", 1, ["n", 3, 64, 64])],
        [h.make_tensor_value_info(outputs[0], 1, outputs[1])], list(initializers),
    )  # fmt: skip
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=9)
    card = {"schema": 1, "arch": "resnet18", "classes": ["a", "b", "c"], "image_size": 64, **(card or {})}
    h.set_model_props(model, {"crackcam": json.dumps(card)})
    Path(path).write_bytes(model.SerializeToString())


def external(onnx, where):
    """A tensor whose values are in another file."""
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1, 3], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", where), ("offset", "0"), ("length", "12")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def test_onnx_files_that_lie(there, capsys):
    onnx = pytest.importorskip("onnx")
    for where in ("secret.bin", "../secret.bin", str(Path("secret.bin").resolve())):
        for secret in (Path("secret.bin"), Path("../secret.bin")):
            secret.write_bytes(struct.pack("<3f", 1, 2, 3))
        onnx_file("w.onnx", [("Identity", ["w"], ["logits"], {})], [external(onnx, where)])
        refused(capsys, look("w.onnx"), "is truncated or not an ONNX file")
    shape = onnx.numpy_helper.from_array(torch.tensor([10**6, 10**6]).numpy(), "shape")
    one = onnx.numpy_helper.from_array(torch.tensor([[1.0, 2.0, 3.0]]).numpy(), "one")
    bad = onnx.numpy_helper.from_array(torch.tensor([[1.0, float("nan"), 3.0]]).numpy(), "bad")
    for nodes, tensors, more in (
        ([("ConstantOfShape", ["shape"], ["logits"], {})], [shape], {}),
        ([("Identity", ["bad"], ["logits"], {})], [bad], {}),
        ([("Identity", ["one"], ["other"], {})], [one], {"outputs": ("other", [1, 3])}),
        ([("Identity", ["one"], ["logits"], {})], [one], {"card": {"classes": ["a", "b"]}}),
        ([("Identity", ["one"], ["logits"], {})], [one], {"card": {"classes": ["a", "b", ESCAPE]}}),
        ([("Identity", ["one"], ["logits"], {})], [one], {"card": {"image_size": 10**9}}),
        ([(ESCAPE, ["one"], ["logits"], {})], [one], {}),
    ):
        onnx_file("w.onnx", nodes, tensors, **more)
        refused(capsys, look("w.onnx"))
    Path("w.onnx").write_bytes(b"\x08")
    refused(capsys, look("w.onnx"))
    refused(capsys, xai.main(["--weights", "w.onnx", "--image", "image.png"]), "has no layers to read")


def test_what_a_terminal_would_obey_is_spelt_out():
    assert visible(f"ä {ESCAPE}\r\n\u202e\udc80.jpg") == r"ä \x1b]0;owned\x07\x1b[2J\r\n\u202e\udc80.jpg"
