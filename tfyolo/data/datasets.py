"""Batches of Samples from a Source: decode, one 3x3 matrix, one warp, colour, pad, batch."""

import hashlib
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfyolo.config import Augment
from tfyolo.data import augment as aug
from tfyolo.data import geometry
from tfyolo.data.contents import ImageError
from tfyolo.data.decoding import read_record
from tfyolo.data.geometry import FITS, paste, prepare, preparing, transform_boxes
from tfyolo.data.headers import MOST_PIXELS
from tfyolo.data.loading import loader, traced
from tfyolo.data.sources.records import Records
from tfyolo.data.sources.source import DataError
from tfyolo.messages import counted
from tfyolo.structures import Sample


def prepared_batches(records, size, preprocess, batch=4, skipped=None, most_pixels=MOST_PIXELS):
    """The images of Records as `prepare` brings them to a network's size.

    Args:
        records: in the order of the batches.
        size: (h, w).
        preprocess: how, a key of geometry.FITS.
        batch: B; the last batch may be smaller.
        skipped: a dict that gets {place in records: message} of each image that cannot be read and is left out.
        most_pixels: an image of more counts as one that cannot be read.

    Yields:
        [B, h, w, 3] float32 in 0..1.

    Raises:
        DataError: less than half of the images can be read; after the last batch.
    """
    skipped = {} if skipped is None else skipped
    prepared, images = preparing(tuple(size), preprocess), []
    for place, record in enumerate(records):
        try:
            images.append(prepared(read_record(record, most_pixels))[0])
        except ImageError as error:
            skipped[place] = str(error)
        if len(images) == batch:
            yield np.stack(images)
            images = []
    if images:
        yield np.stack(images)
    if len(skipped) > len(records) / 2:
        raise DataError(
            f"expected at least half of {counted(len(records), 'image')} to be readable, received "
            f"{len(records) - len(skipped)}; {next(iter(skipped.values()))}"
        )


def sampled(records, count, seed=0):
    """A random sample of Records, in an order that depends on their ids and the seed alone.

    So it is the same sample of the same data in files and in TFRecord shards, however the data is sorted.

    Args:
        records: Records.
        count: how many; all, if there are fewer.
        seed: of the order.

    Returns:
        Records.
    """
    numbers = [hashlib.blake2b(f"{seed} {image_id}".encode(), digest_size=8).digest() for image_id in records.ids()]
    return records[sorted(range(len(numbers)), key=numbers.__getitem__)[:count]]


_NUMBER, _SEED = tf.TensorSpec([], tf.int64), tf.TensorSpec([2], tf.int64)


def _batched(samples, size, batch, black):
    """Pads boxes to the most that an image of the batch has, and to one: none is cut, no step sees an empty tensor."""

    def at_least_one(sample):
        missing = [[0, tf.cast(tf.shape(sample.labels)[0] == 0, tf.int32)]]
        return sample._replace(
            boxes=tf.pad(sample.boxes, [*missing, [0, 0]]),
            labels=tf.pad(sample.labels, missing, constant_values=-1),
            crowd=tf.pad(sample.crowd, missing),
        )

    shapes = Sample([*size, 3], [None, 4], [None], [None], [], [3, 3])
    padding = Sample(black, 0.0, -1, False, -1, 0.0)
    samples = samples.map(at_least_one).padded_batch(batch, shapes, padding, drop_remainder=True)
    return _fetched_ahead(samples)


def _fetched_ahead(batches):
    options = tf.data.Options()
    # Looking for files to share among workers, of which there are none, takes ten seconds of a strategy at each start.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


# What an image is mixed with is among those last drawn, which need not be decoded again if they fit into the memory.
RECENT = 128
MEMORY = 256 << 20  # bytes
WINDOW = 1024  # images, which are shuffled among each other where shards are read in order


def _pasted(indices, loaded, matrices, size, fit):
    """The Sample of images on one canvas, with what is left of their boxes; index and transform are the first's."""
    image = paste([each.image for each in loaded], matrices, size, fit)
    annotated = [
        geometry.clip_boxes(transform_boxes(each.boxes, matrix), each.labels, each.crowd, size)
        for each, matrix in zip(loaded, matrices, strict=True)
    ]
    transform = matrices[0] @ geometry.scaling(1 / loaded[0].ratio)  # from pixels of the file
    return Sample(image, *(tf.concat(part, axis=0) for part in zip(*annotated, strict=True)), indices[0], transform)


def _in_order(starts, images, seed):
    """A graph function (epoch, place) -> index: shards in an order drawn anew for each epoch, a window shuffled.

    Args:
        starts: [S] where the shards begin among the images.
        images: how many there are.
        seed: of the order.
    """
    shards, starts = len(starts), tf.constant(starts, tf.int64)
    counts = tf.concat([starts[1:], [images]], axis=0) - starts

    def index_of(epoch, place):
        seeds = tf.stack([seed, epoch])
        window = place // WINDOW
        first = window * WINDOW
        last = tf.minimum(images - first, WINDOW) - 1
        place = first + tf.random.experimental.index_shuffle(place - first, tf.random.fold_in(seeds, window), last)
        order = tf.random.experimental.index_shuffle(tf.range(shards, dtype=tf.int64), seeds, shards - 1)
        ends = tf.cumsum(tf.gather(counts, order))
        number = tf.searchsorted(ends, place[None], side="right")[0]
        shard = order[number]
        return starts[shard] + place - (ends[number] - counts[shard])

    return index_of


def _augmented(load, images, starts, draws, size, fit, augment, seed, mixed_epochs):
    """A graph function that draws one augmented Sample by its number in the stream.

    Args:
        load: what `loader` returned.
        images: how many it loads.
        starts: [S] where shards begin that are to be read in order; None: all images are shuffled.
        draws: Samples an epoch.
        size: (H, W) of the Samples' images.
        fit: a value of geometry.FITS.
        augment: config.Augment.
        seed: of all chance.
        mixed_epochs: the first epochs, in which mosaic and mixup may be used.
    """

    def anywhere(epoch, place):
        return tf.random.experimental.index_shuffle(place, tf.stack([seed, epoch]), images - 1)

    order = anywhere if starts is None else _in_order(starts, images, seed)

    def shuffled(epoch, position):
        """The index of the image at a position of an epoch."""
        return tf.cast(order(epoch, position % images), tf.int32)

    def before(position, seed, count):
        """Positions of images that were drawn a little earlier; an epoch begins with its end."""
        return tf.unstack(position - tf.random.stateless_uniform([count], seed, 1, RECENT + 1, tf.int64))

    def plain(epoch, position, seed):
        seeds = tf.unstack(tf.random.split(seed, 2))
        index = shuffled(epoch, position)
        loaded = load(index)
        matrix = fit.matrix(loaded.size, size) @ aug.flips(seeds[0], loaded.size, augment)
        return _pasted([index], [loaded], [aug.affine(seeds[1], size, augment) @ matrix], size, fit)

    def mosaic(epoch, position, seed):
        seeds = tf.unstack(tf.random.split(seed, 7))
        indices = [shuffled(epoch, at) for at in (position, *before(position, seeds[0], 3))]
        loaded = [load(i) for i in indices]
        sizes = [each.size for each in loaded]
        affine = aug.affine(seeds[1], size, augment)
        matrices = [
            affine @ matrix @ aug.flips(flip_seed, original, augment)
            for matrix, flip_seed, original in zip(
                aug.mosaic(seeds[2], sizes, size, fit.matrix), seeds[3:], sizes, strict=True
            )
        ]
        return _pasted(indices, loaded, matrices, size, fit)

    @traced(_NUMBER, _NUMBER, _SEED)
    def one(epoch, position, seed):
        if not augment.mosaic:
            return plain(epoch, position, seed)
        drawn, seed = tf.unstack(tf.random.split(seed, 2))
        use = (epoch < mixed_epochs) & (tf.random.stateless_uniform([], drawn) < augment.mosaic)
        return tf.cond(use, lambda: mosaic(epoch, position, seed), lambda: plain(epoch, position, seed))

    @traced(_NUMBER)
    def draw(number):
        epoch, position = number // draws, number % draws
        key = tf.random.fold_in(tf.random.fold_in(tf.constant([seed, 0], tf.int64), epoch), position)
        seeds = tf.unstack(tf.random.split(key, 6))

        def mixture():
            (partner,) = before(position, seeds[2], 1)
            return aug.mixup(seeds[3], sample, one(epoch, partner, seeds[4]))

        sample = one(epoch, position, seeds[0])
        if augment.mixup:
            use = (epoch < mixed_epochs) & (tf.random.stateless_uniform([], seeds[1]) < augment.mixup)
            sample = tf.cond(use, mixture, lambda: sample)
        gains = {"hue": augment.hue, "saturation": augment.saturation, "value": augment.value}
        return sample._replace(image=aug.recolour(sample.image, aug.colour(seeds[5], **gains)))

    return draw


class Stream(NamedTuple):
    """What the batches of a training are made of: another process makes the same ones of it.

    Attributes:
        records: Records.
        size: (H, W) of the images in the batches.
        fit: a geometry.Fit.
        augment: config.Augment.
        seed: of all chance.
        steps: of an epoch.
        mixed_epochs: the first epochs, in which mosaic and mixup may be used.
        span: (first, end) of its steps.
        batch: images a step.
        part: (i, n): the i-th of n equal parts of each batch.
        pieces: into which the part is cut.
        max_pixels: an image of more counts as one that cannot be read.
        reduce: whether large JPEGs are decoded smaller.
        in_order: whether shards are read from their first image to their last.
    """

    records: Records
    size: tuple[int, int]
    fit: geometry.Fit
    augment: Augment
    seed: int
    steps: int
    mixed_epochs: int
    span: tuple[int, int]
    batch: int
    part: tuple[int, int]
    pieces: int
    max_pixels: int
    reduce: bool = False
    in_order: bool = False

    @property
    def piece(self):
        """How many images each batch of the data set has."""
        return self.batch // self.part[1] // self.pieces

    @property
    def needed(self):
        """(H, W) that the image of a JPEG has to have; None: what it has.

        An image that is only sampled has to be whole.
        """
        if not (self.reduce and self.fit.antialias and self.fit.keeps_aspect):
            return None
        largest = (1 + self.augment.scale) * (1 + math.tan(math.radians(self.augment.shear)))
        return tuple(largest * side for side in self.size)

    @property
    def numbers(self):
        """(first, end): the batches of the data set are numbered from the first epoch's first on."""
        return tuple(step * self.pieces for step in self.span)

    def dataset(self, skipped, resized, numbers=None, workers=1):
        """The batches.

        Args:
            skipped: as for train_dataset.
            resized: likewise.
            numbers: an iterator of those of the batches that are made here, by one of several processes; None: all.
            workers: how many processes make batches.

        Returns:
            A tf.data.Dataset of Samples.
        """
        memory = MEMORY if workers == 1 else 2 * MEMORY // workers  # each sees fewer images between two of the same
        load = loader(self.records, skipped, resized, memory, self.max_pixels, self.needed, self.in_order)
        starts = self.records.shard_starts(WINDOW) if self.in_order else None
        draws = self.steps * self.batch
        drawn_by = self.size, self.fit, self.augment, self.seed, self.mixed_epochs
        draw = _augmented(load, len(self.records), starts, draws, *drawn_by)
        index, sharing = self.part
        share = self.batch // sharing

        def draw_own(number):
            return draw(number // share * self.batch + index * share + number % share)

        if numbers is None:
            first, end = self.numbers
            samples = tf.data.Dataset.range(first * self.piece, end * self.piece)
        else:
            made_here = tf.data.Dataset.from_generator(lambda: numbers, output_signature=_NUMBER)
            samples = made_here.flat_map(lambda i: tf.data.Dataset.range(i * self.piece, (i + 1) * self.piece))
        samples = samples.map(draw_own, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        batches = _batched(samples, self.size, self.piece, np.uint8(0))
        if workers == 1:
            return batches
        options = tf.data.Options()
        options.threading.private_threadpool_size = 2  # one waits for its file while the other computes
        options.threading.max_intra_op_parallelism = 1
        return batches.with_options(options)

    def dataset_by(self, workers, skipped, resized):
        """The same batches, made by several processes.

        Args:
            workers: how many.
            skipped: as for train_dataset.
            resized: likewise.

        Returns:
            A tf.data.Dataset of Samples.
        """
        from tfyolo.data import workers as processes  # needs the package grain, which not every install has

        batch = self.piece
        spec = Sample(
            tf.TensorSpec([batch, *self.size, 3], tf.uint8),
            tf.TensorSpec([batch, None, 4], tf.float32),
            tf.TensorSpec([batch, None], tf.int32),
            tf.TensorSpec([batch, None], tf.bool),
            tf.TensorSpec([batch], tf.int32),
            tf.TensorSpec([batch, 3, 3], tf.float32),
        )
        batches = tf.data.Dataset.from_generator(
            lambda: processes.batches_by(workers, self, skipped, resized), output_signature=spec
        )
        return _fetched_ahead(batches)


def train_dataset(
    source,
    *,
    size,
    batch,
    augment,
    seed,
    epochs,
    plain_epochs=0,
    start_epoch=0,
    start_step=0,
    part=(0, 1),
    pieces=1,
    preprocess="letterbox",
    reduce=False,
    in_order=False,
    workers=0,
    skipped=None,
    resized=None,
):
    """Batches of augmented Samples, for training.

    All chance comes from (seed, epoch, place in the epoch): a stream that starts at epoch k, or at a step of it, is,
    bit for bit, the tail of the one that starts at 0. An epoch shows every image at least once.

    Args:
        source: a Source.
        size: (H, W) of the images in the batches.
        batch: B, images a step.
        augment: config.Augment.
        seed: of all chance.
        epochs: where the stream ends.
        plain_epochs: the last epochs, without mosaic and mixup.
        start_epoch: where the stream starts.
        start_step: the step of that epoch at which it starts.
        part: (i, n): of each batch only the i-th of n equal parts, for one of n workers.
        pieces: into which the part is cut, one after the other, for so many devices of the worker.
        preprocess: how images are brought to `size`, a key of geometry.FITS.
        reduce: whether JPEGs that are at least twice as large as any augmentation shows them are decoded 2, 4 or 8
            times smaller, where `preprocess` averages what it makes smaller.
        in_order: whether shards are read from their first image to their last, as network disks like it: in an order
            drawn anew for each epoch, and shuffled among WINDOW images. Without shards, runs of so many files.
        workers: how many processes make the batches; 0: threads of this one.
        skipped: a dict that gets {index of a Record: message} of each image that cannot be read; it comes grey and
            without boxes.
        resized: a dict that gets {index of a Record: (H, W)} of each image of another size than its annotations say;
            its boxes are scaled to it.

    Returns:
        (a tf.data.Dataset of Samples, the steps of an epoch: images / batch, rounded up). Images are [B, H, W, 3]
        uint8, boxes [B, M, 4] with M >= 1, B of a piece; image_id and transform are those of the first image of a
        mosaic or mixture.

    Raises:
        DataError: there are no images.
    """
    steps = -(-len(_records(source)) // batch)
    stream = Stream(
        source.records,
        tuple(size),
        FITS[preprocess],
        augment,
        seed,
        steps,
        epochs - plain_epochs,
        (start_epoch * steps + start_step, epochs * steps),
        batch,
        part,
        pieces,
        source.max_pixels,
        reduce,
        in_order,
    )
    found = {} if skipped is None else skipped, {} if resized is None else resized
    return stream.dataset_by(workers, *found) if workers else stream.dataset(*found), steps


def eval_dataset(source, *, size, batch, preprocess="letterbox", skipped=None, resized=None):
    """Batches of Samples in the order of the Records, prepared and not augmented, for evaluation.

    Args:
        source: a Source.
        size: (H, W) of the images in the batches.
        batch: B; the last batch is filled up with grey images, whose image_id is -1.
        preprocess: how images are brought to `size`, a key of geometry.FITS.
        skipped: a dict, the same as for train_dataset.
        resized: a dict, the same as for train_dataset.

    Returns:
        A tf.data.Dataset of Samples, images [B, H, W, 3] float32 in 0..1.

    Raises:
        DataError: there are no images.
    """
    resized = {} if resized is None else resized
    load = loader(_records(source), {} if skipped is None else skipped, resized, most_pixels=source.max_pixels)
    images = len(source.records)
    size = tuple(size)

    @traced(_NUMBER)
    def sample(number):
        index = tf.cast(number, tf.int32)
        image, boxes, labels, crowd, *_ = load(index)
        image, transform = prepare(image, size, preprocess)
        index = tf.where(index < images, index, -1)
        return Sample(image, transform_boxes(boxes, transform), labels, crowd, index, transform)

    numbers = tf.data.Dataset.range(-(-images // batch) * batch)
    return _batched(numbers.map(sample, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True), size, batch, 0.0)


def _records(source):
    if not source.records:
        raise DataError(f"{source.name}: expected images in its split {source.split!r}, received none")
    return source.records
