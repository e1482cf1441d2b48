"""Images in a temporary file: rows as those of a tensor, the same training, no file that stays."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, tiny_config
from processes import run_python

import crackcam
from crackcam.data import duplicates, storage
from crackcam.data.pixels import AugmentedSplit, PixelSplit, concatenate, load_split
from crackcam.data.statistics import identical_images
from crackcam.data.storage import StoredArray
from crackcam.errors import UserError
from crackcam.preprocessing import Preprocessing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="files are shared by /proc"),
]


@pytest.fixture
def in_file(monkeypatch):
    monkeypatch.setattr(storage, "IN_MEMORY", 0)


def stored(tensor):
    array = storage.allocate(tensor.shape, tensor.dtype)
    assert isinstance(array, StoredArray)
    array[:] = tensor
    return array


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_rows_are_those_of_a_tensor(in_file, dtype):
    tensor = torch.arange(7 * 2 * 3).reshape(7, 2, 3).to(dtype)
    array = stored(tensor)
    assert (len(array), array.shape, array.dtype) == (7, tensor.shape, dtype)
    indices = [
        3,
        -1,
        np.int64(2),
        torch.tensor(5),
        slice(None),
        slice(2, 5),
        slice(-2, None),
        slice(6, 2),
        slice(0, 7, 3),
    ]
    for index in [*indices, [4, 0, 4], [], torch.tensor([6, 1]), torch.arange(0)]:
        assert torch.equal(array[index], tensor[index]), index
    assert [part.tolist() for part in array.split(3)] == [part.tolist() for part in tensor.split(3)]
    assert [row.tolist() for row in array] == tensor.tolist()
    view = array.view(slice(2, 6)).view(slice(1, None))
    assert torch.equal(view[:], tensor[3:6])
    assert torch.equal(view[-1], tensor[5])
    array[1], array[5:] = torch.zeros(2, 3), torch.ones(2, 2, 3)
    tensor[1], tensor[5:] = 0, 1
    assert torch.equal(array[:], tensor)
    for outside in (7, -8):
        with pytest.raises(IndexError, match=f"row {outside} of 7"):
            array[outside]


def test_long_reads_are_continued(in_file, monkeypatch):
    monkeypatch.setattr(storage, "LONGEST_READ", 5)
    tensor = torch.arange(24, dtype=torch.uint8).reshape(2, 12)
    assert torch.equal(stored(tensor)[:], tensor)


def test_small_arrays_stay_in_memory_and_large_ones_have_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr(storage.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(storage, "IN_MEMORY", 48)
    assert isinstance(storage.allocate((4, 3, 2, 2)), torch.Tensor)
    large = storage.allocate((5, 3, 2, 2))
    assert isinstance(large, StoredArray)
    at = Path(large.handle().path).stat()
    assert (at.st_size, at.st_nlink) == (60, 0)
    assert not list(tmp_path.iterdir())


def test_one_file_is_opened_twice_and_no_other_in_its_place(in_file):
    array = stored(torch.arange(12).reshape(4, 3).byte())
    handle = array.view(slice(1, None)).handle()
    other = StoredArray.open(handle)
    array[2] = torch.full((3,), 99)
    assert other[:].tolist() == [[3, 4, 5], [99, 99, 99], [9, 10, 11]]
    unlike = stored(torch.zeros(1, 1)).handle().device_and_inode
    for wrong in (handle._replace(device_and_inode=unlike), handle._replace(path="/proc/self/fd/9999")):
        with pytest.raises(UserError, match="cannot open that of another"):
            StoredArray.open(wrong)


@pytest.fixture
def both(tiny_data, monkeypatch):
    """A split in memory and in a file."""
    files = {name: sorted((tiny_data / "train" / name).iterdir()) for name in ("Negative", "Positive")}
    files["Negative"].insert(1, Path("absent.png"))
    found = []
    for bound in (2**30, 0):
        monkeypatch.setattr(storage, "IN_MEMORY", bound)
        found.append(load_split("train", [*files], files, Preprocessing(64), 2))
    return found


def test_splits_are_equal_also_after_augmentation_and_where_files_are_left_out(both):
    memory, file = both
    assert isinstance(memory.pixels, torch.Tensor)
    assert isinstance(file.pixels, StoredArray)
    assert torch.equal(memory.pixels, file.pixels[:])
    assert memory.labels.tolist() == file.labels.tolist() == [0] * 12 + [1] * 12
    assert memory.paths == file.paths

    def noise(pixels):
        return pixels.float() + torch.rand(())

    one, other = AugmentedSplit(memory, noise, 3), AugmentedSplit(file, noise, 3)
    for index in (5, 0, 23):
        assert torch.equal(one[index][0], other[index][0])
    whole = concatenate(file.part(slice(20, None)), memory.part(slice(0, 2)))
    assert torch.equal(whole.pixels[:], torch.cat([memory.pixels[20:], memory.pixels[:2]]))
    assert whole.paths == [*memory.paths[20:], *memory.paths[:2]]


def test_duplicates_are_the_same_in_any_block(both, monkeypatch):
    memory, file = both
    test = PixelSplit(memory.pixels[[7, 15]], memory.labels[[7, 15]], [Path("a"), Path("b")])
    expected = duplicates.near_duplicates({"train": memory, "test": test})
    groups = identical_images({"train": memory, "test": test})
    assert [pair.other for pair in expected["test"]] == [memory.paths[7], memory.paths[15]]
    monkeypatch.setattr(duplicates, "COMPARED", 5)
    monkeypatch.setattr("crackcam.data.statistics.BLOCK", 5)
    assert duplicates.near_duplicates({"train": file, "test": test}) == expected
    assert identical_images({"train": file, "test": test}) == groups
    assert [[split for split, *_ in group] for group in groups] == [["train", "test"]] * 2


def test_training_from_a_file_ends_with_the_same_weights(tiny_data, tmp_path, monkeypatch):
    ends = []
    for name, bound, workers in (("memory", 2**30, 0), ("file", 0, 2)):
        monkeypatch.setattr(storage, "IN_MEMORY", bound)
        config = tiny_config(
            data=tiny_data, arch="timm/test_convnext", output=tmp_path / f"{name}.safetensors", image_size=32
        )
        result = crackcam.train(crackcam.TrainConfig(**{**vars(config), "workers": workers}))
        assert isinstance(result.splits["train"].pixels, StoredArray) == (name == "file")
        ends.append((result.history, result.classifier.model.state_dict(), result.probabilities))
    (history, weights, probabilities), (others, other_weights, other_probabilities) = ends
    assert history == others
    assert weights.keys() == other_weights.keys()
    assert all(torch.equal(tensor, other_weights[key]) for key, tensor in weights.items())
    assert np.array_equal(probabilities, other_probabilities)


def test_another_process_reads_the_file_and_leaves_none_where_it_is_killed(in_file, tmp_path):
    array = stored(torch.arange(12).reshape(4, 3).byte())
    code = f"""
import os, signal, torch
from crackcam.data import storage
print(storage.StoredArray.open(storage.StoredFile{tuple(array.view(slice(1, None)).handle())})[1].tolist())
storage.IN_MEMORY = 0
own = storage.allocate((4, 3, 8, 8))
own[:] = torch.ones(4, 3, 8, 8)
print(os.listdir(os.environ["TMPDIR"]), int(own[3].sum()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)"""
    done = run_python(code, env={**os.environ, "TMPDIR": str(tmp_path)}, path=[ROOT])
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout == "[6, 7, 8]\n[] 192\n"
    assert not list(tmp_path.iterdir())
