"""Images on their way to a network's size, and boxes on their way back.

TensorFlow does it where it is installed, as in training, and edge.images where it is not.
"""

from concurrent.futures import ThreadPoolExecutor

from tfyolo.devices import cores
from tfyolo.edge import images as edge
from tfyolo.libraries import has_tensorflow

if has_tensorflow():
    import tensorflow as tf

    from tfyolo.data.decoding import read_image
    from tfyolo.data.geometry import preparing, restore

    def prepared(images, size, preprocess):
        """edge.images.prepared by TensorFlow: tensors."""
        with ThreadPoolExecutor(min(len(images), cores())) as threads:
            pairs = list(threads.map(preparing(tuple(size), preprocess), images))
        return tuple(tf.stack(each) for each in zip(*pairs, strict=True))

    def restored(boxes, transforms, sizes):
        """edge.images.restored by TensorFlow."""
        return restore(boxes, transforms, tf.constant(sizes))

else:
    read_image, prepared, restored = edge.read_image, edge.prepared, edge.restored

__all__ = ["prepared", "read_image", "restored"]
