"""What quick makes files for. Nothing here imports TensorFlow."""

from tfyolo.exports.targets import Target

# What each is exported as; the file that is meant for it comes last.
TARGETS = {
    "android-cpu": (Target("tflite", "float32", "task"), Target("tflite", "int8", "task")),
    "tfserving": (Target("saved_model"),),
}
SHORTEST = 2.0  # minutes
