"""State dicts in the checkpoints of training frameworks are unwrapped where that is unambiguous."""

import pytest
import torch
from safetensors.torch import save_file

from crackcam.errors import UserError
from crackcam.models import checkpoint
from crackcam.models.pretrained import build_classifier, load_backbone

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_classifier("squeezenet1_1", 2)


def with_prefix(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def training(key, tensors, **more):
    """What a training loop saves beside the weights."""
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}
    optimizer = {"state": moments, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return {key: tensors, "epoch": 3, "optimizer": optimizer, "scaler": {"scale": 65536.0}, "best": 0.9, **more}


CASES = {
    "plain": lambda t: t,
    "state_dict": lambda t: training("state_dict", t),
    "model_state_dict": lambda t: training("model_state_dict", t),
    "model": lambda t: training("model", t),
    "net": lambda t: training("net", t),
    "deeper": lambda t: {"checkpoint": {"model": {"state_dict": t}}, "epoch": 1},
    "Lightning": lambda t: training(
        "state_dict",
        {**with_prefix("model.", t), "criterion.weight": torch.ones(2), "train_acc.total": torch.tensor(3)},
        callbacks={},
        hyper_parameters={"lr": 0.1},
        loops={"fit_loop": {"state_dict": {}}},
    ),
    "Lightning, net": lambda t: training("state_dict", with_prefix("net.", t)),
    "Lightning, backbone": lambda t: training(
        "state_dict", {**with_prefix("backbone.", t), "loss_fn.weight": torch.ones(2)}
    ),
    "DataParallel": lambda t: with_prefix("module.", t),
    "compile": lambda t: with_prefix("_orig_mod.", t),
    "compile in Lightning": lambda t: training("state_dict", with_prefix("model._orig_mod.", t)),
    "DataParallel in compile": lambda t: with_prefix("_orig_mod.module.", t),
    "parts compiled": lambda t: {name.replace("features.", "features._orig_mod."): v for name, v in t.items()},
    "moving average of torch": lambda t: {**with_prefix("module.", t), "n_averaged": torch.tensor(7)},
    "loss beside state_dict": lambda t: {"state_dict": t, "class_weights": {"w": torch.ones(2)}},
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_weights_come_out(network, tmp_path, case):
    path = tmp_path / "last.ckpt"
    torch.save(CASES[case](network.state_dict()), path)
    model, _ = checkpoint.load(path, CPU, "squeezenet1_1", ["a", "b"])
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in network.state_dict().items())
    fresh = build_classifier("squeezenet1_1", 2)
    load_backbone(fresh, path)
    assert torch.equal(fresh.state_dict()["features.0.weight"], network.state_dict()["features.0.weight"])


def test_safetensors_of_other_programs(network, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(with_prefix("model.", network.state_dict()), path, metadata={"format": "pt"})
    model, _ = checkpoint.load(path, CPU, "squeezenet1_1", ["a", "b"])
    assert torch.equal(model.state_dict()["features.0.weight"], network.state_dict()["features.0.weight"])


@pytest.mark.parametrize(
    ("ambiguous", "names"),
    [
        (lambda t: training("model", t, model_ema=t), r"\(model, model_ema\).*torch.load\(...\)\['model'\]"),
        (lambda t: training("state_dict", t, state_dict_ema=t), r"\(state_dict, state_dict_ema\)"),
        (lambda t: {"ema": {"shadow": t}, "model": t}, r"\(ema.shadow, model\).*\['ema'\]\['shadow'\]"),
        (lambda t: {"generator": t, "discriminator": t}, r"\(generator, discriminator\)"),
        (lambda t: training("state_dict", {**with_prefix("model.", t), **with_prefix("ema_model.", t)}), "ema_model"),
        (lambda t: {**with_prefix("student.", t), **with_prefix("teacher.", t)}, r"\(student, teacher\)"),
    ],
)
def test_several_models_are_refused(network, tmp_path, ambiguous, names):
    path = tmp_path / "last.pth"
    torch.save(ambiguous(network.state_dict()), path)
    with pytest.raises(UserError, match=f"last.pth holds several models .*{names}"):
        checkpoint.load(path, CPU, "squeezenet1_1", ["a", "b"])


def test_a_network_whose_own_parts_are_named_like_a_wrapper(tmp_path):
    """As those of timm's VOLO."""
    tensors = {"network.0.weight": torch.ones(2), "patch_embed.weight": torch.ones(3), "head.bias": torch.ones(1)}
    for wrapped in (tensors, with_prefix("network.", tensors), {**with_prefix("model.", tensors), "n": torch.ones(1)}):
        torch.save(wrapped, tmp_path / "a.pth")
        assert checkpoint.read_tensors(tmp_path / "a.pth").keys() == tensors.keys()


@pytest.mark.parametrize("document", [{}, {"epoch": 3}, {"optimizer": {"state": {}}}, [1], torch.ones(3)])
def test_files_without_a_model(tmp_path, document):
    torch.save(document, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a.pth does not contain a state_dict: save model.state_dict\(\)"):
        checkpoint.load(tmp_path / "a.pth", CPU, "squeezenet1_1", ["a", "b"])
