"""The evaluator: protocol, streams, faults. Small networks and made-up pictures."""

import json

import numpy as np
import pytest
import torch

from atrous import create_model
from atrous.classes import numbered
from atrous.engines.torch import TorchEngine
from atrous.errors import AtrousError
from atrous.evaluation import evaluator, metrics
from atrous.evaluation.evaluator import evaluate
from atrous.evaluation.networks import open_network
from atrous.export.export import export

K = 4
CLASSES = numbered(K).classes


class Painted:
    """A data set of coloured rectangles; sizes differ."""

    palette = numbered(K).palette

    def __init__(self, count=5, classes=CLASSES, unlabelled=(), seed=0, k=K):
        rng = np.random.default_rng(seed)
        self.classes = classes
        self.names = [f"p{i}" for i in range(count)]
        self.samples = []
        for i in range(count):
            height, width = rng.integers(20, 60, 2)
            target = np.zeros((height, width), np.uint8)
            target[5:15, 4:18] = rng.integers(1, k)
            target[10:18, 10:30] = rng.integers(1, k)
            image = (np.stack([target] * 3, -1) * 60 + rng.integers(0, 9)).astype(np.uint8)
            target[:, -2:] = 255
            if i in unlabelled:
                target[:] = 255
            self.samples.append((image, target))

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]

    def fingerprint(self):
        return "f" * 64


class ByColour:
    """An engine that reads the class from the picture's brightness, at stride 1."""

    classes, palette = CLASSES, numbered(K).palette
    logits_stride = 1
    fingerprint = "e" * 64

    def coarse_logits(self, image):
        brightness = image[..., :1].astype(np.float32) / 60
        return -10 * np.abs(brightness - np.arange(len(self.classes), dtype=np.float32))


class Wrong(ByColour):
    """The same, but it never finds class 1."""

    fingerprint = "d" * 64

    def coarse_logits(self, image):
        logits = super().coarse_logits(image)
        logits[..., 1] = -100
        return logits


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("mobilenet_v2", num_classes=K, depth_multiplier=0.25).eval()


def test_engine_that_is_right_scores_one_at_every_size():
    scores = evaluate(ByColour(), Painted())
    assert scores.mean_iou == 1
    assert scores.pixel_accuracy == 1
    assert scores.mean_iou_interval == (1, 1)
    assert set(scores.trimap) == set(range(1, 41))
    assert scores.trimap[1] == 1


def test_counts_are_of_the_original_resolution_and_the_whole_set(model):
    data = Painted()
    seen = []
    scores = evaluate(model, data, on_picture=seen.append)
    total = np.zeros((K, K), np.int64)
    for (_, target), outcome in zip(data.samples, seen, strict=True):
        assert outcome.labels.shape == target.shape
        total += metrics.confusion_matrix(target, outcome.labels, K)
    np.testing.assert_array_equal(scores.confusion, total)
    assert scores.mean_iou == pytest.approx(metrics.mean_iou(total))
    assert scores.protocol["labelled_pixels"] == sum(
        (target != 255).sum() for _, target in data.samples
    )
    assert [outcome.name for outcome in seen] == data.names


def test_labels_are_the_models_own_forward(model):
    data, seen = Painted(), []
    evaluate(model, data, on_picture=seen.append)
    for outcome in seen:
        with torch.inference_mode():
            logits = model(torch.tensor(outcome.image).permute(2, 0, 1)[None])
        assert (outcome.labels == logits.argmax(1)[0].numpy()).mean() > 0.99


def test_order_of_the_pictures_does_not_matter(model):
    data = Painted()
    forward = evaluate(model, data)
    data.samples.reverse()
    backward = evaluate(model, data)
    np.testing.assert_array_equal(forward.confusion, backward.confusion)
    assert forward.trimap == backward.trimap


def test_torch_model_and_its_engine_score_alike(model):
    ours, theirs = evaluate(model, Painted()), evaluate(TorchEngine(model), Painted())
    assert ours.mean_iou == pytest.approx(theirs.mean_iou, abs=0.005)


def test_exported_model_scores_as_the_torch_model(tmp_path):
    torch.manual_seed(0)
    options = {"depth_multiplier": 0.1, "decoder": False, "atrous_rates": ()}
    model, data = create_model("mobilenet_v2", num_classes=K, **options).eval(), Painted(3)
    ours = evaluate(model, data)
    export(model, tmp_path / "model.onnx")
    theirs = evaluate(tmp_path / "model.onnx", data)
    assert theirs.protocol["engine"].startswith("OpenVINO 20")
    assert theirs.protocol["precision"] == "float32"
    assert abs(theirs.confusion - ours.confusion).sum() <= 2e-3 * ours.confusion.sum()
    assert abs(theirs.minus(ours).mean_iou) < 1e-3


def test_model_keeps_its_mode_stride_and_weights(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    try:
        scores = evaluate(model, Painted(2), output_stride=8)
        assert model.training
        assert model.output_stride == 16
        assert scores.protocol["output_stride"] == 8
    finally:
        model.eval()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("stride", [8, 32])
def test_any_output_stride_is_that_of_a_model_built_for_it(stride):
    def build(output_stride):
        torch.manual_seed(0)
        options = {"num_classes": K, "depth_multiplier": 0.25, "decoder": False}
        return create_model("mobilenet_v2", output_stride=output_stride, **options).eval()

    changed = evaluate(build(16), Painted(2), output_stride=stride)
    built = evaluate(build(stride), Painted(2))
    assert changed.protocol["logits_stride"] == stride
    np.testing.assert_array_equal(changed.confusion, built.confusion)


def test_mode_and_stride_come_back_after_an_error(model):
    with pytest.raises(AtrousError, match="E-PAD-SIZE"):
        evaluate(model.train(), Painted(), output_stride=8, pad_to=21)
    assert model.training
    assert model.output_stride == 16
    model.eval()


def test_output_stride_of_an_exported_model_cannot_change():
    with pytest.raises(AtrousError, match="E-OUTPUT-STRIDE"):
        evaluate(ByColour(), Painted(), output_stride=8)


@pytest.mark.parametrize(
    "options", [{"flip": True}, {"scales": (0.5, 1.0)}, {"pad_to": 65}, {"window": 33}]
)
def test_every_protocol_is_said_in_the_result(model, options):
    protocol = evaluate(model, Painted(2), **options).as_dict()["protocol"]
    name, value = next(iter(options.items()))
    expected = [value, value] if isinstance(value, int) and value is not True else value
    assert protocol[name] == (list(expected) if isinstance(expected, tuple) else expected)


def test_result_is_json_with_the_contracts_keys(model):
    result = json.loads(json.dumps(evaluate(model, Painted()).as_dict(), allow_nan=False))
    assert {"mean_iou", "pixel_accuracy", "class_iou", "trimap", "protocol"} <= set(result)
    assert list(result["class_iou"]) == list(CLASSES)
    assert list(result["trimap"]) == [str(width) for width in range(1, 41)]
    for key in (
        "scales", "flip", "sizes", "output_stride", "engine", "precision", "data_fingerprint",
        "model_fingerprint", "absent_classes", "trimap",
    ):  # fmt: skip
        assert key in result["protocol"]


def test_absent_class_has_no_iou_and_is_left_out():
    data = Painted(k=3)  # class_3 never occurs
    scores = evaluate(ByColour(), data)
    assert scores.class_iou["class_3"] is None
    assert scores.mean_iou == 1


def test_mean_over_named_classes():
    every, chosen = (
        evaluate(Wrong(), Painted(20), classes=names) for names in (None, ["class_0", "class_2"])
    )
    assert every.class_iou == chosen.class_iou
    ious = chosen.class_iou
    assert chosen.mean_iou == pytest.approx((ious["class_0"] + ious["class_2"]) / 2)
    assert chosen.protocol["mean_over"] == ["class_0", "class_2"]


def test_misspelt_class_is_named_with_the_nearest():
    with pytest.raises(AtrousError, match=r"(?s)E-UNKNOWN-NAME.*class_2"):
        evaluate(ByColour(), Painted(), classes=["clas_2"])


def test_empty_set_is_refused():
    with pytest.raises(AtrousError, match="E-DATA-EMPTY") as caught:
        evaluate(ByColour(), Painted(0))
    assert caught.value.exit_code == 4


def test_pictures_without_labels_do_not_count_but_are_counted():
    scores = evaluate(ByColour(), Painted(5, unlabelled=(1, 3)))
    assert scores.protocol["pictures"] == 5
    assert scores.protocol["pictures_without_labels"] == 2
    assert scores.mean_iou == 1


def test_set_without_any_label_is_refused():
    with pytest.raises(AtrousError, match="E-DATA-UNLABELLED"):
        evaluate(ByColour(), Painted(3, unlabelled=range(3)))


def test_wrong_number_of_classes_is_refused():
    with pytest.raises(AtrousError, match=r"2 .*4.*cat, dog.*E-CLASSES"):
        evaluate(ByColour(), Painted(classes=("cat", "dog"), k=2))


def test_other_names_are_matched_by_index_with_a_warning(caplog):
    assert evaluate(ByColour(), Painted(classes=("a", "b", "c", "d"))).mean_iou == 1
    assert "matched by index" in caplog.text


def test_other_order_or_a_part_of_the_classes_is_matched_by_name(caplog):
    data = Painted(classes=("class_3", "class_0"), k=2)
    scores = evaluate(ByColour(), data)
    assert "by name" in caplog.text
    assert scores.protocol["class_matching"] == "by name"
    # Labels 0 and 1 mean class_3 and class_0, which this engine sees as 0 and 1.
    assert scores.confusion[3].sum() == scores.confusion[3, 0] > 0
    assert scores.confusion[0].sum() == scores.confusion[0, 1] > 0


def test_labels_of_another_size_are_refused():
    data = Painted(3)
    data.samples[1] = (data.samples[1][0], data.samples[1][1][:-1])
    with pytest.raises(AtrousError, match=r"p1: .*E-DATA-SIZE"):
        evaluate(ByColour(), data)


def test_invalid_label_is_refused():
    data = Painted(3)
    data.samples[1][1][0, 0] = 77
    with pytest.raises(AtrousError, match=r"4 .*77.*E-METRICS-RANGE"):
        evaluate(ByColour(), data)


def test_unreadable_picture_ends_the_evaluation():
    class Broken(Painted):
        def __getitem__(self, index):
            if index == 2:
                raise AtrousError("E-IMAGE-BROKEN", "truncated", where="p2.jpg")
            return super().__getitem__(index)

    with pytest.raises(AtrousError) as caught:
        evaluate(ByColour(), Broken())
    assert (caught.value.code, caught.value.where) == ("E-IMAGE-BROKEN", "p2.jpg")


def test_pairs_without_names_or_classes_are_data_too():
    pairs = Painted().samples
    scores = evaluate(ByColour(), pairs)
    assert scores.mean_iou == 1
    assert scores.names[0] == "picture 0"
    assert scores.protocol["data_fingerprint"] is None


@pytest.mark.parametrize(
    ("classes", "recall"),
    [(("background", "road"), 0.0), (("road", "background"), 1.0), (("a", "b", "c"), None)],
)
def test_two_classes_have_the_scores_of_the_one_that_is_looked_for(classes, recall):
    engine, data = Wrong(), Painted(2, classes=classes, k=2)
    engine.classes, engine.palette = classes, numbered(len(classes)).palette
    data.palette = engine.palette
    scores = evaluate(engine, data, trimap=None).as_dict()
    assert scores.get("recall") == recall
    assert ("dice" in scores) == ("precision" in scores) == (len(classes) == 2)
    if recall == 0:
        assert (scores["dice"], scores["precision"]) == (0, None)


def test_boundary_measures_can_be_left_out(model):
    scores = evaluate(model, Painted(2), trimap=None)
    assert scores.trimap == {}
    assert "boundary_iou" not in scores.as_dict()


def test_paired_difference_tells_two_models_apart():
    good, bad = evaluate(ByColour(), Painted(20)), evaluate(Wrong(), Painted(20))
    gain = good.minus(bad)
    assert gain.mean_iou == pytest.approx(good.mean_iou - bad.mean_iou)
    assert 0 < gain.low < gain.mean_iou < gain.high
    assert gain.better == 1


def test_paired_difference_at_borders_is_that_of_the_narrowest_band():
    good, bad = evaluate(ByColour(), Painted(20)), evaluate(Wrong(), Painted(20))
    gain = good.minus_at_borders(bad)
    assert gain.mean_iou == pytest.approx(good.trimap[1] - bad.trimap[1])
    assert gain.low <= gain.mean_iou <= gain.high
    with pytest.raises(AtrousError, match="E-COMPARE"):
        good.minus_at_borders(evaluate(Wrong(), Painted(20), trimap=None))


def test_difference_needs_the_same_pictures():
    with pytest.raises(AtrousError, match="E-COMPARE"):
        evaluate(ByColour(), Painted(seed=0)).minus(evaluate(ByColour(), Painted(seed=1)))


def same(first, second) -> bool:
    """Returns whether two results are the same bytes, but for the time they took."""
    texts = [json.dumps({**scores.as_dict(), "seconds": None}) for scores in (first, second)]
    return texts[0] == texts[1]


@pytest.mark.slow
def test_scores_of_several_processes_are_the_same_bytes(tmp_path):
    data = Painted(7, unlabelled=(2,))
    torch.manual_seed(0)
    model = create_model("mobilenet_v2", num_classes=K, depth_multiplier=0.25).eval()
    path = tmp_path / "model.onnx"
    export(model, path)
    seen = []
    one = evaluate(path, data, scales=(1.0, 0.5))
    two = evaluate(path, data, scales=(1.0, 0.5), jobs=2, on_picture=seen.append)
    assert same(one, two)
    assert [(o.position, o.name) for o in seen] == list(enumerate(data.names))


def test_counts_of_single_pictures_add_up_to_the_same_bytes(monkeypatch):
    data = Painted(6, unlabelled=(2,))
    monkeypatch.setattr(evaluator, "_held", ())
    monkeypatch.setattr(evaluator, "open_engine", lambda *_, **__: ByColour())
    monkeypatch.setattr(evaluator, "open_network", lambda _: open_network(ByColour()))
    monkeypatch.setattr(evaluator, "ignore_interrupts", lambda: None)
    monkeypatch.setattr(evaluator, "ProcessPoolExecutor", Inline)
    assert same(evaluate(ByColour(), data), evaluate("m", data, jobs=2))


class Inline:
    """A pool of processes that is this process."""

    def __init__(self, jobs, context, initializer, initargs):
        initializer(*initargs)

    def map(self, function, items):
        return map(function, items)

    def shutdown(self, **_):
        pass


def test_several_jobs_need_a_model_that_processes_can_open():
    with pytest.raises(AtrousError) as caught:
        evaluate(ByColour(), Painted(1), jobs=2)
    assert caught.value.code == "E-JOBS"
