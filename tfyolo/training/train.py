"""Training: one script, read from top to bottom."""

import gc
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfyolo import checkpoint
from tfyolo import config as configs
from tfyolo.data.loading import answered
from tfyolo.errors import WorkerError
from tfyolo.evaluation.run import evaluate_share
from tfyolo.files import address, unreachable
from tfyolo.messages import counted
from tfyolo.model import describe, save_model
from tfyolo.remote import Mirror
from tfyolo.training.callbacks import Callbacks
from tfyolo.training.checks import runs_script_anew
from tfyolo.training.clock import duration
from tfyolo.training.cluster import join
from tfyolo.training.fitting import fitted
from tfyolo.training.job import prepared, requested
from tfyolo.training.log import better, draw_batch, draw_detections, epoch_line
from tfyolo.training.memory import evaluated_at_once, too_large, too_many, what_fits
from tfyolo.training.metrics import EpochMetrics
from tfyolo.training.reading import unexpected_lines
from tfyolo.training.runs import (
    NEEDED_TO_RESUME,
    PERFECT,
    Run,
    Signals,
    Stopped,
    TrainingError,
    discard,
    finished,
    remove_leftovers,
    run_folder,
)
from tfyolo.training.stages import build_stage
from tfyolo.visualize import plots


def train(
    config: configs.Config | str | os.PathLike | None,
    out: str | os.PathLike | None = None,
    *,
    resume: bool = False,
    overfit: int | None = None,
    progress: bool = True,
    callbacks: Iterable[Callable[[dict], Any] | Any] = (),
) -> Run:
    """Trains a config. best.h5 and last.h5 in the run's folder are what load(), evaluate and export take.

    Several processes that TF_CONFIG or srun names to each other are one training (tfyolo.training.cluster).

    Ctrl-C and SIGTERM (where nobody else has a handler for it) end it when the running step is done, and raise Stopped:
    what the epoch has trained until then is kept. A second Ctrl-C ends it at once.

    A callback is a function of an epoch's row, or an object with any of these methods:

    - `on_begin(folder, config)`: before the first step. folder: the run's, a Path, or one here that is copied to the
      address `out` whenever the run is kept. config: the Config as it is trained.
    - `on_epoch_end(row)`: an epoch is kept, so that last.h5, history.csv and perhaps best.h5 hold it. row: its row of
      history.csv as a dict: "epoch" (from 1), "stage" (from 0), "lr", "seconds", "images_per_second", "loss",
      "loss_box" and the other terms, "gradient_norm"; where it was evaluated also "AP", "AP50", "AP75", which are NaN
      without boxes.
    - `on_end(run)`: training ends and returns this Run. It is not called after an exception or a signal.

    A callback that raises tfyolo.StopTraining in on_epoch_end ends training: on_end is called, the Run returned, and
    `resume` would go on with the epochs that are left. Any other exception ends it as an error, with the epoch kept.
    A resumed run calls on_begin again, and on_epoch_end for the epochs that were left; nothing is called where none is.

        class Patience:
            best = epoch = 0  # stops ten epochs after the best

            def on_epoch_end(self, row):
                if row.get("AP50", 0) > self.best:
                    self.best, self.epoch = row["AP50"], row["epoch"]
                if row["epoch"] >= self.epoch + 10:
                    raise tfyolo.StopTraining

    Args:
        config: a Config, the path of one, or the name of one that comes with tfyolo; None with a run to resume.
        out: the run's folder, new or empty; None: runs/NAME, numbered if it is taken. It is reserved at once; where
            training fails before its first epoch ends, nothing is left. Or an address that TensorFlow knows
            (gs://bucket/run): the run is written here, and copied there whenever it is kept, last.h5 last.
        resume: goes on with the run in `out` (None: runs/NAME) where it was stopped, with the config that lies there,
            and ends as if it had never stopped. Where there is no run yet, or one of which nothing was kept, it begins:
            the same call, given again and again, comes to the end.
        overfit: how many images to overfit, without augmentation, until all objects in them are found: the first thing
            to try when nothing is detected. None: trains on all.
        progress: prints the plan and a line for each epoch, and shows a bar on standard error.
        callbacks: functions and objects, called in this order; of several processes by worker 0 alone.

    Returns:
        The Run: its folder, and the metrics of its best epoch (0: the initial weights, which knew all classes); {}
        where a callback stopped it before any evaluation.

    Raises:
        ConfigError: the config is wrong, or asks for what the data or the model cannot give.
        DataError, CheckpointError: the data, or the weights to start from, cannot be read.
        FolderError: something else lies in `out`, or another process writes into it.
        TrainingError: there is nothing to resume or to train on, memory does not suffice, a loss is not finite,
            `overfit` images are not overfit, or a callback is none.
        WorkerError: a process that makes batches (train.workers) has ended.
        MissingError: it needs a package that is not installed.
        ClusterError: TF_CONFIG or srun's variables are wrong, or TensorFlow had begun to work before.
        LostError, OtherError: another worker is gone, or has ended by an error.
        Stopped: Ctrl-C or SIGTERM; a KeyboardInterrupt.
    """
    if runs_script_anew():
        raise TrainingError(
            'expected `if __name__ == "__main__":` before what the script does, received none; with train.workers each '
            "process that makes batches imports it"
        )
    team = join()
    callbacks = Callbacks(callbacks if team.chief else ())
    config = configs.load(config) if isinstance(config, str | os.PathLike) else config
    if resume and out is None and config is not None:
        out = Path("runs") / config.name
    mirror = None
    if team.chief and out is not None and address(out) and not unreachable(out):
        mirror = Mirror(address(out), last=("last.h5",))
    left = None, 0
    given = config and json.loads(configs.to_json(config))
    with Signals(team.together) as signals, team.training(signals):
        try:
            team.same("the config", given)
            with team.folder(lambda: run_folder(config, out, resume, mirror), NEEDED_TO_RESUME) as folder:
                kept = folder / "last.h5"
                try:
                    remove_leftovers(folder)
                    return _train(config, folder, overfit, progress, callbacks, signals, team, mirror)
                except KeyboardInterrupt:
                    if team.chief and kept.exists():
                        left = mirror.address if mirror else str(folder), checkpoint.read_meta(kept)["state"]["epoch"]
                    raise
                finally:
                    if not kept.exists():
                        discard(folder)
        except tf.errors.ResourceExhaustedError as error:
            raise TrainingError(f"{mirror.address if mirror else folder}: {too_large(error)}") from error
        except tf.errors.OpError as error:
            if lost := WorkerError.within(error):
                raise lost from error
            raise
        except KeyboardInterrupt:
            where, epochs = team.broadcast(left) if signals.agreed else left
            usual = signal.SIGTERM if team.together else signal.SIGINT  # where another worker has received it
            raise Stopped(where and Path(where), epochs, signals.received or usual) from None


# --- the run ----------------------------------------------------------------------------------------------------------


def _train(config, folder, overfit, progress, callbacks, signals, team, mirror):
    began = time.monotonic()
    shown = team.broadcast(mirror.address if mirror else str(folder))  # the run's, whatever folder this worker has
    place = Path(shown)
    config, overfit, asked, at = requested(config, folder, overfit, team, mirror)
    if at.saved and finished(config, at.state, overfit):
        epochs = counted(at.state["epoch"], "epoch")
        team.say(
            f"{shown}: its training is done ({epochs}), nothing is left to train; to begin a new one with its "
            f"weights: tfyolo train {shown} train.stages.0.epochs=..."
        )
        return Run(place, at.state["best"])
    job = prepared(config, folder, overfit, asked, at, callbacks, signals, progress, team, mirror)
    job.clock.began = began
    callbacks.begin(folder, job.config)

    enough = False
    for stage_index in range(at.state["stage"], len(job.config.train.stages)):
        job, enough = _train_stage(job, at, stage_index)
        gc.collect()  # networks and traces are circles; the next stage's and these may be more than the memory holds
        if enough:
            break
    if overfit and not enough:
        raise TrainingError(
            f"{shown}: {overfit} images were not overfit: AP50 {at.state['best']['AP50']:.3f} at best, expected 1. "
            f"Look at {shown}/pictures: ground truth drawn at the wrong place points to the labels, boxes that "
            "never fit to the anchors (tfyolo check-data, kmeans-anchors), a loss that does not fall to the "
            "learning rate."
        )
    run = Run(place, at.state["best"] or {})
    job.recorders.end(run)
    callbacks.end(run)
    return run


# --- one stage --------------------------------------------------------------------------------------------------------


def _train_stage(job, at, stage_index):
    """Trains what is left of a stage.

    Returns:
        The Job, whose epochs may be others now, and whether that is enough: all is overfit, or a callback has stopped.
    """
    trainee = build_stage(job, at, stage_index)
    before = job.epochs_before(stage_index)
    if at.ready and not at.saved and not job.overfit:
        _keep_start(job, at, trainee)
    job.clock.new_step()
    while (epoch := at.state["epoch"] - before) < job.config.train.stages[stage_index].epochs:
        metrics = EpochMetrics(before + epoch + 1, job.sources[stage_index][0], at.running, job.agreement)
        at.running = None
        try:
            row = _train_epoch(job, at, trainee, metrics, stage_index, epoch)
            if job.config.train.minutes and job.clock.timed:
                job, trainee = fitted(job, trainee, stage_index, epoch + 1)
            evaluation, epochs = None, job.config.train.stages[stage_index].epochs
            if (epoch + 1) % job.config.train.evaluate_every == 0 or epoch + 1 == epochs:
                began = time.monotonic()
                evaluation = _evaluate(job, at, trainee.ema, stage_index, row)
                job.clock.evaluated(time.monotonic() - began)
            with job.signals.finishing():
                metrics.whole = False  # from here on the epoch is kept, not a part of it
                _keep_epoch(job, at, trainee, row, evaluation)
        except KeyboardInterrupt:
            if metrics.whole:
                metrics.fetch()
                if metrics.step > metrics.first:
                    _keep(job, at, trainee, stage=stage_index, running=metrics.running())
            raise
        stopped = job.team.by_chief(job.callbacks.epoch_end, row)
        if stopped or (job.overfit and evaluation and evaluation.improved and row["AP50"] >= PERFECT):
            return job, True
        job.signals.check()
    return job, False


# --- one epoch of steps -----------------------------------------------------------------------------------------------


def _train_epoch(job, at, trainee, metrics, stage_index, epoch):
    """Takes the steps of an epoch that are left. Returns its row of history.csv. A signal ends it after a step.

    Where train.save_minutes are over, last.h5 is written meanwhile.
    """
    config, (height, width) = job.config, trainee.size
    job.clock.go_on()
    bar = tqdm(
        range(metrics.first, trainee.steps),
        desc=f"epoch {metrics.epoch}/{job.epochs}",
        unit="step",
        initial=metrics.first,
        total=trainee.steps,
        leave=False,
        disable=not job.progress or None,
    )
    with job.signals.finishing():
        for i in bar:
            if job.signals.due:
                break
            with answered():
                sample = next(trainee.batches)
            if epoch == i == 0 and job.team.chief:
                name = "train_batch.png" if stage_index == 0 else f"train_batch_{stage_index + 1}.png"
                draw_batch(sample, job.strategy, job.model.classes, job.folder / name)
            last = i + 1 == trainee.steps
            if last:
                metrics.lr = float(trainee.optimizer.learning_rate)
            try:
                step_size = trainee.step_size(config.train.seed, stage_index, epoch, i)
                job.clock.takes(step_size)
                metrics.take(trainee.step, i + 1, sample, step_size, job.strategy)
                fetched = metrics.fetch() if metrics.due or last or job.signals.due else 0
            except tf.errors.ResourceExhaustedError as error:
                fits = None
                if not job.team.together:
                    largest = trainee.sizes[-1] if trainee.sizes else None
                    fits = what_fits(trainee.model, job.strategy, sample, largest, config.train.accumulate)
                fault = too_many(config, job.strategy, trainee.size, fits)
                raise TrainingError(f"epoch {metrics.epoch}, step {i + 1}: {fault}") from error
            if fetched:
                job.clock.step(fetched * height * width)
                means = {name: f"{metrics.sums[name] / metrics.step:.3g}" for name in metrics.sums}
                means.pop("gradient_norm")
                bar.set_postfix(means | {"left": duration(job.clock.left)})
                minutes = (time.monotonic() - at.kept_at) / 60
                if job.team.chief and not last and minutes >= (config.train.save_minutes or math.inf):
                    _keep(job, at, trainee, stage=stage_index, running=metrics.running())
        metrics.fetch()
        seconds = metrics.seconds
    job.signals.check()
    means = {name: total / trainee.steps for name, total in metrics.sums.items()}
    return {
        "epoch": metrics.epoch,
        "stage": stage_index,
        "lr": metrics.lr,
        "seconds": seconds,
        "images_per_second": trainee.steps * config.train.batch / seconds,
        **{name if name in ("loss", "gradient_norm") else f"loss_{name}": mean for name, mean in means.items()},
    }


# --- evaluation -------------------------------------------------------------------------------------------------------


class Evaluation(NamedTuple):
    """How good an epoch is: its AP, AP50 and AP75; whether it is the best so far; what was wrong with the data."""

    metrics: dict
    improved: bool
    unexpected: list


def _keep_start(job, at, trainee):
    """Evaluates a run's initial weights and keeps them as its best so far: training may only lose.

    A few images of a large network's own classes teach it little; what it learns of them it pays for with the rest.
    """
    row = {"epoch": 0}
    evaluation = _evaluate(job, at, trainee.ema, 0, row)
    if not row["AP"] > 0:
        return
    at.state = {**at.state, "best": {"epoch": 0, **evaluation.metrics}}
    if job.team.chief:
        save_model(job.folder / "best.h5", job.model, epoch=0, metrics=evaluation.metrics, **at.origin)
    if job.progress:
        tqdm.write(f"start    AP {row['AP']:.3f}, AP50 {row['AP50']:.3f} before training", file=sys.stdout)


def _evaluate(job, at, ema, stage_index, row):
    """Evaluates the EMA on the stage's validation data, and draws it. Adds the metrics to the row.

    All workers share the images; the chief puts together and draws.
    """
    if not job.team.chief:
        _evaluate_images(job, at, ema, stage_index)
    evaluation = Evaluation(*job.team.by_chief(_evaluate_here, job, at, ema, stage_index, row["epoch"]))
    row.update(evaluation.metrics)
    return evaluation


def _evaluate_here(job, at, ema, stage_index, epoch):
    """The chief's part; returns an Evaluation."""
    source, report = job.sources[stage_index][1], _evaluate_images(job, at, ema, stage_index)
    metrics = {name: report.metrics[name] for name in ("AP", "AP50", "AP75")}
    draw_detections(
        job.model,
        job.detector,
        source,
        job.folder / "pictures" / f"epoch_{epoch:04d}",
        job.board.writer,
        epoch,
        count=job.config.train.draw_images,
        batch=report.batch,
        score=report.score if np.isfinite(report.score) else 0.25,
    )
    best = at.state["best"]
    return Evaluation(metrics, best is None or bool(better(metrics, best)), report.unexpected)


def _evaluate_images(job, at, ema, stage_index):
    """The Report of the EMA on this worker's share of the images and, of the chief, on all; None of the others."""
    checkpoint.assign(job.model.network, ema.arrays())
    batch = at.evaluate_batch or job.config.train.evaluate_batch
    batch = batch or evaluated_at_once(job.config, job.strategy.num_replicas_in_sync)
    team, source = job.team, job.sources[stage_index][1]
    report, at.evaluate_batch = evaluate_share(job.detector, source, batch, team.index, team.size, team.collect)
    return report


# --- what is kept: everything to go on from, written whole or not at all ----------------------------------------------


def _keep_epoch(job, at, trainee, row, evaluation):
    """Writes the epoch's row, best.h5 if it is the best, and last.h5; prints what there is to report."""
    improved = evaluation is not None and evaluation.improved
    best = {"epoch": row["epoch"], **evaluation.metrics} if improved else at.state["best"]
    for name, found in trainee.unexpected.items():  # each worker reports what it has read
        if len(found) > (known := trainee.reported[name]):
            tqdm.write(unexpected_lines(name, found, known, job.sources[row["stage"]][0]), file=sys.stderr)
            trainee.reported[name] = len(found)
    if not job.team.chief:
        _keep(job, at, trainee, stage=row["stage"], epoch=row["epoch"], best=best)
        return
    job.recorders.epoch_end(row)  # before last.h5: a resumed run drops a row too many, but could not make up for one
    if job.progress:
        tqdm.write(epoch_line(row, job.epochs, improved, job.clock.left))
    for line in evaluation.unexpected if evaluation else ():
        if line not in at.reported:
            tqdm.write(f"evaluation: {line}", file=sys.stderr)
            at.reported.add(line)
    if improved:
        save_model(job.folder / "best.h5", job.model, epoch=row["epoch"], metrics=evaluation.metrics, **at.origin)
    _keep(job, at, trainee, stage=row["stage"], epoch=row["epoch"], best=best)
    if evaluation:
        plots.training_curves(job.folder / "history.csv", job.folder / "results.png")


def _keep(job, at, trainee, **changes):
    """Keeps the run as it is now, with what has changed in the state: in last.h5, and for the next stage's start."""
    arrays = {
        "weights": checkpoint.weights_of(trainee.model.network),
        "averages": trainee.ema.arrays(),
        "optimizer": {variable.name: variable.numpy() for variable in trainee.optimizer.variables},
        "random": checkpoint.random_states(trainee.model.network),
    }
    state = {**at.state, **changes, "averaged": int(trainee.ema.steps.numpy())}
    if "running" not in changes:
        state.pop("running", None)
    if job.team.chief:
        meta = {"state": state, "overfit": job.overfit, "asked": job.asked, **at.origin}
        checkpoint.save(job.folder / "last.h5", describe(job.model, **meta), **arrays)
        _copy(job)
    at.state, at.saved, at.kept_at = state, arrays, time.monotonic()


def _copy(job):
    """Copies the run to its address, if it has one. One that does not answer is asked again the next time."""
    try:
        if job.mirror:
            job.mirror.copy()
    except OSError as error:
        job.team.say(f"{job.mirror.address}: not written, and tried again when the run is kept next: {error.strerror}")
