"""The model that training starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from crackcam.config import TrainConfig
from crackcam.data.splits import DataSplits, sample_hashes
from crackcam.data.synthetic.datasets import synthetic_fraction
from crackcam.data.synthetic.sample import CRACK_FREE
from crackcam.models.checks import to_device
from crackcam.models.loaded import LoadedModel
from crackcam.models.multiscale import Multiscale
from crackcam.models.pretrained import WeightsOrigin, build_classifier, initial_weights, load_maps
from crackcam.models.registry import pretrained_config
from crackcam.models.stages import add_multiscale_head
from crackcam.models.target_layers import grid_layers
from crackcam.runtime import Runtime
from crackcam.types import ModelCard


@dataclass(frozen=True)
class InitialModel:
    """A model before training.

    Attributes:
        loaded: the model, on its device, with the card that its checkpoint will have, but for the metrics.
        origin: where its weights come from.
        new_head: whether its head has random weights.
        mix: fraction of synthetic images to train it with.
    """

    loaded: LoadedModel
    origin: WeightsOrigin
    new_head: bool
    mix: float


def build_model(
    config: TrainConfig, plan: DataSplits, runtime: Runtime, resumed: WeightsOrigin | None = None
) -> InitialModel:
    """Build the model that a run starts from; its random weights depend on the seed alone.

    Args:
        config: settings of the run.
        plan: the classes, and the files that are held out.
        runtime: where the model will be.
        resumed: where the weights of a resumed run came from; they follow from its state. None: a new run.

    Raises:
        UserError: unknown architecture; its weights are not available, or damaged; or it cannot have such a head.
    """
    classes, size = plan.classes, config.image_size or pretrained_config(config.arch).preprocessing.size
    mix = synthetic_fraction(config.mix_sample, classes, config.multiscale)
    torch.manual_seed(config.seed)
    if resumed:
        model, origin = build_classifier(config.arch, len(classes)), resumed
    else:
        model, origin = initial_weights(config.arch, config.pretrained, len(classes), config.may_download)
    new_head = True
    if config.multiscale:
        model = add_multiscale_head(model, len(classes), size)
        if mix:
            model.mask_out_class(CRACK_FREE)
        new_head = not (origin.kind == "file" and load_maps(model, Path(config.pretrained)))
    model = to_device(model, runtime.device)
    return InitialModel(LoadedModel(model, _card(config, plan, model, origin), runtime), origin, new_head, mix)


def _card(config: TrainConfig, plan: DataSplits, model: nn.Module, origin: WeightsOrigin) -> ModelCard:
    """The card of the checkpoint, but for the metrics."""
    made_for = pretrained_config(config.arch).preprocessing
    size = config.image_size or made_for.size
    grids, target = grid_layers(model, size)
    training = {**config.as_dict(), **({"command": config.command} if config.command else {})}
    if plan.held_out:
        training["held_out_hashes"] = sample_hashes(config.data, plan)
    return ModelCard(
        arch=config.arch,
        classes=plan.classes,
        image_size=size,
        mean=list(made_for.mean),
        std=list(made_for.std),
        max_scale=1.0 if config.multiscale else None,
        head=config.head,
        stages=model.stages if isinstance(model, Multiscale) else {},
        decoder=model.decoder_channels if isinstance(model, Multiscale) else 0,
        output_stride=size // grids[target].height if target else None,
        pretrained=origin.description,
        split=plan.held_out,
        training=training,
    )
