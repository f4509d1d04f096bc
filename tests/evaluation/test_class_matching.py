"""Labels of data matched to a model's classes, whoever has more of them."""

import numpy as np
import pytest

from atrous.classes import VOC, pascal_palette
from atrous.errors import AtrousError
from atrous.evaluation.class_matching import match_classes
from atrous.evaluation.evaluator import evaluate

ANIMALS = ("background", "cat", "cow", "dog", "horse", "person", "sheep")


class Labelled:
    """Pictures whose red channel says the true class of VOC: background, cats, a sofa, no void."""

    classes, palette = VOC.classes, VOC.palette
    names = ("one", "two")

    def __len__(self):
        return 2

    def __getitem__(self, index):
        target = np.zeros((24, 30), np.uint8)
        target[4:12, 3:20] = VOC.classes.index("cat")
        target[14:20, 8:28] = VOC.classes.index("sofa")
        target[0] = 255
        return np.stack([target] * 3, -1), target


class Reader:
    """An engine that knows some classes of VOC and takes all others for `instead`."""

    logits_stride = 1

    def __init__(self, classes, instead="background"):
        self.classes, self.palette = classes, pascal_palette(len(classes))
        self.fingerprint = "".join(classes)
        self.known = np.array(
            [classes.index(name if name in classes else instead) for name in VOC.classes]
        )

    def coarse_logits(self, image):
        return np.eye(len(self.classes), dtype=np.float32)[
            self.known[np.minimum(image[..., 0], 20)]
        ]


@pytest.mark.parametrize("classes", [None, ANIMALS])
def test_labels_of_classes_the_model_lacks_count_against_what_is_predicted(classes, caplog):
    scores = evaluate(Reader(ANIMALS, instead="cat"), Labelled(), classes=classes)
    cat, sofa, background = 8 * 17, 6 * 20, 23 * 30 - 8 * 17 - 6 * 20
    assert scores.class_iou["cat"] == pytest.approx(cat / (cat + sofa))
    assert scores.class_iou["background"] == 1
    assert tuple(scores.class_iou) == ANIMALS  # no score for what cannot be predicted
    assert scores.mean_iou == pytest.approx((1 + cat / (cat + sofa)) / 2)
    assert scores.pixel_accuracy == pytest.approx((background + cat) / (23 * 30))
    assert scores.mean_iou == pytest.approx(scores.as_dict()["mean_iou"])
    assert scores.protocol["mean_over"] == list(ANIMALS)
    assert "sofa" in scores.protocol["classes_the_model_lacks"]
    assert "false positive" in scores.protocol["lacking_classes"]
    assert "the model lacks 14 of the data's 21 classes" in caplog.text


def test_a_model_of_fewer_classes_is_judged_as_one_of_all_that_never_predicts_the_others():
    few = evaluate(Reader(ANIMALS), Labelled(), classes=ANIMALS)
    all_of_them = Reader(VOC.classes)
    all_of_them.known = np.array([i if VOC.classes[i] in ANIMALS else 0 for i in range(21)])
    many = evaluate(all_of_them, Labelled(), classes=ANIMALS)
    assert few.class_iou == {name: many.class_iou[name] for name in ANIMALS}
    assert few.mean_iou == many.mean_iou
    assert few.trimap == many.trimap
    assert few.mean_iou_interval == many.mean_iou_interval
    gain = many.minus(few)
    assert (gain.mean_iou, gain.low, gain.high) == (0, 0, 0)


def test_models_with_different_classes_are_compared_over_those_both_average_over():
    few, many = evaluate(Reader(ANIMALS), Labelled()), evaluate(Reader(VOC.classes), Labelled())
    assert many.common_mean_over(few) == tuple(n for n in VOC.classes if n in ANIMALS)
    over_seven = evaluate(Reader(VOC.classes), Labelled(), classes=ANIMALS)
    assert many.minus(few).mean_iou == pytest.approx(over_seven.mean_iou - few.mean_iou)


def test_classes_that_only_partly_agree_need_a_choice_both_know():
    model = Reader(("background", "cat", "unicorn"))
    with pytest.raises(AtrousError, match=r"unicorn.*E-CLASSES") as caught:
        evaluate(model, Labelled())
    assert "background,cat" in str(caught.value)
    assert evaluate(model, Labelled(), classes=("background", "cat")).class_iou["cat"] == 1


def test_spelling_does_not_matter_and_order_follows_the_names():
    class Respelt(Labelled):
        classes = ("Background", "dining table", "TV-monitor")

    match = match_classes(Respelt(), VOC.classes, VOC.palette, None)
    assert match.rule == "by name"
    assert match.lacking == ()
    assert match.values is not None
    assert match.values[:3].tolist() == [0, 11, 20]
    assert set(match.values[3:]) == {255}


def test_as_many_classes_with_one_elsewhere_are_not_matched_by_index():
    class Shuffled(Labelled):
        classes = ("background", "dog", "bird")

    with pytest.raises(AtrousError, match=r"bird.*E-CLASSES"):
        match_classes(Shuffled(), ("background", "cat", "dog"), pascal_palette(3), None)


def test_colours_of_classes_the_model_lacks_are_not_those_of_its_own():
    match = match_classes(Labelled(), ANIMALS, pascal_palette(7), None)
    assert len(match.palette) == len(set(match.palette)) == 21
    assert dict(zip(match.classes, match.palette, strict=True))["sofa"] == VOC.palette[18]
