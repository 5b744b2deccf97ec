"""Several processes that are one training: who they are, how they meet, and that they train what one trains."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import conftest
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, TINY_RUN
from test_resume import assert_same_run

import tfyolo
from tfyolo import checkpoint
from tfyolo import config as configs
from tfyolo.cli import train
from tfyolo.data import datasets
from tfyolo.data.readers import read
from tfyolo.training import channel, cluster, metrics, runs
from tfyolo.training.channel import AGAIN, Channel, LostError, OtherError, Workers, meet


def tf_config(workers, index, kind="worker"):
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": kind, "index": index}})


# --- who they are -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, expected",
    [
        (tf_config(["a:1", "b:2"], 1), (("a:1", "b:2"), 1)),
        # As Vertex AI and TFJob write it: the chief apart, and more beside it; an index may be text.
        ('{"cluster": {"worker": ["b:2", "c:3"], "chief": ["a:1"]}, "task": {"type": "worker", "index": "1"},'
         '"environment": "cloud"}', (("a:1", "b:2", "c:3"), 2)),
        ('{"cluster": {"worker": ["b:2"], "master": ["a:1"]}, "task": {"type": "master", "index": 0}}',
         (("a:1", "b:2"), 0)),
        ('{"cluster": {"chief": ["a:1"]}, "task": {"type": "chief", "index": 0}}', None),  # one machine: as ever
        ('{"cluster": {}, "task": {}}', None),
        (" ", None),
    ],
)  # fmt: skip
def test_tf_config_says_who_trains(given, expected, monkeypatch):
    assert cluster.found() is None
    monkeypatch.setenv("TF_CONFIG", given)
    assert cluster.found() == expected


@pytest.mark.parametrize(
    "given, message",
    [
        ("{worker", r"expected JSON, received '\{worker'"),
        ("[]", "expected a JSON object, received a list of 0"),
        ('{"task": {"type": "worker"}}', "expected `cluster`, .* received None"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}}', "expected `task`, .* received None"),
        (tf_config(["a:1", "b"], 0), r"expected a list of host:port for `worker`, received .*b'\]"),
        (tf_config(["a:1", "b:99999"], 0), "expected a list of host:port"),
        (tf_config(["a:1", "b:2"], 2), "expected an `index` from 0 to 1, of the workers, received 2"),
        (tf_config(["a:1", "b:2"], None), "expected an `index`"),
        (tf_config(["a:1", "b:2"], True), "expected an `index`"),
        (tf_config(["grpc://a:1", "b:2"], 0), "expected a list of host:port"),
        (tf_config(["a:1", "b:2"], 0, "evaluator"), "expected one of worker .* received 'evaluator'"),
        (tf_config(["a:1", "a:1"], 0), "expected every address once, received a:1"),
        (
            '{"cluster": {"ps": ["a:1"], "worker": ["b:1"]}, "task": {"type": "ps", "index": 0}}',
            ".*train alike, received 'ps'",
        ),
    ],
)
def test_a_broken_tf_config_is_an_error_of_the_command(given, message, monkeypatch, tmp_path):
    monkeypatch.setenv("TF_CONFIG", given)
    result = conftest.command("train", "demo", f"data={tmp_path}")
    assert result.exit_code == 2 and re.search(rf"Error: TF_CONFIG: {message}.*; such as \{{", result.stderr)
    with pytest.raises(cluster.ClusterError):
        tfyolo.train("demo")


SLURM = {
    "SLURM_JOB_ID": "3",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "n[9-10]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}


def test_srun_says_who_trains(monkeypatch):
    def of(**own):
        with monkeypatch.context() as patch:
            for name, value in own.items():
                patch.setenv(name, value)
            return cluster.found()

    found = set()
    for rank in range(4):
        own = {"SLURMD_NODENAME": f"n{9 + rank // 2}", "SLURM_LOCALID": str(rank % 2)}
        workers, index = of(**SLURM, **own, SLURM_PROCID=str(rank))
        assert workers[index] == f"n{9 + rank // 2}:{12048 + rank % 2}"  # also where n10 is sorted before n9
        found.add((workers, index))
    assert len(found) == 4 and len({workers for workers, _ in found}) == 1
    assert of(SLURM_PROCID="0", SLURM_STEP_NUM_TASKS="1") is None
    assert of(SLURM_PROCID="0", SLURM_NTASKS="4") is None  # a batch script itself, without srun
    with pytest.raises(cluster.ClusterError, match=r"SLURM: expected .* received KeyError\('SLURMD_NODENAME'\)"):
        of(**SLURM, SLURM_PROCID="0")


def test_a_process_in_which_tensorflow_works_joins_no_others(monkeypatch):
    tf.constant(1)
    monkeypatch.setenv("TF_CONFIG", tf_config(["a:1", "b:2"], 0))
    with pytest.raises(cluster.ClusterError, match="TensorFlow had begun to work in this process"):
        tfyolo.train("demo")


# --- how they meet, and what they tell each other ---------------------------------------------------------------------


def addresses(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return Workers(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)


def met(workers, seconds=20, others=None):
    """What meet() returns or raises for each worker, in threads of their own."""
    results = {}

    def one(index):
        try:
            results[index] = meet((others or {}).get(index, workers), index, seconds)
        except tfyolo.Error as error:
            results[index] = error

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[i] for i in range(len(workers))]


@pytest.fixture
def channels():
    """Of a chief and two others, with what each was told when a worker was gone."""
    workers = addresses(3)
    aborted = [[], [], []]
    signals = []
    made = [Channel(workers, i, sockets, aborted[i].append, signals.append) for i, sockets in enumerate(met(workers))]
    yield SimpleNamespace(all=made, aborted=aborted, signals=signals)
    for each in made:
        each.leave()
        for connection in each.sockets.values():
            connection.close()


def closed(connection):
    connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_workers_meet_and_the_chief_tells_the_others(channels):
    chief, *others = channels.all
    assert sorted(chief.sockets) == [1, 2] and [sorted(each.sockets) for each in others] == [[0], [0]]
    big = os.urandom(3 << 20)
    for value, data in (([1.5, None, "ü"], b""), ({"a": float("nan")}, big), (2, b"\n")):
        chief.send(data, kind="value", value=value)
        for other in others:
            message, received = other.receive()
            assert repr(message["value"]) == repr(value) and received == data
    others[1].send(kind="signal", number=15)
    until(lambda: channels.signals == [15])
    for _ in range(2):  # one training after the other
        threads = [threading.Thread(target=each.end) for each in channels.all]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for each in channels.all:
            each.begin()
    for other in others:
        other.ended = {0}
    chief.ended = {1, 2}
    for connection in chief.sockets.values():
        closed(connection)
    time.sleep(0.1)
    assert not any(each.fault for each in channels.all)  # after the end nobody is missed


@pytest.mark.parametrize("gone", [0, 2])
def test_all_learn_at_once_which_worker_is_gone(channels, gone):
    channels.all[gone].fault = LostError("it has ended, and sees nothing of what follows")
    for connection in channels.all[gone].sockets.values():
        closed(connection)
    others = [i for i in range(3) if i != gone]
    until(lambda: all(channels.aborted[i] for i in others))
    for i in others:
        fault = channels.all[i].fault
        assert fault.exit_code == AGAIN >= 128 and isinstance(fault, LostError)
        assert re.search(rf"worker {gone} \(127.0.0.1:\d+\) is gone.*--resume, goes on", str(fault))
        with pytest.raises(LostError):
            channels.all[i].receive()


def test_an_error_of_one_worker_ends_all_with_its_message_and_code(channels):
    channels.all[2].fail("no such file", 2)
    until(lambda: all(channels.aborted[:2]))
    for fault in (channels.all[0].fault, channels.all[1].fault):
        assert isinstance(fault, OtherError) and fault.exit_code == 2
        assert re.fullmatch(r"worker 2 \(127.0.0.1:\d+\) ended with an error: no such file", str(fault))


def test_a_worker_that_hangs_is_lost_too():
    """Its connection stays, but TensorFlow's heartbeats end."""
    team = cluster.Team()
    team.channel = SimpleNamespace(fault=None)
    fault = team._fault_behind(tf.errors.UnavailableError(None, None, "no heartbeat"), patience=0)
    assert isinstance(fault, LostError) and "no heartbeat" in str(fault)
    assert team._fault_behind(tf.errors.InvalidArgumentError(None, None, "of its own"), patience=0) is None
    team.channel.fault = LostError("worker 1 is gone")
    assert team._fault_behind(tf.errors.CancelledError(None, None, ""), patience=0) is team.channel.fault


@pytest.mark.slow
def test_a_lone_worker_says_whom_it_waits_for_and_gives_up(capfd, monkeypatch):
    monkeypatch.setattr(channel, "TOLD_EVERY", 0.0)
    for index, missing in ((0, [1, 2]), (1, [0])):
        workers = addresses(3)
        began = time.monotonic()
        with pytest.raises(LostError, match=f"worker {index} of 3: expected all workers to come, ") as error:
            meet(workers, index, 2.5)
        assert 2.5 <= time.monotonic() - began < 6 and error.value.exit_code >= 128
        printed = capfd.readouterr().err
        for text in (printed, str(error.value)):
            assert all(workers.name(i) in text for i in missing)
        assert f"worker {index} of 3 ({workers[index]}) waits for " in printed and "gives up in " in printed


def test_workers_of_other_clusters_and_versions_do_not_meet(monkeypatch):
    workers = addresses(3)
    began = time.monotonic()
    faults = met(workers, 20, {1: Workers((*workers, "127.0.0.1:1"))})
    assert all(isinstance(fault, OtherError) for fault in faults), faults
    assert "expected the same addresses on all workers" in str(faults[0])
    assert time.monotonic() - began < 10  # the chief tells why: nobody waits to the end
    with pytest.raises(OtherError, match="expected tfyolo 1 on all workers, worker 1 has 2"):
        channel._introduced('{"tfyolo": "2", "index": 1, "workers": []}', {"tfyolo": "1", "workers": []})
    assert channel._introduced("GET / HTTP/1.1\n", {}) is None  # whoever looks at ports


# --- what they compute ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_workers_read_the_parts_of_the_same_batches(data):
    source = read(data, "train")
    options = {"size": (64, 96), "batch": 8, "augment": configs.Augment(), "seed": 3, "epochs": 2}
    options |= {"start_step": 1}
    whole, steps = datasets.train_dataset(source, **options)
    parts = [datasets.train_dataset(source, **options, part=(i, 2), pieces=1 + i)[0] for i in range(2)]
    images = [np.concatenate([batch.image.numpy() for batch in part]) for part in parts]
    for number, batch in enumerate(whole):
        share = slice(4 * number, 4 * number + 4)
        np.testing.assert_array_equal(np.concatenate([images[0][share], images[1][share]]), batch.image)
    assert len(images[0]) == len(images[1]) == 4 * (2 * steps - 1)


def test_workers_of_unequal_speed_fetch_and_stop_at_the_same_steps(monkeypatch):
    """Each sees the sums of what both have said; one's clock runs ten times as fast, and it alone gets a signal."""
    now = 0.0
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now)
    signals = [runs.Signals(together=True) for _ in range(2)]
    agreements = [metrics.Agreement(each, replicas=2) for each in signals]
    epochs = [metrics.EpochMetrics(1, None, agreement=each) for each in agreements]
    strategy = SimpleNamespace(experimental_local_results=lambda value: (value,))
    fetched, stopped = ([], []), []
    for number in range(1, 60):
        if number == 41:
            signals[1].received = signal.SIGTERM
        for agreement, epoch in zip(agreements, epochs, strict=True):
            agreement.say(epoch._seconds)
        values = {name: tf.add_n([each.said[name] for each in agreements]) for name in agreements[0].said}
        values["loss"] = tf.constant(1.0)
        for i, epoch in enumerate(epochs):
            now += (0.01, 0.3)[i]
            epoch.take(lambda *_, values=values: values, number, SimpleNamespace(image_id=[0]), None, strategy)
            if epoch.due:
                epoch.fetch()
                fetched[i].append(number)
        stopped.append([each.due for each in signals])
    assert fetched[0] == fetched[1] and len(fetched[0]) < 40
    assert all(a == b for a, b in stopped) and stopped[39] == [False, False] and stopped[-1] == [True, True]
    assert epochs[0].sums == epochs[1].sums == {"loss": fetched[0][-1]}


# Each worker: what the others hear of the chief, and one sum over both.
JOINED = """
import sys, numpy as np
from tfyolo.training import cluster, runs
team = cluster.join()
import tensorflow as tf
from tfyolo.nn.norm import merged_sums
assert cluster.join() is team and team.chief == (team.index == 0)
with runs.Signals(team.together) as signals, team.training(signals):
    step = tf.function(lambda x: team.strategy.run(lambda x: merged_sums({"a": x, "b": [2 * x]}), (x,)))
    sums = step(tf.constant([1.0, 10.0]) * (1 + team.index))
    arrays = team.arrays({"x/y": np.full([2], team.index, "int64"), "z": np.float32(team.index)})
    told = team.by_chief(lambda: [team.index, None])
    parts = team.collect(bytes([team.index]) * 9, number=team.index)
    assert parts == ([({"number": 0}, bytes(9)), (parts[1][0], bytes([1]) * 9)] if team.chief else None)
    assert not team.chief or parts[1][0]["number"] == 1
    team.same("the data", [1])
    print(team.index, sums["a"].numpy().tolist(), sums["b"][0].numpy().tolist(), {k: v.tolist() for k, v in
          arrays.items()}, told)
    if "kill" in sys.argv:
        if team.index == 1:
            sys.exit(0)
        step(tf.constant([1.0, 10.0]))
"""


def together(count, *arguments, code=None, **environ):
    """Processes, one for each worker: the command line, or Python code."""
    workers = addresses(count)
    command = ["-c", code] if code else ["-m", "tfyolo"]
    environ = {**os.environ, "PYTHONUNBUFFERED": "1", "TFYOLO_WAIT": "120", **environ}
    return [
        subprocess.Popen(
            [sys.executable, *command, *map(str, arguments)],
            env=environ | {"TF_CONFIG": tf_config(list(workers), i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for i in range(count)
    ]


def finished(processes, seconds):
    """(exit code, stdout, stderr) of each, which end in time."""
    end, results = time.monotonic() + seconds, []
    try:
        for each in processes:
            printed = each.communicate(timeout=max(1.0, end - time.monotonic()))
            results.append((each.returncode, *printed))
    finally:
        for each in processes:
            each.kill()
    return results


def test_two_processes_are_one_team():
    results = finished(together(2, code=JOINED), 120)
    for index, (code, printed, error) in enumerate(results):
        assert code == 0, error
        assert printed == f"{index} [3.0, 30.0] [6.0, 60.0] {{'x/y': [0, 0], 'z': 0.0}} [0, None]\n"


TRAIN = ("train", ROOT / "configs" / "demo.yaml")
GENTLE = "train.stages=[{epochs: 10, lr: 0.0001, warmup: 1, plain_epochs: 1}]"  # 30 steps
# Every step's figures.
LOGGED = """
import json, sys
from tfyolo.cli.app import main
import tfyolo.cli
from tfyolo.training import metrics
found, check = [], metrics.EpochMetrics._check_finite
metrics.EpochMetrics._check_finite = lambda self, values, step: (found.append(dict(values)), check(self, values, step))
path = sys.argv.pop()
try:
    main(prog_name="tfyolo")
finally:
    with open(path, "a") as file:
        json.dump(found, file)
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_train_what_one_trains(count, data, tmp_path):
    """With plain SGD: AdamW divides gradients near 0, where they are rounding, by their size."""
    batch = f"train.batch={2 * count}"
    settings = [f"data={data}", *TINY_RUN, GENTLE, batch, "train.optimizer={name: sgd}", "train.evaluate_every=10"]
    one = subprocess.run(
        [sys.executable, "-c", LOGGED, *map(str, TRAIN), *settings, "--out", tmp_path / "one", tmp_path / "one.json"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert one.returncode == 0, one.stderr
    processes = together(count, *TRAIN, *settings, "--out", tmp_path / "all", tmp_path / "all.json", code=LOGGED)
    results = finished(processes, 600)
    assert [code for code, *_ in results] == [0] * count, results
    assert "epoch  10/10" in results[0][1] and not any(printed for _, printed, _ in results[1:])
    both = []
    for name in ("one", "all"):
        text = (tmp_path / f"{name}.json").read_text()
        lists = [json.loads(part) for part in text.replace("][", "]\n[").splitlines()]
        assert all(each == lists[0] for each in lists)  # every worker sees the same figures
        both.append(lists[0])
    assert len(both[0]) == len(both[1]) == 10 * -(-10 // (2 * count))
    for left, right in zip(*both, strict=True):
        for name in set(left) - {"gradient_norm"}:
            assert right[name] == pytest.approx(left[name], rel=1e-5), name
    for group in ("weights", "averages"):
        left, right = (checkpoint.load(tmp_path / name / "last.h5", group)[1] for name in ("one", "all"))
        for name in left:
            np.testing.assert_allclose(right[name], left[name], rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_a_lost_worker_ends_all_and_the_same_command_goes_on_to_the_run_that_was_never_stopped(data, tmp_path):
    plan = "train.stages=[{epochs: 40, lr: 0.002, warmup: 1, plain_epochs: 1}]"
    settings = [f"data={data}", *TINY_RUN, plan, "train.evaluate_every=20", "train.save_minutes=0.01"]
    whole = finished(together(2, *TRAIN, *settings, "--out", tmp_path / "whole"), 600)
    assert [code for code, *_ in whole] == [0, 0], whole
    again = [*TRAIN, *settings, "--out", tmp_path / "run", "--resume"]
    last = tmp_path / "run" / "last.h5"
    for victim, number in ((1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGTERM)):
        before = last.stat().st_mtime_ns if last.exists() else 0
        processes = together(2, *again)
        until(lambda: last.exists() and last.stat().st_mtime_ns > before, seconds=300)  # noqa: B023
        processes[victim].send_signal(number)
        sent = time.monotonic()
        results = finished(processes, 60)
        assert time.monotonic() - sent < 60
        if number == signal.SIGTERM:  # all stop after the same step
            assert [code for code, *_ in results] == [train.RESUME] * 2, results
        else:
            code, _, error = results[1 - victim]
            assert code == AGAIN and f"Error: worker {victim} (127.0.0.1:" in error and " is gone" in error, error
    results = finished(together(2, *again), 600)
    assert [code for code, *_ in results] == [0, 0], results
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert not list((tmp_path / "run").rglob(".*"))
