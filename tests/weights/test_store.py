import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from atrous.architecture import Architecture, Provenance, Training
from atrous.build import create_model
from atrous.classes import VOC
from atrous.errors import AtrousError
from atrous.loading import load, load_weights
from atrous.schema import from_json, to_json
from atrous.weights.store import FORMAT, _parsed, hash_tensors, save
from tests.networks import random_network

SMALL = {"depth_multiplier": 0.1, "atrous_rates": (), "decoder": False}


@pytest.fixture(scope="module")
def model():
    return random_network("mobilenet_v2", num_classes=21, **SMALL)


@pytest.fixture
def saved(model, tmp_path):
    """A path with the model in it."""
    save(model, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def metadata_of(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["atrous"])


def rewritten(path, change=lambda description: None, tensors=None):
    """Changes a saved file's description and tensors, hash kept up unless the change sets it."""
    with safe_open(path, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        description = json.loads(file.metadata()["atrous"])
    found = found if tensors is None else tensors(found)
    description["tensors_sha256"] = hash_tensors(found)
    change(description)
    save_file(found, path, {"atrous": json.dumps(description)})
    return path


def refusal(path):
    with pytest.raises(AtrousError) as caught:
        load(path)
    return caught.value


FAMILIES = [
    ("mobilenet_v2", SMALL),
    ("mobilenet_v3_small", {"head": "lr_aspp", "decoder_strides": (8,), "reduced_channels": None,
                            "refine": ()}),
    ("mobilenet_v2", {"depth_multiplier": 0.1, "in_channels": 4, "decoder_strides": (8, 4)}),
    pytest.param(
        "xception41", {"head": "dense_prediction_cell", "relu_after_depthwise": True},
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "resnet50", {"stem": "plain", "multi_grid": (1, 1, 1), "separable": False},
        marks=pytest.mark.slow,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("backbone", "options"), FAMILIES)
def test_a_saved_model_reads_back_bit_for_bit(tmp_path, backbone, options):
    build = create_model if "stem" in options else random_network  # the first: its own mean
    model = build(backbone, num_classes=3, **options).eval()
    path = tmp_path / "model.safetensors"
    digest = save(model, path)
    loaded = load(path)
    assert loaded.architecture == model.architecture
    assert not loaded.training
    states = model.state_dict(), loaded.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    images = torch.randint(0, 256, (1, model.architecture.in_channels, 33, 50), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(model(images), loaded(images))
    assert save(loaded, tmp_path / "again.safetensors") == digest
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_everything_about_a_model_is_in_the_file(model, tmp_path):
    model.name_classes(VOC)
    model.provenance = Provenance(
        "a test", "ab" * 32, "Apache-2.0", ["a note"], Training(data="VOC 2012", steps=30_000)
    )
    save(model, tmp_path / "model.safetensors")
    stored = metadata_of(tmp_path / "model.safetensors")
    assert stored["format"] == FORMAT
    assert stored["classes"][15] == "person"
    assert stored["palette"][1] == [128, 0, 0]
    assert stored["preprocessing"] == {"mean": [127.5], "std": [127.5]}
    assert stored["architecture"]["output_stride"] == 16
    assert stored["provenance"]["training"]["steps"] == 30_000
    loaded = load(tmp_path / "model.safetensors")
    assert loaded.provenance == model.provenance
    assert (loaded.classes, loaded.palette) == (VOC.classes, VOC.palette)


def test_a_stride_set_after_building_is_saved(model, tmp_path):
    model.set_output_stride(8)
    save(model, tmp_path / "model.safetensors")
    model.set_output_stride(16)
    assert load(tmp_path / "model.safetensors").output_stride == 8


def test_a_model_of_half_precision_keeps_its_values(tmp_path):
    model = random_network("mobilenet_v2", **SMALL).half()
    save(model, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    assert all(
        torch.equal(loaded.state_dict()[n], t.float()) for n, t in model.state_dict().items()
    )


def test_a_saved_file_can_be_read_by_whoever_may_read_new_files(saved):
    beside = saved.with_name("new")
    beside.touch()
    assert saved.stat().st_mode == beside.stat().st_mode


def test_half_of_the_bits_are_enough_for_the_same_labels(model, tmp_path):
    save(model, tmp_path / "whole.safetensors")
    save(model, tmp_path / "half.safetensors", half=True)
    whole, half = (tmp_path / f"{n}.safetensors" for n in ("whole", "half"))
    assert half.stat().st_size < 0.65 * whole.stat().st_size
    loaded = load(half).state_dict()
    for name, tensor in model.state_dict().items():
        assert loaded[name].dtype == tensor.dtype
        torch.testing.assert_close(loaded[name], tensor, rtol=2**-11, atol=1e-7)


def test_a_timm_backbone_keeps_the_normalisation_it_was_saved_with(tmp_path):
    model = create_model("timm/resnet18", num_classes=2, decoder=False, atrous_rates=())
    save(model, tmp_path / "model.safetensors")

    def change(description):
        description["preprocessing"] = {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0]}

    loaded = load(rewritten(tmp_path / "model.safetensors", change))
    assert loaded.normalize.mean.flatten().tolist() == [1, 2, 3]
    assert loaded.architecture.std == (4, 5, 6)


def test_saving_is_whole_or_not_at_all(model, saved, monkeypatch):
    before = saved.read_bytes()

    def fail(*_arguments):
        raise OSError("no space left")

    monkeypatch.setattr("atrous.weights.store.serialize", fail)
    with pytest.raises(OSError, match="no space"):
        save(model, saved)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("name", ["model.pth", "model.onnx", "model"])
def test_other_suffixes_are_refused(model, tmp_path, name):
    with pytest.raises(AtrousError, match="E-FILE-SUFFIX"):
        save(model, tmp_path / name)


def test_W10_a_cut_file_is_refused(saved):
    whole = saved.read_bytes()
    for length in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:length])
        assert refusal(saved).code == "E-WEIGHTS-FORMAT"


def test_W04_a_flipped_bit_is_noticed(saved):
    whole = bytearray(saved.read_bytes())
    whole[-1000] ^= 1
    saved.write_bytes(whole)
    assert refusal(saved).code == "E-WEIGHTS-HASH"


def test_W11_missing_unexpected_and_misshapen_tensors_are_a_table(saved):
    def change(tensors):
        tensors["decoder.extra.weight"] = torch.zeros(2, 3)
        del tensors["encoder.aspp.project.bn.bias"]
        tensors["encoder.aspp.pointwise.bn.bias"] = torch.zeros(5)
        return tensors

    error = refusal(rewritten(saved, tensors=change))
    assert error.code == "E-WEIGHTS-MISMATCH"
    assert "(1 missing, 1 unexpected, 1 misshapen)" in str(error)
    rows = [line.split() for line in error.what.splitlines()]
    assert ["encoder.aspp.pointwise.bn.bias", "wrong", "shape", "256", "5"] in rows
    assert ["encoder.aspp.project.bn.bias", "missing", "256", "-"] in rows
    assert ["decoder.extra.weight", "unexpected", "-", "2", "x", "3"] in rows


def test_W11_the_table_shows_ten_and_says_how_many_more(saved):
    error = refusal(rewritten(saved, tensors=lambda _: {"a": torch.zeros(1)}))
    assert len(error.what.splitlines()) == 1 + 1 + 10 + 1
    assert error.what.splitlines()[-1].strip().startswith("and ")
    assert "another network" in error.fix


def test_W11_another_number_of_classes_is_named_as_the_cause(saved):
    model = random_network("mobilenet_v2", num_classes=19, **SMALL)
    with pytest.raises(AtrousError, match="E-WEIGHTS-MISMATCH") as caught:
        load_weights(model, saved)
    assert "the file has 21 classes, the network 19: use --head reinit" in caught.value.fix


def test_D15_a_new_head_is_started_if_asked_for_and_said(model, saved):
    other = random_network("mobilenet_v2", num_classes=19, seed=1, **SMALL)
    before = other.decoder.classifier.weight.clone()
    notes = load_weights(other, saved, head="reinit")
    assert notes == [
        "decoder.classifier.weight of 21 classes left out: starts anew",
        "decoder.classifier.bias of 21 classes left out: starts anew",
    ]
    assert torch.equal(other.decoder.classifier.weight, before)
    name = "encoder.aspp.project.conv.weight"
    assert torch.equal(other.state_dict()[name], model.state_dict()[name])


def test_W12_weights_with_prefixes_go_into_a_model(model, tmp_path):
    prefixed = {f"module.{n}": t for n, t in model.state_dict().items()}
    save_file(prefixed, tmp_path / "ddp.safetensors")
    other = random_network("mobilenet_v2", num_classes=21, seed=1, **SMALL)
    assert load_weights(other, tmp_path / "ddp.safetensors") == [
        "prefix stripped from the names: module."
    ]
    assert hash_tensors(other.state_dict()) == hash_tensors(model.state_dict())


def test_W13_weights_that_are_not_finite_are_neither_saved_nor_loaded(saved, tmp_path):
    broken = random_network("mobilenet_v2", **SMALL)
    broken.decoder.classifier.bias.data[1] = float("nan")
    with pytest.raises(AtrousError) as caught:
        save(broken, tmp_path / "broken.safetensors")
    assert caught.value.code == "E-WEIGHTS-NAN"
    assert "decoder.classifier.bias" in caught.value.what
    assert not (tmp_path / "broken.safetensors").exists()

    def change(tensors):
        tensors["decoder.classifier.bias"][3] = float("inf")
        return tensors

    error = refusal(rewritten(saved, tensors=change))
    assert error.code == "E-WEIGHTS-NAN"
    assert "decoder.classifier.bias" in str(error)


def set_field(*keys, value):
    def change(description):
        place = description
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


TIMM = {"backbone": "timm/os.system", "num_classes": 21}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_field("architecture", "backbone", value="os.system"), "unknown backbone 'os.system'"),
        (set_field("architecture", "backbone", value="xception66"), "did you mean 'xception65'"),
        (set_field("architecture", value=TIMM), "unknown timm backbone 'os.system'"),
        (set_field("architecture", "output_strid", value=8), "did you mean 'output_stride'"),
        (set_field("architecture", "_target_", value="os.system"), "unknown field of architecture"),
        (set_field("trust_remote_code", value=True), "unknown field of the description"),
        (set_field("architecture", "output_stride", value="16"), "must be int, not '16'"),
        (set_field("architecture", "output_stride", value=True), "must be int, not True"),
        (set_field("architecture", "head", value="hydra"), "must be one of 'aspp'"),
        (set_field("architecture", "refine", value=[[3]]), "architecture.refine must be tuple"),
        (set_field("architecture", value=[]), "architecture must be an object"),
        (set_field("architecture", "depth_multiplier", value=1e999), "must be float"),
        (set_field("classes", value=["a", "b"]), "2 different classes"),
        (set_field("classes", value=["a"] * 21), "1 different classes"),
        (set_field("classes", value="voc"), "classes must be tuple"),
        (set_field("palette", value=[[0, 0, 0]]), "1 colours"),
    ],
)
def test_W16_descriptions_that_say_more_or_other_things_are_refused(saved, change, message):
    error = refusal(rewritten(saved, change))
    assert message in str(error)
    assert str(saved) in str(error)


def test_W16_a_description_that_lacks_something_is_refused(saved):
    error = refusal(rewritten(saved, lambda description: description.pop("classes")))
    assert "classes is missing" in str(error)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "5"])
def test_W16_a_description_that_is_no_json_is_refused(saved, model, text):
    save_file(model.state_dict(), saved, {"atrous": text})
    assert refusal(saved).code in ("E-WEIGHTS-FORMAT", "E-SCHEMA")


def test_W17_a_file_from_a_newer_version_says_so(saved):
    def change(description):
        description |= {"format": FORMAT + 1, "made_by": "9.1", "something": "new"}

    error = refusal(rewritten(saved, change))
    assert error.code == "E-WEIGHTS-VERSION"
    assert f"made by atrous 9.1 in format {FORMAT + 1}, this is atrous" in str(error)
    assert "upgrade" in error.fix


def test_W17_a_file_from_an_older_version_gets_defaults_for_what_it_does_not_say(saved):
    def change(description):
        for name in ("head", "epsilon", "one_sided_padding"):
            del description["architecture"][name]
        del description["provenance"]["training"]
        description["made_by"] = "0.0.1"

    loaded = load(rewritten(saved, change))
    assert loaded.architecture.head == "aspp"
    assert loaded.provenance.training is None


def test_W17_the_format_of_this_release_is_the_one_written_down():
    """Fails when the schema changes: then raise FORMAT, or make sure old files still load."""
    assert FORMAT == 1
    fields = [field.name for field in dataclasses.fields(Architecture)]
    assert fields == [
        "backbone", "num_classes", "output_stride", "head", "separable", "decoder_separable",
        "image_pooling", "atrous_rates", "multi_grid", "decoder", "decoder_strides",
        "reduced_channels", "refine", "depth_multiplier", "in_channels", "stem",
        "relu_after_depthwise", "mean", "std", "one_sided_padding", "epsilon",
        "rates_at_16", "pooling_stride", "extra_rows", "channels", "bands", "dtype", "preview",
    ]  # fmt: skip


def test_W17_a_description_of_release_0_1_is_read():
    text = (Path(__file__).parents[1] / "assets/description_0.1.json").read_text()
    description = _parsed(text)
    assert description.made_by == "0.1.0"
    assert description.architecture.backbone == "mobilenet_v2"
    assert description.architecture.multi_grid is None
    assert description.provenance.training.crop_size == (513, 513)


def test_a_foreign_file_is_said_to_be_foreign(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    error = refusal(tmp_path / "a.safetensors")
    assert error.code == "E-WEIGHTS-FOREIGN"


def test_dataclasses_survive_json():
    architecture = Architecture("resnet50", 3, multi_grid=(1, 2, 4), refine=((3, 8), (1, 4)))
    assert from_json(Architecture, json.loads(json.dumps(to_json(architecture)))) == architecture
