"""How fast a config trains on this machine: its step alone, its loader alone, or the loop of both; and peers beside it.

    python tools/benchmark_training.py configs/yolov8n.yaml --size 320 --batch 8
    python tools/benchmark_training.py yolov8n --what loader --data my/images --size 640 --workers 0 --workers 2
    python tools/benchmark_training.py configs/yolov8n.yaml --peer 'theirs=/scratch/bin/python theirs.py'

Every competitor is a process of its own, ours in each precision and the peers. They take turns, many times, while the
others wait, so that other work of the machine hits all of them; ratios are taken within a turn. A peer is any command
that prints a line when it is ready and, for every line it then reads, works a while and prints
{"seconds": of one step, "peak_mb": of memory so far, "cpu": seconds of a step that cores computed, if it knows}.
"""

import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from pathlib import Path

import click

from tfyolo.cli.app import Command
from tfyolo.devices import start as start_tensorflow
from tfyolo.messages import plain
from tfyolo.peers import Peer

STEPS = 5  # in a turn
BATCHES = 40  # in a turn of the loader alone: many times those that lie ready


# --- a competitor of ours ---------------------------------------------------------------------------------------------


def computed():
    """Seconds that this process and those that make its batches have computed so far; Linux's alone are counted all."""
    seconds = time.process_time()
    for child in multiprocessing.active_children():
        status = Path(f"/proc/{child.pid}/stat")
        if status.exists():
            user, system = map(int, status.read_text().rpartition(")")[2].split()[11:13])
            seconds += (user + system) / os.sysconf("SC_CLK_TCK")
    return seconds


def batches_of(config, size, batch, path, workers):
    """(classes, endless augmented batches) of a data set's training split, as the config augments it."""
    from tfyolo.data import datasets, readers

    source = readers.read(path, "train")
    epochs = 1_000_000 // max(len(source.records), 1)
    dataset, _ = datasets.train_dataset(
        source, size=size, batch=batch, augment=config.augment, seed=0, epochs=epochs, plain_epochs=0, workers=workers
    )
    return source.classes, dataset


def noise(size, batch, classes, count=50):
    """A batch of noise with `count` boxes of all sizes an image."""
    import numpy as np
    import tensorflow as tf

    from tfyolo.structures import Sample

    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 0.8, (batch, count, 2)) * size
    boxes = np.concatenate([corners, corners + rng.uniform(0.03, 0.3, (batch, count, 2)) * size], -1)
    boxes = np.clip(boxes, 0, [*size, *size]).astype("float32")
    labels = rng.integers(0, classes, (batch, count)).astype("int32")
    images = rng.random((batch, *size, 3), dtype="float32")
    crowd, ids = np.zeros((batch, count), bool), np.arange(batch, dtype="int32")
    return tf.nest.map_structure(
        tf.constant, Sample(images, boxes, labels, crowd, ids, np.tile(np.eye(3, dtype="float32"), (batch, 1, 1)))
    )


def worker(config, size, batch, what, precision, path, workers):
    """Answers every line of its input with the seconds of a step. size: (H, W)."""
    start_tensorflow()
    import tensorflow as tf

    from tfyolo import config as configs
    from tfyolo import model as models
    from tfyolo.model import resolve
    from tfyolo.training import steps
    from tfyolo.training.optim import EMA, OPTIMIZERS, Schedule, build_for

    config = configs.load(config, [f"train.batch={batch}"])
    classes, batches = [str(i) for i in range(80)], None
    if what != "step":
        classes, dataset = batches_of(config, size, batch, path, workers)
        batches = iter(dataset)
    if what == "loader":

        def one():
            next(batches)
    else:
        strategy = steps.make_strategy()
        with strategy.scope():
            model = models.build(config, classes, input_size=size, precision=precision)
            average = EMA(model.network, config.train.ema)
            builder, options = resolve(config, "train.optimizer", config.train.optimizer, OPTIMIZERS)
            optimizer = builder(Schedule(config.train.stages[0], 100), **options)
            build_for(model.network, optimizer)
        still = noise(size, batch, len(classes))
        spec = (
            batches.element_spec if batches else tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), still)
        )
        step = steps.make_step(model, optimizer, average, strategy, spec, clip=config.train.clip)

        def one():
            float(step(next(batches) if batches else still)["loss"])

    for _ in range(3):
        one()
    print("ready", flush=True)
    count = BATCHES if what == "loader" else STEPS
    for _ in sys.stdin:
        for _ in range(STEPS + 8 * workers if batches else 0):  # uses up what was loaded while the others worked
            one()
        start, before = time.perf_counter(), computed()
        for _ in range(count):
            one()
        seconds, cpu = (time.perf_counter() - start) / count, (computed() - before) / count
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_mb": peak, "cpu": cpu}), flush=True)


# --- turns ------------------------------------------------------------------------------------------------------------


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("config")
@click.option("--what", type=click.Choice(["step", "loop", "loader"]), default="step", show_default=True)
@click.option("--size", type=click.IntRange(32), default=320, show_default=True, help="Of the square input.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True)
@click.option(
    "--precision", "precisions", multiple=True, type=click.Choice(["float32", "bfloat16"]), help="[default: both]"
)
@click.option("--data", "path", help="For the loop and the loader.")
@click.option(
    "--workers",
    "workers",
    multiple=True,
    type=click.IntRange(0),
    default=[0],
    help="Processes that make the batches, as train.workers; may be given again, for one competitor each.",
)
@click.option(
    "--peer", "peers", multiple=True, metavar="NAME=COMMAND", help="Another to take turns with; may be given again."
)
@click.option("--rounds", type=click.IntRange(2), default=10, show_default=True, help="How often they take turns.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON, and nothing else.")
@click.option("--worker", "as_worker", is_flag=True, hidden=True)
def main(config, what, size, batch, precisions, path, workers, peers, rounds, as_json, as_worker):
    """Time how CONFIG trains, in turns with peers. Ratios are to the first."""
    if what != "step" and not path:
        raise click.UsageError(f"--what {what} needs images: --data PATH")
    if what == "step" and any(workers):
        raise click.UsageError("--workers makes batches, expected --what loop or loader with it")
    if as_worker:
        worker(config, (size, size), batch, what, precisions[0], path, workers[0])
        return
    precisions = precisions or (["float32"] if what == "loader" else ["float32", "bfloat16"])
    own = [sys.executable, __file__, config, "--what", what, "--size", str(size), "--batch", str(batch), "--worker"]
    own += ["--data", path] if path else []
    commands = {
        f"tfyolo {precision}" + (f", {count} workers" if count else ""): [
            *(*own, "--precision", precision, "--workers", str(count))
        ]
        for precision in precisions
        for count in workers
    }
    field = []
    try:
        for name, command in [*commands.items(), *(Peer.parsed(peer) for peer in peers)]:
            field.append(Peer(name, command))
            field[-1].line()  # one gets ready after the other: that, too, takes the whole machine
        for _ in range(rounds):
            for competitor in field:
                competitor.turn()
    finally:
        for competitor in field:
            competitor.stop()
    rows, first = {}, [answer["seconds"] for answer in field[0].answers]
    for competitor in field:
        seconds = [answer["seconds"] for answer in competitor.answers]
        ratios = [theirs / own for own, theirs in zip(seconds, first, strict=True)]
        rows[competitor.name] = {
            "images_per_second": batch / statistics.median(seconds),
            "fastest": batch / min(seconds),
            "ratio": statistics.median(ratios),
            "ratios": [min(ratios), max(ratios)],
            "peak_mb": max(answer["peak_mb"] for answer in competitor.answers),
            "cpu_ms": statistics.median(answer.get("cpu", float("nan")) for answer in competitor.answers) / batch * 1e3,
        }
    settings = {
        "config": config,
        "what": what,
        "size": size,
        "batch": batch,
        "rounds": rounds,
        "load_average": os.getloadavg()[0],
    }
    if as_json:
        click.echo(json.dumps(plain({**settings, "competitors": rows}), indent=2))
        return
    click.echo(
        ", ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items()
        )
    )
    click.echo(
        f"{'':<28}{'images/s':>10}{'fastest':>9}{'speed x first':>16}{'least, most':>14}{'own peak MB':>13}"
        f"{'CPU ms':>9}"
    )
    for name, row in rows.items():
        least, most = row["ratios"]
        click.echo(
            f"{name:<28}{row['images_per_second']:>10.1f}{row['fastest']:>9.1f}{row['ratio']:>16.2f}"
            f"{f'{least:.2f}, {most:.2f}':>14}{row['peak_mb']:>13.0f}"
            f"{row['cpu_ms']:>9.1f}"
        )


if __name__ == "__main__":
    main()
