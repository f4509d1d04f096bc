"""Scales, flip, padding and windows, against the authors' protocol written out with torch's ops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from atrous import create_model
from atrous.engines.torch import TorchEngine
from atrous.errors import AtrousError
from atrous.evaluation.networks import EngineNetwork, TorchNetwork
from atrous.evaluation.views import Views, segment
from atrous.predict import upsample

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


class Checker:
    """A network whose logits depend on places and colours, with no convolution in the way."""

    logits_stride = 4
    mean_pixel = (127.5, 10.0, 20.0)

    def __init__(self, num_classes: int = 5) -> None:
        self.mix = torch.randn(num_classes, 3, generator=torch.Generator().manual_seed(0)) / 20
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(image.shape[1:]))
        return torch.einsum("kc,chw->khw", self.mix, image[:, ::4, ::4])


def picture(height: int, width: int) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (9, 11, 3)).astype(np.float32)
    x = torch.from_numpy(small).permute(2, 0, 1)[None]
    x = F.interpolate(x, (height, width), mode="bilinear", align_corners=True)[0]
    return x.permute(1, 2, 0).round().byte().numpy()


def authors(network: Checker, image: np.ndarray, crop: int, scales, flip: bool):
    """Pad, resize with align_corners, upsample logits to the crop, softmax, mean, argmax."""
    height, width = image.shape[:2]
    padded = torch.tensor(network.mean_pixel).repeat(crop, crop, 1)
    padded[:height, :width] = torch.tensor(image).float()
    padded = padded.permute(2, 0, 1)[None]
    outputs = []
    for scale in scales:
        side = int((crop - 1) * scale + 1)
        scaled = F.interpolate(padded, (side, side), mode="bilinear", align_corners=True)
        for mirrored in (False, True) if flip else (False,):
            seen = scaled.flip(3) if mirrored else scaled
            logits = network(seen[0])[None]
            logits = F.interpolate(logits, (crop, crop), mode="bilinear", align_corners=True)
            p = logits.softmax(1)
            outputs.append(p.flip(3) if mirrored else p)
    return torch.stack(outputs).mean(0)[0, :, :height, :width]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.5), SCALES])
def test_scales_and_flip_are_the_authors(scales, flip):
    network, image = Checker(), picture(120, 101)
    labels, sample = segment(network, image, Views(scales, flip, pad_to=(129, 129)))
    expected = authors(Checker(), image, 129, scales, flip)
    best = expected.topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-5).numpy()
    np.testing.assert_array_equal(labels[clear], expected.argmax(0).numpy()[clear])
    assert clear.mean() > 0.99
    np.testing.assert_allclose(sample, expected[:, ::4, ::4].permute(1, 2, 0).numpy(), atol=1e-5)


def test_scaled_sizes_of_513_are_the_authors():
    network = Checker()
    segment(network, picture(400, 500), Views(SCALES, pad_to=(513, 513)))
    assert [size[0] for size in network.seen] == [257, 385, 513, 641, 769, 897]


@pytest.mark.parametrize("size", [(64, 97), (65, 97), (33, 50), (1, 1)])
def test_one_scale_through_averaging_equals_the_plain_way(size):
    network, image = Checker(), picture(*size)
    plain, sample = segment(network, image, Views())
    averaged, other = segment(network, image, Views((1.0, 1.0)))
    assert (plain == averaged).mean() > 0.999
    assert sample.shape == other.shape == (math.ceil(size[0] / 4), math.ceil(size[1] / 4), 5)
    np.testing.assert_allclose(sample, other, atol=1e-5)


def test_mirrored_picture_with_flip_gives_mirrored_labels():
    image = picture(65, 97)  # both are k * 4 + 1: mirrored grids coincide
    views = Views((0.75, 1.0), flip=True)
    labels, _ = segment(Checker(), image, views)
    mirrored, _ = segment(Checker(), image[:, ::-1].copy(), views)
    assert (labels == mirrored[:, ::-1]).mean() > 0.999


def test_windows_cover_every_pixel_and_agree_with_the_whole_where_context_is_equal():
    network, image = Checker(), picture(150, 200)
    whole, _ = segment(network, image, Views())
    network.seen.clear()
    slid, _ = segment(network, image, Views(window=(65, 97)))
    assert len(network.seen) == 3 * 3
    assert set(network.seen) == {(65, 97)}
    assert slid.shape == whole.shape
    assert (slid == whole).mean() > 0.97  # windows sample other pixels of the picture


def test_window_larger_than_the_picture_is_the_whole_picture():
    image = picture(50, 60)
    whole, _ = segment(Checker(), image, Views())
    slid, _ = segment(Checker(), image, Views(window=(65, 97)))
    assert (slid == whole).mean() > 0.999


def test_plain_way_is_the_models_own_forward():
    torch.manual_seed(0)
    model = create_model("mobilenet_v2", num_classes=4, depth_multiplier=0.25).eval()
    image = picture(70, 91)
    labels, _ = segment(TorchNetwork(model), image, Views())
    with torch.inference_mode():
        logits = model(torch.tensor(image).permute(2, 0, 1)[None])
    expected = logits.argmax(1)[0].numpy()
    assert (labels == expected).mean() > 0.999


def test_engine_and_torch_network_agree_on_unscaled_pictures():
    torch.manual_seed(0)
    model = create_model("mobilenet_v2", num_classes=4, depth_multiplier=0.25).eval()
    image = picture(70, 91)
    engine = TorchEngine(model)
    for views in (Views(), Views(flip=True)):
        ours, _ = segment(TorchNetwork(model), image, views)
        theirs, _ = segment(EngineNetwork(engine), image, views)
        assert (ours == theirs).mean() > 0.999
    coarse = engine.coarse_logits(image)
    direct = upsample.labels(coarse, engine.logits_stride, image.shape[:2])
    np.testing.assert_array_equal(segment(EngineNetwork(engine), image, Views())[0], direct)


def test_picture_larger_than_the_padding_is_refused():
    with pytest.raises(AtrousError, match=r"a\.jpg: .*70 x 40.*65 x 65.*E-PAD-SIZE"):
        segment(Checker(), picture(70, 40), Views(pad_to=(65, 65)), where="a.jpg")


@pytest.mark.parametrize("scales", [(), (0.0,), (-1.0,), (math.nan,), (math.inf,)])
def test_scales_must_be_positive(scales):
    with pytest.raises(AtrousError, match="E-SCALES"):
        Views(scales)
