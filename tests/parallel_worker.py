"""One of several processes that train a small network together: what each of them ends with goes into a file.

torchrun --nproc_per_node=2 tests/parallel_worker.py FOLDER
"""

import contextlib
import random
import sys
from pathlib import Path

import torch
from timm.layers import BatchNormAct2d
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from crackcam import distributed
from crackcam.data.pixels import PixelSplit
from crackcam.errors import UserError
from crackcam.runtime import Runtime
from crackcam.training import features, resume, trainer


class Mixture(nn.Module):
    """All layers that look at whole batches or draw by chance: batch norm, dropout, stochastic depth."""

    def __init__(self):
        super().__init__()
        from torchvision.ops import StochasticDepth

        # A bias before batch norm has no gradient but rounding, which Adam would make steps of.
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1, stride=4, bias=False), nn.BatchNorm2d(8)
        self.more, self.depth = nn.Conv2d(8, 8, 1, bias=False), StochasticDepth(0.3, "row")
        self.rectified = BatchNormAct2d(8)
        self.of_windows, self.dropout, self.fc = nn.Dropout(0.2), nn.Dropout(0.4), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        windows = x.permute(0, 2, 3, 1).reshape(-1, 16, 8)  # four of each picture, as Swin has them
        x = self.of_windows(windows).reshape(-1, 8, 8, 8).permute(0, 3, 1, 2)
        x = self.dropout(x + self.depth(self.rectified(self.more(x))))
        return self.fc(x.mean(dim=(2, 3)))


def split(count, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return PixelSplit(pixels, torch.arange(count) % 3, [])


class KilledError(Exception):
    pass


def train(folder, killed=False):
    """Two epochs on 23 pictures, 7 a step: shares of unequal length, classes of unequal weight.

    With ``killed`` the first of two processes' lives ends behind the first epoch, and the second goes on there.
    """
    torch.set_num_threads(1)
    machine = Runtime(torch.device("cpu"), torch.float32)
    recipe = trainer.Schedule((32, 32), 1e-2, batch_size=7, strong=True, patience=0, seed=1, workers=0)
    state = resume.StateFile(folder / ("killed" if killed else "state"), {})

    def fit(before, tell):
        torch.manual_seed(5)
        model, history = Mixture(), []
        trainer.fit(model, machine, recipe, split(23, 0), split(5, 1), history, state, before, tell)
        return model, history

    def kill(epoch):
        if epoch.epoch == 2:
            raise KilledError

    if killed:
        with contextlib.suppress(KilledError):
            fit(None, kill)
    before = distributed.broadcast_object(lambda: resume.read_state(state.path) if killed else None)
    assert not before or len(before["history"]) == 1
    model, history = fit(before, lambda epoch: None)
    logits = features.forward(model, machine, split(5, 1), 2, "")
    return {"history": [vars(e) for e in history], "model": model.state_dict(), "logits": logits}


def refused():
    raise UserError("of the main process")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    distributed.start(torch.device("cpu"))
    found = train(folder)
    found["resumed"] = train(folder, killed=True)
    found["last"] = [torch.load(folder / name)["model"] for name in ("state", "killed")]
    found["gathered"] = distributed.all_gather(distributed.rank())
    found["from_main"] = distributed.broadcast_object(lambda: random.Random(distributed.rank()).random())
    try:
        distributed.broadcast_object(refused)
    except UserError as error:
        found["error"] = str(error)
    torch.save(found, folder / f"{distributed.rank()}.pt")
