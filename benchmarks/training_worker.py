"""One training run in a process of its own, for training.py: prints one line of JSON, seconds and accuracies.

    python benchmarks/training_worker.py bare|tutorial|fastai SETTINGS

SETTINGS is JSON: data, arch, epochs, batch_size, target. The clock starts where the process does; it is stopped
while the test split is scored after each epoch.
"""

import json
import sys
import time
from pathlib import Path

import torch
from torch import nn

START = time.perf_counter()


class Clock:
    """Seconds since the process started, but those spent in ``stopped``."""

    def __init__(self):
        self.idle = 0.0

    def seconds(self):
        return time.perf_counter() - START - self.idle

    def stopped(self, what):
        begin = time.perf_counter()
        found = what()
        self.idle += time.perf_counter() - begin
        return found


def loaders(settings):
    """As tutorials have it: ImageFolder, Resize, ToTensor, Normalize, DataLoader."""
    from torchvision import datasets, transforms

    look = transforms.Compose(
        [
            transforms.Resize((224, 224)),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    return {
        split: torch.utils.data.DataLoader(
            datasets.ImageFolder(Path(settings["data"], split), look),
            settings["batch_size"],
            shuffle=split == "train",
            num_workers=settings["workers"],
        )
        for split in ("train", "val", "test")
    }


def network(settings):
    """The ImageNet network, frozen, with a new last layer."""
    import torchvision

    model = torchvision.models.get_model(settings["arch"], weights="DEFAULT")
    model.requires_grad_(False)
    if isinstance(getattr(model, "fc", None), nn.Linear):
        model.fc = nn.Linear(model.fc.in_features, 2)
    else:  # squeezenet
        model.classifier[1] = nn.Conv2d(512, 2, 1)
    return model


@torch.no_grad()
def accuracy(model, loader):
    model.eval()
    right = sum((model(x).argmax(1) == y).sum().item() for x, y in loader)
    return right / len(loader.dataset)


def bare(settings):
    """Seconds of a forward pass over training and validation images (mean of two), of decoding, and of the probe."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from crackcam import TrainConfig
    from crackcam.cli import console
    from crackcam.data import pixels, splits
    from crackcam.runtime import Runtime
    from crackcam.training.initial import build_model
    from crackcam.training.probe import linear_probe

    console.keep_freed_memory()  # as train.py
    config = TrainConfig(data=settings["data"], arch=settings["arch"], pretrained="imagenet", device="cpu")
    plan = splits.plan_splits(config.data, config.val_fraction, config.seed)
    loaded = build_model(config, plan, Runtime.of(config)).loaded
    loaded.model.eval()
    begin = time.perf_counter()
    train, val = pixels.load_splits(plan, loaded.preprocessing, 2, ("train", "val")).values()
    reading = time.perf_counter() - begin

    def forward_pass():
        seconds = 0.0
        for batch in torch.cat([train.pixels[:], val.pixels[:]]).split(settings["batch_size"]):
            x = loaded.to_inputs(batch)
            begin = time.perf_counter()
            with torch.inference_mode(), loaded.runtime.autocast():
                loaded.model(x)
            seconds += time.perf_counter() - begin
        return seconds

    with torch.inference_mode(), loaded.runtime.autocast():
        loaded.model(loaded.to_inputs(train.pixels[: settings["batch_size"]]))
    before = forward_pass()
    begin = time.perf_counter()
    linear_probe(loaded, train, val, settings["batch_size"])
    probe = time.perf_counter() - begin
    return {"bare": (before + forward_pass()) / 2, "reading": reading, "probe": probe}


def tutorial(settings):
    """A plain loop: frozen backbone, its features computed again in each epoch, Adam, a validation pass."""
    clock, model, load = Clock(), network(settings), loaders(settings)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    rows = []
    for _ in range(settings["epochs"]):
        model.train()
        for x, y in load["train"]:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        accuracy(model, load["val"])
        seconds = clock.seconds()
        rows.append({"seconds": seconds, "accuracy": clock.stopped(lambda: accuracy(model, load["test"]))})
        if rows[-1]["accuracy"] >= settings["target"] and not settings["all_epochs"]:
            break
    return {"epochs": rows}


def fastai(settings):
    """Fastai's vision_learner, head only, one cycle; with the same weights out of torch's cache."""
    import torchvision
    from fastai.vision.all import ImageDataLoaders, Resize, vision_learner
    from fastai.vision.all import accuracy as fraction_correct

    clock = Clock()
    data = ImageDataLoaders.from_folder(
        settings["data"],
        train="train",
        valid="val",
        item_tfms=Resize(224, method="squish"),
        bs=settings["batch_size"],
        num_workers=settings["workers"],
    )
    learner = vision_learner(data, getattr(torchvision.models, settings["arch"]), metrics=fraction_correct)
    rows = []
    files = sorted(Path(settings["data"], "test").rglob("*.jpg"))
    test = data.test_dl(files, with_labels=True)
    for _ in range(settings["epochs"]):
        with learner.no_bar(), learner.no_logging():
            learner.fit_one_cycle(1)
            seconds = clock.seconds()
            found = clock.stopped(lambda: float(learner.validate(dl=test)[1]))
        rows.append({"seconds": seconds, "accuracy": found})
        if found >= settings["target"] and not settings["all_epochs"]:
            break
    return {"epochs": rows}


if __name__ == "__main__":
    kind, settings = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps({"bare": bare, "tutorial": tutorial, "fastai": fastai}[kind](settings)))
