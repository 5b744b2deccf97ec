"""Several processes that are one training: who they are, and what they do together.

TensorFlow's MultiWorkerMirroredStrategy computes the steps. Worker 0, the chief, evaluates, writes and prints; what it
decides, it tells the others.
"""

import contextlib
import io
import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tfyolo.errors import Error
from tfyolo.libraries import import_tensorflow, libraries_silent
from tfyolo.messages import shortened
from tfyolo.training.channel import Channel, LostError, OtherError, Workers, meet

WAIT = 600.0  # seconds, for workers that start later
CONNECT = 60  # seconds, in which those that are all there have to connect


class ClusterError(Error):
    """What the environment says about the workers of a training is wrong, or comes too late."""

    exit_code = 2


# --- who they are -----------------------------------------------------------------------------------------------------


def found():
    """Reads who trains together, from the environment: TF_CONFIG, or what srun tells its tasks.

    Returns:
        (Workers, the index of this process among them), the chief first; None: this process trains alone.

    Raises:
        ClusterError: it cannot be understood.
    """
    if os.environ.get("TF_CONFIG", "").strip():
        workers, index = _of_tf_config(os.environ["TF_CONFIG"])
    elif os.environ.get("SLURM_PROCID") and os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        workers, index = _of_slurm()
    else:
        return None
    return (workers, index) if len(workers) > 1 else None


_EXAMPLE = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'


def _of_tf_config(text):
    def wrong(expected, received):
        return ClusterError(f"TF_CONFIG: expected {expected}, received {received}; such as {_EXAMPLE}")

    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        raise wrong("JSON", shortened(text)) from None
    if not isinstance(given, dict):
        raise wrong("a JSON object", shortened(given))
    cluster, task = given.get("cluster"), given.get("task")
    if not cluster and not task:  # Vertex AI and others set it for one machine, too
        return Workers(), 0
    if not isinstance(cluster, dict):
        raise wrong("`cluster`, with a list of addresses for `worker`", shortened(cluster))
    if not isinstance(task, dict) or not task:
        raise wrong("`task`, with `type` and `index`", shortened(task))
    kinds = [kind for kind in ("chief", "master", "worker") if cluster.get(kind)]
    if others := sorted(set(cluster) - {"chief", "master", "worker", "evaluator"}):
        raise wrong("a cluster of `chief` and `worker`: all machines train alike", shortened(", ".join(others)))
    for kind in kinds:
        if not isinstance(cluster[kind], list) or not all(map(_is_address, cluster[kind])):
            raise wrong(f"a list of host:port for `{kind}`", shortened(str(cluster[kind])))
    kind, index = task.get("type"), task.get("index")
    if kind not in kinds:
        raise wrong(f"one of {', '.join(kinds) or 'chief, worker'} as the task's `type`", shortened(kind))
    if isinstance(index, str) and index.isdecimal():
        index = int(index)
    if type(index) is not int or not 0 <= index < len(cluster[kind]):
        raise wrong(f"an `index` from 0 to {len(cluster[kind]) - 1}, of the {kind}s", shortened(index))
    workers = [address for each in kinds for address in cluster[each]]
    twice = {address for address in workers if workers.count(address) > 1}
    if twice:
        raise wrong("every address once", ", ".join(sorted(twice)))
    return Workers(workers), workers.index(cluster[kind][index])


def _is_address(value):
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    return bool(host) and "/" not in host and port.isdecimal() and 0 < int(port) < 65536


def _of_slurm():
    import_tensorflow()
    import tensorflow as tf

    try:
        tasks, job = int(os.environ["SLURM_STEP_NUM_TASKS"]), int(os.environ.get("SLURM_JOB_ID", 0))
        # Only the addresses are asked for; GPUs are those that SLURM lets each task see. Jobs that share a node get
        # ports of their own, below those that systems give away.
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=12_000 + job * 16 % 20_000, gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False
        )
        workers = resolver.cluster_spec().job_tasks("worker")
        own = [i for i, address in enumerate(workers) if address.rpartition(":")[0] == os.environ["SLURMD_NODENAME"]]
        # Sorted by host, not by SLURM_PROCID: n10 comes before n9.
        return Workers(workers), own[int(os.environ["SLURM_LOCALID"])]
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise ClusterError(
            "SLURM: expected the variables that srun gives each task of a step (SLURM_STEP_NODELIST, "
            f"SLURM_STEP_TASKS_PER_NODE, SLURMD_NODENAME, SLURM_LOCALID), received {error!r}; start it by srun, or "
            "set TF_CONFIG"
        ) from error


# --- joining ----------------------------------------------------------------------------------------------------------

_team = None  # TensorFlow can join a cluster once in a process


def join():
    """Meets the other workers, and makes the strategy before TensorFlow does anything else.

    Returns:
        The process's Team, the same whenever it is asked for; a Team of one where it trains alone.

    Raises:
        ClusterError: the environment is wrong, or TensorFlow has begun to work.
        LostError: the others do not come.
    """
    global _team
    if _team is None:
        cluster = found()
        if cluster is None:
            return Team()
        _team = Team(*cluster)
    return _team


def _joined(workers, index):
    """The strategy of a worker, and the sockets to the others."""
    import_tensorflow()
    import tensorflow as tf

    context = sys.modules["tensorflow.python.eager.context"].context()
    if getattr(context, "_initialized", False):
        raise ClusterError(
            f"{len(workers)} workers train together, and TensorFlow had begun to work in this process before it knew; "
            "call tfyolo.train (or tfyolo.training.cluster.join) before anything else of TensorFlow"
        )
    try:
        seconds = float(os.environ.get("TFYOLO_WAIT") or WAIT)
    except ValueError:
        raise ClusterError(f"TFYOLO_WAIT: expected seconds, received {shortened(os.environ['TFYOLO_WAIT'])}") from None
    sockets = meet(workers, index, seconds)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(workers)}),
        task_type="worker",
        task_id=index,
        num_accelerators={"GPU": len(tf.config.get_visible_devices("GPU"))},
        rpc_layer="grpc",
    )
    with _ended_after(CONNECT), libraries_silent():
        strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
    return strategy, sockets


@contextlib.contextmanager
def _ended_after(seconds):
    """Has the system end the process, by SIGALRM, where the `with` takes longer: TensorFlow lets nobody else run."""
    main = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGALRM")
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL) if main else None
    if main:
        signal.alarm(seconds)
    try:
        yield
    finally:
        if main:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before or signal.SIG_DFL)


# --- working together -------------------------------------------------------------------------------------------------


class Team:
    """The processes of one training, of which this is one: what all of them do is said here once, for one or many.

    Args:
        workers: Workers; none: this process trains alone.
        index: which of them this process is.

    Attributes:
        together: whether there are others.
        chief: whether this one evaluates, writes and prints.
        strategy: the tf.distribute strategy; None: it trains alone, and makes its own.
        signals: of the training that runs.
    """

    def __init__(self, workers=(), index=0):
        self.workers, self.index, self.size = workers, index, max(1, len(workers))
        self.together, self.chief = self.size > 1, index == 0
        self.strategy = self.channel = self.signals = None
        if self.together:
            self.strategy, sockets = _joined(workers, index)
            self.channel = Channel(workers, index, sockets, _abort_collectives, self._forwarded)

    def say(self, text, file=None):
        """Prints a line, past the progress bar, if this is the chief; file: standard error, if none is named."""
        if self.chief:
            tqdm.write(text, file=file or sys.stderr)

    @contextlib.contextmanager
    def training(self, signals):
        """In the `with`, what ends one worker ends all, and all come to the end together.

        Args:
            signals: the Signals of this process.

        Raises:
            LostError: a worker is gone.
            OtherError: another worker has ended by an error.
        """
        if not self.together:
            yield
            return
        self.signals = signals
        self.channel.begin()
        try:
            yield
            self.channel.end()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and signals.agreed:
                self.channel.end()
                raise
            fault = self._fault_behind(error)
            if fault is None:
                stopped = "it was stopped at once" if isinstance(error, KeyboardInterrupt) else str(error)
                self.channel.fail(stopped, getattr(error, "exit_code", 1))
                raise
            if fault is error:
                raise
            raise fault from error
        finally:
            self.channel.leave()

    def _fault_behind(self, error, patience=5.0):
        """The fault of another worker that an error of TensorFlow's comes from; None if it is this worker's own."""
        if not type(error).__module__.startswith("tensorflow"):
            return error if error is self.channel.fault else None
        end = time.monotonic() + patience
        while self.channel.fault is None and time.monotonic() < end:
            time.sleep(0.05)
        if self.channel.fault is None and type(error).__name__ in ("UnavailableError", "DeadlineExceededError"):
            return LostError(
                "a worker does not answer any more, though it did not end, and with it the training; end it, and the "
                f"same command on all workers, with --resume, goes on from last.h5 ({shortened(str(error), 200)})"
            )
        return self.channel.fault

    def by_chief(self, function, *arguments):
        """Has the chief call a function, while the others wait.

        Args:
            function: returns what JSON can hold. Ctrl-C and SIGTERM interrupt it.
            *arguments: of the function.

        Returns:
            What the chief's call returned.

        Raises:
            KeyboardInterrupt: a signal has interrupted it.
        """
        if not self.together:
            return function(*arguments)
        if not self.chief:
            message, _ = self.channel.receive(self._forward)
            if message["stopped"]:
                self.signals.agreed = True
                raise KeyboardInterrupt
            return message["value"]
        try:
            with self.signals.listening():
                value = function(*arguments)
        except KeyboardInterrupt:
            self.signals.agreed = True
            self.channel.send(kind="value", stopped=True)
            raise
        self.channel.send(kind="value", stopped=False, value=value)
        return value

    def collect(self, data, **message):
        """Brings what each worker has to the chief.

        Args:
            data: bytes.
            **message: what JSON can hold.

        Returns:
            [(message, data)] of all workers, in their order: of the chief; None of the others.
        """
        if not self.chief:
            self.channel.send(data, kind="part", index=self.index, **message)
            return None
        found = {0: (message, data)}
        while len(found) < self.size:
            received, content = self.channel.receive()
            found[received["index"]] = received, content
        return [found[i] for i in range(self.size)]

    def broadcast(self, value):
        """Has the chief tell the others a value that JSON can hold.

        Args:
            value: the chief's; what the others give does not count.

        Returns:
            The chief's.
        """
        if not self.together:
            return value
        if not self.chief:
            return self.channel.receive(self._forward)[0]["value"]
        self.channel.send(kind="value", value=value)
        return value

    def same(self, what, value):
        """Checks that a value, as JSON holds it, is the same on all workers.

        Args:
            what: it is, for the message.
            value: of this worker.

        Raises:
            OtherError: it is another one than the chief's.
        """
        expected = self.broadcast(value)
        if expected != value:
            from tfyolo.training.runs import differing

            others = f": {', '.join(differing(value, expected)[:8])}" if isinstance(value, dict) else ""
            raise OtherError(
                f"{self.workers.name(self.index)}: expected {what} to be the same as on {self.workers.name(0)}, "
                f"received another{others}; start the same command, on the same data, on all workers"
            )

    @contextlib.contextmanager
    def folder(self, reserved, names):
        """The folder of a run, for each worker: the chief's own; a copy of what it goes on from for all others.

        What the others write into it is theirs alone, and gone afterwards.

        Args:
            reserved: () -> the context manager that gives the chief its folder.
            names: patterns of the files that a run goes on from.

        Yields:
            Its Path.
        """
        if self.chief:
            with reserved() as folder:
                if self.together:
                    files = sorted(file for name in names for file in folder.glob(name))
                    self.broadcast([file.name for file in files])
                    for file in files:
                        self.channel.send(file.read_bytes(), kind="file")
                yield folder
            return
        with tempfile.TemporaryDirectory(prefix="tfyolo-worker-") as folder:
            for name in self.broadcast(None):
                (Path(folder) / Path(name).name).write_bytes(self.channel.receive()[1])
            yield Path(folder)

    def arrays(self, arrays):
        """The chief's arrays, on all workers.

        Args:
            arrays: {name: numpy array}, this worker's.

        Returns:
            {name: numpy array}
        """
        if not self.together:
            return arrays
        if self.chief:
            file = io.BytesIO()
            np.savez(file, *arrays.values())
            self.channel.send(file.getvalue(), kind="arrays", names=list(arrays))
            return arrays
        message, data = self.channel.receive(self._forward)
        with np.load(io.BytesIO(data)) as file:
            return dict(zip(message["names"], (file[name] for name in file.files), strict=True))

    def _forward(self):
        """Tells the chief, who decides, of a signal that this worker has received while it waits."""
        if self.signals.received and not self.signals.forwarded:
            self.signals.forwarded = True
            self.channel.send(kind="signal", number=int(self.signals.received))

    def _forwarded(self, number):
        if self.signals and self.signals.before:
            os.kill(os.getpid(), number)


def _abort_collectives(message):
    """Lets go of what waits in TensorFlow for a worker that is gone; by itself it may do so after half a minute."""
    import tensorflow as tf

    context = sys.modules["tensorflow.python.eager.context"].context()
    if hasattr(context, "abort_collective_ops"):
        context.abort_collective_ops(tf.errors.UNAVAILABLE, message)
