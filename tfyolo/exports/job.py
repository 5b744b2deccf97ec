"""What an exporter writes from: the Model, its quantized version, the calibration's images."""

import functools
import math

from tfyolo.data import datasets
from tfyolo.exports.tflite import for_tflite
from tfyolo.graph.calibration import CALIBRATION_IMAGES, CORRECTION_IMAGES, calibrate, sqnr
from tfyolo.graph.quantization import tied
from tfyolo.graph.sensitivity import sensitivities

# Parts of the error whose feature maps a mixed file leaves in float32, one after the other until the gate passes it.
FLOAT_SHARES = (0.0, 0.5, 0.75, 0.9, 0.97)
AT_ONCE = 4 * 640 * 640  # pixels of a batch, whose feature maps are all kept at a time
MOST_KEPT = 128 * 640 * 640  # pixels of calibration images that stay in memory for the next pass; 12 bytes each


class Job:
    """One call of export(), handed to every exporter's write(job, target, path).

    Attributes:
        model: the Model, at the size to export.
        batch: images that a file takes at once.
        per_channel: int8 kernels have a scale for each output.
        open_network: its network for images of any size, or None.
        worst: [(layer, SQNR in dB)] once it is quantized from images, the worst five.
        skipped: {place: why} of calibration images that cannot be read.
        floats: names of feature maps that quantized() leaves in float32, those that cost most first.
    """

    def __init__(self, model, batch, per_channel, calibration, open_network=None):
        self.model, self.batch, self.per_channel, self.calibration = model, batch, per_channel, calibration
        self.open_network = open_network
        self.worst, self.skipped, self.floats = None, {}, ()
        self._quantized = self._images = None

    def quantized(self):
        """The Model of fake quantization: with the ranges that it was trained with, or with those found in images."""
        if self._quantized is None and self.model.is_quantized:
            self._quantized = self.model
        elif self._quantized is None:
            self._quantized = self._calibration.quantized(self.floats)
            self.worst = sqnr(self._calibration.fused, self._quantized, next(iter(self.images())))[:5]
        return self._quantized

    @functools.cached_property
    def _calibration(self):
        return calibrate(for_tflite(self.model), self.images, per_channel=self.per_channel)

    def leave_in_float(self, share):
        """Makes quantized() leave in float32 what causes a share of its errors, 0..1; whether that is something new."""
        if self.model.is_quantized:  # its weights are trained for the ranges of all maps
            return False
        before, floats, left = self.floats, [], share
        for name, part in self._sensitivities if share else ():
            if left > 0:
                floats.append(name)
            left -= part
        if floats != list(before):
            self.floats, self._quantized = tuple(floats), None
        return self.floats != before

    @functools.cached_property
    def _sensitivities(self):
        found = sensitivities(self.quantized(), self._calibration.images)  # of all in int8, which came first
        without = tied(self._calibration.fused.network)
        found = [(name, part) for name, part in found if name not in without]
        return [(name, part / sum(part for _, part in found)) for name, part in found]

    def images(self):
        """Batches of the calibration's images, as the network reads them: [B, H, W, 3] float32 0..1."""
        if self._images is not None:
            return self._images
        found = self._batches(self.calibration, self.skipped)
        if CALIBRATION_IMAGES * math.prod(self.model.input_size) <= MOST_KEPT:
            found = self._images = list(found)
        return found

    def typical(self, validation):
        """The first of those batches; without calibration one of the validation's Source, None without that, too."""
        if self.calibration and self.calibration.records:
            return next(iter(self._images or self._batches(self.calibration, {})))
        return next(iter(self._batches(validation, {}))) if validation and validation.records else None

    def _batches(self, source, skipped):
        records = datasets.sampled(source.records, CALIBRATION_IMAGES)
        batch = min(max(AT_ONCE // math.prod(self.model.input_size), 1), CORRECTION_IMAGES)
        options = {"batch": batch, "skipped": skipped, "most_pixels": source.max_pixels}
        return datasets.prepared_batches(records, self.model.input_size, self.model.preprocess, **options)
