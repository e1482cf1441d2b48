"""Images of a folder through a function into journals: order, interruption, resumption."""

import errno
import json
import logging
import os
import time
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from crackcam import distributed
from crackcam.batch import streaming
from crackcam.batch.streaming import Run
from crackcam.errors import UserError

NUMBER = 26


@pytest.fixture
def files(tmp_path, monkeypatch):
    """(class, path) of 26 images, whose pixels are their numbers; every ninth is none. outputs/ exists."""
    monkeypatch.chdir(tmp_path)
    Path("outputs").mkdir()
    found = []
    for number in range(NUMBER):
        path = Path(f"{number:02d}.png")
        Image.fromarray(np.full((5, 4, 3), number, np.uint8)).save(path)
        found.append(("even" if number % 2 == 0 else "", path))
    for _, path in found[8::9]:
        path.write_text("no image")
    return found


@pytest.fixture
def run(files):
    return Run(Path("outputs/table.csv"), files, 4, {"style": "overlay"}, "testing")


def prepare(image):
    return int(image[0, 0, 0])


def work(items):
    return [lambda item=item: {"value": item.prepared, "place": item.place} for item in items]


def stream(run, work=work, prepare=prepare, resume=False, folders=()):
    streaming.stream(run, prepare, work, resume, folders)
    return list(streaming.rows(run))


def expected_rows():
    heads = [{"file": f"{number:02d}.png", "true": "even" if number % 2 == 0 else None} for number in range(NUMBER)]
    return [
        {**head, "error": "not an image"} if number in (8, 17) else {**head, "value": number, "place": number}
        for number, head in enumerate(heads)
    ]


def test_rows_come_in_the_order_of_the_files(run):
    assert stream(run) == expected_rows()
    assert json.loads(Path("outputs/table.csv.part/run.json").read_text()) == run.identity
    streaming.clear(run)
    assert not run.part.exists()


def test_batches_hold_the_readable_images(run):
    seen = []

    def watch(items):
        seen.append([item.place for item in items])
        return work(items)

    stream(run, watch)
    places = [[number for number in batch if number not in (8, 17)] for batch in run.batches]
    assert seen == places
    assert [len(batch) for batch in run.batches] == [4, 4, 4, 4, 4, 4, 2]


def test_a_batch_without_a_readable_image_is_not_worked_on(files):
    broken = [files[8], files[17]]
    run = Run(Path("outputs/table.csv"), broken, 2, {}, "testing")
    rows = stream(run, work=lambda items: pytest.fail("nothing to work on"))
    assert [row["error"] for row in rows] == ["not an image"] * 2


def test_a_run_is_frozen(run):
    with pytest.raises(FrozenInstanceError):
        run.batch_size = 1


@pytest.mark.parametrize(("size", "limit"), [(1, 26), (4, 7), (26, 1), (100, 1)])
def test_batches_cover_all_files(files, size, limit):
    batches = Run(Path("t.csv"), files, size, {}, "").batches
    assert [place for batch in batches for place in batch] == list(range(NUMBER))
    assert len(batches) == limit


def test_processes_divide_the_batches(run, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "here")
    monkeypatch.setenv("WORLD_SIZE", "3")
    own = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        own.append(run.own_batches)
    assert own[0] == [run.batches[0], run.batches[3], run.batches[6]]
    assert sorted((batch for of_one in own for batch in of_one), key=min) == run.batches


def interrupt(run, at):
    """Stream until the image at that place is worked on; returns the rows that were written."""

    def until(items):
        if any(item.place >= at for item in items):
            raise KeyboardInterrupt
        return work(items)

    with pytest.raises(KeyboardInterrupt):
        stream(run, until)
    return (run.part / "0.jsonl").read_bytes()


def test_an_interrupted_run_is_resumed_after_its_last_batch(run, caplog):
    caplog.set_level(logging.INFO, "crackcam")
    written = interrupt(run, 17)
    assert written.count(b"\n") == 8  # four batches done, two of them still waiting to be written
    seen = []

    def watch(items):
        seen.extend(item.place for item in items)
        return work(items)

    assert stream(run, watch, resume=True) == expected_rows()
    assert min(seen) == 9  # file 8 is none
    assert "resuming after 8 images" in caplog.messages


@pytest.mark.parametrize("cut", [1, 20, 150])
def test_what_a_kill_left_of_a_batch_is_written_again(run, cut):
    written = interrupt(run, 17)
    journal = run.part / "0.jsonl"
    journal.write_bytes(written[:-cut])
    assert stream(run, resume=True) == expected_rows()
    lines = written.splitlines(keepends=True)
    journal.write_bytes(written + lines[0] + lines[1][:cut])  # half a batch, half a line
    assert stream(run, resume=True) == expected_rows()


def test_partial_files_of_a_kill_are_removed_and_others_stay(run):
    interrupt(run, 17)
    folder = Path("overlays/00000")
    folder.mkdir(parents=True)
    for name in (".0000003_half.77.jpg", ".keep", "0000003_whole.jpg"):
        (folder / name).touch()
    stream(run, resume=True, folders=[Path("overlays")])
    assert sorted(path.name for path in folder.iterdir()) == [".keep", "0000003_whole.jpg"]


def test_without_resume_an_interrupted_run_starts_from_the_beginning(run, caplog):
    caplog.set_level(logging.INFO, "crackcam")
    interrupt(run, 17)
    assert stream(run) == expected_rows()
    message = "outputs/table.csv.part holds an interrupted run, which --resume would continue; starting from the"
    assert message in caplog.text
    streaming.clear(run)
    assert stream(run, resume=True) == expected_rows()
    assert "nothing to resume at outputs/table.csv.part; starting from the beginning" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: replace(run, batch_size=8), "batch-size was 4, is 8"),
        (lambda run: replace(run, settings={"style": "mask"}), "style was overlay, is mask"),
        (lambda run: replace(run, settings={"style": "x" * 40}), "another style"),
        (lambda run: replace(run, files=run.files[1:]), "another list of files"),
        (lambda run: replace(run, files=[("odd", path) for _, path in run.files]), "another list of files"),
        (lambda run: replace(run, settings={**run.settings, "stride": 8}), "stride was None, is 8"),
    ],
)
def test_a_run_with_other_settings_is_not_resumed(run, change, message):
    written = interrupt(run, 17)
    with pytest.raises(UserError) as caught:
        stream(change(run), resume=True)
    assert str(caught.value) == (
        f"resume cannot continue outputs/table.csv.part: {message}; repeat the settings that it was started with, "
        "or leave resume out"
    )
    assert (run.part / "0.jsonl").read_bytes() == written


@pytest.mark.parametrize("text", ["{", "7", "", "\xff"])
def test_a_damaged_document(run, text):
    interrupt(run, 17)
    (run.part / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"outputs/table\.csv\.part/run\.json is damaged: leave resume out"):
        stream(run, resume=True)


def test_an_incomplete_journal_gives_no_table(run):
    interrupt(run, 17)
    with pytest.raises(RuntimeError, match=r"0\.jsonl is not complete"):
        list(streaming.rows(run))


def test_processes_with_other_files_do_not_start(run, monkeypatch):
    monkeypatch.setattr(distributed, "all_gather", lambda found: [found, {**found, "list of files": "others"}])
    with pytest.raises(UserError, match="not all processes have the same list of files"):
        stream(run)
    assert not run.part.exists()


def test_two_runs_do_not_write_one_journal(run):
    if not streaming.fcntl:
        pytest.skip("files cannot be locked here")
    run.part.mkdir()
    with (run.part / "0.jsonl").open("a+b") as file:
        streaming.fcntl.flock(file, streaming.fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"another run is writing outputs/table\.csv\.part/0\.jsonl"):
            stream(run)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_said_and_used(run, monkeypatch, caplog, number):
    def flock(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(streaming, "fcntl", SimpleNamespace(flock=flock, LOCK_EX=2, LOCK_NB=4))
    assert stream(run) == expected_rows()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        f"outputs/table.csv.part/0.jsonl cannot be locked ({os.strerror(number)}): start no second run into it"
    ]


def test_an_error_in_a_finishing_thread_ends_the_run(run):
    def fail(items):
        return [lambda: 1 / 0 for _ in items]

    with pytest.raises(ZeroDivisionError):
        stream(run, fail)


def test_reading_ahead_is_bounded_and_threads_stay_as_they_were(files):
    """Memory: no more than a few batches are decoded ahead of the model, or wait behind it."""
    torch.set_num_threads(2)
    readable = [named for number, named in enumerate(files) if number not in (8, 17)] * 8
    run = Run(Path("outputs/x.csv"), readable, 4, {}, "testing")
    begun, worked, leads = [], [0], []

    def watched(image):
        begun.append(1)
        return prepare(image)

    def watch(items):
        leads.append(len(begun) - worked[0])
        worked[0] += len(items)
        return work(items)

    assert len(stream(run, watch, watched)) == worked[0] == len(readable) == 192
    assert max(leads) <= 3 * 4 + 1
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert threads == 2


# -- large images ----------------------------------------------------------------------------------------------------

LARGE = {*range(7), 13, 15, *range(20, 26)}


def prepare_mixed(image):
    number = prepare(image)
    return streaming.Alone(number) if number in LARGE else number


def work_mixed(items):
    together = [item.prepared for item in items]
    tiles = 2 if items[0].prepared in LARGE else 1
    return [lambda item=item: {"value": item.prepared, "tiles": tiles, "together": together} for item in items]


def test_large_images_are_processed_alone_and_the_others_of_their_batch_together(run):
    rows = stream(run, work_mixed, prepare_mixed)
    assert [row.get("value") for row in rows] == [None if n in (8, 17) else n for n in range(NUMBER)]
    assert [row["together"] for row in rows if row.get("value") in LARGE] == [[number] for number in sorted(LARGE)]
    assert [row["together"] for row in rows if row.get("value") in (7, 12, 14, 18)] == [
        [7],
        [12, 14],
        [12, 14],
        [16, 18, 19],
    ]


@pytest.mark.parametrize("at", range(NUMBER))
def test_a_run_of_mixed_sizes_is_resumed_with_the_same_images_together(run, at):
    whole = stream(run, work_mixed, prepare_mixed)
    seen = []

    def until(items):
        if any(item.place >= at for item in items):
            raise KeyboardInterrupt
        return work_mixed(items)

    def watch(items):
        seen.extend(item.place for item in items)
        return work_mixed(items)

    with pytest.raises(KeyboardInterrupt):
        stream(run, until, prepare_mixed)
    written = (run.part / "0.jsonl").read_text().count("\n")
    assert stream(run, watch, prepare_mixed, resume=True) == whole
    assert min(seen) in (written, written + 1)  # nothing again; file 8 is none
    if at == 7:
        assert written == 5  # not only whole batches of four: large images take long; two wait to be finished


@pytest.mark.parametrize("cut", [1, 30, 200, 400])
def test_half_a_block_of_mixed_sizes_is_written_again(run, cut):
    whole = stream(run, work_mixed, prepare_mixed)
    journal = run.part / "0.jsonl"
    written = journal.read_bytes()
    for end in range(0, len(written), 97):
        journal.write_bytes(written[: max(0, end - cut)])
        assert stream(run, work_mixed, prepare_mixed, resume=True) == whole


def test_few_large_images_wait_to_be_finished(files):
    """They hold their pixels meanwhile."""
    run, unfinished, most = Run(Path("outputs/table.csv"), files, 26, {}, "testing"), set(), []

    def work(items):
        unfinished.update(item.place for item in items)
        most.append(len(unfinished))

        def finish(item):
            time.sleep(0.01)
            unfinished.discard(item.place)
            return {"tiles": 2 if item.prepared != 1 else 1}

        return [lambda item=item: finish(item) for item in items]

    stream(run, work, lambda image: image[0, 0, 0] if image[0, 0, 0] == 1 else streaming.Alone(image[0, 0, 0]))
    assert max(most) <= streaming.BEHIND + 2
