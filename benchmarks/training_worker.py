"""One training run in a process of its own, for training.py: prints one line of JSON, seconds and accuracies.

    python benchmarks/training_worker.py bare|tutorial|fastai SETTINGS

SETTINGS is JSON: data, arch, epochs, batch_size, target. The clock starts where the process does; what is scored on the
test split, after each epoch, is scored while it stands still.
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
            settings["batch_size"], shuffle=split == "train", num_workers=settings["workers"],
        )
        for split in ("train", "val", "test")
    }  # fmt: skip


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
    """A forward pass over training and validation pictures, before and after the probe on them; seconds of each."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from crackcam import runtime
    from crackcam.cli import console
    from crackcam.data import pixels, splits
    from crackcam.models import checks, pretrained
    from crackcam.preprocessing import Preprocessing
    from crackcam.training import trainer

    console.keep_freed_memory()  # as train.py
    device = torch.device("cpu")
    machine = runtime.Runtime(device, runtime.choose_precision("auto", device)[0])
    model = checks.place(pretrained.from_weights(settings["arch"], "imagenet", 2)[0], device).eval()
    begin = time.perf_counter()
    plan = splits.plan_splits(Path(settings["data"]), 0.15, 0)
    train, val = pixels.load_splits(plan, Preprocessing(224), 2, ("train", "val")).values()
    reading = time.perf_counter() - begin

    def passed():
        seconds = 0.0
        for batch in torch.cat([train.pixels, val.pixels]).split(settings["batch_size"]):
            x = machine.input(batch)
            begin = time.perf_counter()
            with torch.inference_mode(), machine.autocast():
                model(x)
            seconds += time.perf_counter() - begin
        return seconds

    with torch.inference_mode(), machine.autocast():
        model(machine.input(train.pixels[: settings["batch_size"]]))
    before = passed()
    begin = time.perf_counter()
    trainer.linear_probe(model, machine, train, val, settings["batch_size"])
    probe = time.perf_counter() - begin
    return {"bare": (before + passed()) / 2, "reading": reading, "probe": probe}


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
    from fastai.vision.all import accuracy as share

    clock = Clock()
    data = ImageDataLoaders.from_folder(
        settings["data"], train="train", valid="val", item_tfms=Resize(224, method="squish"),
        bs=settings["batch_size"], num_workers=settings["workers"],
    )  # fmt: skip
    learner = vision_learner(data, getattr(torchvision.models, settings["arch"]), metrics=share)
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
