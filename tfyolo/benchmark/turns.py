"""Measurements that take turns, so that other work of the machine hits all of them."""

import statistics
import time

import numpy as np

from tfyolo.predict.load import load

PARTS = ("network", "postprocess", "total")


def in_two(network, postprocess):
    """A measurement of two functions.

    Args:
        network: a function without arguments.
        postprocess: takes what `network` returns.

    Returns:
        A function that calls both and returns {part: seconds}.
    """

    def measure():
        start = time.perf_counter()
        found = network()
        middle = time.perf_counter()
        postprocess(found)
        end = time.perf_counter()
        return {"network": middle - start, "postprocess": end - middle, "total": end - start}

    return measure


def export_measure(path, image, threads):
    """The measurement of an export by its Detector: the file's network, and the post-processing that it leaves."""
    detector, images = load(path, threads=threads), image[None]
    return in_two(lambda: detector.network(images), lambda found: np.asarray(detector.postprocess(found).boxes))


def in_one(total, network=None):
    """A measurement of one function for all parts.

    Args:
        total: a function without arguments, from the image to detections.
        network: the same without post-processing, whose time is then the difference; None: only the total is known.

    Returns:
        A function that calls them and returns {part: seconds}.
    """

    def measure():
        start = time.perf_counter()
        total()
        taken = {"total": time.perf_counter() - start}
        if network:
            start = time.perf_counter()
            network()
            taken["network"] = time.perf_counter() - start
            taken["postprocess"] = taken["total"] - taken["network"]
        return taken

    return measure


def take_turns(found, seconds, rounds):
    """Measures competitors, each `seconds` long in all, spread over the rounds.

    Args:
        found: {competitor: measurement}.
        seconds: for each competitor.
        rounds: how often they take turns.

    Returns:
        {competitor: {part: [[seconds of each call] of each round]}}.
    """
    times = {name: {} for name in found}
    for measure in found.values():
        for _ in range(3):  # the first calls compile and allocate
            measure()
    for _ in range(rounds):
        for name, measure in found.items():
            measure()  # brings its weights back into the cache
            turn = []
            end = time.perf_counter() + seconds / rounds
            while not turn or time.perf_counter() < end:
                turn.append(measure())
            for part in turn[0]:
                times[name].setdefault(part, []).append([parts[part] for parts in turn])
    return times


def figures(times, baseline):
    """The figures of measured times.

    Args:
        times: of take_turns.
        baseline: the competitor that ratios are to.

    Returns:
        {competitor: {part: {"median_ms", "iqr_ms", "fastest_ms", "calls", "ratio", "ratio_iqr"} or None}}. fastest_ms
        is None for a postprocess, which may be a difference of two. ratio is to the baseline's same part, the median
        over the rounds; None where the baseline has none.
    """
    result = {}
    for name, parts in times.items():
        result[name] = dict.fromkeys(PARTS)
        for part, turns in parts.items():
            every = sorted(1e3 * call for turn in turns for call in turn)
            row = {
                "median_ms": statistics.median(every),
                "iqr_ms": spread(every),
                "fastest_ms": every[0] if part != "postprocess" else None,
            }
            row |= {"calls": len(every), "ratio": None, "ratio_iqr": None}
            others = times[baseline].get(part)
            if others:
                ratios = sorted(
                    statistics.median(turn) / statistics.median(other)
                    for turn, other in zip(turns, others, strict=True)
                )
                row |= {"ratio": statistics.median(ratios), "ratio_iqr": spread(ratios)}
            result[name][part] = row
    return result


def spread(values):
    """The interquartile range; 0 for one value."""
    if len(values) < 2:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return third - first
