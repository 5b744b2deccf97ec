"""The ranges of options, each said once: in the signatures of the parts, and in the schema of the config.

parts.check reads the signatures without importing TensorFlow and words a range as the schema's are worded. What has an
upper end only so that no stray number eats all memory ends far beyond what anybody has trained.
"""

from typing import Annotated

from pydantic import Field, WithJsonSchema

MOST_CLASSES = 100_000
MOST_PIXELS = 200_000_000  # of an image that is decoded, unless an option allows more: 600 MB

Probability = Annotated[float, Field(ge=0, le=1)]
OpenProbability = Annotated[float, Field(gt=0, lt=1)]  # one that has a logit
BelowOne = Annotated[float, Field(ge=0, lt=1)]
AboveOne = Annotated[float, Field(gt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]

Count = Annotated[int, Field(ge=1, le=1_000_000)]
CountOrZero = Annotated[int, Field(ge=0, le=1_000_000)]
Classes = Annotated[int, Field(ge=1, le=MOST_CLASSES)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Pixels = Annotated[int, Field(ge=1, le=10**12)]  # of an image
Batch = Annotated[int, Field(ge=1, le=65_536)]  # images
Side = Annotated[int, Field(ge=1, le=16_384)]  # pixels, or cells
Channels = Annotated[int, Field(ge=1, le=65_536)]
Repeats = Annotated[int, Field(ge=1, le=100)]  # of a block
Factor = Annotated[float, Field(gt=0, le=100)]  # on depths and widths
Windows = Annotated[tuple[Annotated[int, Field(ge=1, le=999)], ...], Field(max_length=20)]  # of poolings
ChannelsEach = Annotated[tuple[Channels, ...], Field(max_length=9)]  # of grids, each half as fine as the one before
RepeatsEach = Annotated[tuple[Repeats, ...], Field(max_length=9)]  # of the same

_LEVEL = "a level, p1 to p9"
Level = Annotated[str, Field(pattern="^p[1-9]$"), WithJsonSchema({"type": "string", "expected": _LEVEL})]
Levels = Annotated[tuple[Level, ...], Field(min_length=1, max_length=9)]
Anchors = Annotated[
    dict[Level, Annotated[list[tuple[Positive, Positive]], Field(max_length=100)]],
    WithJsonSchema({"expected": "levels, p1 to p9, and of each a list of [height, width], numbers > 0"}),
]
Sizes = Annotated[list[Positive], Field(min_length=2, max_length=10)]  # of a level each, and one more
Ratios = Annotated[tuple[Positive, ...], Field(max_length=20)]

Bins = Annotated[int, Field(ge=2, le=1024)]  # of a distribution
Corners = Annotated[int, Field(ge=1, le=2000)]  # of which each is paired with each
Pairs = Annotated[int, Field(ge=1, le=100_000)]  # (box, class)
