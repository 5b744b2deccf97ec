"""What quick makes files for. Nothing here imports TensorFlow."""

from tfyolo.exports.targets import Target

# What each is exported as, the best first: others are for where that does not pass the gate, or time is left.
TARGETS = {
    "android-cpu": (
        Target("tflite", "auto", "task"),  # int8 wherever that does no harm
        Target("tflite", "dynamic", "task"),
        Target("tflite", "float32", "task"),
    ),
    "tfserving": (Target("saved_model"),),
}
SHORTEST = 2.0  # minutes
