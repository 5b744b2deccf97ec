"""What an exporter writes from: the Model, its quantized version, the calibration's images."""

from tfyolo.data import datasets
from tfyolo.exports.tflite import for_tflite
from tfyolo.graph.calibration import CALIBRATION_IMAGES, calibrated, sqnr


class Job:
    """One call of export(), handed to every exporter's write(job, target, path).

    Attributes:
        model: the Model, at the size to export.
        batch: images that a file takes at once.
        per_channel: int8 kernels have a scale for each output.
        open_network: its network for images of any size, or None.
        worst: [(layer, SQNR in dB)] once it is quantized from images, the worst five.
        skipped: {place: why} of calibration images that cannot be read.
    """

    def __init__(self, model, batch, per_channel, calibration, open_network=None):
        self.model, self.batch, self.per_channel, self.calibration = model, batch, per_channel, calibration
        self.open_network = open_network
        self.worst, self.skipped = None, {}
        self._quantized = None

    def quantized(self):
        """The Model of fake quantization: with the ranges that it was trained with, or with those found in images."""
        if self._quantized is None and self.model.is_quantized:
            self._quantized = self.model
        elif self._quantized is None:
            fused = for_tflite(self.model)
            self._quantized, fused = calibrated(fused, self.images, per_channel=self.per_channel)
            self.worst = sqnr(fused, self._quantized, next(iter(self.images())))[:5]
        return self._quantized

    def images(self):
        """Batches of the calibration's images, as the network reads them: [B, H, W, 3] float32 0..1."""
        model, source = self.model, self.calibration
        records = datasets.sampled(source.records, CALIBRATION_IMAGES)
        options = {"skipped": self.skipped, "most_pixels": source.max_pixels}
        return datasets.prepared_batches(records, model.input_size, model.preprocess, **options)

    def typical(self):
        """The first of those batches, None without calibration."""
        return next(iter(self.images())) if self.calibration and self.calibration.records else None
