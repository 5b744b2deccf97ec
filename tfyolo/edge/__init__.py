"""Detection on a device without TensorFlow: images, decoding and NMS with numpy and Pillow alone."""
