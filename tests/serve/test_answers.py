"""Answers equal what `Predictor` and `atrous predict` give, bit for bit."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import atrous
from atrous.predict.rle import decode_coco
from atrous.serve.server import Server
from atrous.serve.settings import Settings
from tests.engines.test_openvino import tiny
from tests.serve.clients import ask, encoded, labels_of, noise

NAMES = ("dark", "light")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("model") / "tiny.onnx", gain=0.01)


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with Server(Settings(models=(str(model),), port=0, workers=1, max_bytes=1_000_000)) as made:
        yield made


def pictures() -> dict[str, bytes]:
    image = Image.fromarray(np.kron(noise(6, 9), np.ones((9, 7, 1), np.uint8)))
    turned = Image.Exif()
    turned[274] = 6
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    alpha = image.copy()
    alpha.putalpha(image.convert("L"))
    return {
        "png": encoded(image),
        "jpeg": encoded(image, "JPEG"),
        "turned jpeg": encoded(image, "JPEG", exif=turned),
        "cmyk jpeg": encoded(image.convert("CMYK"), "JPEG"),
        "webp": encoded(image, "WEBP"),
        "avif": encoded(image, "AVIF"),
        "heic": (Path(__file__).parents[1] / "assets/quarters.heic").read_bytes(),
        "gif": encoded(image, "GIF"),
        "bmp": encoded(image, "BMP"),
        "ppm": encoded(image, "PPM"),
        "tiff": encoded(image, "TIFF", compression="tiff_deflate"),
        "palette png": encoded(image.convert("P")),
        "16-bit png": encoded(deep),
        "transparent png": encoded(alpha),
        "1x1": encoded(image.resize((1, 1))),
    }


@pytest.mark.parametrize("kind", pictures())
def test_labels_equal_the_predictors_for_every_kind(
    kind: str, server: Server, model: Path, tmp_path: Path
) -> None:
    if kind == "heic":
        pytest.importorskip("pi_heif", reason="needs pi-heif: extra heif")
    (tmp_path / "picture").write_bytes(pictures()[kind])
    expected = atrous.Predictor(model)(tmp_path / "picture").labels
    np.testing.assert_array_equal(labels_of(ask(server, body=pictures()[kind])), expected)


def test_png_and_overlay_are_the_bytes_predict_writes(
    server: Server, model: Path, tmp_path: Path
) -> None:
    body = pictures()["turned jpeg"]
    (tmp_path / "a.jpg").write_bytes(body)
    atrous.Predictor(model)(tmp_path / "a.jpg").save(tmp_path, "a")
    assert ask(server, body=body).body == (tmp_path / "a.labels.png").read_bytes()
    overlay = ask(server, "/v1/segment?format=overlay", body)
    assert overlay.headers["content-type"] == "image/jpeg"
    assert overlay.body == (tmp_path / "a.overlay.jpg").read_bytes()
    answer = ask(server, "/v1/segment?format=json", body).json
    record = json.loads((tmp_path / "a.json").read_text())
    assert (answer["size"], answer["areas"]) == (record["size"], record["areas"])


def test_run_lengths_decode_to_the_labels(server: Server, model: Path) -> None:
    image = noise(31, 44)
    labels = atrous.Predictor(model)(image).labels
    answer = ask(server, "/v1/segment?format=rle", encoded(image)).json
    assert answer["size"] == [31, 44]
    for mask in answer["masks"]:
        np.testing.assert_array_equal(decode_coco(mask["rle"], (31, 44)), labels == mask["label"])
        assert mask["class"] == NAMES[mask["label"]]
    (one,) = ask(server, "/v1/segment?format=rle&classes=light", encoded(image)).json["masks"]
    assert one["class"] == "light"


def test_arrays_hold_labels_and_the_probabilities_asked_for(server: Server, model: Path) -> None:
    image = noise(31, 44)
    result = atrous.Predictor(model)(image)
    answer = ask(server, "/v1/segment?format=npz&classes=light,dark", encoded(image))
    with np.load(io.BytesIO(answer.body), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["labels"], result.labels)
        assert arrays["classes"].tolist() == list(result.classes)
        assert arrays["probability_of"].tolist() == ["light", "dark"]
        np.testing.assert_array_equal(arrays["probability"][0], result.probability("light"))


def test_classes_not_asked_for_are_unknown(server: Server, model: Path) -> None:
    image = noise(31, 44)
    labels = atrous.Predictor(model)(image).labels
    only = labels_of(ask(server, "/v1/segment?classes=light", encoded(image)))
    np.testing.assert_array_equal(only, np.where(labels == 1, 1, 255))
    areas = ask(server, "/v1/segment?format=json&classes=light", encoded(image)).json["areas"]
    assert set(areas) == {"light"}
    overlay = ask(server, "/v1/segment?format=overlay&classes=dark", encoded(image))
    assert Image.open(io.BytesIO(overlay.body)).size == (44, 31)


def test_a_cutout_is_the_predictors(server: Server, model: Path) -> None:
    image = noise(31, 44)
    for names in (("light",), ("dark", "light")):
        answer = ask(server, f"/v1/segment?format=cutout&classes={','.join(names)}", encoded(image))
        expected = atrous.Predictor(model)(image).cutout(*names)
        np.testing.assert_array_equal(Image.open(io.BytesIO(answer.body)), expected)


def test_a_longer_side_is_reduced_to_max_side(server: Server) -> None:
    turned = Image.Exif()
    turned[274] = 6
    body = encoded(noise(400, 200), "JPEG", exif=turned)
    assert labels_of(ask(server, "/v1/segment?max_side=40", body)).shape == (20, 40)
    for kind in ("PNG", "JPEG"):
        body = encoded(noise(200, 400), kind)
        assert labels_of(ask(server, "/v1/segment?max_side=100", body)).shape == (50, 100)
        assert labels_of(ask(server, "/v1/segment?max_side=400", body)).shape == (200, 400)
        assert labels_of(ask(server, "/v1/segment?max_side=999", body)).shape == (200, 400)


@pytest.mark.parametrize("kind", ["png", "overlay", "json", "rle", "npz", "cutout&classes=dark"])
def test_a_picture_of_one_long_row_is_answered_in_every_format(kind: str, server: Server) -> None:
    body = encoded(noise(1, 70_000))
    assert ask(server, f"/v1/segment?format={kind}", body).status == 200


def test_metadata_of_the_picture_does_not_leave(server: Server) -> None:
    exif = Image.Exif()
    exif[270] = "SECRET"
    body = encoded(noise(9, 9), "JPEG", exif=exif, comment=b"SECRET")
    assert b"SECRET" in body
    for kind in ("png", "overlay", "cutout&classes=dark"):
        assert b"SECRET" not in ask(server, f"/v1/segment?format={kind}", body).body


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("format=pgn", "did you mean 'png'?"),
        ("classes=ligth", "did you mean 'light'?"),
        ("classes=", "known: dark, light"),
        ("model=tyni", "did you mean 'tiny'?"),
        ("max_size=5", "did you mean 'max_side'?"),
        ("max_side=0", "1500"),
        ("max_side=-5", "1500"),
        ("max_side=5.5", "1500"),
        ("format=png&format=json", "once"),
        ("format=cutout", "classes=NAME"),
    ],
)
def test_options_that_cannot_be_say_what_can(query: str, hint: str, server: Server) -> None:
    answer = ask(server, f"/v1/segment?{query}", encoded(noise(5, 5)))
    assert answer.status == 422
    assert hint in answer.json["hint"]


def test_a_compressed_body_is_refused(server: Server) -> None:
    answer = ask(server, body=encoded(noise()), headers={"Content-Encoding": "gzip"})
    assert (answer.status, answer.json["code"]) == (415, "E-CONTENT-ENCODING")


def test_methods_that_do_not_fit_are_named(server: Server) -> None:
    answer = ask(server, "/v1/segment")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert ask(server, "/v1/models", b"x").status == 405


def test_the_model_says_what_it_is_and_its_file_stays(server: Server) -> None:
    model = ask(server, "/v1/model").json
    assert model == ask(server, "/v1/models").json[0]
    assert (model["name"], model["classes"]) == ("tiny", list(NAMES))
    assert model["file"] is None
    assert model["precision"] == ask(server, body=encoded(noise())).headers["atrous-precision"]
    assert model["precision"] == "fp32"
    assert ask(server, "/v1/models/tiny/file").status == 404


def test_the_interface_is_described(server: Server) -> None:
    described = ask(server, "/openapi.json").json
    assert described["openapi"].startswith("3.")
    for path, methods in described["paths"].items():
        for method in methods:
            url = path.replace("{name}", "tiny")
            body = encoded(noise()) if method == "post" else None
            assert ask(server, url, body).status in (200, 404), path
    parameters = described["paths"]["/v1/segment"]["post"]["parameters"]
    assert {each["name"] for each in parameters} == {"format", "classes", "max_side", "model"}


def test_metrics_count_what_was_answered(server: Server) -> None:
    def count(status: int) -> int:
        text = ask(server, "/metrics").body.decode()
        name = f'atrous_requests_total{{model="tiny",status="{status}"}} '
        return sum(int(line.removeprefix(name)) for line in text.splitlines() if name in line)

    before = count(200), count(415)
    ask(server, body=encoded(noise()))
    ask(server, body=b"no picture")
    assert (count(200), count(415)) == (before[0] + 1, before[1] + 1)
    for line in ask(server, "/metrics").body.decode().splitlines():
        assert line.startswith("# ") or float(line.rpartition(" ")[2]) >= 0
