"""What a run is asked for, and what it needs before its first step: data, model, clock, callbacks."""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

from tfyolo import checkpoint
from tfyolo import config as configs
from tfyolo.config import parts
from tfyolo.files import here, write_text
from tfyolo.graph.quantization import quantization_aware
from tfyolo.model import Model, build
from tfyolo.origin import to_meta
from tfyolo.predict.detector import Detector
from tfyolo.remote import Mirror
from tfyolo.training.briefing import briefing
from tfyolo.training.callbacks import Callbacks
from tfyolo.training.checks import check_batch, check_classes, check_quantize, check_stage, check_workers
from tfyolo.training.clock import Clock
from tfyolo.training.cluster import Team
from tfyolo.training.log import TensorBoard
from tfyolo.training.metrics import Agreement
from tfyolo.training.reading import overfit_config, read_stages, warnings_of, with_divisions, with_images_for
from tfyolo.training.runs import History, Signals, differing, found_from_anywhere
from tfyolo.training.steps import make_strategy
from tfyolo.weights.fetch import fetched
from tfyolo.weights.initial import find_pretrained, normalising
from tfyolo.weights.published import PUBLISHED


@dataclasses.dataclass
class Progress:
    """How far a run is: what goes on from step to step, epoch to epoch and stage to stage.

    Attributes:
        state: as in last.h5: "stage"; "epoch": how many are finished; "best": the epoch and metrics of the best, or
            None; "averaged": how many steps the EMA has taken in.
        running: of an epoch that is begun, what EpochMetrics.running() gives; None: none is.
        saved: {group: arrays} of last.h5, from which a stage starts; {}: nothing is kept yet.
        origin: what the model comes from, which best.h5 and last.h5 carry along.
        ready: whether it came with trained weights for all its classes.
        evaluate_batch: how many images an evaluation takes at a time; None: as many as the config says.
        reported: lines about the validation data that were printed, each once.
        kept_at: when last.h5 was written last, or the process began, by time.monotonic().
    """

    state: dict = dataclasses.field(default_factory=lambda: {"stage": 0, "epoch": 0, "best": None})
    running: dict | None = None
    saved: dict = dataclasses.field(default_factory=dict)
    origin: dict = dataclasses.field(default_factory=dict)
    ready: bool = False
    evaluate_batch: int | None = None
    reported: set = dataclasses.field(default_factory=set)
    kept_at: float = dataclasses.field(default_factory=time.monotonic)


class Job(NamedTuple):
    """What is trained, evaluated and reported to: the same from the first step to the last.

    Attributes:
        config: the Config, as it is trained.
        folder: the run's.
        overfit: how many images are overfit; None: all are trained on.
        asked: the config as the user gave it, as JSON.
        strategy: the tf.distribute strategy.
        sources: for each stage a pair of Sources, to train on and to evaluate on.
        model: a Model in float32, in which the EMA is evaluated and saved.
        detector: the Detector of that model.
        clock: how long the rest takes.
        board: the run's TensorBoard; None: another worker writes it.
        recorders: the Callbacks of the run itself, history.csv and TensorBoard; none where another worker has them.
        callbacks: those of the user, likewise.
        signals: what asks training to stop.
        progress: whether lines and a bar are shown.
        team: the processes that train, of which this is one.
        agreement: the Agreement of several workers; None: this process trains alone.
        mirror: what copies the folder to an address; None: the run lies here, or another worker writes it.
    """

    config: configs.Config
    folder: Path
    overfit: int | None
    asked: str | None
    strategy: tf.distribute.Strategy
    sources: list
    model: Model
    detector: Detector
    clock: Clock
    board: TensorBoard | None
    recorders: Callbacks
    callbacks: Callbacks
    signals: Signals
    progress: bool
    team: Team
    agreement: Agreement | None
    mirror: Mirror | None = None

    @property
    def epochs(self):
        """How many epochs all stages have."""
        return self.epochs_before(len(self.config.train.stages))

    def epochs_before(self, stage_index):
        """How many epochs the stages before one have."""
        return sum(stage.epochs for stage in self.config.train.stages[:stage_index])


def requested(config, folder, overfit, team, mirror=None):
    """Determines what to train: a new run, or the rest of the one in a folder.

    Args:
        config: the Config that was asked for; None with a run to resume.
        folder: the run's, a Path.
        overfit: as for train(); a run that goes on has its own.
        team: the Team.
        mirror: the Mirror of the folder, if the run lies at an address.

    Returns:
        The Config, overfit, the config as it was given when the run began (JSON; None in old runs), and the Progress.

    Raises:
        ConfigError: names a part or a file that is not there.
        CheckpointError: last.h5 cannot be read.
        FetchError: published weights to start from cannot be fetched.
    """
    given = config and found_from_anywhere(config)
    if not (folder / "last.h5").exists():
        parts.check(config)
        configs.check_init(config)
        _bring_init(config.train.init, team)
        find_pretrained(config)
        return normalising(given), overfit, configs.to_json(given), Progress()
    meta, saved = checkpoint.load_run(folder / "last.h5")
    asked, state = meta.get("asked"), meta["state"]
    if (
        given
        and asked
        and (others := differing(json.loads(configs.to_json(given)), configs.with_new_names(json.loads(asked))))
    ):
        team.say(
            f"{mirror.address if mirror else folder}: goes on with the settings that it was begun with; other now, and "
            "not used: "
            f"{', '.join(others[:8])}{', ...' if len(others) > 8 else ''}"
        )
    origin = {name: meta[name] for name in ("darknet",) if name in meta}
    origin["origin"] = to_meta(checkpoint.origin_of(meta))
    at = Progress(state, state.pop("running", None), saved, origin)
    return checkpoint.config_of(folder / "last.h5", meta), meta.get("overfit"), asked, at


def _bring_init(init, team):
    """Fetches the weights that train.init names, or that lie at an address, before anything that takes time is done."""
    if init is not None:
        here(init)
    if init not in PUBLISHED:
        return
    if configs.is_published(init):
        fetched(init)
    else:
        team.say(f"train.init={init}: what has that name here is taken, not the published weights")


def prepared(config, folder, overfit, asked, at, callbacks, signals, progress, team, mirror=None):
    """Reads all data and builds the model to evaluate by, so that what is wrong shows now and not at hour three.

    Args:
        config: the Config, from requested() as the next three.
        folder: the run's; its config.yaml is written.
        overfit: how many images to overfit; None: all are trained on.
        asked: the config as it was given when the run began, as JSON.
        at: the Progress.
        callbacks: the user's Callbacks.
        signals: the Signals that ask training to stop.
        progress: whether the plan is printed, and later lines and a bar.
        team: the Team.
        mirror: the Mirror of the folder, if the run lies at an address.

    Returns:
        The Job.

    Raises:
        ConfigError: the config asks for what the data, the model or the devices cannot give.
        DataError: the data cannot be read.
        TrainingError: there is nothing to train on.
    """
    strategy, place = team.strategy or make_strategy(), mirror.address if mirror else folder
    replicas = strategy.num_replicas_in_sync
    if overfit and not at.saved:
        config = overfit_config(config, overfit, replicas)
    keras.utils.set_random_seed(config.train.seed)
    check_batch(config, replicas)
    check_quantize(config, resumed=bool(at.saved))
    check_workers(config.train.workers)
    sources = read_stages(config, overfit, folder)
    check_classes(config, sources)
    team.same("the data", [[len(source.records), *source.classes] for pair in sources for source in pair])
    config, notes = with_images_for(config, sources, replicas * config.train.accumulate)
    config, divisions = with_divisions(config, sources, folder, place)
    model = build(config, sources[0][0].classes)
    for i in range(len(config.train.stages)):
        check_stage(config, i, model)

    steps_done = at.running["step"] if at.running else 0
    if progress:
        team.say(briefing(config, model, sources, place, {**at.state, "step": steps_done}), file=sys.stdout)
    for warning in [*notes, *dict.fromkeys(warning for pair in sources for warning in warnings_of(*pair))]:
        team.say(warning)
    model = quantization_aware(model) if config.model.quantize else model
    write_text(folder / "config.yaml", configs.to_yaml(config))
    for file, division in divisions.items():
        write_text(file, division.to_json())
    board = TensorBoard(folder / "tensorboard") if team.chief else None
    return Job(
        config=config,
        folder=folder,
        overfit=overfit,
        asked=asked,
        strategy=strategy,
        sources=sources,
        model=model,
        detector=Detector.of(model, source=folder),
        clock=Clock.of(config, sources, at.state["epoch"], steps_done),
        board=board,
        recorders=Callbacks([History(folder / "history.csv", keep=at.state["epoch"]), board] if team.chief else ()),
        callbacks=callbacks,
        signals=signals,
        progress=progress and team.chief,
        team=team,
        agreement=Agreement(signals, replicas) if team.together else None,
        mirror=mirror,
    )
