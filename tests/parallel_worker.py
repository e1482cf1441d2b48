"""One of several processes that train small models together: what each of them ends with goes into a file.

torchrun --nproc_per_node=2 tests/parallel_worker.py FOLDER
"""

import contextlib
import os
import random
import sys
from pathlib import Path

import torch
from timm.layers import BatchNormAct2d
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from crackcam import distributed
from crackcam.data.pixels import PixelSplit, concatenate, of_machine
from crackcam.data.storage import StoredArray
from crackcam.errors import UserError
from crackcam.models.heads import head_inputs
from crackcam.models.loaded import LoadedModel
from crackcam.training import features, resume
from crackcam.training.loop import FineTuning
from crackcam.training.schedule import Schedule
from crackcam.types import ModelCard

CLASSES = ["a", "b", "c"]


class RowByRow(nn.Module):
    """Each image by itself: group norm, no dropout. Several processes do exactly what one does."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1, stride=4), nn.GroupNorm(2, 8)
        self.more, self.fc = nn.Conv2d(8, 8, 1), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        return self.fc(torch.relu(self.more(x)).mean(dim=(2, 3)))


class OfWholeBatches(nn.Module):
    """Layers that look at whole batches or draw random numbers: batch norm, dropout, stochastic depth."""

    def __init__(self):
        super().__init__()
        from torchvision.ops import StochasticDepth

        # A bias before batch norm has no gradient but rounding, which Adam would make steps of.
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1, stride=4, bias=False), nn.BatchNorm2d(8)
        self.more, self.depth = nn.Conv2d(8, 8, 1, bias=False), StochasticDepth(0.3, "row")
        self.rectified = BatchNormAct2d(8)
        self.dropout, self.fc = nn.Dropout(0.4), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        x = self.dropout(x + self.depth(self.rectified(self.more(x))))
        return self.fc(x.mean(dim=(2, 3)))


class FrozenBatchNorm(nn.Module):
    """Batch norm in a backbone that does not learn, as under a new multiscale head."""

    def __init__(self):
        super().__init__()
        self.backbone = OfWholeBatches()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return self.fc(self.backbone(x))


MODELS = {"rows": RowByRow, "batches": OfWholeBatches, "frozen": FrozenBatchNorm}


def split(count, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return PixelSplit(pixels, torch.arange(count) % 3, [])


class KilledError(Exception):
    pass


def train(folder, name, killed=False):
    """Two epochs on 23 images, 7 a step: shards of unequal length, classes of unequal weight.

    With ``killed`` the first of two runs ends after the first epoch, and the second continues it.
    """
    torch.set_num_threads(1)
    frozen = {"frozen_epochs": 2, "frozen_statistics": True} if name == "frozen" else {}
    schedule = Schedule((32, 32), 1e-2, batch_size=7, strong=True, seed=1, **frozen)
    state = resume.StateFile(folder / f"{name}_{'killed' if killed else 'state'}", {})

    def fit(resumed, on_epoch):
        torch.manual_seed(5)
        loaded, history = LoadedModel(MODELS[name](), ModelCard(name, CLASSES, 32)), []
        FineTuning(loaded, schedule, split(23, 0), split(5, 1)).run(history, state, resumed, on_epoch)
        return loaded, history

    def kill(epoch):
        if epoch.epoch == 2:
            raise KilledError

    if killed:
        with contextlib.suppress(KilledError):
            fit(None, kill)
    resumed = distributed.broadcast_object(lambda: resume.read_state(state.path) if killed else None)
    assert not resumed or len(resumed["history"]) == 1
    loaded, history = fit(resumed, lambda epoch: None)
    logits = features.compute_logits(loaded, split(5, 1), 2, "")
    return {"history": [vars(e) for e in history], "model": loaded.model.state_dict(), "logits": logits}


@contextlib.contextmanager
def machines_of_their_own():
    """As if each process were on another machine."""
    before = dict(os.environ)
    os.environ |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    yield
    os.environ |= before


def share():
    """Pixels that one process of a machine makes; features in a file, of one machine and of several."""
    features.IN_MEMORY = 0
    loaded, made = LoadedModel(RowByRow(), ModelCard("rows", CLASSES, 32)), []
    loaded.model.load_state_dict(
        {name: torch.ones_like(tensor) / 9 for name, tensor in loaded.model.state_dict().items()}
    )

    def make():
        made.append(distributed.rank())
        return concatenate(split(3, 0), split(4, 1))

    def on_a_machine():
        shared = of_machine(make)
        assert isinstance(shared.pixels, StoredArray) == (distributed.local_world_size() > 1)
        stored = features.compute_features(loaded, shared, 2, "")
        assert stored.dtype == torch.float16
        place = [None] if isinstance(shared.pixels, torch.Tensor) else shared.pixels.handle().device_and_inode
        return {
            "pixels": shared.pixels[:],
            "labels": shared.labels,
            "file": place,
            "features": stored[:],
            "made": [*made],
        }

    with head_inputs(loaded.model) as seen, torch.inference_mode():
        loaded.model.eval()(loaded.to_inputs(concatenate(split(3, 0), split(4, 1)).pixels[:]))
    found = {"expected": seen[0], "one machine": on_a_machine()}
    made.clear()
    features.EXCHANGED = 2
    with machines_of_their_own():
        return found | {"several": on_a_machine()}


def refused():
    raise UserError("of the main process")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    distributed.start(torch.device("cpu"))
    found = {}
    for name in MODELS:
        found[name] = {"whole": train(folder, name), "resumed": train(folder, name, killed=True)}
        found[name]["last"] = [torch.load(folder / f"{name}_{file}")["model"] for file in ("state", "killed")]
    found["gathered"] = distributed.all_gather(distributed.rank())
    found["from_main"] = distributed.broadcast_object(lambda: random.Random(distributed.rank()).random())
    try:
        distributed.broadcast_object(refused)
    except UserError as error:
        found["error"] = str(error)
    try:
        distributed.of_machine(refused)
    except UserError as error:
        found["error of a machine"] = str(error)
    found["shared"] = share()
    torch.save(found, folder / f"{distributed.rank()}.pt")
