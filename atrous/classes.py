"""Class tables and palettes of the data sets this project knows."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

IGNORE_INDEX = 255  # of unlabelled pixels, up to 255 classes; see `unlabelled`

Color = tuple[int, int, int]
Labels = NDArray[np.uint8] | NDArray[np.uint16]  # (H, W) class indices


def color_of(channels: Iterable[Any]) -> Color:
    """Returns red, green and blue as a colour; raises ValueError unless all are of 0..255."""
    red, green, blue = (int(channel) for channel in channels)
    if not all(0 <= channel <= 255 for channel in (red, green, blue)):
        raise ValueError(f"colour {(red, green, blue)} is not of 0..255")
    return red, green, blue


def unlabelled(num_classes: int) -> int:
    """Returns the label of pixels without a class: 255, or 65535 above 255 classes.

    >>> unlabelled(21), unlabelled(255), unlabelled(256)
    (255, 255, 65535)
    """
    return IGNORE_INDEX if num_classes <= IGNORE_INDEX else 65535


def with_room(labels: Labels, value: int) -> Labels:
    """Returns labels in a type that holds a value too; with 256 classes, 255 is one of them."""
    return labels if value <= np.iinfo(labels.dtype).max else labels.astype(np.uint16)


def pascal_palette(num_classes: int) -> tuple[Color, ...]:
    """Returns the colours of the PASCAL VOC devkit: the bits of the index, spread over RGB.

    Bit 3j of the index becomes bit 7-j of red, bit 3j+1 of green, bit 3j+2 of blue. Colours repeat
    after 256 indices.

    >>> pascal_palette(3)
    ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    """
    index, bits = np.arange(num_classes)[:, None], np.arange(8)
    channels = (((index >> (3 * bits + c) & 1) << (7 - bits)).sum(1).tolist() for c in range(3))
    return tuple(zip(*channels, strict=True))


def plain_name(name: str) -> str:
    """Returns a class name without case, spaces and punctuation.

    >>> plain_name("Traffic light"), plain_name("traffic_light")
    ('trafficlight', 'trafficlight')
    """
    return re.sub(r"[\W_]+", "", name.casefold())


@dataclass(frozen=True)
class ClassTable:
    """Names and colours of a data set's classes, in the order of their training indices."""

    name: str
    classes: tuple[str, ...]
    palette: tuple[Color, ...]

    def __post_init__(self) -> None:
        assert len(self.classes) == len(self.palette)
        assert len(set(self.classes)) == len(self.classes)


def numbered(num_classes: int) -> ClassTable:
    """Returns a table of numbered classes, for a model without class names."""
    names = tuple(f"class_{index}" for index in range(num_classes))
    return ClassTable("numbered", names, pascal_palette(num_classes))


_VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip

VOC = ClassTable("voc", _VOC, pascal_palette(len(_VOC)))

# SegNet's eleven classes of CamVid; index 11 in the masks is void.
CAMVID = ClassTable(
    "camvid",
    (
        "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car",
        "Pedestrian", "Bicyclist",
    ),
    (
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222),
        (128, 128, 0), (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
)  # fmt: skip


class CityscapesLabel(NamedTuple):
    """One evaluated Cityscapes class."""

    raw_id: int  # in *_labelIds.png and in submissions
    name: str
    color: Color


# The 19 evaluated classes. Their position is the train id, in *_labelTrainIds.png and in models.
# Every other raw id is ignored in training and evaluation.
CITYSCAPES_LABELS = (
    CityscapesLabel(7, "road", (128, 64, 128)),
    CityscapesLabel(8, "sidewalk", (244, 35, 232)),
    CityscapesLabel(11, "building", (70, 70, 70)),
    CityscapesLabel(12, "wall", (102, 102, 156)),
    CityscapesLabel(13, "fence", (190, 153, 153)),
    CityscapesLabel(17, "pole", (153, 153, 153)),
    CityscapesLabel(19, "traffic light", (250, 170, 30)),
    CityscapesLabel(20, "traffic sign", (220, 220, 0)),
    CityscapesLabel(21, "vegetation", (107, 142, 35)),
    CityscapesLabel(22, "terrain", (152, 251, 152)),
    CityscapesLabel(23, "sky", (70, 130, 180)),
    CityscapesLabel(24, "person", (220, 20, 60)),
    CityscapesLabel(25, "rider", (255, 0, 0)),
    CityscapesLabel(26, "car", (0, 0, 142)),
    CityscapesLabel(27, "truck", (0, 0, 70)),
    CityscapesLabel(28, "bus", (0, 60, 100)),
    CityscapesLabel(31, "train", (0, 80, 100)),
    CityscapesLabel(32, "motorcycle", (0, 0, 230)),
    CityscapesLabel(33, "bicycle", (119, 11, 32)),
)

CITYSCAPES = ClassTable(
    "cityscapes",
    tuple(label.name for label in CITYSCAPES_LABELS),
    tuple(label.color for label in CITYSCAPES_LABELS),
)

# The 150 classes of the scene parsing benchmark, the first word of each entry.
_ADE20K = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass",
    "cabinet", "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain",
    "chair", "car", "water", "painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field",
    "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp", "bathtub", "railing",
    "cushion", "base", "box", "column", "signboard", "chest of drawers", "counter", "sand", "sink",
    "skyscraper", "fireplace", "refrigerator", "grandstand", "path", "stairs", "runway", "case",
    "pool table", "pillow", "screen door", "stairway", "river", "bridge", "bookcase", "blind",
    "coffee table", "toilet", "flower", "book", "hill", "bench", "countertop", "stove", "palm",
    "kitchen island", "computer", "swivel chair", "boat", "bar", "arcade machine", "hovel", "bus",
    "towel", "light", "truck", "tower", "chandelier", "awning", "streetlight", "booth",
    "television receiver", "airplane", "dirt track", "apparel", "pole", "land", "bannister",
    "escalator", "ottoman", "bottle", "buffet", "poster", "stage", "van", "ship", "fountain",
    "conveyer belt", "canopy", "washer", "plaything", "swimming pool", "stool", "barrel", "basket",
    "waterfall", "tent", "bag", "minibike", "cradle", "oven", "ball", "food", "step", "tank",
    "trade name", "microwave", "pot", "animal", "bicycle", "lake", "dishwasher", "screen",
    "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan",
    "pier", "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass",
    "clock", "flag",
)  # fmt: skip

# The benchmark's colours. Two classes share one (road and skyscraper).
_ADE20K_COLORS = (
    (120, 120, 120), (180, 120, 120), (6, 230, 230), (80, 50, 50), (4, 200, 3), (120, 120, 80),
    (140, 140, 140), (204, 5, 255), (230, 230, 230), (4, 250, 7), (224, 5, 255), (235, 255, 7),
    (150, 5, 61), (120, 120, 70), (8, 255, 51), (255, 6, 82), (143, 255, 140), (204, 255, 4),
    (255, 51, 7), (204, 70, 3), (0, 102, 200), (61, 230, 250), (255, 6, 51), (11, 102, 255),
    (255, 7, 71), (255, 9, 224), (9, 7, 230), (220, 220, 220), (255, 9, 92), (112, 9, 255),
    (8, 255, 214), (7, 255, 224), (255, 184, 6), (10, 255, 71), (255, 41, 10), (7, 255, 255),
    (224, 255, 8), (102, 8, 255), (255, 61, 6), (255, 194, 7), (255, 122, 8), (0, 255, 20),
    (255, 8, 41), (255, 5, 153), (6, 51, 255), (235, 12, 255), (160, 150, 20), (0, 163, 255),
    (140, 140, 140), (250, 10, 15), (20, 255, 0), (31, 255, 0), (255, 31, 0), (255, 224, 0),
    (153, 255, 0), (0, 0, 255), (255, 71, 0), (0, 235, 255), (0, 173, 255), (31, 0, 255),
    (11, 200, 200), (255, 82, 0), (0, 255, 245), (0, 61, 255), (0, 255, 112), (0, 255, 133),
    (255, 0, 0), (255, 163, 0), (255, 102, 0), (194, 255, 0), (0, 143, 255), (51, 255, 0),
    (0, 82, 255), (0, 255, 41), (0, 255, 173), (10, 0, 255), (173, 255, 0), (0, 255, 153),
    (255, 92, 0), (255, 0, 255), (255, 0, 245), (255, 0, 102), (255, 173, 0), (255, 0, 20),
    (255, 184, 184), (0, 31, 255), (0, 255, 61), (0, 71, 255), (255, 0, 204), (0, 255, 194),
    (0, 255, 82), (0, 10, 255), (0, 112, 255), (51, 0, 255), (0, 194, 255), (0, 122, 255),
    (0, 255, 163), (255, 153, 0), (0, 255, 10), (255, 112, 0), (143, 255, 0), (82, 0, 255),
    (163, 255, 0), (255, 235, 0), (8, 184, 170), (133, 0, 255), (0, 255, 92), (184, 0, 255),
    (255, 0, 31), (0, 184, 255), (0, 214, 255), (255, 0, 112), (92, 255, 0), (0, 224, 255),
    (112, 224, 255), (70, 184, 160), (163, 0, 255), (153, 0, 255), (71, 255, 0), (255, 0, 163),
    (255, 204, 0), (255, 0, 143), (0, 255, 235), (133, 255, 0), (255, 0, 235), (245, 0, 255),
    (255, 0, 122), (255, 245, 0), (10, 190, 212), (214, 255, 0), (0, 204, 255), (20, 0, 255),
    (255, 255, 0), (0, 153, 255), (0, 41, 255), (0, 255, 204), (41, 0, 255), (41, 255, 0),
    (173, 0, 255), (0, 245, 255), (71, 0, 255), (122, 0, 255), (0, 255, 184), (0, 92, 255),
    (184, 255, 0), (0, 133, 255), (255, 214, 0), (25, 194, 194), (102, 255, 0), (92, 0, 255),
)  # fmt: skip

ADE20K = ClassTable("ade20k", _ADE20K, _ADE20K_COLORS)

# The classes of DeepLab's authors: class 0 is everything else and is never labelled.
ADE20K_151 = ClassTable("ade20k_151", ("other", *_ADE20K), ((0, 0, 0), *_ADE20K_COLORS))

# The classes of MLCommons' MobileNetV2: index 0 is everything else.
ADE20K_31 = ClassTable("ade20k_31", ("other", *_ADE20K[:31]), ((0, 0, 0), *_ADE20K_COLORS[:31]))

# COCO-Stuff: 80 things and 91 stuff classes, in the order of their ids. Eleven of the ids 1..182
# were never annotated.
_COCO_STUFF = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
    "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush", "banner", "blanket", "branch", "bridge",
    "building-other", "bush", "cabinet", "cage", "cardboard", "carpet", "ceiling-other",
    "ceiling-tile", "cloth", "clothes", "clouds", "counter", "cupboard", "curtain", "desk-stuff",
    "dirt", "door-stuff", "fence", "floor-marble", "floor-other", "floor-stone", "floor-tile",
    "floor-wood", "flower", "fog", "food-other", "fruit", "furniture-other", "grass", "gravel",
    "ground-other", "hill", "house", "leaves", "light", "mat", "metal", "mirror-stuff", "moss",
    "mountain", "mud", "napkin", "net", "paper", "pavement", "pillow", "plant-other", "plastic",
    "platform", "playingfield", "railing", "railroad", "river", "road", "rock", "roof", "rug",
    "salad", "sand", "sea", "shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs",
    "stone", "straw", "structural-other", "table", "tent", "textile-other", "towel", "tree",
    "vegetable", "wall-brick", "wall-concrete", "wall-other", "wall-panel", "wall-stone",
    "wall-tile", "wall-wood", "water-other", "waterdrops", "window-blind", "window-other", "wood",
)  # fmt: skip

COCO_STUFF = ClassTable("coco_stuff", _COCO_STUFF, pascal_palette(len(_COCO_STUFF)))

# The value of each class in the pixel maps: its id minus one.
COCO_STUFF_VALUES = tuple(
    value for value in range(182) if value + 1 not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
)
