"""What quick makes files for. Nothing here imports TensorFlow."""

from tfyolo.exports.targets import Target

# What each is exported as; the last that passes the gate is the one that is meant for it.
TARGETS = {
    "android-cpu": (Target("tflite", "dynamic", "task"), Target("tflite", "int8", "task")),
    "tfserving": (Target("saved_model"),),
}
SHORTEST = 2.0  # minutes
