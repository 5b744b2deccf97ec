"""Training: one script, read from top to bottom."""

import contextlib
import csv
import functools
import gc
import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfyolo import checkpoint, folders, parts, visualize
from tfyolo import config as configs
from tfyolo.briefing import Clock, briefing, duration
from tfyolo.data import pipeline, readers
from tfyolo.detect import Detector
from tfyolo.evaluation import UNEXPECTED, evaluate, match
from tfyolo.layers import sum_over_replicas
from tfyolo.messages import counted
from tfyolo.model import build, check_other_size, describe, multiple, resolve
from tfyolo.optim import OPTIMIZERS, Average, Schedule, build_for
from tfyolo.quantization import CALIBRATED_BY, quantized_by, rounding
from tfyolo.walk import gradient_norms
from tfyolo.weights.initial import initialise


class TrainingError(ValueError):
    """Training cannot start or go on. The message says why and what to do."""


class Stopped(KeyboardInterrupt):
    """Training was told to stop, by Ctrl-C or SIGTERM.

    Attributes:
        folder: the run's, to go on from by resume; None: nothing is left of it, and the same call begins anew.
        epochs: how many of them are finished.
        signal: which signal it was that told so: signal.SIGINT or signal.SIGTERM.
    """

    def __init__(self, folder, epochs, number):
        super().__init__()
        self.folder, self.epochs, self.signal = folder, epochs, signal.Signals(number)


class Run(NamedTuple):
    """What training leaves: the run's folder, and the metrics of its best epoch (AP, AP50, ...)."""

    folder: Path
    metrics: dict


# --- one step -----------------------------------------------------------------------------------------------------------------


def make_strategy():
    """MirroredStrategy over all GPUs, else over the logical CPUs, of which there is one unless somebody has made more."""
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus])
    cpus = [cpu.name for cpu in tf.config.list_logical_devices("CPU")]
    # CPU collectives cannot be set up twice in one process.
    return tf.distribute.MirroredStrategy(cpus, cross_device_ops=tf.distribute.ReductionToOneDevice())


def _loss_sums(model, sample):
    """(sums, counts) of the objective of a batch or a part of it, in training mode; losses.py says what they are."""
    raw = model.network(sample.image, training=True)
    sums, counts = model.objective.sums(raw, model.decoder(raw), sample)
    return sums, tf.nest.map_structure(tf.stop_gradient, counts)


def loss_terms(model, sample, weights=None, whole=lambda counts: counts):
    """The terms of the loss of a batch, in training mode: {name: scalar}, each times its weight, which is 1 where unnamed.

    whole: the counts of the sample -> those of the global batch that it is a part of.
    """
    sums, counts = _loss_sums(model, sample)
    terms = model.objective.normalised(sums, whole(counts))
    return {name: value * (weights or {}).get(name, 1.0) for name, value in terms.items()}


def make_step(
    model, optimizer, average, strategy, spec, *, sizes=(), accumulate=1, clip=None, weights=None, eager=False
):
    """step(sample of the global batch, size=None) -> {"loss", each term, "gradient_norm"}, all over the global batch.

    spec: element_spec of the (distributed) batches; the number of truths is open in it, so that one trace serves all. sizes: (H, W)
    that pictures may be brought to in a step; size: the one of this step, None: as they come.
    The batch goes through in `accumulate` parts, one after the other, whose gradients add up to those of the whole; only batch norm
    knows no more than its part. What the losses of all parts are divided by is counted first, which takes a further forward pass where
    it depends on the predictions. The norm is clipped after the replicas' gradients are summed, so that any number of replicas takes the
    same step. Raises TrainingError, when it is traced, if a trainable variable is connected to no term of the loss.
    """
    variables = model.network.trainable_variables
    replicas = strategy.num_replicas_in_sync

    def over_replicas(values):
        return tf.nest.map_structure(sum_over_replicas, values)

    def gradients(part, whole):
        with tf.GradientTape() as tape:
            terms = loss_terms(model, part, weights, whole)
            loss = tf.add_n(list(terms.values()))
        found = tape.gradient(loss, variables)
        _check_connected(found, variables)
        return found, {"loss": loss, **terms}

    def in_parts(sample):
        """The gradients and figures of all parts, added up: one part at a time, that is what saves memory."""
        counts = None
        # Nothing that the pass changes is kept, such as batch norm's statistics; dropout draws the same masks again afterwards.
        with keras.StatelessScope():
            for i in range(accumulate):
                _, more = _loss_sums(model, _part(sample, i, accumulate, after=counts))
                counts = more if counts is None else tf.nest.map_structure(tf.add, counts, more)
        counts, summed = over_replicas(counts), None
        for i in range(accumulate):
            part = _part(sample, i, accumulate, after=counts if summed is None else summed)
            more = gradients(part, lambda _: counts)
            summed = more if summed is None else tf.nest.map_structure(tf.add, summed, more)
        return summed

    def on_replica(sample, size):
        sample = sample._replace(image=tf.image.convert_image_dtype(sample.image, tf.float32))
        sample = _resized(sample, size) if size else sample
        summed, figures = over_replicas(in_parts(sample) if accumulate > 1 else gradients(sample, over_replicas))
        norm = tf.linalg.global_norm(summed)
        factor = tf.minimum(1.0, clip / (norm + 1e-6)) if clip else 1.0
        # Keras sums the replicas' gradients once more, hence the division.
        optimizer.apply([gradient * (factor / replicas) for gradient in summed], variables)
        return {**figures, "gradient_norm": norm}

    def step(sample, size=None):
        figures = strategy.run(on_replica, (sample, size))
        average.update(strategy)
        return {name: strategy.experimental_local_results(value)[0] for name, value in figures.items()}

    if eager:
        return step
    traced = {
        size: tf.function(functools.partial(step, size=size), input_signature=[spec], autograph=False)
        for size in sizes or [None]
    }
    return lambda sample, size=None: traced[size](sample)


def _resized(sample, size):
    factor = tf.constant(size, tf.float32) / tf.cast(sample.image.shape[1:3], tf.float32)
    image = tf.image.resize(sample.image, size)
    image.set_shape([None, *size, 3])
    return sample._replace(image=image, boxes=sample.boxes * tf.tile(factor, [2]))


def scales(size, spread, stride):
    """The sizes of multi-scale training: at most seven (H, W) from (1 - spread) to (1 + spread) times a size, multiples of a stride."""
    factors = np.linspace(1 - spread, 1 + spread, 7)
    return sorted({tuple(max(1, round(side * factor / stride)) * stride for side in size) for factor in factors})


def _part(sample, i, parts, after=None):
    """One of equal parts of a batch, which is there once the tensors of `after` are."""
    size = tf.shape(sample.image)[0] // parts
    with tf.control_dependencies(tf.nest.flatten(after) if after is not None else []):
        return tf.nest.map_structure(lambda x: x[i * size : (i + 1) * size], sample)


def _check_connected(gradients, variables):
    idle = [variable.path for variable, gradient in zip(variables, gradients, strict=True) if gradient is None]
    if idle:
        raise TrainingError(
            f"expected every trainable variable to change some term of the loss, {counted(len(idle), 'variable')} cannot: "
            f"{', '.join(idle[:8])}{', ...' if len(idle) > 8 else ''}; connect what they belong to with an output that the objective "
            "reads, or freeze it: train.stages.0.freeze=[...]"
        )


# An average precision is a mean over 101 points of recall, so that "all found" can end a hair below 1.
PERFECT = 0.999


def first_batch_norms(model):
    """({term: loss}, {stage: gradient norm}) of the first batch of what a Model's config is to learn from, as it is."""
    learned, _ = _read_stage(model.config, 0, overfit=None)
    if learned.classes != model.classes:
        raise model.config.error("data", _other_classes(learned, learned._replace(classes=model.classes)))
    first = learned._replace(records=learned.records[: model.config.train.batch])
    size, preprocess = model.config.model.input_size, model.config.model.preprocess
    sample = next(iter(pipeline.eval_dataset(first, size=size, batch=len(first.records), preprocess=preprocess)))
    with tf.GradientTape() as tape:
        terms = loss_terms(model, sample)
        loss = tf.add_n(list(terms.values()))
    gradients = tape.gradient(
        loss, model.network.trainable_variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return {name: float(value) for name, value in terms.items()}, gradient_norms(model, gradients)


# --- the run ------------------------------------------------------------------------------------------------------------------


def train(
    config: configs.Config | str | os.PathLike | None,
    out: str | os.PathLike | None = None,
    *,
    resume: bool = False,
    overfit: int | None = None,
    progress: bool = True,
) -> Run:
    """Trains a config. best.h5 and last.h5 in the run's folder are what load(), evaluate and export take.

    Ctrl-C and SIGTERM (where nobody else has a handler for it) end it when the running step is done, and raise Stopped: what the epoch has
    learned until then is kept. A second Ctrl-C ends it at once.

    Args:
        config: a Config, the path of one, or the name of one that comes with tfyolo; None with a run to resume.
        out: the run's folder, new or empty; None: runs/NAME, numbered if it is taken. It is reserved at once; where training fails before
            its first epoch ends, nothing is left.
        resume: goes on with the run in `out` (None: runs/NAME) where it was stopped, with the config that lies there, and ends as if it
            had never stopped. Where there is no run yet, or one of which nothing was kept, it begins: the same call, given again and
            again, comes to the end.
        overfit: how many images to overfit, without augmentation, until all objects in them are found: the first thing to try when
            nothing is detected. None: trains on all.
        progress: prints the plan and a line for each epoch, and shows a bar on standard error.

    Returns:
        The Run: its folder, and the metrics of its best epoch.

    Raises:
        ConfigError: the config is wrong, or asks for what the data or the model cannot give.
        DataError, CheckpointError: the data, or the weights to begin with, cannot be read.
        FolderError: something else lies in `out`, or another process writes into it.
        TrainingError: there is nothing to resume or to learn from, memory does not suffice, a loss is not finite, or `overfit` images are
            not all learned.
        Stopped: Ctrl-C or SIGTERM; a KeyboardInterrupt.
    """
    config = configs.load(config) if isinstance(config, str | os.PathLike) else config
    if resume and out is None and config is not None:
        out = Path("runs") / config.name
    kept = None
    with _Signals() as signals:
        try:
            with _folder(config, out, resume) as folder:
                try:
                    _remove_left(folder)
                    return _train(config, folder, overfit, progress, signals)
                finally:
                    kept = folder / "last.h5"
                    if not kept.exists():
                        kept = _discard(folder)
        except tf.errors.ResourceExhaustedError as error:
            reason = str(error.message).partition("\n")[0]
            raise TrainingError(
                f"{folder}: a device's memory does not suffice for the model and what training keeps beside it ({reason}); "
                "expected a smaller model or model.input_size, or nothing else on the device"
            ) from error
        except KeyboardInterrupt:
            epochs = checkpoint.read_meta(kept)["state"]["epoch"] if kept else 0
            raise Stopped(kept and kept.parent, epochs, signals.received or signal.SIGINT) from None


class _Signals:
    """What Ctrl-C (SIGINT) and SIGTERM do in the `with`: they raise KeyboardInterrupt, or wait in a `with finishing()`.

    received: the number of the first that came, None: none. The exception is lost if it comes in a __del__ or a callback, this is not.
    A second Ctrl-C waits for nothing; SIGTERM may come several times, as schedulers send it.
    """

    def __init__(self):
        self.received, self.waiting, self.before = None, False, {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            # What is ignored stays so, and who has a handler for SIGTERM knows better.
            taken = callable(before[signal.SIGINT]), before[signal.SIGTERM] == signal.SIG_DFL
            self.before = {number: before[number] for number, ours in zip(before, taken, strict=True) if ours}
            for number in self.before:
                signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        first, self.received = self.received is None, self.received or number
        others = self.before[number]
        if callable(others) and others is not signal.default_int_handler:
            others(number, frame)
        if not self.waiting if first else number == signal.SIGINT:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def finishing(self):
        """What is in the `with` comes to its end; whether to go on then, `check` decides."""
        self.waiting = True
        try:
            yield
        finally:
            self.waiting = False

    def check(self):
        if self.received:
            raise KeyboardInterrupt


def _train(config, folder, overfit, progress, signals):
    # What is asked for
    state, saved = {"stage": 0, "epoch": 0, "best": None}, {}
    given = config and _found_from_anywhere(config)
    if (folder / "last.h5").exists():
        meta, saved = checkpoint.load_run(folder / "last.h5")
        config, state, overfit = checkpoint.config_of(folder / "last.h5", meta), meta["state"], meta.get("overfit")
        origin, asked = {name: meta[name] for name in ("darknet",) if name in meta}, meta.get("asked")
        if given and asked and (others := _differing(json.loads(configs.to_json(given)), json.loads(asked))):
            tqdm.write(
                f"{folder}: goes on with the settings that it was begun with; other now, and not used: {', '.join(others[:8])}"
                f"{', ...' if len(others) > 8 else ''}",
                file=sys.stderr,
            )
        if _finished(config, state, overfit):
            done = counted(state["epoch"], "epoch")
            tqdm.write(
                f"{folder}: its training is done ({done}), nothing is left to train; to begin a new one with its weights: "
                f"tfyolo train {folder} train.stages.0.epochs=...",
                file=sys.stderr,
            )
            return Run(folder, state["best"])
    else:
        parts.check(config)
        configs.check_init(config)
        config, origin, asked = given, {}, configs.to_json(given)
    running = state.pop("running", None)  # what was done of an epoch that was not finished
    strategy = make_strategy()
    if overfit and not saved:
        config = _by_heart(config, overfit, strategy.num_replicas_in_sync)
    keras.utils.set_random_seed(config.train.seed)
    if config.train.batch % (strategy.num_replicas_in_sync * config.train.accumulate):
        raise config.error(
            "train.batch",
            f"expected a multiple of {strategy.num_replicas_in_sync} replicas x {config.train.accumulate} parts (train.accumulate), "
            f"received {config.train.batch}",
        )
    _check_rounding(config, resumed=bool(saved))

    # Data: all of it is read before the first step, so that what is wrong shows now and not at hour three
    sources = _read_stages(config, overfit, folder)
    first = sources[0][0]
    classes = first.classes
    for i, pair in enumerate(sources):
        for source in pair:
            if source.classes != classes:
                raise config.error(config.stage_data(i)[1], _other_classes(source, first))
    config, notes = _with_images_for(config, sources, strategy.num_replicas_in_sync * config.train.accumulate)
    config, divisions = _with_divisions(config, sources, folder)
    judge = build(config, classes)  # float32, in which the averages are judged and saved
    for i in range(len(config.train.stages)):
        _check_stage(config, i, judge)
    if progress:
        tqdm.write(briefing(config, judge, sources, folder, {**state, "step": running["step"] if running else 0}))
    for warning in [*notes, *dict.fromkeys(warning for pair in sources for warning in _warnings(*pair))]:
        tqdm.write(warning, file=sys.stderr)
    judge = rounding(judge) if config.train.quantize else judge
    detector = Detector.of(judge, source=folder)
    checkpoint.write_text(folder / "config.yaml", configs.to_yaml(config))
    for file, division in divisions.items():
        checkpoint.write_text(file, division.to_json())
    history = _History(folder / "history.csv", keep=state["epoch"])
    board = tf.summary.create_file_writer(str(folder / "tensorboard"))

    epochs = sum(stage.epochs for stage in config.train.stages)
    done = sum(stage.epochs for stage in config.train.stages[: state["stage"]])
    evaluate_batch = config.train.evaluate_batch or _evaluated_at_once(config, strategy.num_replicas_in_sync)
    clock = _clock(config, sources, state["epoch"], running["step"] if running else 0)
    told_of_judged = set()

    def keep(state, model, average, optimizer):
        """Writes last.h5. Returns (the state, with what the average has counted; the arrays), with which the next stage begins."""
        arrays = {
            "weights": checkpoint.weights_of(model.network),
            "averages": average.arrays(),
            "optimizer": {variable.name: variable.numpy() for variable in optimizer.variables},
            "random": checkpoint.random_states(model.network),
        }
        state = {**state, "averaged": int(average.steps.numpy())}
        meta = {"state": state, "overfit": overfit, "asked": asked, **origin}
        checkpoint.save(folder / "last.h5", describe(judge, **meta), **arrays)
        return state, arrays

    for stage_index in range(state["stage"], len(config.train.stages)):
        stage, (learned, judged) = config.train.stages[stage_index], sources[stage_index]
        size = stage.image_size or config.model.input_size
        start = state["epoch"] - done  # epochs of this stage that a resumed run has behind it
        pixels = size[0] * size[1]
        skipped, resized = {}, {}  # pictures that could not be read, or have another size than annotated, by record
        told = {"skipped": 0, "resized": 0}  # how many of them

        # Model, optimizer, averages
        with strategy.scope():
            sizes = scales(size, stage.multi_scale, multiple(judge)) if stage.multi_scale else ()
            open_size = (None, None) if sizes else size
            model = build(config, classes, input_size=open_size, precision=config.train.precision)
            if config.train.init and not saved:
                report, origin = initialise(model, config.train.init)
                tqdm.write("\n".join(f"{config.train.init}: {line}" for line in report), file=sys.stderr)
            if config.train.quantize:
                few = learned._replace(records=tuple(pipeline.sampled(learned.records, CALIBRATED_BY)))
                options = {"preprocess": config.model.preprocess, "skipped": (unreadable := {})}
                options["most_pixels"] = few.max_pixels
                pictures = functools.partial(pipeline.prepared_batches, few.records, size, **options)
                model = rounding(model) if saved else quantized_by(model, pictures)[0]
                if unreadable:
                    tqdm.write("calibration: " + _unexpected("skipped", unreadable, 0, few), file=sys.stderr)
            for layer in _frozen(config, stage_index, model.network):
                layer.trainable = False
            average = Average(model.network, config.train.ema)
            dataset, steps = pipeline.train_dataset(
                learned,
                size=size,
                batch=config.train.batch,
                augment=config.augment,
                seed=_stage_seed(config, stage_index),
                epochs=stage.epochs,
                plain_epochs=stage.plain_epochs,
                start_epoch=start,
                start_step=running["step"] if running else 0,
                preprocess=config.model.preprocess,
                skipped=skipped,
                resized=resized,
            )
            builder, options = resolve(config, "train.optimizer", config.train.optimizer, OPTIMIZERS)
            optimizer = builder(Schedule(stage, steps), **options)
            build_for(model.network, optimizer)
        if saved:
            checkpoint.assign(model.network, saved["weights"], source=f"{folder / 'last.h5'}: its weights")
            # A last.h5 of earlier versions does not know how many: those of its stage.
            average.load(saved["averages"], state.get("averaged", saved["optimizer"]["iteration"]))
            checkpoint.assign_random(model.network, saved["random"])
        if start or running:
            variables = {variable.name: variable for variable in optimizer.variables}
            source = f"{folder / 'last.h5'}: the optimizer's arrays"
            checkpoint.assign_variables(variables, saved["optimizer"], source)
        batches = iter(strategy.experimental_distribute_dataset(dataset))
        step = make_step(
            model,
            optimizer,
            average,
            strategy,
            batches.element_spec,
            sizes=sizes,
            accumulate=config.train.accumulate,
            clip=config.train.clip,
            weights=_loss_weights(config, stage_index, model.objective),
            eager=config.train.eager,
        )

        clock.new_step()
        for epoch in range(start, stage.epochs):
            # One epoch of steps, of which a run that was stopped in it has some behind it
            clock.go_on()
            running = running or {"step": 0, "sums": {}, "seconds": 0.0, "lr": None}
            first, sums, best = running["step"], running["sums"], state["best"]
            began, whole = time.monotonic() - running["seconds"], True  # whole: no step is half done
            bar = tqdm(
                range(first, steps),
                desc=f"epoch {done + epoch + 1}/{epochs}",
                unit="step",
                initial=first,
                total=steps,
                leave=False,
                disable=not progress or None,
            )
            try:
                with signals.finishing():
                    for i in bar:
                        if signals.received:
                            break
                        sample = next(batches)
                        if epoch == i == 0:
                            name = "train_batch.png" if stage_index == 0 else f"train_batch_{stage_index + 1}.png"
                            _draw_batch(sample, strategy, classes, folder / name)
                        lr = float(optimizer.learning_rate)
                        chance = np.random.default_rng((config.train.seed, stage_index, epoch, i))
                        chosen = sizes[chance.integers(len(sizes))] if sizes else None
                        whole = False
                        try:
                            figures = {name: float(value) for name, value in step(sample, chosen).items()}
                        except tf.errors.ResourceExhaustedError as error:
                            largest = sizes[-1] if sizes else None
                            fits = _what_fits(model, strategy, sample, largest, config.train.accumulate)
                            where = f"epoch {done + epoch + 1}, step {i + 1}"
                            raise TrainingError(f"{where}: {_too_many(config, strategy, size, fits)}") from error
                        clock.step(pixels)
                        _check_finite(figures, done + epoch + 1, i, strategy, sample, learned)
                        sums = {name: sums.get(name, 0.0) + value for name, value in figures.items()}
                        running, whole = {"step": i + 1, "sums": sums, "lr": lr}, True
                        shown = {name: f"{sums[name] / (i + 1):.3g}" for name in sums if name != "gradient_norm"}
                        bar.set_postfix(shown | {"left": duration(clock.left)})
                    seconds = time.monotonic() - began
                signals.check()
                row = {
                    "epoch": done + epoch + 1,
                    "stage": stage_index,
                    "lr": running["lr"],
                    "seconds": seconds,
                    "images_per_second": steps * config.train.batch / seconds,
                    **{
                        name if name in ("loss", "gradient_norm") else f"loss_{name}": v / steps
                        for name, v in sums.items()
                    },
                }

                # Judgement
                improved = False
                if (epoch + 1) % config.train.evaluate_every == 0 or epoch + 1 == stage.epochs:
                    checkpoint.assign(judge.network, average.arrays())
                    judging = time.monotonic()
                    report = evaluate(detector, judged, batch=evaluate_batch, progress=False)
                    evaluate_batch = report.batch  # what fitted into memory
                    metrics = {name: report.metrics[name] for name in ("AP", "AP50", "AP75")}
                    row.update(metrics)
                    improved = best is None or _better(metrics, best)
                    if improved:
                        best = {"epoch": row["epoch"], **metrics}
                    pictures = folder / "pictures" / f"epoch_{row['epoch']:04d}"
                    score = report.score if np.isfinite(report.score) else 0.25
                    options = {"count": config.train.pictures, "batch": evaluate_batch, "score": score}
                    _draw_pictures(judge, detector, judged, pictures, board, row["epoch"], **options)
                    clock.evaluated(time.monotonic() - judging)

                # What is kept: everything to go on from, written whole or not at all
                with signals.finishing():
                    state, running = {**state, "stage": stage_index, "epoch": row["epoch"], "best": best}, None
                    history.add(row)
                    _log(board, row)
                    if progress:
                        tqdm.write(_line(row, epochs, improved, clock.left))
                    for name, found in (("skipped", skipped), ("resized", resized)):
                        if len(found) > told[name]:
                            tqdm.write(_unexpected(name, found, told[name], learned), file=sys.stderr)
                            told[name] = len(found)
                    if "AP" in row:
                        for line in report.unexpected:
                            if line not in told_of_judged:
                                tqdm.write(f"evaluation: {line}", file=sys.stderr)
                                told_of_judged.add(line)
                    if improved:
                        meta = {"epoch": row["epoch"], "metrics": metrics, **origin}
                        checkpoint.save(
                            folder / "best.h5", describe(judge, **meta), weights=checkpoint.weights_of(judge.network)
                        )
                    state, saved = keep(state, model, average, optimizer)
                    if "AP" in row:
                        visualize.training_curves(history.path, folder / "results.png")
            except KeyboardInterrupt:
                if whole and running and running["step"] > first:
                    state = {**state, "stage": stage_index, "running": {**running, "seconds": time.monotonic() - began}}
                    keep(state, model, average, optimizer)
                raise
            if overfit and improved and metrics["AP50"] >= PERFECT:
                return Run(folder, state["best"])
            signals.check()
        done += stage.epochs
        # The next stage's are built when these are gone: both may be more than the memory holds
        model = average = optimizer = dataset = batches = step = sample = None
        gc.collect()  # networks and traces are circles

    if overfit:
        raise TrainingError(
            f"{folder}: {overfit} pictures were not learned by heart: AP50 {state['best']['AP50']:.3f} at best, expected 1. Look at "
            f"{folder / 'pictures'}: truths drawn at the wrong place point to the labels, boxes that never fit to the anchors "
            "(tfyolo check-data, kmeans-anchors), a loss that does not fall to the learning rate."
        )
    return Run(folder, state["best"])


# --- what the run is made of ----------------------------------------------------------------------------------------------------


def _folder(config, out, resume):
    """The run's folder, held while it is in the `with`. Arguments as of train(). No run is written over, nor by two at once."""
    there = out is not None and (Path(out) / "last.h5").exists()
    if resume and there:
        return folders.held(out)
    if config is None:
        raise TrainingError(
            f"{out}: no run there to resume; expected a folder with last.h5, or the config with it, to begin one"
        )
    if out is not None and not resume and (there or folders.left_by_a_crash(out)):
        raise folders.Taken(
            f"{out}: expected a new or empty folder, it holds something already; go on with its run by --resume, or name another --out"
        )
    begun = (*_BEGUN, *map(checkpoint.aside_of, _WRITTEN))
    return folders.new(out, config.name, begun=begun if resume else ())


# What a run writes until something of it is kept, that is until last.h5 is there; and all files that it writes.
_BEGUN = (
    "config.yaml",
    "division*.json",
    "history.csv",
    "best.h5",
    "results.png",
    "train_batch*.png",
    "pictures",
    "tensorboard",
)
_WRITTEN = (*_BEGUN, "last.h5")


def _remove_left(folder):
    """Removes what is half written by processes that were killed."""
    checkpoint.remove_left(folder, _WRITTEN)
    for drawn in (folder / "pictures").glob("*/"):
        checkpoint.remove_left(drawn, ("*.jpg",))


def _discard(folder):
    """Removes what is there of _BEGUN."""
    for path in (path for name in _BEGUN for path in folder.glob(name)):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def _differing(given, begun, place=""):
    """The dotted keys of what is not the same in two settings."""
    if isinstance(given, dict) and isinstance(begun, dict):
        pairs = [(f"{place}.{key}".lstrip("."), given.get(key), begun.get(key)) for key in given.keys() | begun.keys()]
    elif isinstance(given, list) and isinstance(begun, list) and len(given) == len(begun):
        pairs = [(f"{place}.{i}", *both) for i, both in enumerate(zip(given, begun, strict=True))]
    else:
        return [] if given == begun else [place]
    return sorted(key for key, *both in pairs for key in _differing(*both, key))


def _finished(config, state, overfit):
    """Whether nothing is left to do: all epochs are done, or what was to be learned by heart is."""
    if overfit:
        return state["best"] is not None and state["best"]["AP50"] >= PERFECT
    return state["epoch"] == sum(stage.epochs for stage in config.train.stages)


def _found_from_anywhere(config):
    """The config with the paths of its data absolute: what is saved with the run is read again from other folders."""

    def absolute(data):
        if data is None:
            return None
        given = {name: getattr(data, name) for name in ("path", "images", "division", "names")}
        paths = {name: os.path.abspath(value) for name, value in given.items() if isinstance(value, str)}
        return data.model_copy(update=paths)

    stages = tuple(stage.model_copy(update={"data": absolute(stage.data)}) for stage in config.train.stages)
    init = config.train.init and os.path.abspath(config.train.init)
    train = config.train.model_copy(update={"stages": stages, "init": init})
    return config.model_copy(update={"data": absolute(config.data), "train": train})


def _by_heart(config, count, replicas):
    """The config for learning a few pictures by heart: as they are, at a steady rate, judged every 25 steps.

    With fewer pictures than replicas a batch holds them more than once: every replica has one.
    """
    batch = replicas * -(-min(config.train.batch, count) // replicas)
    lr = config.train.stages[0].lr
    stage = configs.Stage(epochs=40, lr=lr, schedule="cosine", warmup=1.0, plain_epochs=0)
    still = {name: 0.0 for name in configs.Augment.model_fields}
    train = {"stages": (stage,), "batch": batch, "accumulate": 1, "ema": 0.0, "evaluate_every": 1}
    return config.model_copy(
        update={"augment": configs.Augment(**still), "train": config.train.model_copy(update=train)}
    )


def _stage_seed(config, stage_index):
    """The seed of a stage's data: train.seed itself, then mixed with the stage, lest stage 1 be stage 0 of the next seed."""
    if stage_index == 0:
        return config.train.seed
    mixed = np.random.SeedSequence((config.train.seed, stage_index)).generate_state(1)[0]
    return int(mixed) >> 1  # as train.seed: index_shuffle takes 31 bits


def _with_divisions(config, sources, folder):
    """(the config whose data name the run's own file of what is held back, {that file: the Division to be written there})."""
    divisions = {}

    def divided(data, source, name):
        if data is None or source.division is None:
            return data
        divisions[folder / name] = source.division
        return data.model_copy(update={"division": os.path.abspath(folder / name)})

    stages = list(config.train.stages)
    for i, (learned, _) in enumerate(sources):
        if stages[i].data:
            stages[i] = stages[i].model_copy(update={"data": divided(stages[i].data, learned, f"division-{i}.json")})
        else:
            config = config.model_copy(update={"data": divided(config.data, learned, "division.json")})
    train = config.train.model_copy(update={"stages": tuple(stages)})
    return config.model_copy(update={"train": train}), divisions


def _other_classes(source, first):
    """What is wrong with the classes of a Source that are not those of the first."""
    ours, theirs = (f"{one.name} {one.split}" for one in (first, source))
    new, missing = (
        [name for name in a.classes if name not in b.classes] for a, b in ((source, first), (first, source))
    )
    faults = [f"has {', '.join(new[:8])}, which {ours} has not"] if new else []
    faults += [f"lacks {', '.join(missing[:8])}"] if missing else []
    told = " and ".join(faults) or f"has them in another order: {', '.join(source.classes[:8])}"
    return f"expected the {counted(len(first.classes), 'class')} of {ours} in {theirs} too, which {told}"


def _read_stages(config, overfit, run):
    """[(Source to learn from, Source to evaluate on)] of all stages; data that several stages share are read once."""
    read = {}  # {place of the data in the config: the two}
    places = [config.stage_data(i)[1] for i in range(len(config.train.stages))]
    for i, place in enumerate(places):
        if place not in read:
            read[place] = _read_stage(config, i, overfit, run)
    return [read[place] for place in places]


def _read_stage(config, stage_index, overfit, run=None):
    """(Source to learn from, Source to be judged on) of a stage. run: the folder of the run, where its division of the data may lie."""
    data, place = config.stage_data(stage_index)
    learned, *judged = readers.read_all_configured(data, ("train",) if overfit else ("train", "val"), place, run)
    if not overfit:
        if not any(len(record.boxes) for record in learned.records):
            raise TrainingError(f"{data.path}: expected boxes to learn from, the split {data.train!r} has none")
        (judged,) = judged
        if judged.classes != learned.classes and set(judged.classes) <= set(learned.classes):
            judged = judged.with_classes(learned.classes)  # the labels are those that are learned
        return learned, judged
    some = tuple(record for record in learned.records if len(record.boxes))[:overfit]
    if len(some) < overfit:
        raise TrainingError(
            f"{data.path}: expected {counted(overfit, 'picture')} with boxes to learn by heart, it has {len(some)}"
        )
    repeats = 25 * -(-config.train.batch // overfit)  # at least 25 steps an epoch
    return learned._replace(records=some * repeats), learned._replace(records=some, problems=())


def _warnings(learned, judged):
    """What to know of the data before hours are spent on them."""
    yield from filter(None, (readers.faults(learned, "training"), readers.faults(judged, "evaluation")))
    seen = {(record.path, record.span) for record in learned.records}
    if learned.split != judged.split and (same := sum((record.path, record.span) in seen for record in judged.records)):
        yield (
            f"{judged.name} {judged.split}: {same} of its {counted(len(judged.records), 'picture')} are also learned from, as "
            f"{learned.split!r}: the AP will tell how well they are remembered"
        )
    if all(record.ignored.all() for record in judged.records):
        yield (
            f"{judged.name}: the split {judged.split!r} has no boxes: there will be no AP, and the last epoch counts as the best. "
            "Name a split with boxes: data.val=..."
        )


def _unexpected(kind, found, told, source):
    """What was found wrong with pictures since the last time. kind: of UNEXPECTED. found: {record's place: message or (H, W)}."""
    new = list(found.items())[told:]

    def line(index, value):
        record = source.records[index]
        if kind == "resized":
            turned = ", seen upright: boxes left as they are" if value == record.size[::-1] else ""
            value = f"{value[0]} x {value[1]}, annotated {record.size[0]} x {record.size[1]} (H x W){turned}"
        return f"  {record.path}: {value}"

    shown = "\n".join(line(*each) for each in new[:5])
    return f"{UNEXPECTED[kind]}: {counted(len(new), 'picture')}, {len(found)} so far:\n{shown}" + (
        f"\n  and {len(new) - 5} more; tfyolo check-data names them all" if len(new) > 5 else ""
    )


def _with_images_for(config, sources, unit):
    """(the config with no more images a step than there are to learn from, [what to say of that]).

    unit: what a batch is a multiple of. Where there are fewer than that, or in another stage, a step takes some of them more than once.
    """
    counts = [len(learned.records) for learned, _ in sources]
    asked, notes = config.train.batch, []
    batch = min(asked, max(unit, max(counts) // unit * unit))
    if batch < asked:
        notes.append(
            f"train.batch={asked} is more than the {counted(max(counts), 'image')} to learn from: a step takes {counted(batch, 'image')}"
        )
        config = config.model_copy(update={"train": config.train.model_copy(update={"batch": batch})})
    for number, count in enumerate(counts, 1):
        if count < batch:
            where = f"stage {number}: " if len(counts) > 1 else ""
            notes.append(
                f"{where}a step of {counted(batch, 'image')} has but {count} to take, some of them more than once, augmented anew"
            )
    return config, notes


def _evaluated_at_once(config, replicas):
    """As many images as a replica learns from at a time take less memory where nothing is learned, unless there are very many."""
    return max(1, min(16, config.train.batch // replicas // config.train.accumulate))


def _clock(config, sources, epochs_done, steps_done):
    """A Clock for the epochs that are left, of whose first some steps are done."""
    steps, evaluations = [], 0
    for stage, (learned, _) in zip(config.train.stages, sources, strict=True):
        left = range(min(epochs_done, stage.epochs), stage.epochs)
        epochs_done -= stage.epochs - len(left)
        height, width = stage.image_size or config.model.input_size
        count = len(left) * -(-len(learned.records) // config.train.batch)
        steps.append((count - min(steps_done, count), height * width))
        steps_done -= min(steps_done, count)
        evaluations += sum((e + 1) % config.train.evaluate_every == 0 or e + 1 == stage.epochs for e in left)
    return Clock(steps, evaluations)


def _what_fits(model, strategy, sample, size, accumulate):
    """How many images' gradients a device has memory for: half of those that were too many, or half of that, ...; 0 if not for one.

    sample: a batch, as of make_step. size: (H, W) that they are brought to, None: as they come. It is tried out.
    """
    variables = model.network.trainable_variables
    images = strategy.experimental_local_results(sample.image)[0].shape[0] // accumulate

    def on_replica(sample):
        sample = tf.nest.map_structure(lambda x: x[:images], sample)
        sample = sample._replace(image=tf.image.convert_image_dtype(sample.image, tf.float32))
        with tf.GradientTape() as tape:
            loss = tf.add_n(list(loss_terms(model, _resized(sample, size) if size else sample).values()))
        gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return tf.linalg.global_norm(gradients)

    while images > 1:
        images //= 2
        try:
            tf.function(lambda: strategy.run(on_replica, (sample,)), autograph=False)()
            return images
        except tf.errors.ResourceExhaustedError:
            continue
    return 0


def _too_many(config, strategy, size, fits):
    """What to say of a step that does not fit into memory. fits: images that do, by _what_fits."""
    replicas, accumulate = strategy.num_replicas_in_sync, config.train.accumulate
    whole = config.train.batch // replicas
    told = (
        f"{counted(whole // accumulate, 'image')} of {size[0]} x {size[1]} at a time do not fit into a device's memory"
    )
    if not fits:
        return f"{told}, nor does one; expected a smaller model.input_size or model, train.precision=bfloat16, or a larger device"
    parts = next(parts for parts in range(-(-whole // fits), whole + 1) if whole % parts == 0)
    return (
        f"{told}. {counted(fits, 'image')} did, as tried just now: train.accumulate={parts} computes the same step in {parts} parts, "
        f"train.batch={fits * replicas * accumulate} takes smaller ones"
    )


def _check_stage(config, stage_index, model):
    """Raises ConfigError for what a stage asks of the model that it cannot give: now, not when its turn comes."""
    if size := config.train.stages[stage_index].image_size:
        check_other_size(model, size, f"train.stages.{stage_index}.image_size")
    _loss_weights(config, stage_index, model.objective)
    _frozen(config, stage_index, model.network)


def _frozen(config, stage_index, network):
    """The layers that a stage freezes, by the beginnings of their dotted names. Raises ConfigError if there are none, or no others."""
    frozen = []
    for i, prefix in enumerate(config.train.stages[stage_index].freeze):
        layers = [layer for layer in network.layers if f"{layer.name}.".startswith(f"{prefix}.")]
        if not layers:
            parts = sorted({".".join(layer.name.split(".")[:2]) for layer in network.layers if "." in layer.name})
            raise config.error(
                f"train.stages.{stage_index}.freeze.{i}",
                f"expected the name of a part, such as {', '.join(parts)}, received {prefix!r}",
            )
        frozen += layers
    if not any(layer.trainable_variables for layer in network.layers if layer not in frozen):
        raise config.error(
            f"train.stages.{stage_index}.freeze", "expected a part that is left to learn, everything is frozen"
        )
    return frozen


def _check_rounding(config, resumed):
    """Raises ConfigError if what is asked for cannot be trained with rounding."""
    if not config.train.quantize:
        return
    if config.train.init is None and not resumed:
        raise config.error(
            "train.quantize", "expected train.init, a run whose trained weights it goes on from, received none"
        )
    if config.train.precision != "float32":
        raise config.error("train.precision", "expected float32 with train.quantize, which rounds by itself")
    for i, stage in enumerate(config.train.stages):
        if stage.multi_scale:
            raise config.error(
                f"train.stages.{i}.multi_scale", "expected none with train.quantize: bounds are of one size"
            )


def _loss_weights(config, stage_index, objective):
    weights = config.train.stages[stage_index].loss_weights
    for name in weights:
        if name not in objective.terms:
            raise config.error(
                f"train.stages.{stage_index}.loss_weights.{name}",
                f"expected a term of the loss ({', '.join(objective.terms)})",
            )
    return weights


def _check_finite(figures, epoch, i, strategy, sample, source):
    bad = [name for name, value in figures.items() if not np.isfinite(value)]
    if not bad:
        return
    ids = np.concatenate([np.ravel(part) for part in strategy.experimental_local_results(sample.image_id)])
    files = ", ".join(source.records[record].path for record in ids[:16])
    raise TrainingError(
        f"epoch {epoch}, step {i + 1}: {', '.join(bad)} became {figures[bad[0]]}; nothing of this epoch is kept, last.h5 holds the one "
        f"before. A lower learning rate (train.stages.*.lr) or a longer warmup is the usual cure. The step's pictures: {files}"
    )


class _History:
    """history.csv: a row an epoch. A resumed run drops the rows of epochs that were not finished."""

    def __init__(self, path, keep):
        self.path, self.rows = path, []
        if keep and path.exists():
            self.rows = [row for row in visualize.read_history(path) if int(row["epoch"]) <= keep]

    def add(self, row):
        self.rows.append({name: f"{v:.6g}" if isinstance(v, float) else v for name, v in row.items()})
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        with checkpoint.atomic(self.path) as aside, aside.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)


def _better(metrics, best):
    """Whether an epoch is better than the best before it: by AP, or AP50 where that is all there is to tell the two apart.

    Where neither can be said, for want of boxes to judge by, the later one is.
    """
    new, old = ([-1.0 if np.isnan(one[name]) else one[name] for name in ("AP", "AP50")] for one in (metrics, best))
    return new > old or (np.isnan(metrics["AP"]) and np.isnan(best["AP"]))


def _log(board, row):
    with board.as_default():
        for name, value in row.items():
            if isinstance(value, float):
                tf.summary.scalar(name, value, step=row["epoch"])
    board.flush()


def _line(row, epochs, improved, left):
    terms = "  ".join(f"{name.removeprefix('loss_')} {v:.3f}" for name, v in row.items() if name.startswith("loss"))
    line = f"epoch {row['epoch']:>3}/{epochs}  {terms}  lr {row['lr']:.2g}  {row['images_per_second']:.1f} images/s"
    if "AP" in row:
        scores = f"AP {row['AP']:.3f}  AP50 {row['AP50']:.3f}{'  best so far' if improved else ''}"
        line += f"  |  {'no AP: no boxes to judge by' if np.isnan(row['AP']) else scores}"
    return line + (f"  |  {duration(left)} left" if row["epoch"] < epochs else "")


def _draw_batch(sample, strategy, classes, path, most=16):
    """Draws what is learned from: the first images of a batch, augmented, with their boxes and classes."""
    parts = (np.concatenate(strategy.experimental_local_results(value)) for value in sample[:4])
    images, boxes, labels, crowd = (value[:most] for value in parts)
    sheets = []
    for b, image in enumerate(images):
        real = labels[b] >= 0
        image, there = visualize.resized(image, boxes[b][real], side=320)
        sheets.append(visualize.draw_ground_truth(image, there, labels[b][real], crowd[b][real], classes))
    visualize.save(path, visualize.grid(sheets, columns=4))


def _draw_pictures(model, detector, source, folder, board, epoch, *, count, batch, score):
    """Draws the first pictures of a Source as the network sees them: right, wrong and missed boxes beside each level's objectness.

    count: how many. batch: images at a time. score: the confidence threshold.
    """
    if not count:
        return
    first, skipped = source._replace(records=source.records[:count]), {}
    options = {"batch": min(batch, len(first.records)), "preprocess": detector.config.model.preprocess}
    sheets = []
    for sample in pipeline.eval_dataset(first, size=detector.input_size, skipped=skipped, **options):
        raw = model.network(sample.image, training=False)
        maps = model.decoder.objectness(raw)
        found = tf.nest.map_structure(np.asarray, detector.postprocess(model.decoder(raw)))
        for b, number in enumerate(sample.image_id.numpy()):
            if number < 0 or number in skipped:
                continue
            record = first.records[number]
            image = np.round(255 * sample.image[b].numpy()).astype(np.uint8)
            truths = sample.boxes[b].numpy()[: len(record.boxes)]
            kept = (np.arange(len(found.scores[b])) < found.count[b]) & (found.scores[b] >= score)
            boxes, *told = (getattr(found, name)[b][kept] for name in ("boxes", "labels", "scores"))
            gt_index = match(truths, record.labels, record.crowd, boxes, *told, difficult=record.difficult)
            image, truths, boxes = visualize.enlarged(image, truths, boxes)
            drawn = visualize.draw_matches(
                image, truths, record.labels, record.ignored, boxes, *told, model.classes, gt_index
            )
            heat = {f"objectness, {name}": visualize.heatmap(image, levels[b].numpy()) for name, levels in maps.items()}
            name = Path(str(record.image_id)).stem
            panels = {f"{name}, confidence from {score:.2f}": drawn, **heat}
            sheet = visualize.grid([visualize.titled(panel, title) for title, panel in panels.items()], len(panels))
            visualize.save(folder / f"{number + 1:02d}_{name}.jpg", sheet)
            sheets.append(sheet)
    if sheets:
        with board.as_default():
            tf.summary.image("validation", visualize.grid(sheets, columns=1)[None], step=epoch)
