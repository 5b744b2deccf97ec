"""quick: looks at the data, chooses a model and a plan, trains, evaluates, exports, and writes what it did."""

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from tfyolo import config as configs
from tfyolo import folders
from tfyolo.data.readers import DataSet
from tfyolo.errors import Error
from tfyolo.evaluation.run import evaluate
from tfyolo.exports.export import export
from tfyolo.exports.targets import ExportError
from tfyolo.files import write_text
from tfyolo.messages import counted
from tfyolo.model import load_model
from tfyolo.predict.load import load
from tfyolo.quickstart import plan as plans
from tfyolo.quickstart.budget import Budget
from tfyolo.quickstart.kept_aside import fewer, shares_of
from tfyolo.quickstart.sheet import draw_detections, written_sheet
from tfyolo.quickstart.starts import NOTHING_HERE, best_start, start_from
from tfyolo.quickstart.targets import SHORTEST, TARGETS
from tfyolo.training.callbacks import StopTraining
from tfyolo.training.train import train

# Images a step: with few images and minutes, more steps are worth more than smoother ones. On BCCD, 17 epochs of
# YOLOX-nano at 256 pixels: test AP .591 with 8, .567 with 16.
BATCH = 8
GATE_IMAGES = 200  # that the gate compares AP on; on fewer, chance alone makes differences of more than it allows


USELESS = 0.05  # AP50 below which next to nothing is detected


class QuickError(Error):
    """It cannot be done in the time, or not for this target."""


class Quick(NamedTuple):
    """What quick has made.

    Attributes:
        folder: with run/, the exports in run/export/, quick.md and detections.png.
        model: the path of the file that is meant for the target; None if no export passed.
        metrics: {"AP", "AP50", ...} of the trained model on the images that were kept aside.
        exports: {target's name: exports.export.Exported}.
        seconds: {what: how long it took}.
        in_time: whether it ended within the budget.
    """

    folder: Path
    model: Path | None
    metrics: dict
    exports: dict
    seconds: dict
    in_time: bool


def quick(
    data: str | os.PathLike,
    out: str | os.PathLike | None = None,
    *,
    minutes: float = 10.0,
    target: str = "android-cpu",
    init: str | os.PathLike | None = None,
    seed: int = 0,
    progress: bool = True,
    used: float = 0.0,
) -> Quick:
    """Makes a detector of a folder of labelled images, within a budget.

    It keeps images aside, times this machine, chooses the size, starts from the best permissive weights that are on
    this machine, trains for as many epochs as fit, evaluates on what was kept aside, exports, and writes quick.md.

    Args:
        data: a data set as training takes it; divided or not.
        out: a folder, new or empty; None: runs/quick, numbered if it is taken.
        minutes: the budget, at least 2, from the call to the end.
        target: one of TARGETS.
        init: weights to start from: a run's folder, or a name of `tfyolo weights`; None: the best that are here.
        seed: of all chance.
        progress: whether it prints what it does.
        used: seconds of the budget that were used before the call.

    Returns:
        Quick.

    Raises:
        QuickError: the budget is too short, or there is no such target.
        DataError: the data cannot be read, or has too few images.
        FolderError: something else lies in `out`.
    """
    if target not in TARGETS:
        raise QuickError(f"target: expected one of {', '.join(TARGETS)}, received {target!r}")
    if not SHORTEST <= minutes < math.inf:
        raise QuickError(f"minutes: expected at least {SHORTEST:g}, and a number, received {minutes:g}")
    budget = Budget(minutes, used)

    def report(line):
        if progress:
            tqdm.write(line, file=sys.stdout)

    with folders.new(out, "quick") as folder:
        start = start_from(os.fspath(init)) if init else best_start()
        return _quick(os.fspath(data), folder, budget, start, target, seed, progress, report)


def _quick(data, folder, budget, start, target, seed, progress, report):
    with budget.phase("look at the data"):
        root = DataSet(data).place.root
        shares = shares_of(data, seed)
        boxes = len(shares.train.records.boxes)
        report(
            f"data      {counted(len(shares.train.records), 'image')} to train on, {counted(boxes, 'box')}, "
            f"{counted(len(shares.train.classes), 'class')}: {', '.join(shares.train.classes[:8])}"
        )

    if not start.weights:
        report(f"weights   {NOTHING_HERE}")
    with budget.phase("time this machine"):
        write_text(folder / "division.json", shares.division.to_json())
        common = [
            f"data.path={_quoted(data)}",
            f"data.train={_quoted(shares.split)}",
            f"data.val={_quoted(shares.val_split)}",
            f"data.division={_quoted(os.path.abspath(folder / 'division.json'))}",
            f"train.seed={seed}",
            *start.overrides,
        ]
        probe = configs.load(start.config, [*common, f"model.input_size={plans.PROBE}", f"train.batch={BATCH}"])
        seconds = plans.seconds_an_image(probe, shares.train.classes)
        report(f"machine   about {1 / seconds:.0f} images/s in training at {plans.PROBE} pixels")

    plan = plans.planned(seconds, budget.phases["time this machine"], budget.left, shares, start)
    available = len(shares.train.records)
    if plan.images < available:
        shares = fewer(shares, plan.images, root, seed)
        write_text(folder / "division.json", shares.division.to_json())
    steps = plan.epochs * -(-len(shares.train.records) // BATCH)
    report(
        f"model     {start.config}, from {start.weights or 'random weights'}; {plan.size} pixels, "
        f"about {counted(plan.epochs, 'epoch')}, {counted(steps, 'step')}"
    )
    minutes = max((budget.left - plan.reserve) / 60, 0.1)
    config = configs.load(start.config, [*common, *_recipe(plan, start, steps, minutes)])
    with budget.phase("train"):
        run = train(config, folder / "run", progress=progress, callbacks=[_deadline(budget, plan, report)])
        if run.metrics.get("epoch") == 0:
            report("train     no epoch was better than the initial weights: it keeps those")

    with budget.phase("evaluate"):
        detector = load(run.folder)
        metrics = evaluate(detector, shares.aside, out=folder / "evaluation", progress=False).metrics
        report(f"{shares.aside.split:<10}AP {metrics['AP']:.3f}, AP50 {metrics['AP50']:.3f}, kept aside from training")
        advice = _advice(start, plan.images < available) if metrics["AP50"] < USELESS else ""
        if advice:
            report(f"advice    {advice}")

    with budget.phase("export"):
        made, faults, taken = {}, [], 0.0
        model = load_model(run.folder)
        most = max(shares.val, shares.aside, key=lambda source: len(source.records))
        few = most._replace(records=most.records[:GATE_IMAGES])
        wanted = list(TARGETS[target])
        while wanted:
            in_time = budget.left >= 1.5 * taken
            if made and not in_time:
                break
            # Without time for all of them, the last: it loses least.
            form = wanted.pop(0 if in_time else -1)
            if wanted and not in_time:
                faults.append(f"{', '.join(each.name for each in wanted)}: no time was left; give it more --minutes")
                report(faults[-1])
                wanted = []
            began = time.monotonic()
            try:
                made |= export(
                    model,
                    run.folder / "export",
                    [form],
                    calibration=shares.train,
                    validation=few,
                    overwrite=True,
                )
            except ExportError as error:
                faults.append(str(error))
                report(str(error))
            taken = time.monotonic() - began
        for name, exported in made.items():
            report(
                f"{name:<20}{exported.report['bytes'] / 1e6:.1f} MB, {exported.report['ms']:.0f} ms  {exported.path}"
            )

    file, epochs = next(iter(made.values())).path if made else None, _epochs(run)
    with budget.phase("draw"):
        draw_detections(load(file) if file else detector, shares.aside, folder / "detections.png")
    result = Quick(folder, file, metrics, made, dict(budget.phases), budget.left >= 0)
    write_text(
        folder / "quick.md", written_sheet(result, budget, start, plan, epochs, seconds, shares, faults, target, advice)
    )
    report(
        f"{budget.used / 60:.1f} of {budget.seconds / 60:g} minutes; everything is in {folder}, read "
        f"{folder / 'quick.md'}"
    )
    return result


def _advice(start, is_part):
    """What a model that detects next to nothing wants. is_part: whether it saw but a part of the images."""
    wants = ["more minutes (--minutes)", *([] if is_part else ["more images"])]
    wants += [] if start.weights else ["weights to start from"]
    return f"it has learned next to nothing: it needs {' or '.join(wants)}"


def _epochs(run):
    """What the sheet says of the epochs."""
    words = counted(len((run.folder / "history.csv").read_text().splitlines()) - 1, "epoch")
    if run.metrics.get("epoch") == 0:
        words += ", none better than the initial weights, which it keeps: more images would help"
    return words


def _quoted(text):
    return json.dumps(text)


def _recipe(plan, start, steps, minutes):
    """The overrides that train a config for the epochs that fit, whatever its own recipe is. steps: about how many."""
    stage = {
        "epochs": plans.MOST_EPOCHS,
        "lr": start.lr,
        "schedule": "cosine",
        "warmup": 1.0,
        "plain_epochs": plans.MOST_EPOCHS // 3,
    }
    # An EMA over a tenth of the steps: over more it would hold what training has long left behind.
    ema = min(0.9998, max(0.9, 1 - 10 / max(steps, 1)))
    return [
        f"model.input_size={plan.size}",
        f"train.batch={BATCH}",
        "train.optimizer={name: adamw, weight_decay: 0.01}",
        f"train.stages={json.dumps([stage])}",
        f"train.ema={ema:.4f}",
        f"train.minutes={minutes:.2f}",
        f"train.evaluate_every={plans.MOST_EPOCHS // plans.EVALUATIONS}",
        "train.draw_images=0",
        # Turned boxes are looser than drawn ones, and two images in one are learned too late.
        *("augment.rotate=0", "augment.shear=0", "augment.mixup=0", "augment.scale=0.5"),
    ]


def _deadline(budget, plan, report):
    """A callback that ends training when the next epoch would take time that the rest needs."""

    def on_epoch_end(row):
        # The first has waited for tracing, and says little of the next.
        if row["epoch"] > 1 and budget.left - row["seconds"] < plan.reserve:
            report(f"train     ends after epoch {row['epoch']}: what follows needs the time that is left")
            raise StopTraining

    return on_epoch_end
