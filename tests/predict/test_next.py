"""`atrous data next`: uncertain pictures come first, and no two that look alike."""

import json

import numpy as np
import pytest
from PIL import Image

from atrous.cli import main
from atrous.predict.next import Seen, choose, look
from atrous.predict.predictor import Predictor
from atrous.predict.tiled import TiledSegmentation
from tests.fake_engine import BrightestChannel


class Doubtful(BrightestChannel):
    """Logits are the channels from 0 to 2.55: the greyer a pixel, the less sure."""

    def coarse_logits(self, image):
        return super().coarse_logits(image) / 100


def seen(uncertainty, *classes):
    """A picture of 16 cells with one class each, repeated as often as needed."""
    layout = np.eye(3, dtype=np.float32)[np.resize(classes, 16)]
    return Seen(uncertainty, layout)


def draw(path, color, *, other=None, noise=0, size=(32, 48)):
    """A picture of one colour, the right half of another."""
    pixels = np.tile(np.array(color, np.int64), (*size, 1))
    if other is not None:
        pixels[:, size[1] // 2 :] = other
    if noise:
        pixels += np.random.default_rng(noise).integers(-noise, noise + 1, pixels.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


def test_the_most_uncertain_picture_is_first_and_near_copies_of_it_are_passed_over():
    pictures = [seen(0.50, 0), seen(0.49, 0), seen(0.48, 0, 1), seen(0.20, 1), seen(0.30, 2)]
    order = [chosen.place for chosen in choose(pictures, 5)]
    assert order == [0, 4, 2, 3, 1]  # a copy of the first is chosen when nothing else is left
    assert [chosen.difference for chosen in choose(pictures, 3)] == [None, 1.0, 0.5]


def test_certain_pictures_come_after_all_others_that_differ():
    pictures = [seen(0.0, 2), seen(0.4, 0), seen(0.0, 1), seen(0.1, 1), seen(0.1, 0, 2)]
    assert {chosen.place for chosen in choose(pictures, 3)} == {1, 3, 4}


def test_of_equal_pictures_the_first_is_chosen_and_more_than_all_is_all():
    pictures = [seen(0.25, 1)] * 3
    assert [chosen.place for chosen in choose(pictures, 9)] == [0, 1, 2]
    assert choose([], 5) == []


def test_uncertainty_is_one_less_the_confidence_of_predict(tmp_path):
    predictor = Predictor(Doubtful())
    photo = draw(tmp_path / "a.png", (140, 120, 90), other=(20, 200, 90), noise=30)
    found = look(predictor, photo)
    assert found.uncertainty == pytest.approx(1 - predictor(photo).confidence, abs=1e-6)
    assert found.layout.shape == (16, 3)
    np.testing.assert_allclose(found.layout.sum(axis=1), 1, atol=1e-5)


def test_a_picture_seen_in_tiles_looks_as_it_does_whole(tmp_path):
    photo = draw(
        tmp_path / "a.png", (140, 120, 90), other=(20, 200, 90), noise=30, size=(1300, 700)
    )
    whole = look(Predictor(Doubtful()), photo)
    engine = Doubtful()
    engine.bytes_per_pixel = 100
    tiled = Predictor(engine, memory=60_000_000)
    assert isinstance(tiled(photo), TiledSegmentation)
    parts = look(tiled, photo)
    assert parts.uncertainty == pytest.approx(whole.uncertainty, abs=1e-5)
    np.testing.assert_allclose(parts.layout, whole.layout, atol=1e-5)


def test_tiny_pictures_have_empty_cells(tmp_path):
    found = look(Predictor(Doubtful()), draw(tmp_path / "a.png", (9, 9, 9), size=(1, 2)))
    assert np.isfinite(found.layout).all()


@pytest.fixture
def run(monkeypatch, capsys):
    monkeypatch.setattr("atrous.predict.predictor.open_engine", lambda _model, **_: Doubtful())

    def run(*words):
        code = 0
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            code = end.code or 0
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err

    return run


@pytest.fixture
def photos(tmp_path):
    """Twenty near copies of an unclear picture, three others, and three clear pictures."""
    folder = tmp_path / "photos"
    for number in range(20):
        draw(folder / f"copy{number:02}.png", (130, 120, 120), noise=2 + number % 3)
    draw(folder / "other1.png", (90, 150, 90), other=(150, 90, 90))
    draw(folder / "other2.png", (90, 90, 150), other=(90, 150, 90))
    draw(folder / "other3.png", (90, 90, 160))
    for number, color in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255))):
        draw(folder / f"sure{number}.png", color)
    return folder


def test_near_copies_are_not_listed_together(run, photos):
    code, lines, _ = run("data", "next", photos, "--count", 4)
    names = [line.rsplit("/", 1)[1] for line in lines]
    assert code == 0
    assert names[0].startswith("copy")
    assert sum(name.startswith("copy") for name in names) == 1
    assert run("data", "next", photos, "--count", 4)[1] == lines


def test_json_has_figures_and_a_bad_picture_exits_3(run, photos):
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    code, lines, err = run("data", "next", photos, "--count", 3, "--json")
    found = [json.loads(line) for line in lines]
    assert code == 3
    assert "broken.png" in err
    assert [sorted(each) for each in found] == [["difference", "input", "uncertainty"]] * 3
    assert found[0]["difference"] is None
    assert all(0 < each["difference"] <= 1 for each in found[1:])
