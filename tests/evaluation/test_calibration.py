import numpy as np
import pytest
import torch

from atrous.data.dataset import Sample
from atrous.errors import AtrousError
from atrous.evaluation.calibration import divide_logits, fit_temperature
from atrous.evaluation.evaluator import evaluate
from tests.networks import random_network


class Drawn:
    """Pictures whose labels are drawn with the probabilities a network gives."""

    def __init__(self, model, *, scale=1.0, labelled=True):
        generator = torch.Generator().manual_seed(0)
        self.classes, self.palette = model.classes, model.palette
        self.samples = []
        for _ in range(8):
            image = torch.randint(0, 256, (1, 3, 65, 97), dtype=torch.uint8, generator=generator)
            with torch.inference_mode():
                logits = model.coarse_logits(image)[0] * scale
            probabilities = logits.softmax(0).flatten(1).T
            drawn = torch.multinomial(probabilities, 1, generator=generator)
            target = np.full((65, 97), 255, np.uint8)
            if labelled:
                stride = model.logits_stride
                target[::stride, ::stride] = drawn.view(logits.shape[1:]).numpy()
            self.samples.append(Sample(image[0].permute(1, 2, 0).contiguous().numpy(), target))

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


@pytest.fixture
def model():
    model = random_network("mobilenet_v2", num_classes=3).eval()
    with torch.no_grad():
        model.decoder.classifier.weight *= 10
    return model


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_the_temperature_of_labels_drawn_at_another_scale_is_found(model, scale):
    assert fit_temperature(model, Drawn(model, scale=scale)) == pytest.approx(1 / scale, rel=0.15)


def test_division_changes_probabilities_and_no_label(model):
    data = Drawn(model, scale=0.25)
    before = evaluate(model, data, trimap=None)
    divide_logits(model, fit_temperature(model, data))
    after = evaluate(model, data, trimap=None)
    assert np.array_equal(after.confusion, before.confusion)
    error = [s.reliability.expected_calibration_error() for s in (before, after)]
    assert error[1] < error[0] / 2


def test_pictures_without_labels_and_of_other_classes_are_refused(model):
    with pytest.raises(AtrousError) as caught:
        fit_temperature(model, Drawn(model, labelled=False))
    assert caught.value.code == "E-DATA-UNLABELLED"
    data = Drawn(model)
    data.classes = ("a", "b", "c")
    with pytest.raises(AtrousError) as caught:
        fit_temperature(model, data)
    assert caught.value.code == "E-CLASSES"
