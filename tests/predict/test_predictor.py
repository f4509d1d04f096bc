import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from atrous.errors import AtrousError
from atrous.predict.predictor import Predictor
from tests.fake_engine import BrightestChannel


@pytest.fixture
def predictor():
    return Predictor(BrightestChannel())


def picture(width=24, height=16):
    image = Image.new("RGB", (width, height), (200, 10, 10))
    image.paste((10, 10, 200), (width // 2, 0, width, height))
    return image


def test_paths_pictures_and_arrays_give_the_same(predictor, tmp_path):
    picture().save(tmp_path / "p.png")
    results = [
        predictor(tmp_path / "p.png"),
        predictor(str(tmp_path / "p.png")),
        predictor(picture()),
        predictor(np.asarray(picture())),
    ]
    assert all(np.array_equal(r.labels, results[0].labels) for r in results)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (24, 16)])
def test_prediction_has_the_pictures_size(predictor, size):
    result = predictor(picture(*size))
    assert result.labels.shape == (size[1], size[0])
    assert result.labels.dtype == np.uint8


def test_areas_are_shares_of_the_picture_largest_first(predictor):
    result = predictor(picture())
    assert sum(result.areas.values()) == pytest.approx(1)
    expected = {"red": (result.labels == 0).mean(), "blue": (result.labels == 2).mean()}
    assert result.areas == pytest.approx(expected)
    assert list(result.areas.values()) == sorted(result.areas.values(), reverse=True)


def test_probabilities_sum_to_one_and_agree_with_the_labels(predictor):
    result = predictor(picture())
    probabilities = np.stack([result.probability(name) for name in result.classes])
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
    assert np.array_equal(probabilities.argmax(0), result.labels)
    with pytest.raises(AtrousError, match="E-UNKNOWN-NAME"):
        result.probability("bleu")


def test_saved_files_hold_what_the_result_says(predictor, tmp_path):
    result = predictor(picture())
    record = result.save(tmp_path, "a/b")
    assert json.loads((tmp_path / "a" / "b.json").read_text()) == record
    with Image.open(record["labels"]) as labels, Image.open(record["overlay"]) as overlay:
        assert np.array_equal(np.asarray(labels), result.labels)
        assert overlay.size == result.image.size
    assert record["size"] == [16, 24]


def test_P12_outputs_carry_no_metadata_of_the_picture(predictor, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "camera"
    exif.get_ifd(0x8825)[29] = "2026:01:01"  # the date in the position
    picture().save(tmp_path / "private.jpg", exif=exif, comment=b"at home")
    record = predictor(tmp_path / "private.jpg").save(tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        for private in (b"camera", b"2026:01:01", b"at home"):
            assert private in (tmp_path / "private.jpg").read_bytes()
            assert private not in path.read_bytes()
    for key in ("labels", "overlay"):
        with Image.open(record[key]) as image:
            assert not image.getexif()


def test_overlay_with_legend_is_taller(predictor):
    result = predictor(picture(200, 50))
    assert result.overlay().size == (200, 50)
    assert result.overlay(legend=True).height > 50


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(4, np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((3, 40, 40), np.uint8),  # channels first
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.int64),
        np.full((4, 4, 3), 255.0),
        np.full((4, 4, 3), -0.1),
        np.full((4, 4, 3), np.nan),
        torch.zeros(2, 3, 4, 4),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(predictor, array):
    with pytest.raises(AtrousError) as caught:
        predictor(array)
    assert caught.value.code == "E-IMAGE-ARRAY"


@pytest.mark.parametrize("source", [3, None, ["a.jpg"], {}])
def test_what_is_no_picture_is_refused(predictor, source):
    with pytest.raises(AtrousError) as caught:
        predictor(source)
    assert caught.value.code == "E-IMAGE-ARRAY"


def test_every_kind_of_source_gives_the_same(predictor, tmp_path):
    image = picture()
    image.save(tmp_path / "p.png")
    content = (tmp_path / "p.png").read_bytes()
    array = np.asarray(image)

    class Pipe:  # a stream that cannot seek
        def read(self):
            return content

    alpha = np.full((16, 24, 1), 255, np.uint8)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    sources = {
        "bytes": content,
        "bytearray": bytearray(content),
        "file object": io.BytesIO(content),
        "pipe": Pipe(),
        "RGBA": np.concatenate([array, alpha], 2),
        "16 bits": array.astype(np.uint16) * 257,
        "float": array / 255,
        "half": (array / 255).astype(np.float16),
        "tensor": tensor,
        "float tensor": tensor.float() / 255,
        "batch of one": tensor[None],
        "bf16 tensor": (tensor.float() / 255).bfloat16(),
    }
    expected = predictor(image).labels
    for kind, source in sources.items():
        assert np.array_equal(predictor(source).labels, expected), kind


@pytest.mark.parametrize(
    "grey",
    [
        np.full((4, 6), 51, np.uint8),
        np.full((4, 6, 1), 51, np.uint8),
        np.full((4, 6), 51 * 257, np.uint16),
        np.full((4, 6), 0.2),
        torch.full((4, 6), 0.2),
        torch.full((1, 4, 6), 51, dtype=torch.uint8),
    ],
)
def test_grey_is_grey_in_every_kind(predictor, grey):
    assert np.unique(np.asarray(predictor(grey).image)).tolist() == [51]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("none.tflite", "E-MODEL-MISSING"),
        ("mobilenetv2_voc_quan", "E-MODEL-MISSING.*\n.*mobilenetv2_voc_quant"),
    ],
)
def test_missing_models_are_refused(name, code):
    with pytest.raises(AtrousError, match=code):
        Predictor(name)


@pytest.mark.parametrize(
    ("photo", "mask", "index", "ignore", "expected"),
    [
        ("bird_segmentation.bmp", "bird_segmentation_mask.bmp", 3, None, 0.90),
        ("dog_segmentation_256.bmp", "dog_segmentation_mask_256.bmp", 12, 2, 0.98),
    ],
)
def test_photographs_are_segmented(shared, photo, mask, index, ignore, expected):
    predictor = Predictor(shared / "weights" / "deeplabv3_mnv2_pascal_quant.tflite")
    found = predictor(shared / "photos" / photo).labels == index
    values = np.asarray(Image.open(shared / "photos" / mask))
    target = values == (3 if ignore is None else 0)
    valid = values != ignore
    iou = (found & target & valid).sum() / ((found | target) & valid).sum()
    assert iou >= expected


def test_pixels_no_class_is_sure_of_are_unknown(tmp_path):
    class Unsure(BrightestChannel):
        def coarse_logits(self, image):
            return super().coarse_logits(image) / 100

    result = Predictor(Unsure(), unknown_below=0.7)(picture(40, 16))
    plain = Predictor(Unsure())(picture(40, 16))
    sure = np.max([plain.probability(name) for name in plain.classes], axis=0) >= 0.7
    assert 0 < sure.mean() < 1
    assert np.array_equal(result.labels, np.where(sure, plain.labels, 255))
    assert result.areas["unknown"] == pytest.approx(1 - sure.mean())
    record = result.save(tmp_path, probabilities=("blue",))
    with Image.open(record["labels"]) as image:
        assert np.array_equal(np.asarray(image), result.labels)
        assert image.getpalette()[-3:] == [255, 255, 255]
    with Image.open(record["probabilities"]["blue"]) as image:
        assert np.abs(np.asarray(image) / 255 - plain.probability("blue")).max() <= 0.5 / 255 + 1e-6
    result.overlay(legend=True)


def test_an_impossible_threshold_is_refused():
    with pytest.raises(AtrousError, match="E-OPTIONS"):
        Predictor(BrightestChannel(), unknown_below=40)


def test_of_pillows_frames_the_one_it_stands_at_is_taken(predictor):
    stream = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    with Image.open(stream) as image:
        image.seek(1)
        result = predictor(image)
    assert (result.labels == 2).all()
    assert result.notes == ("frame 2 of an animation",)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_mode_of_pillow_is_converted_as_its_file_is(predictor, mode, tmp_path):
    grey = picture().convert("L")
    image = Image.fromarray(np.asarray(grey, {"I;16": "u2", "I": "i4", "F": "f4"}[mode])) if (
        mode in ("I;16", "I", "F")
    ) else (grey if mode == "LA" else picture()).convert(mode)  # fmt: skip
    image.save(tmp_path / "p.tif")
    from_file = predictor(tmp_path / "p.tif")
    assert np.array_equal(np.asarray(predictor(image).image), np.asarray(from_file.image))
    assert predictor(image).notes == from_file.notes


def test_the_scale_of_arrays_of_16_bits_is_said(predictor, tmp_path):
    result = predictor(np.full((4, 6, 3), 4095, np.uint16))
    assert np.unique(np.asarray(result.image)).tolist() == [16]
    record = result.save(tmp_path)
    assert record["notes"] == ["values from 0 to 65535 became 0 to 255"]
    assert "notes" not in predictor(np.zeros((4, 6, 3))).save(tmp_path)


@pytest.mark.parametrize("wrong", [2.0, -0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_floats_outside_0_to_1_are_refused_in_every_width(predictor, wrong, dtype):
    tensor = torch.full((3, 4, 4), 0.5, dtype=dtype)
    tensor[0, 0, 0] = wrong
    for source in (tensor, tensor.movedim(0, 2).float().numpy()):
        with pytest.raises(AtrousError) as caught:
            predictor(source)
        assert caught.value.code == "E-IMAGE-ARRAY"
