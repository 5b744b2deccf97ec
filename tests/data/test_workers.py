"""Batches made by other processes: the same ones, and no hang when one of them dies."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from test_pipeline import ALL, assert_same, make_source, samples, train

from tfyolo.errors import WorkerError

pytest.importorskip("grain")


def children():
    """{process id: its command} of the processes that this one has started."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        if parent == os.getpid() and "spawn_main" in command:
            found[int(folder.name)] = command
    return found


@pytest.mark.slow
def test_streams_of_several_processes_are_those_of_one(tmp_path):
    """From the middle of an epoch on, with images without boxes, a broken one, and one of another size than stated."""
    source = make_source(tmp_path)
    records = list(source.records)
    nothing = {"boxes": np.zeros([0, 4], np.float32), "labels": np.zeros(0, np.int32)}
    records[0] = records[0]._replace(**nothing, crowd=np.zeros(0, bool), areas=np.zeros(0, np.float32), difficult=False)
    records[1] = records[1]._replace(size=(32, 32))
    Path(records[2].path).write_bytes(b"")
    source = source._replace(records=tuple(records))
    options = {"epochs": 4, "plain_epochs": 1, "batch": 4, "start_epoch": 1, "start_step": 1, "pieces": 2}
    (skipped, resized), (also_skipped, also_resized) = ({}, {}), ({}, {})
    expected = samples(train(source, ALL, **options, skipped=skipped, resized=resized)[0])
    made, steps = train(source, ALL, **options, workers=2, skipped=also_skipped, resized=also_resized)
    spec = train(source, ALL, **options)[0].element_spec
    assert made.element_spec == spec and steps == 2
    assert_same(samples(made), expected)
    assert (also_skipped, also_resized) == (skipped, resized) and set(skipped) == {2} and set(resized) == {1}
    assert not children()


@pytest.mark.slow
def test_one_image_by_more_processes_than_batches(tmp_path):
    source = make_source(tmp_path, [(40, 60)])
    options = {"batch": 4, "epochs": 1}
    assert_same(samples(train(source, ALL, **options, workers=2)[0]), samples(train(source, ALL, **options)[0]))


@pytest.mark.slow
def test_a_killed_process_is_an_error_in_a_line(tmp_path):
    batches = iter(train(make_source(tmp_path), epochs=100_000, workers=2)[0])
    next(batches)
    os.kill(next(iter(children())), signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(tf.errors.OpError) as caught:
        for _ in batches:
            pass
    assert time.monotonic() - began < 30
    assert str(WorkerError.within(caught.value)).startswith(
        "train.workers=2: a process that makes batches has ended with code -9: killed"
    )


def test_other_errors_are_no_workers():
    assert WorkerError.within(tf.errors.InternalError(None, None, "Failed")) is None
