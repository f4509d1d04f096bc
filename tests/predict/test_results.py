"""What people do with a result: masks, cut-outs, polygons, pictures in a notebook."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image, ImageDraw

from atrous.cli import main
from atrous.errors import AtrousError
from atrous.predict.predictor import Predictor
from tests.fake_engine import BrightestChannel


class Soft(BrightestChannel):
    """Colours far from each other are certain, a blend of two is not."""

    def coarse_logits(self, image):
        return super().coarse_logits(image) / 20


@pytest.fixture
def result():
    image = Image.new("RGB", (320, 200), (200, 10, 10))
    ImageDraw.Draw(image).ellipse((60, 40, 200, 160), fill=(10, 10, 200))
    return Predictor(Soft())(image)


def test_a_mask_is_the_pixels_of_a_class(result):
    mask = result.mask("blue")
    assert (mask.dtype, mask.shape) == (bool, (200, 320))
    assert np.array_equal(mask, result.labels == 2)
    assert mask.mean() == pytest.approx(result.areas["blue"])
    assert not result.mask("green").any()


def test_a_cutout_keeps_the_class_and_has_a_soft_edge(result):
    cutout = result.cutout("blue")
    assert (cutout.mode, cutout.size) == ("RGBA", (320, 200))
    pixels = np.asarray(cutout)
    assert np.array_equal(pixels[..., :3], np.asarray(result.image))
    alpha, sure = pixels[..., 3], result.probability("blue")
    assert (alpha[sure > 0.75] == 255).all()
    assert (alpha[sure < 0.25] == 0).all()
    between = (alpha > 0) & (alpha < 255)
    assert between.any()
    assert (np.diff(alpha.ravel()[np.argsort(sure.ravel())].astype(int)) >= 0).all()


def test_a_cutout_of_several_classes_has_no_seam_between_them(result):
    assert np.asarray(result.cutout("red", "blue"))[..., 3].min() == 255
    assert np.asarray(result.cutout(*result.classes))[..., 3].min() == 255


def test_regions_filled_are_the_mask(result):
    (ring,) = result.regions("blue")
    picture = Image.new("1", (320, 200))
    # Corners lie between pixels; Pillow's lie on them, so its polygon is half a pixel larger.
    ImageDraw.Draw(picture).polygon([tuple(point) for point in ring.tolist()], fill=1)
    filled, mask = np.asarray(picture), result.mask("blue")
    assert (mask <= filled).all()
    x, y = ring.astype(float).T
    area = abs((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2
    assert area == mask.sum()
    assert result.regions("green") == []


@pytest.mark.parametrize("ask", ["mask", "cutout", "regions", "probability"])
def test_classes_the_model_lacks_are_refused(result, ask):
    with pytest.raises(AtrousError) as caught:
        getattr(result, ask)("bleu")
    assert caught.value.code == "E-UNKNOWN-NAME"


def test_confidence_is_the_mean_probability_of_the_chosen_class(result):
    chosen = np.max([result.probability(name) for name in result.classes], axis=0)
    assert result.confidence == pytest.approx(chosen[::4, ::4].mean(), abs=1e-6)
    assert 1 / 3 < result.confidence <= 1


def test_a_notebook_shows_picture_overlay_and_areas(result):
    png = Image.open(io.BytesIO(result._repr_png_()))
    assert png.size[0] == 320
    assert png.size[1] > 200  # the legend
    html = result._repr_html_()
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    sizes = [Image.open(io.BytesIO(base64.b64decode(data))).size for data in pictures]
    assert sizes == [(320, 200)] * 2
    for name, share in result.areas.items():
        assert f"<td>{name}</td><td>{100 * share:.1f} %</td>" in html


def test_names_of_classes_cannot_put_code_into_a_notebook():
    class Hostile(Soft):
        classes = ("<script>alert(1)</script>", "b", "c")

    html = Predictor(Hostile())(np.full((8, 8, 3), (200, 0, 0), np.uint8))._repr_html_()
    assert "<script>" not in html


def test_large_pictures_are_reduced_in_a_notebook():
    wide = Predictor(Soft())(np.zeros((40, 5000, 3), np.uint8))
    assert Image.open(io.BytesIO(wide._repr_png_())).width <= 1024


def test_show_opens_the_overlay_with_its_legend(result, monkeypatch):
    shown = []
    monkeypatch.setattr(Image.Image, "show", lambda image: shown.append(image.size))
    result.show()
    assert shown[0][1] > 200


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.setattr("atrous.predict.predictor.open_engine", lambda _model, **_: Soft())
    Image.new("RGB", (300, 200), "red").save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


@pytest.mark.parametrize(
    ("options", "height"), [([], None), (["--no-legend"], 200), (["--no-overlay"], 0)]
)
def test_the_commands_overlay_has_a_legend_unless_told_otherwise(options, height, photo, capsys):
    out = photo.parent / "out"
    main(["predict", str(photo), "--out", str(out), "--json", *options])
    line = json.loads(capsys.readouterr().out)
    if height == 0:
        assert line["overlay"] is None
        assert not list(out.glob("*.overlay.jpg"))
        return
    with Image.open(line["overlay"]) as overlay:
        assert overlay.width == 300
        assert overlay.height == height if height else overlay.height > 200
    assert Predictor(Soft())(photo).overlay().size == (300, 200)


def test_the_command_cuts_classes_out(photo, capsys):
    out = photo.parent / "out"
    main(
        ["predict", str(photo), "--out", str(out), "--json", "--cutout", "red", "--cutout", "blue"]
    )
    line = json.loads(capsys.readouterr().out)
    assert set(line["cutouts"]) == {"red", "blue"}
    with Image.open(line["cutouts"]["red"]) as cutout:
        assert cutout.mode == "RGBA"
        assert np.asarray(cutout)[..., 3].min() == 255
    for name in ("confidence", "precision"):
        assert name in line


@pytest.mark.parametrize(
    "classes", [("labels", "overlay", "x"), ("traffic light", "traffic_light", "traffic-light")]
)
def test_files_of_classes_never_share_a_name(classes, tmp_path):
    class Named(Soft):
        pass

    Named.classes = classes
    result = Predictor(Named())(np.full((8, 8, 3), (200, 0, 0), np.uint8))
    record = result.save(tmp_path, probabilities=classes, cutouts=classes)
    files = [record["labels"], record["overlay"], *record["probabilities"].values()]
    files += record["cutouts"].values()
    assert len(set(files)) == len(files) == 8
    assert len(list(tmp_path.iterdir())) == 9


def test_precision_is_in_the_record_and_counts_as_finished_work(photo, monkeypatch, capsys):
    engine = Soft()
    monkeypatch.setattr("atrous.predict.predictor.open_engine", lambda _model, **_: engine)
    out = photo.parent / "out"
    for precision, calls in (("fp32", 1), ("fp32", 1), ("bf16", 2), ("bf16", 2), ("fp32", 3)):
        engine.precision = precision
        main(["predict", str(photo), "--out", str(out)])
        assert json.loads((out / "photo.json").read_text())["precision"] == precision
        assert engine.calls == calls
        assert f"1 of 1 done in {precision}" in capsys.readouterr().out


def test_decisions_about_values_are_counted_at_the_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("atrous.predict.predictor.open_engine", lambda *_, **__: BrightestChannel())
    for name, high in (("a", 4000), ("b", 4095), ("c", 65535)):
        Image.fromarray(np.full((4, 6), high, np.uint16)).save(tmp_path / f"{name}.png")
    Image.new("RGB", (6, 4)).save(tmp_path / "d.png")
    for as_json in ([], ["--json"]):
        main(["predict", str(tmp_path), "--out", str(tmp_path / "out"), *as_json])
        out, err = capsys.readouterr()
        said = err if as_json else out
        assert "2 of them: values from 0 to 4095 became 0 to 255" in said
        assert "1 of them: values from 0 to 65535 became 0 to 255" in said
