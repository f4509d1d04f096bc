"""The numbers of recipes against the fact sheet of the paper and of the authors' code."""

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from atrous.classes import CITYSCAPES, VOC
from atrous.engines import built_in
from atrous.errors import AtrousError
from atrous.training import planning
from atrous.training.inputs import open_data
from atrous.training.recipes import RECIPES
from atrous.training.setup import create_network
from tests.data import trees
from tests.pictures import image_folder

PAPERS = {  # steps, base_lr, batch, crop, output stride, weight decay, batch norm
    "voc_resnet101": (30_000, 0.007, 16, 513, 16, 1e-4, "sync"),
    "voc_xception65": (30_000, 0.007, 16, 513, 16, 4e-5, "sync"),
    "voc_xception65_trainval": (30_000, 0.001, 16, 513, 8, 4e-5, "frozen"),
    "coco_xception65": (500_000, 0.007, 16, 513, 16, 4e-5, "sync"),
    "cityscapes_xception65": (90_000, 0.01, 16, 769, 16, 4e-5, "sync"),
    "cityscapes_xception71": (90_000, 0.01, 16, 769, 16, 4e-5, "sync"),
    "ade20k_xception65": (150_000, 0.007, 16, 513, 16, 4e-5, "sync"),
}


@pytest.mark.parametrize("name", PAPERS)
def test_numbers_are_the_papers(name: str) -> None:
    c = RECIPES[name]()
    numbers = (c.steps, c.base_lr, c.batch_size, c.crop_size[0], c.network.output_stride,
               c.weight_decay)  # fmt: skip
    assert (*numbers, c.batch_norm) == PAPERS[name]
    assert c.crop_size[0] == c.crop_size[1]
    assert (c.schedule, c.optimizer) == ("poly", "sgd")
    assert (c.scale_range, c.flip) == ((0.5, 2.0), 0.5)
    assert (c.bias_multiplier, c.head_multiplier) == (2.0, 1.0)
    assert c.batch_norm_momentum is None
    assert c.photometric == 0


def test_numbers_of_imagenet_are_the_papers() -> None:
    """Fact sheet, 3.1 and the classification head of 1.1."""
    c = RECIPES["imagenet_xception65"]()
    assert c.task == "classification"
    assert (c.network.backbone, c.network.output_stride) == ("xception65", 32)
    assert c.optimizer == "nesterov"
    assert (c.base_lr, c.weight_decay, c.batch_size) == (0.05, 4e-5, 32)
    assert c.crop_size == (299, 299)
    assert c.schedule == "staircase"
    assert c.decay_steps == int(2 * 1_281_167 / c.batch_size)  # slim's rule for two epochs
    assert c.steps == 50 * c.decay_steps
    assert (c.batch_norm, c.batch_norm_momentum) == ("train", None)
    assert (c.bias_multiplier, c.head_multiplier, c.losses) == (1.0, 1.0, "cross_entropy")


@pytest.mark.parametrize("name", RECIPES)
def test_docstring_gives_command_and_scores(name: str) -> None:
    text = inspect.getdoc(RECIPES[name]) or ""
    assert f"atrous train {name} " in text
    assert "Paper:" in text
    assert "ere: " in text  # Here: what was measured, or "not run"


def _strip(x: int) -> list[int]:
    return [x, 0, x + 30, 0, x + 30, 72, x, 72]


def _coco(root: Path) -> None:
    """Pictures of a dog and of a toothbrush, which is no class of VOC."""
    categories = [
        {"id": 5, "name": "airplane"},
        {"id": 18, "name": "dog"},
        {"id": 90, "name": "toothbrush"},
    ]
    missing = sorted({name.rpartition("=")[2] for name in RECIPES["coco_xception65"]().names})
    missing = [name for name in missing if name not in ("background", "airplane", "dog")]
    categories += [{"id": 100 + k, "name": name} for k, name in enumerate(missing)]
    for split in ("train2017", "val2017"):
        box = {"area": 1.0, "bbox": [0, 0, 1, 1], "iscrowd": 0, "image_id": 1}
        content = {
            "images": [{"id": 1, "file_name": "1.jpg", "height": 72, "width": 96}],
            "categories": categories,
            "annotations": [
                {**box, "id": x, "category_id": category, "segmentation": [_strip(x)]}
                for x, category in ((0, 18), (30, 5), (60, 90))
            ],
        }
        trees.write(root / f"annotations/instances_{split}.json", json.dumps(content))
        trees.save(root / split / "1.jpg", trees.picture())


def _ade20k(root: Path) -> None:
    for seed, split in enumerate(("training", "validation")):
        trees.save(root / f"images/{split}/ADE_{split}_1.jpg", trees.picture(seed))
        trees.save(
            root / f"annotations/{split}/ADE_{split}_1.png", trees.blocks(150, seed, first=1)
        )


def _cityscapes(root: Path) -> None:
    for seed, split in enumerate(("train", "val")):
        stem = f"{split}/ulm/ulm_00000{seed}_000019"
        trees.save(root / f"leftImg8bit/{stem}_leftImg8bit.png", trees.picture(seed))
        trees.save(root / f"gtFine/{stem}_gtFine_labelIds.png", trees.blocks(34, seed))


def _camvid(root: Path) -> None:
    for seed, split in enumerate(("train", "val")):
        trees.save(root / split / "1.png", trees.picture(seed))
        trees.save(root / f"{split}annot" / "1.png", trees.blocks(12, seed))


def _street(root: Path) -> None:
    """The layout that scripts/street_data.py writes."""
    for seed, split in enumerate(("train", "val")):
        trees.save(root / f"images/{split}/a.jpg", trees.picture(seed))
        trees.save(root / f"masks/{split}/a.png", trees.blocks(19, seed))
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(CITYSCAPES.classes))
    head = "path: .\ntrain: images/train\nval: images/val\nmasks_dir: masks\nnames:\n"
    trees.write(root / "data.yaml", head + names)


MADE: dict[str, Callable[[Path], object]] = {
    "street_data": _street,
    "street_data_end": _street,
    "scenes": lambda root: None,
    "camvid": _camvid,
    "voc2012": lambda root: trees.voc(root, {"train_aug": 2, "val": 1}),
    "VOC2012": lambda root: trees.voc(root, {"train": 2, "trainaug": 2, "trainval": 2, "val": 1}),
    "imagenet": lambda root: image_folder(root, train=1, val=1),
    "coco": _coco,
    "cityscapes": _cityscapes,
    "ADEChallengeData2016": _ade20k,
}
CLASSES = {
    "scenes": 7, "camvid": 11, "voc_animals": 21, "coco_xception65": 21, "imagenet_xception65": 3,
    "ade20k_xception65": 150, "street": 19, "street_end": 19, "cityscapes_xception65": 19,
    "cityscapes_xception71": 19,
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_planned_on_the_layout_it_names(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that have to be downloaded are left out, and so is the measured step."""
    config = RECIPES[name]()
    monkeypatch.setattr(planning, "free_memory", lambda _: 1)
    data = config.data
    if data != "scenes":
        MADE[data](tmp_path / data)
        data = str(tmp_path / data)
    planned = planning.plan(replace(config, data=data, weights=None, graft=False))
    assert f"network      {config.network.backbone}, output stride" in str(planned)
    assert f"steps        {config.steps} of {config.batch_size} crops" in str(planned)
    train_data, val_data = open_data(replace(config, data=data))
    assert len(train_data.classes) == len(val_data.classes) == CLASSES.get(name, 21)


def test_coco_becomes_vocs_classes(tmp_path: Path) -> None:
    _coco(tmp_path)
    config = replace(RECIPES["coco_xception65"](), data=str(tmp_path))
    data, _ = open_data(config)
    assert data.classes == VOC.classes
    labels = data[0].target[0, [10, 45, 80]].tolist()
    assert [VOC.classes[label] for label in labels] == ["dog", "aeroplane", "background"]


def test_weights_of_an_earlier_run_are_asked_for(tmp_path: Path) -> None:
    trees.voc(tmp_path, {"trainval": 2, "val": 1})
    config = replace(RECIPES["voc_xception65_trainval"](), data=str(tmp_path))
    with pytest.raises(AtrousError) as caught:
        create_network(config, open_data(config)[0])
    assert caught.value.code == "E-WEIGHTS-RUN"
    assert "voc_xception65" in caught.value.what
    assert "--weights RUN" in caught.value.fix


@pytest.mark.parametrize("name", built_in.names())
def test_the_name_of_a_built_in_model_is_its_weights_also_if_a_recipe_has_it(
    tmp_path: Path, name: str
) -> None:
    trees.voc(tmp_path, {"train": 2, "val": 1})
    config = replace(RECIPES["camvid"](), data=str(tmp_path), weights=name, graft=False)
    network = create_network(config, open_data(config)[0])
    training = network.provenance.training
    assert training is not None
    assert training.initial_weights.startswith(name)


@pytest.mark.slow
def test_scenes_reach_90_on_other_seeds(tmp_path: Path) -> None:
    """`benchmarks/scenes.py` also measures the time."""
    import atrous

    atrous.train(RECIPES["scenes"](), tmp_path / "run")
    scores = atrous.evaluate(atrous.load(tmp_path / "run"), atrous.data.scenes(20261125, 100))
    assert scores.mean_iou is not None
    assert scores.mean_iou >= 0.90
