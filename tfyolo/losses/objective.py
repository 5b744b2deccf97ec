"""What objectives share: their targets, and deep supervision."""

import copy
import functools
from typing import Any, NamedTuple

from keras import ops

from tfyolo.boxes import area, intersection
from tfyolo.config import parts
from tfyolo.nn.chunks import over_chunks
from tfyolo.structures import BACKGROUND, IGNORE, as_raw


class Objective:
    """What objectives share. Their contract is at the head of tfyolo.losses."""

    def __call__(self, raw, candidates, sample):
        """The terms of a whole batch: Raw, Candidates, Sample -> {name: weighted scalar}."""
        return self.normalised(*self.sums(raw, candidates, sample))

    def without_aux(self):
        """The same objective for a network without its auxiliary head: only a deeply supervised one differs."""
        return self


def required(assigner, name):
    """The assigner that an objective of this name needs; ValueError for None."""
    if assigner is None:
        raise ValueError(f"{name}: expected an assigner (model.assigner), received none")
    return assigner


class Targets(NamedTuple):
    """What the candidates of a batch are trained towards.

    Attributes:
        positive: [B, N] bool, whether a candidate is matched to a ground truth.
        boxes: [B, N, 4], the ground truth's; the candidate's own without one, so that every value stays finite and
            nothing leaks through a mask's gradient.
        labels: [B, N] int32, of the ground truth; any without one.
        index: [B, N] int32, the Assignment's gt_index, with IGNORE for background candidates inside a crowd.
        quality: [B, N], the Assignment's.
    """

    positive: Any
    boxes: Any
    labels: Any
    index: Any
    quality: Any


def targets_of(assigner, candidates, sample, guide=None):
    """The Targets of Candidates.

    Args:
        assigner: with its options bound.
        candidates: Candidates.
        sample: Sample with B in front.
        guide: other Candidates in the same places, whose predictions the assigner reads; None: the same.

    Returns:
        Targets.
    """
    assignment = assigner(guide or candidates, sample.boxes, ops.where(sample.crowd, -1, sample.labels))
    index = assignment.gt_index
    positive = index >= 0
    gt = ops.maximum(index, 0)
    # One row more, for those without a ground truth where there is none at all
    boxes, labels = ops.pad(sample.boxes, ((0, 0), (0, 1), (0, 0))), ops.pad(sample.labels, ((0, 0), (0, 1)))
    boxes = ops.take_along_axis(boxes, ops.expand_dims(gt, -1), axis=1)
    boxes = ops.where(positive[..., None], boxes, ops.stop_gradient(candidates.boxes))
    labels = ops.take_along_axis(labels, gt, axis=1)
    in_crowd = ops.logical_and(index == BACKGROUND, _inside_crowd(candidates.boxes, sample))
    return Targets(positive, boxes, labels, ops.where(in_crowd, IGNORE, index), assignment.quality)


def _inside_crowd(boxes, sample):
    """Whether half of a candidate's box lies in a crowd: [B, N] bool."""
    boxes = ops.expand_dims(ops.stop_gradient(boxes), 2)  # [B, N, 1, 4]
    half = 0.5 * area(boxes)

    def part(inside, crowds):
        shared = intersection(boxes, ops.expand_dims(crowds, 1))  # [B, N, m]
        return ops.logical_or(inside, ops.any(shared > half, axis=-1)), ()

    # The crowds alone, which come first: most images have none.
    order = ops.argsort(ops.where(sample.crowd, 0, 1), axis=1)
    order = order[:, : ops.max(ops.sum(ops.cast(sample.crowd, "int32"), axis=1))]
    crowds = ops.take_along_axis(ops.where(sample.crowd[..., None], sample.boxes, 0.0), order[..., None], axis=1)
    return over_chunks(part, ops.zeros_like(half[..., 0], dtype="bool"), [(crowds, 0)], 4)[0]


def at_positives(positive, term, *values):
    """A term of the candidates that are matched, which are few: it is computed of them alone.

    Args:
        positive: [B, N] bool.
        term: ([P, ...] of each of the values) -> [P].
        values: [B, N, ...].

    Returns:
        [B, N]; 0 elsewhere.
    """
    size, rows = ops.shape(positive), ops.nonzero(ops.reshape(positive, (-1,)))[0]  # [P]
    own = [ops.take(ops.reshape(each, (-1, *each.shape[2:])), rows, axis=0) for each in values]
    return ops.reshape(ops.scatter(ops.expand_dims(rows, -1), term(*own), (size[0] * size[1],)), size)


def count_of_images(sample):
    """B of a Sample with B in front: [] float32."""
    return ops.cast(ops.shape(sample.image)[0], "float32")


def _with_options(assigner, options):
    """The assigner with other options; ValueError if it has no such ones, or they are out of their ranges."""
    known, checked = parts.options_of(assigner), {}
    for name, value in options.items():
        if name not in known:
            raise ValueError(f"aux: the assigner has no option {name!r}; its options: {', '.join(known) or 'none'}")
        try:
            checked[name] = parts.typed(value, known[name].annotation)
        except ValueError as error:
            raise ValueError(f"aux: {name}: {error}") from None
    return functools.partial(assigner, **checked)


class Deep(Objective):
    """Deep supervision: what objectives with terms of Raw.aux share; their assigner has other options there (aux).

    A subclass has a decoder, an assigner, gains {term: factor} and, for one head, _sums(assigner, candidates, sample,
    guide) and _normalised(sums, counts), which keep the contract. The auxiliary head's sums and counts stand beside the
    main head's, as "aux". guide: whose candidates the assigner reads: "lead": the main head's; "own": the auxiliary
    head's.
    """

    def __init__(self, aux, aux_gain=1.0, guide="own"):
        if guide not in ("lead", "own"):
            raise ValueError(f"guide: expected lead or own, received {guide!r}")
        self.aux_assigner = None if aux is None else _with_options(self.assigner, aux)
        self.aux_gain, self.guide = aux_gain, guide
        self.reads_aux = self.aux_assigner is not None
        self.terms = tuple(self.gains)
        if self.aux_assigner:
            self.terms += tuple(f"aux_{name}" for name in self.gains)

    def without_aux(self):
        """The same objective for a network without its auxiliary head."""
        if not self.aux_assigner:
            return self
        other = copy.copy(self)
        other.aux_assigner, other.reads_aux, other.terms = None, False, tuple(self.gains)
        return other

    def sums(self, raw, candidates, sample):
        """What is summed and what divides it: Raw, Candidates, Sample -> (sums, counts), dictionaries of tensors."""
        sums, counts = self._sums(self.assigner, candidates, sample)
        if self.aux_assigner:
            guide = candidates if self.guide == "lead" else None
            sums["aux"], counts["aux"] = self._sums(self.aux_assigner, self.decoder(as_raw(raw).aux), sample, guide)
        return sums, counts

    def normalised(self, sums, counts):
        """The weighted terms of sums, by the counts of the whole batch: -> {name: scalar}."""
        terms = self._normalised(sums, counts)
        if self.aux_assigner:
            aux = self._normalised(sums["aux"], counts["aux"])
            terms |= {f"aux_{name}": self.aux_gain * value for name, value in aux.items()}
        return terms
