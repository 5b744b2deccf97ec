"""Training: one script, read from top to bottom."""

import functools
import gc
import json
import os
import signal
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfyolo import checkpoint
from tfyolo import config as configs
from tfyolo.config import parts
from tfyolo.data import datasets
from tfyolo.evaluation.run import evaluate
from tfyolo.files import write_text
from tfyolo.graph.calibration import CALIBRATION_IMAGES, calibrated
from tfyolo.graph.quantization import quantization_aware
from tfyolo.messages import counted
from tfyolo.model import build, check_other_size, describe, multiple, resolve
from tfyolo.predict.detector import Detector
from tfyolo.training.briefing import Clock, briefing, duration
from tfyolo.training.log import better, draw_batch, draw_pictures, epoch_line, log_scalars
from tfyolo.training.optim import OPTIMIZERS, Average, Schedule, build_for
from tfyolo.training.reading import (
    other_classes,
    overfit_config,
    read_stages,
    stage_seed,
    unexpected_lines,
    warnings_of,
    with_divisions,
    with_images_for,
)
from tfyolo.training.runs import (
    PERFECT,
    History,
    Run,
    Signals,
    Stopped,
    TrainingError,
    differing,
    discard,
    finished,
    found_from_anywhere,
    remove_leftovers,
    run_folder,
)
from tfyolo.training.steps import loss_terms, make_step, make_strategy, resize_sample, scales
from tfyolo.visualize import plots
from tfyolo.weights.initial import initialise

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
    with Signals() as signals:
        try:
            with run_folder(config, out, resume) as folder:
                try:
                    remove_leftovers(folder)
                    return _train(config, folder, overfit, progress, signals)
                finally:
                    kept = folder / "last.h5"
                    if not kept.exists():
                        kept = discard(folder)
        except tf.errors.ResourceExhaustedError as error:
            reason = str(error.message).partition("\n")[0]
            raise TrainingError(
                f"{folder}: a device's memory does not suffice for the model and what training keeps beside it ({reason}); "
                "expected a smaller model or model.input_size, or nothing else on the device"
            ) from error
        except KeyboardInterrupt:
            epochs = checkpoint.read_meta(kept)["state"]["epoch"] if kept else 0
            raise Stopped(kept and kept.parent, epochs, signals.received or signal.SIGINT) from None


def _train(config, folder, overfit, progress, signals):
    # What is asked for
    state, saved = {"stage": 0, "epoch": 0, "best": None}, {}
    given = config and found_from_anywhere(config)
    if (folder / "last.h5").exists():
        meta, saved = checkpoint.load_run(folder / "last.h5")
        config, state, overfit = checkpoint.config_of(folder / "last.h5", meta), meta["state"], meta.get("overfit")
        origin, asked = {name: meta[name] for name in ("darknet",) if name in meta}, meta.get("asked")
        if given and asked and (others := differing(json.loads(configs.to_json(given)), json.loads(asked))):
            tqdm.write(
                f"{folder}: goes on with the settings that it was begun with; other now, and not used: {', '.join(others[:8])}"
                f"{', ...' if len(others) > 8 else ''}",
                file=sys.stderr,
            )
        if finished(config, state, overfit):
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
        config = overfit_config(config, overfit, strategy.num_replicas_in_sync)
    keras.utils.set_random_seed(config.train.seed)
    if config.train.batch % (strategy.num_replicas_in_sync * config.train.accumulate):
        raise config.error(
            "train.batch",
            f"expected a multiple of {strategy.num_replicas_in_sync} replicas x {config.train.accumulate} parts (train.accumulate), "
            f"received {config.train.batch}",
        )
    _check_rounding(config, resumed=bool(saved))

    # Data: all of it is read before the first step, so that what is wrong shows now and not at hour three
    sources = read_stages(config, overfit, folder)
    first = sources[0][0]
    classes = first.classes
    for i, pair in enumerate(sources):
        for source in pair:
            if source.classes != classes:
                raise config.error(config.stage_data(i)[1], other_classes(source, first))
    config, notes = with_images_for(config, sources, strategy.num_replicas_in_sync * config.train.accumulate)
    config, divisions = with_divisions(config, sources, folder)
    judge = build(config, classes)  # float32, in which the averages are judged and saved
    for i in range(len(config.train.stages)):
        _check_stage(config, i, judge)
    if progress:
        tqdm.write(briefing(config, judge, sources, folder, {**state, "step": running["step"] if running else 0}))
    for warning in [*notes, *dict.fromkeys(warning for pair in sources for warning in warnings_of(*pair))]:
        tqdm.write(warning, file=sys.stderr)
    judge = quantization_aware(judge) if config.train.quantize else judge
    detector = Detector.of(judge, source=folder)
    write_text(folder / "config.yaml", configs.to_yaml(config))
    for file, division in divisions.items():
        write_text(file, division.to_json())
    history = History(folder / "history.csv", keep=state["epoch"])
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
                few = learned._replace(records=tuple(datasets.sampled(learned.records, CALIBRATION_IMAGES)))
                options = {"preprocess": config.model.preprocess, "skipped": (unreadable := {})}
                options["most_pixels"] = few.max_pixels
                pictures = functools.partial(datasets.prepared_batches, few.records, size, **options)
                model = quantization_aware(model) if saved else calibrated(model, pictures)[0]
                if unreadable:
                    tqdm.write("calibration: " + unexpected_lines("skipped", unreadable, 0, few), file=sys.stderr)
            for layer in _frozen(config, stage_index, model.network):
                layer.trainable = False
            average = Average(model.network, config.train.ema)
            dataset, steps = datasets.train_dataset(
                learned,
                size=size,
                batch=config.train.batch,
                augment=config.augment,
                seed=stage_seed(config, stage_index),
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
                            draw_batch(sample, strategy, classes, folder / name)
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
                    improved = best is None or better(metrics, best)
                    if improved:
                        best = {"epoch": row["epoch"], **metrics}
                    pictures = folder / "pictures" / f"epoch_{row['epoch']:04d}"
                    score = report.score if np.isfinite(report.score) else 0.25
                    options = {"count": config.train.pictures, "batch": evaluate_batch, "score": score}
                    draw_pictures(judge, detector, judged, pictures, board, row["epoch"], **options)
                    clock.evaluated(time.monotonic() - judging)

                # What is kept: everything to go on from, written whole or not at all
                with signals.finishing():
                    state, running = {**state, "stage": stage_index, "epoch": row["epoch"], "best": best}, None
                    history.add(row)
                    log_scalars(board, row)
                    if progress:
                        tqdm.write(epoch_line(row, epochs, improved, clock.left))
                    for name, found in (("skipped", skipped), ("resized", resized)):
                        if len(found) > told[name]:
                            tqdm.write(unexpected_lines(name, found, told[name], learned), file=sys.stderr)
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
                        plots.training_curves(history.path, folder / "results.png")
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
            loss = tf.add_n(list(loss_terms(model, resize_sample(sample, size) if size else sample).values()))
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
