"""Batches made by processes of their own: Python's one lock ends a single process at two to three cores.

The processes are those of Google's grain, which hands batches over in shared memory and in order.
"""

import multiprocessing.util
import os
import pickle
import re
import signal
import threading

import grain

from tfyolo.errors import WorkerError
from tfyolo.libraries import import_tensorflow


def batches_by(workers, stream, skipped, resized):
    """What a Stream's dataset() holds, bit for bit, made by several processes.

    Args:
        workers: how many.
        stream: a datasets.Stream.
        skipped: as for its dataset().
        resized: likewise.

    Yields:
        Samples of arrays.

    Raises:
        WorkerError: one of the processes has ended.
    """
    numbers = grain.MapDataset.range(*stream.numbers).to_iter_dataset(grain.ReadOptions(1, 1))
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
    batches = iter(_Batches(numbers, stream, workers).mp_prefetch(options, _begin))
    try:
        for sample, found in batches:
            for known, more in zip((skipped, resized), pickle.loads(found), strict=True):
                known.update(more)
            yield sample
    except RuntimeError as error:
        raise WorkerError(_explained(str(error), workers)) from error
    finally:
        batches.close()


def _explained(message, workers):
    code = re.search(r"exit code (-?\d+)", message)
    if not code:
        return f"train.workers={workers}: a process that makes batches has failed: {message}"
    hints = {
        "-7": "the shared memory (/dev/shm) is full; give the container more (docker run --shm-size=16g)",
        "-9": "killed, perhaps for want of memory; take fewer (about 1 GB each)",
        "1": 'the lines above say why; a script needs `if __name__ == "__main__":` before what it does',
    }
    hint = hints.get(code[1], "the lines above may say why")
    return f"train.workers={workers}: a process that makes batches has ended with code {code[1]}: {hint}"


# --- in each of the processes -----------------------------------------------------------------------------------------


def _begin(index, workers):
    """Prepares a process before anything of TensorFlow is in it."""
    # Ctrl-C and SIGTERM reach the whole group; training comes to the end of its step, and then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Threads of TensorFlow that wait for more would keep Python from ending; after all that has to be handed over.
    multiprocessing.util.Finalize(None, os._exit, args=(0,), exitpriority=-100)
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # all memory of the GPUs is the training's
    import_tensorflow()
    import cv2

    cv2.setNumThreads(1)
    # grain's processes would outlive a training that is killed.
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent):
    parent.join()
    os._exit(0)


class _Batches(grain.IterDataset):
    """(Sample, pickled findings) of each number of a batch that grain gives this process."""

    def __init__(self, numbers, stream, workers):
        super().__init__(numbers)
        self._stream, self._workers = stream, workers

    def __iter__(self):
        return _Iterator(iter(self._parent), self._stream, self._workers)


class _Iterator(grain.DatasetIterator):
    def __init__(self, numbers, stream, workers):
        super().__init__()
        self._found, self._sent = ({}, {}), [0, 0]
        self._made, self._batches = (stream, numbers, workers), None

    def __next__(self):
        if self._batches is None:  # grain makes iterators in the training's process, too, to ask for their state
            stream, numbers, workers = self._made
            dataset = stream.dataset(*self._found, numbers=numbers, workers=workers)
            self._batches = dataset.as_numpy_iterator()
        sample = next(self._batches)
        found = [list(each.items()) for each in self._found]
        new = [dict(each[sent:]) for each, sent in zip(found, self._sent, strict=True)]
        self._sent = list(map(len, found))
        return sample, pickle.dumps(new)

    # Where a stream begins is the Stream's own: grain asks for a state, and is never given one back.
    def get_state(self):
        return {}

    def set_state(self, state):
        raise NotImplementedError
