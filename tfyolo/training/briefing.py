"""What training prints before its first step: what is trained, on what, on which devices, where to."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.python.util._pywrap_util_port import IsMklEnabled

from tfyolo.devices import cores
from tfyolo.graph.summary import summarize
from tfyolo.messages import counted

SHOWN = 6  # classes, and stages, that are named one by one


def briefing(config, model, sources, folder, state):
    """Makes the lines before the first step.

    Args:
        config: the Config, as it is trained.
        model: the Model that is evaluated.
        sources: for each stage a pair of Sources, to train on and to evaluate on.
        folder: the run's.
        state: {"epoch", "step", "best"}: epochs done, steps done of the next one (0 and 0 for a new run), and the
            metrics of the best epoch or None.

    Returns:
        The lines, as one string.
    """
    resumed = state["epoch"] or state["step"]
    rows = [("model", _model(config, model))]
    if config.train.init and not resumed:
        rows.append(("", f"initialised from {config.train.init}"))
    for name, place in (("train", 0), ("val", 1)):
        lines = dict.fromkeys(_split(pair[place]) for pair in sources)
        rows += [(name if n == 0 else "", line) for n, line in enumerate(lines)]
    rows.append(("classes", _classes(sources[0][0])))
    rows.append(("device", f"{_devices()}; {config.train.precision}"))
    rows += [("", notice) for notice in (gpu_notice(), bfloat16_notice(config.train.precision)) if notice]
    rows += _plan(config, sources)
    rows.append(("folder", str(folder)))
    if resumed:
        rows.append(("resumes", _resumed(config, state)))
    return "\n".join(f"{name:<9}{line}" for name, line in rows)


def _model(config, model):
    summary = summarize(model)
    height, width = summary["input_size"]
    return (
        f"{config.name}, {counted(summary['classes'], 'class')}: {summary['parameters']:,} parameters, "
        f"{summary['flops'] / 1e9:.4g} GFLOPs at {height} x {width}"
    )


def _split(source):
    records = source.records.once()
    ignored, empty = int(records.ignored.sum()), int((records.counts == 0).sum())
    line = f"{source.name} {source.split}: {counted(len(records), 'image')}, {counted(len(records.boxes), 'box')}"
    if len(source.records) > len(records):
        line += f", each {len(source.records) // len(records)} times an epoch"
    notes = [f"{ignored:,} of them crowds or difficult"] if ignored else []
    notes += [f"{counted(empty, 'image')} without any"] if empty else []
    return line + (f" ({', '.join(notes)})" if notes else "")


def _classes(source):
    records = source.records.once()
    labels, first, counts = np.unique(records.labels[~records.ignored], return_index=True, return_counts=True)
    most = np.lexsort((first, -counts))[:SHOWN].tolist()
    several = [f"{source.classes[labels[place]]} {counts[place]:,}" for place in most]
    rest, never = len(counts) - len(several), len(source.classes) - len(counts)
    several += [f"{rest} more"] if rest > 0 else []
    return ", ".join(several) + (f"; {counted(never, 'class')} without a box" if never else "")


def _plan(config, sources):
    train = config.train
    epochs = sum(stage.epochs for stage in train.stages)
    parts = f", each in {train.accumulate} parts" if train.accumulate > 1 else ""
    head = f"{counted(epochs, 'epoch')}, {counted(train.batch, 'image')} a step{parts}, {train.optimizer.name}"
    head += f", EMA {train.ema:g}" if train.ema else ""
    if train.evaluate_every >= max(2, *(stage.epochs for stage in train.stages)):
        head += "; evaluated at the end" + (" of each stage" if len(train.stages) > 1 else "")
    elif train.evaluate_every > 1:
        head += f"; evaluated every {train.evaluate_every} epochs"
    head += f"; as many of them as fit into {train.minutes:g} minutes" if train.minutes else ""
    yield "plan", head
    for number, (stage, (source, _)) in enumerate(zip(train.stages[:SHOWN], sources, strict=False), 1):
        height, width = stage.image_size or config.model.input_size
        line = f"{counted(stage.epochs, 'epoch')} of {counted(-(-len(source.records) // train.batch), 'step')}"
        line += f" at {height} x {width}, lr {stage.lr:g}, {stage.schedule}"
        line += f", frozen: {', '.join(stage.freeze)}" if stage.freeze else ""
        yield "", f"{f'stage {number}: ' if len(train.stages) > 1 else ''}{line}"
    if len(train.stages) > SHOWN:
        yield "", f"and {counted(len(train.stages) - SHOWN, 'stage')} more"


def _resumed(config, state):
    epochs = sum(stage.epochs for stage in config.train.stages)
    line = f"after epoch {state['epoch']} of {epochs}"
    line += f" and {counted(state['step'], 'step')} of the next" if state["step"] else ""
    if best := state["best"]:
        name = f"epoch {best['epoch']}" if best["epoch"] else "the initial weights"
        line += f"; best so far: {name}" + ("" if np.isnan(best["AP"]) else f", AP {best['AP']:.3f}")
    return line


# --- devices ----------------------------------------------------------------------------------------------------------


def _devices():
    names = Counter(_details(gpu).get("device_name", "GPU") for gpu in tf.config.get_visible_devices("GPU"))
    if names:
        return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in names.items())
    return f"CPU, {counted(cores(), 'core')}, {'with' if IsMklEnabled() else 'without'} oneDNN"


def _details(gpu):
    return tf.config.experimental.get_device_details(gpu)


def gpu_notice(root=Path("/")):
    """Looks for a GPU that TensorFlow does not use, or cannot use well.

    Args:
        root: of the file system; another one for tests.

    Returns:
        A line about it; None if there is none.
    """
    built = [
        int(re.search(r"\d+$", name)[0]) for name in tf.sysconfig.get_build_info().get("cuda_compute_capabilities", [])
    ]
    newest = divmod(max(built, default=90), 10)
    wheels = f"TensorFlow {tf.__version__} is built for GPUs up to compute capability {newest[0]}.{newest[1]}"
    for gpu in tf.config.get_visible_devices("GPU"):
        capability = _details(gpu).get("compute_capability", newest)
        if capability > newest:
            return (
                f"{wheels}, this one has {capability[0]}.{capability[1]}: its first step may take half an hour, or "
                "fail; install a newer"
            )
    hidden_on_purpose = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if hidden_on_purpose or tf.config.list_physical_devices("GPU"):
        return None
    found = _nvidia(root)
    if not found:
        return None
    name, capability = found[0]
    line = f"TensorFlow does not see this machine's {name}: "
    if sys.platform == "win32":
        return f"{line}on Windows itself it has no GPUs; run it under WSL2"
    if capability and capability > newest:
        return (
            f"{line}{wheels}, expected a newer one for {capability[0]}.{capability[1]}: pip install --upgrade "
            "'tensorflow[and-cuda]'"
        )
    return f"{line}pip install 'tensorflow[and-cuda]'; where that is installed, update NVIDIA's driver"


# What /proc/cpuinfo calls instructions for bfloat16: of x86 (the first three) and of Arm.
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}


def bfloat16_notice(precision, root=Path("/")):
    """Checks that the processor has instructions for a precision.

    Args:
        precision: "float32" or "bfloat16".
        root: of the file system; another one for tests.

    Returns:
        A line about it if it has none; else None.
    """
    cpuinfo = root / "proc/cpuinfo"
    if precision != "bfloat16" or tf.config.get_visible_devices("GPU") or not cpuinfo.is_file():
        return None
    if _BFLOAT16 & set(cpuinfo.read_text(encoding="utf-8", errors="replace").split()):
        return None
    return "this processor has no bfloat16, which is emulated, several times slower: train.precision=float32"


def _nvidia(root):
    """[(name, compute capability or None)] of the machine's NVIDIA GPUs, by nvidia-smi or the driver's files."""
    command = shutil.which("nvidia-smi") or shutil.which(root / "usr/lib/wsl/lib/nvidia-smi")
    if command:
        query = [command, "--query-gpu=name,compute_cap", "--format=csv,noheader"]
        try:
            output = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            output = ""
        if found := re.findall(r"^(.+), *(\d+)\.(\d+)\s*$", output, re.MULTILINE):
            return [(name, (int(major), int(minor))) for name, major, minor in found]
    files = sorted(root.glob("proc/driver/nvidia/gpus/*/information"))
    names = [re.search(r"^Model:\s*(.+)", file.read_text(), re.MULTILINE) for file in files]
    names = [name[1].strip() for name in names if name] or ["NVIDIA GPU" for _ in root.glob("dev/nvidia[0-9]*")]
    return [(name, None) for name in names]
