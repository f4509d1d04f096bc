"""Other people's DeepLab checkpoints, recognised by their tensor names and refused with reasons.

They have the paper's name and another network: what differs is structure or geometry, not only
names, so that copying what fits would give a model that nearly works. Each is told apart by names
no other has; the differences were read in the sources of the projects named.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from atrous.errors import AtrousError, ExitCode
from atrous.weights.differences import Shape


@dataclass(frozen=True)
class Project:
    """A project whose checkpoints are known.

    Args:
        name: The project and model.
        marks: Names of tensors that all its checkpoints have; ``*`` stands for any of a few.
        differences: What its network does otherwise.
        advice: What to do instead.
    """

    name: str
    marks: tuple[str, ...]
    differences: tuple[str, ...]
    advice: str


_TORCHVISION_BACKBONE = "strides in the first unit of a stage, and rectified stage outputs"
_SHIFT = (
    "bilinear resizing with align_corners=False: its features sit half a stride beside ours, "
    "and move when the output stride changes"
)

PROJECTS = (
    Project(
        "torchvision deeplabv3",
        ("backbone.conv1.weight|backbone.0.0.weight", "classifier.0.convs.0.0.weight",
         "classifier.4.weight"),
        (
            "a 3x3 convolution between ASPP and the classifier (classifier.1)",
            "image pooling last in ASPP's concatenation, where ours has it first",
            _TORCHVISION_BACKBONE,
            _SHIFT,
            "ASPP rates 12, 24, 36 at every output stride",
        ),
        "run it with torchvision; for its backbone, start from timm/<name> with pretrained weights",
    ),
    Project(
        "segmentation_models.pytorch DeepLabV3Plus",
        ("decoder.aspp.0.convs.0.0.weight", "decoder.block1.0.weight",
         "segmentation_head.0.weight"),
        (
            "a separable 3x3 convolution between ASPP and the decoder (decoder.aspp.1)",
            "one separable convolution after the concatenation (decoder.block2), ours has two",
            "no batch norm or ReLU between depthwise and pointwise convolutions",
            "image pooling last in ASPP's concatenation",
            "low-level features from the end of an encoder stage",
            "ASPP rates 12, 24, 36 at every output stride",
        ),
        "run it with segmentation_models.pytorch; its encoders are also timm/<name>",
    ),
    Project(
        "segmentation_models.pytorch DeepLabV3",
        ("decoder.aspp.convs.0.0.weight|decoder.0.convs.0.0.weight", "segmentation_head.0.weight"),
        (
            "a 3x3 convolution between ASPP and the classifier (decoder.conv)",
            "image pooling last in ASPP's concatenation",
            "no low-level features: it is DeepLabv3",
        ),
        "run it with segmentation_models.pytorch; its encoders are also timm/<name>",
    ),
    Project(
        "VainF/DeepLabV3Plus-Pytorch",
        ("classifier.project.0.weight", "classifier.aspp.convs.0.0.weight",
         "classifier.classifier.3.weight"),
        (
            "one 3x3 convolution after the concatenation (classifier.classifier.0), ours has two",
            "low-level features before the encoder's in the concatenation",
            "image pooling last in ASPP's concatenation",
            _TORCHVISION_BACKBONE,
            _SHIFT,
        ),
        "run it with its own code; for its backbone, start from timm/<name>",
    ),
    Project(
        "VainF/DeepLabV3Plus-Pytorch (DeepLabv3)",
        ("classifier.classifier.0.convs.0.0.weight", "classifier.classifier.4.weight"),
        (
            "a 3x3 convolution between ASPP and the classifier (classifier.classifier.1)",
            "image pooling last in ASPP's concatenation",
            _TORCHVISION_BACKBONE,
            _SHIFT,
        ),
        "run it with its own code; for its backbone, start from timm/<name>",
    ),
    Project(
        "jfzhang95/pytorch-deeplab-xception",
        ("aspp.aspp1.atrous_conv.weight", "aspp.global_avg_pool.1.weight",
         "decoder.last_conv.0.weight"),
        (
            "image pooling last in ASPP's concatenation",
            "low-level features from the end of a backbone stage (256, 128 or 24 channels)",
            "its own backbones: ResNet with torchvision's strides and multi-grid applied to all of "
            "block 4, Xception without the authors' batch norms and strides, DRN",
            "resizing with align_corners=True at every size, which is ours only at k*stride + 1",
        ),
        "run it with its own code; for Xception, start from pretrained='imagenet' here",
    ),
    Project(
        "torchvision ResNet",
        ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer4.0.downsample.0.weight"),
        (
            "the shapes of our plain-stem ResNet, but strides in the first unit of a stage, where "
            "the authors' network has them in the last: the same numbers, another function",
        ),
        "use the backbone timm/{resnet} with pretrained='imagenet': torchvision's geometry",
    ),
)  # fmt: skip


def recognise(shapes: Mapping[str, Shape]) -> Project | None:
    """Returns the project a checkpoint with these tensor names comes from, if it is known.

    >>> recognise({"layer1.0.conv1.weight": (64, 64, 1, 1)}) is None
    True
    """
    for project in PROJECTS:
        if all(any(name in shapes for name in mark.split("|")) for mark in project.marks):
            return project
    return None


def refusal(shapes: Mapping[str, Shape], where: object) -> AtrousError:
    """Returns the error for a checkpoint that is not ours, with all that is known about it."""
    project = recognise(shapes)
    if project is None:
        shown = ", ".join(list(shapes)[:5])
        return AtrousError(
            "E-WEIGHTS-UNKNOWN",
            f"the tensor names are of no known network: {shown}, ... ({len(shapes)} in all)",
            where=where,
            fix="a backbone goes into create_model(..., pretrained=PATH); whole models are read "
            "from TensorFlow, TFLite and our own .safetensors",
            exit_code=ExitCode.DATA,
        )
    listed = "".join(f"\n  - {difference}" for difference in project.differences)
    return AtrousError(
        "E-WEIGHTS-FOREIGN",
        f"a checkpoint of {project.name}, whose network is not the authors':{listed}",
        where=where,
        fix=project.advice.format(resnet=_resnet_name(shapes)),
        exit_code=ExitCode.DATA,
    )


def _resnet_name(shapes: Mapping[str, Shape]) -> str:
    """Returns timm's name of a torchvision ResNet, from its number of units and their kind."""
    units = [
        len({name.split(".")[1] for name in shapes if name.startswith(f"layer{stage}.")})
        for stage in (1, 2, 3, 4)
    ]
    bottleneck = "layer1.0.conv3.weight" in shapes
    layers = (3 if bottleneck else 2) * sum(units) + 2
    grouped = bottleneck and shapes.get("layer1.0.conv2.weight", (0, 0))[1] not in (64, 128)
    wide = shapes.get("layer1.0.conv2.weight", (0,))[0] == 128
    if grouped:
        return "<the resnext's name>"
    return f"{'wide_' if wide else ''}resnet{layers}{'_2' if wide else ''}"
