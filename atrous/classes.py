"""Class tables and palettes of the data sets this project knows."""

from dataclasses import dataclass
from typing import NamedTuple

IGNORE_INDEX = 255  # unlabelled pixels, everywhere

Color = tuple[int, int, int]


def pascal_palette(num_classes: int) -> tuple[Color, ...]:
    """Returns the colours of the PASCAL VOC devkit: the bits of the index, spread over RGB.

    Bit 3j of the index becomes bit 7-j of red, bit 3j+1 of green, bit 3j+2 of blue. Distinct for
    the first 256 indices; repeats after that.

    >>> pascal_palette(3)
    ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    """
    colors = []
    for index in range(num_classes):
        channels = [0, 0, 0]
        for j in range(8):
            for channel in range(3):
                channels[channel] |= (index >> (3 * j + channel) & 1) << (7 - j)
        colors.append((channels[0], channels[1], channels[2]))
    return tuple(colors)


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
    """Returns the table of a model that does not say what its classes are."""
    names = tuple(f"class_{index}" for index in range(num_classes))
    return ClassTable("numbered", names, pascal_palette(num_classes))


_VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip

VOC = ClassTable("voc", _VOC, pascal_palette(len(_VOC)))

# SegNet's eleven-class CamVid; index 11 in its masks is void.
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
    train_id: int  # in *_labelTrainIds.png and in models
    name: str
    color: Color


# The 19 evaluated classes; every other raw id is ignored in training and evaluation.
CITYSCAPES_LABELS = (
    CityscapesLabel(7, 0, "road", (128, 64, 128)),
    CityscapesLabel(8, 1, "sidewalk", (244, 35, 232)),
    CityscapesLabel(11, 2, "building", (70, 70, 70)),
    CityscapesLabel(12, 3, "wall", (102, 102, 156)),
    CityscapesLabel(13, 4, "fence", (190, 153, 153)),
    CityscapesLabel(17, 5, "pole", (153, 153, 153)),
    CityscapesLabel(19, 6, "traffic light", (250, 170, 30)),
    CityscapesLabel(20, 7, "traffic sign", (220, 220, 0)),
    CityscapesLabel(21, 8, "vegetation", (107, 142, 35)),
    CityscapesLabel(22, 9, "terrain", (152, 251, 152)),
    CityscapesLabel(23, 10, "sky", (70, 130, 180)),
    CityscapesLabel(24, 11, "person", (220, 20, 60)),
    CityscapesLabel(25, 12, "rider", (255, 0, 0)),
    CityscapesLabel(26, 13, "car", (0, 0, 142)),
    CityscapesLabel(27, 14, "truck", (0, 0, 70)),
    CityscapesLabel(28, 15, "bus", (0, 60, 100)),
    CityscapesLabel(31, 16, "train", (0, 80, 100)),
    CityscapesLabel(32, 17, "motorcycle", (0, 0, 230)),
    CityscapesLabel(33, 18, "bicycle", (119, 11, 32)),
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

ADE20K = ClassTable("ade20k", _ADE20K, pascal_palette(len(_ADE20K)))

# What MLCommons' MobileNetV2 was trained on: index 0 is everything else.
ADE20K_31 = ClassTable("ade20k_31", ("other", *_ADE20K[:31]), pascal_palette(32))
