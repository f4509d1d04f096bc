"""The page in a browser: labels as in Python, what people do with it, and what it asks for."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import atrous
from atrous.engines import built_in
from atrous.images.decode import read_image
from atrous.predict.upsample import labels as exact_labels
from atrous.serve.site import PAGE, write_site
from tests.serve.browser import Visit, chromium, encoded, entry, host, predictor, service, static
from tests.serve.png_files import png_file

CAT = PAGE / "examples" / "cat.jpg"
NAMES = built_in.names()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `atrous page` wrote."""
    out = tmp_path_factory.mktemp("site")
    write_site(out, NAMES)
    return out


@pytest.fixture(scope="module")
def url(site: Path) -> Iterator[str]:
    with host(static(site.parent)) as address:
        yield f"{address}{site.name}/"  # below a path, as on a Pages host


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def only_visit(browser: object, url: str) -> Iterator[Visit]:
    """A visit that many tests share: loading the network takes a second."""
    visit = Visit(browser, url).open()
    assert all(address.startswith(url) for address in visit.loaded)
    yield visit
    visit.close()


@pytest.fixture
def visit(only_visit: Visit) -> Iterator[Visit]:
    only_visit.requests.clear()
    yield only_visit
    assert all(address.startswith(only_visit.url) for address in only_visit.requests)
    only_visit.tab.evaluate("document.querySelector('[data-do=clear]').click()")
    complaints = only_visit.complaints[:]
    only_visit.complaints.clear()
    assert complaints == []


@pytest.fixture(scope="module")
def cat() -> np.ndarray:
    """A photograph, small for speed."""
    return np.asarray(read_image(CAT).resize((150, 100)))


def noise(height: int, width: int, block: int = 1) -> np.ndarray:
    random = np.random.default_rng(height * width)
    shape = (-(-height // block), -(-width // block), 3)
    small = Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def use(visit: Visit, name: str) -> None:
    if visit.tab.input_value("#model") != name:
        visit.tab.select_option("#model", name)
    visit.wait("window.atrous.ready")


# Labels as in Python


@pytest.mark.parametrize("name", NAMES)
def test_labels_equal_those_of_python_in_every_pixel(visit: Visit, name: str) -> None:
    use(visit, name)
    predict = predictor(name)
    pictures = [image for image, _ in atrous.data.scenes(3, 4)]
    pictures += [noise(1, 1), noise(2, 3), noise(17, 5), noise(33, 47), noise(97, 129, 8)]
    pictures += [np.asarray(read_image(CAT)), noise(196, 258, 16), noise(129, 200)]
    for image in pictures:
        found = visit.segment(image)
        assert found.shape == image.shape[:2]
        assert (found == predict(image).labels).all()
        visit.tab.click("[data-do=clear]")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("block", [1, 16])
def test_large_pictures_differ_where_logits_tie_alone(visit: Visit, name: str, block: int) -> None:
    """Two engines round sums differently: a pixel may differ where two logits are nearly equal."""
    use(visit, name)
    image = noise(770, 1025, block)
    result = predictor(name)(image)
    found = visit.segment(image)
    rows, columns = np.nonzero(found != result.labels)
    assert len(rows) <= 3
    for row, column in zip(rows, columns, strict=True):
        here, there = (result.classes[m[row, column]] for m in (found, result.labels))
        a, b = (float(result.probability(name)[row, column]) for name in (here, there))
        assert abs(a - b) < 1e-4


RULE = """async ([text, rows, columns, classes, stride, width, height]) => {
  const { labelsOf } = await import("./labels.js");
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const logits = new Float32Array(bytes.buffer);
  return labelsOf(logits, { rows, columns, classes }, stride, width, height).join();
}"""


@pytest.mark.parametrize("kind", ["normal", "ties", "units"])
def test_the_rule_for_labels_is_that_of_python_bit_for_bit(visit: Visit, kind: str) -> None:
    random = np.random.default_rng(0)
    cases = [(4, 1, 1), (4, 33, 46), (8, 64, 97), (16, 65, 31), (4, 35, 2), (5, 41, 23)]
    for classes in (1, 2, 21, 300):
        for stride, height, width in cases:
            shape = (-(-height // stride), -(-width // stride), classes)
            logits = random.normal(0, 5, shape).astype(np.float32)
            if kind == "ties":
                logits = np.round(logits / 4)
            if kind == "units":  # all nearly equal: what rounding decides
                base = np.repeat(logits[..., :1], classes, axis=2)
                logits = base + random.integers(-3, 4, shape) * np.spacing(np.abs(base))
            logits = logits.astype(np.float32)
            text = base64.b64encode(logits.tobytes()).decode()
            values = [text, *shape, stride, width, height]
            found = np.array(visit.tab.evaluate(RULE, values).split(","), np.uint16)
            expected = exact_labels(logits, stride, (height, width))
            assert (found.reshape(height, width) == expected).all()


READ = """async (text) => {
  const { readPicture } = await import("./picture.js");
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const { width, height, pixels } = await readPicture(new Blob([bytes]), 1e6);
  return [width, height, pixels.join()];
}"""


def read_in_page(visit: Visit, data: bytes) -> np.ndarray:
    width, height, text = visit.tab.evaluate(READ, base64.b64encode(data).decode())
    pixels = np.array(text.split(","), np.uint8).reshape(height, width, 4)
    assert (pixels[..., 3] == 255).all()
    return pixels[..., :3]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_png_files_decode_as_in_python(visit: Visit, mode: str) -> None:
    random = np.random.default_rng(1)
    values = random.integers(0, 256, (19, 23, 4), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(random.integers(0, 2**16, (19, 23), dtype=np.uint16))
    else:
        image = Image.fromarray(values, "RGBA").convert(mode)
    options = [{}] if mode != "P" else [{}, {"transparency": bytes(range(0, 250, 2))}]
    options += [{"transparency": image.getpixel((3, 4))}] if mode in ("L", "RGB") else []
    for option in options:
        data = encoded(image, **option)
        assert (read_in_page(visit, data) == np.asarray(read_image(io.BytesIO(data)))).all()


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("kind", "depth"),
    [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8),
     (4, 8), (4, 16), (6, 8), (6, 16)],
)  # fmt: skip
def test_every_kind_of_png_decodes_as_in_python(
    visit: Visit, kind: int, depth: int, interlaced: bool
) -> None:
    for height, width in ((13, 21), (1, 1), (3, 9)):
        data = png_file(kind, depth, height, width, interlaced=interlaced)
        assert (read_in_page(visit, data) == np.asarray(read_image(io.BytesIO(data)))).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(visit: Visit, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(Image.fromarray(noise(40, 64, 8)), "JPEG", quality=95, exif=exif)
    found, expected = read_in_page(visit, data), read_image(io.BytesIO(data))
    assert found.shape == np.asarray(expected).shape
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 2


# What the page asks for


def test_nothing_is_asked_for_during_inference(visit: Visit) -> None:
    visit.segment(noise(120, 160, 8))
    visit.segment(noise(121, 160, 8))
    assert visit.requests == []


def test_a_static_host_gets_no_requests_for_a_server(visit: Visit) -> None:
    assert not any("v1/" in address for address in visit.loaded)
    assert not visit.tab.is_visible("#places")
    assert visit.text("#privacy-text") == "Your picture does not leave this device"


# What people do


def test_several_pictures_are_segmented_and_shown_when_chosen(visit: Visit) -> None:
    visit.drop(*((f"{side}.png", encoded(noise(side, 90, 8))) for side in (70, 80, 85)))
    visit.wait("document.querySelectorAll('#pictures li.done').length === 3")
    assert "70.png · 90 \N{MULTIPLICATION SIGN} 70 pixels" in visit.text("#facts")
    visit.tab.click("#pictures li:nth-child(3) button")
    assert "85.png · 90 \N{MULTIPLICATION SIGN} 85 pixels" in visit.text("#facts")


def test_areas_are_those_of_python_and_classes_can_be_switched_off(
    visit: Visit, cat: np.ndarray
) -> None:
    use(visit, NAMES[0])
    visit.segment(cat)
    areas = predictor(NAMES[0])(cat).areas
    names = visit.tab.locator("#class-list .name").all_text_contents()
    assert names == list(areas)
    shares = visit.tab.locator("#class-list .share").all_text_contents()
    assert shares[0] == f"{100 * next(iter(areas.values())):.1f} %"
    tint = "document.getElementById('classes').toDataURL()"
    tinted = visit.tab.evaluate(tint)
    for name in visit.tab.locator("#class-list li:has(input:checked) .name").all_text_contents():
        visit.tab.get_by_role("checkbox", name=name).uncheck()
    empty = "(({ width, height }) => Object.assign(document.createElement('canvas'), "
    empty += "{ width, height }).toDataURL())(document.getElementById('classes'))"
    assert visit.tab.evaluate(tint) == visit.tab.evaluate(empty)
    visit.tab.click("[data-do=reset]")
    assert visit.tab.evaluate(tint) == tinted


def test_the_pointer_and_the_arrow_keys_name_classes(visit: Visit, cat: np.ndarray) -> None:
    use(visit, NAMES[0])
    found = visit.segment(cat)
    classes = built_in.header(NAMES[0]).classes
    box = visit.tab.locator("#picture").bounding_box()
    visit.tab.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"])
    name = classes[found[50, int(0.3 * 150)]]
    assert visit.text("#tip span") == name
    visit.tab.mouse.move(0, 0)
    assert not visit.tab.is_visible("#tip")
    visit.tab.focus("#picture")
    visit.tab.keyboard.press("ArrowLeft")
    assert visit.text("#spoken") == classes[found[50, int(0.48 * 150)]]
    assert visit.tab.is_visible("#crosshair")


def test_the_divider_shows_the_picture_without_classes(visit: Visit) -> None:
    visit.segment(noise(120, 160, 8))
    clip = "getComputedStyle(document.getElementById('after')).clipPath"
    assert visit.tab.evaluate(clip) in ("inset(0px)", "inset(0px 0px 0px 0px)")
    visit.tab.focus("#compare")
    visit.tab.keyboard.press("End")
    width = visit.tab.evaluate("document.getElementById('frame').clientWidth")
    assert f"{width}px" in visit.tab.evaluate(clip)
    visit.tab.keyboard.press("Home")


def test_opacity_moves_the_tint(visit: Visit) -> None:
    visit.segment(noise(60, 80, 8))
    visit.tab.fill("#opacity", "30")
    assert visit.text("#opacity-value") == "30 %"
    style = "document.getElementById('classes').style.opacity"
    assert visit.tab.evaluate(style) == "0.3"


def saved(visit: Visit, what: str) -> tuple[str, bytes]:
    with visit.tab.expect_download() as waiting:
        visit.tab.click(f"[data-save={what}]")
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def test_downloads_are_what_predict_writes(visit: Visit, cat: np.ndarray) -> None:
    use(visit, NAMES[0])
    visit.drop(("a.cat.png", encoded(cat)))
    found = visit.labels()
    header = built_in.header(NAMES[0])

    name, data = saved(visit, "labels")
    picture = Image.open(io.BytesIO(data))
    assert (name, picture.mode) == ("a.cat.labels.png", "P")
    assert (np.asarray(picture) == found).all()
    expected = [channel for colour in header.palette for channel in colour]
    assert picture.getpalette()[: len(expected)] == expected

    name, data = saved(visit, "overlay")
    assert (name, Image.open(io.BytesIO(data)).size) == ("a.cat.overlay.jpg", (150, 100))

    name, data = saved(visit, "cutout")
    cut = np.asarray(Image.open(io.BytesIO(data)))
    on = np.array([any(colour) for colour in header.palette])[found]
    assert name == "a.cat.cutout.png"
    assert ((cut[..., 3] == 255) == on).all()
    assert (cut[on][:, :3] == cat[on]).all()

    name, data = saved(visit, "json")
    record = json.loads(data)
    assert (name, record["input"], record["size"]) == ("a.cat.json", "a.cat.png", [100, 150])
    assert record["areas"] == predictor(NAMES[0])(cat).areas


def test_the_camera_is_segmented_live(visit: Visit) -> None:
    visit.tab.click("#welcome [data-do=camera]")
    visit.wait("window.atrous.last !== null")
    visit.wait("document.getElementById('frames').textContent.includes('frames a second')")
    visit.tab.click("[data-do=take]")
    visit.wait("document.getElementById('facts').textContent.startsWith('camera-1.png')")
    assert visit.labels().size > 0
    assert not visit.tab.is_visible("#camera-bar")


@pytest.mark.slow
def test_large_pictures_are_shrunk_with_a_word(visit: Visit) -> None:
    visit.drop(("large.png", encoded(noise(1200, 1600, 64))))
    found = visit.labels()
    assert found.size <= 1_100_000
    assert "shrunk from 1600 \N{MULTIPLICATION SIGN} 1200" in visit.text("#facts")


def test_a_file_that_is_no_picture_is_said_so_and_the_next_one_works(visit: Visit) -> None:
    for data in (b"no picture", b"", encoded(noise(40, 50))[:300]):
        visit.drop(("broken.png", data))
        visit.wait("!document.getElementById('alert').hidden")
        assert "broken.png: " in visit.text("#alert-text")
        visit.tab.click("#alert button")
    assert visit.segment(noise(40, 50)).shape == (40, 50)


def test_another_model_segments_the_picture_again(visit: Visit) -> None:
    image = noise(60, 80, 8)
    for name in (*NAMES, NAMES[0]):
        use(visit, name)
        visit.segment(image)
        assert visit.text("#terms").startswith(f"{name}: {built_in.header(name).licence}")
    visit.tab.select_option("#model", NAMES[-1])
    assert (visit.labels() == predictor(NAMES[-1])(image).labels).all()
    visit.tab.select_option("#model", NAMES[0])


def test_pasted_and_dropped_files_are_pictures(visit: Visit) -> None:
    give = """([text, kind]) => {
      const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
      const data = new DataTransfer();
      data.items.add(new File([bytes], `${kind}.png`, { type: "image/png" }));
      const Kind = kind === "paste" ? ClipboardEvent : DragEvent;
      const values = { clipboardData: data, dataTransfer: data, bubbles: true, cancelable: true };
      document.body.dispatchEvent(new Kind(kind, values));
    }"""
    text = base64.b64encode(encoded(noise(30, 40))).decode()
    for kind in ("paste", "drop"):
        visit.tab.evaluate(give, [text, kind])
        assert visit.labels().shape == (30, 40)
        assert visit.text("#facts").startswith(f"{kind}.png")


def test_an_example_is_a_picture(visit: Visit) -> None:
    visit.tab.click("[data-example='examples/cat.jpg']")
    assert visit.labels().shape == (300, 451)


# Every screen and everybody


@pytest.mark.parametrize("width", [320, 1440])
def test_long_words_break_instead_of_the_page(browser: object, url: str, width: int) -> None:
    word = "Straßenbahnhaltestellenhäuschenbeleuchtungsanlage"
    model = entry(NAMES[0])
    model["file"] = f"models/{NAMES[0]}.onnx"
    model["classes"] = [f"{word}{k}" for k in range(len(built_in.header(NAMES[0]).classes))]
    model["licence"] = model["name"] = word
    visit = Visit(browser, url, viewport={"width": width, "height": 844})
    visit.tab.route("**/models.json", lambda route: route.fulfill(body=json.dumps([model])))
    visit.open()
    beyond = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert visit.tab.evaluate(beyond) == 0
    visit.drop((f"{word}{word}.png", encoded(noise(60, 80))))
    visit.labels()
    assert visit.tab.evaluate(beyond) == 0
    assert visit.complaints == []
    visit.close()


def test_no_serious_fault_of_accessibility(visit: Visit, cat: np.ndarray) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    screens = []
    for view in (None, 1, 3):
        if view == 1:
            visit.segment(cat)
        if view is not None:
            visit.tab.click(f"#views label:nth-of-type({view})")
        for scheme, width in (("dark", 390), ("light", 390), ("dark", 1440), ("light", 1440)):
            visit.tab.emulate_media(color_scheme=scheme)
            visit.tab.set_viewport_size({"width": width, "height": 844})
            screens.append(axe.run(visit.tab))
    visit.tab.click("#views label:nth-of-type(1)")
    faults = [
        (fault["id"], [node["html"] for node in fault["nodes"]])
        for screen in screens
        for fault in screen.response["violations"]
        if fault["impact"] in ("serious", "critical")
    ]
    assert faults == []


def test_everything_can_be_reached_with_the_keyboard(visit: Visit, cat: np.ndarray) -> None:
    visit.segment(cat)
    reached = set()
    for _ in range(60):
        visit.tab.keyboard.press("Tab")
        reached.add(visit.tab.evaluate("(e => e.id || e.dataset.do || e.dataset.save || e.name)"
                                       "(document.activeElement)"))  # fmt: skip
    wanted = {"model", "view", "opacity", "picture", "compare", "size", "choose", "clear", "reset"}
    assert wanted | {"labels", "overlay", "cutout", "json"} <= reached


# With a server behind the page


def test_the_server_segments_where_it_is_chosen(browser: object, cat: np.ndarray) -> None:
    with host(service()) as address:
        visit = Visit(browser, address).open("open sesame")
        on_device = visit.segment(cat)
        assert not any("v1/segment" in address for address in visit.requests)
        visit.tab.click("#places label:nth-of-type(2)")
        assert "Pictures are sent to 127.0.0.1" in visit.text("#privacy-text")
        assert (visit.labels() == on_device).all()
        assert "on the server" in visit.text("#facts")
        visit.drop(("large.png", encoded(noise(1000, 1601, 64))))
        height, width = visit.labels().shape
        assert height * width <= 1_110_000
        assert visit.complaints == [
            "Failed to load resource: the server responded with a status of 401 (Unauthorized)"
        ]
        visit.close()
