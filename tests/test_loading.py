import hashlib
import json
import logging

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import atrous
from atrous import cli
from atrous.errors import AtrousError
from atrous.loading import convert, from_tensorflow, load, load_weights
from atrous.weights import zoo
from atrous.weights.store import hash_tensors, save
from tests.networks import random_network
from tests.weights.efficientnet_lite import EfficientNetLite0
from tests.weights.tensorflow.tensorflow_files import write_checkpoint, write_graph
from tests.weights.tensorflow.test_files import pack, reference_files
from tests.weights.tensorflow.test_infer import variables_of

REFERENCE = "tf_reference/mobilenet_v2_os16"


@pytest.fixture(scope="module")
def variables():
    trained = random_network(
        "mobilenet_v2", num_classes=21, depth_multiplier=0.125, atrous_rates=(), decoder=False
    )
    return {name: np.ascontiguousarray(array) for name, array in variables_of(trained).items()}


@pytest.fixture
def checkpoint(tmp_path, variables):
    return write_checkpoint(tmp_path / "model.ckpt-30", variables)


@pytest.fixture
def run(capsys):
    """Runs a command line; returns exit code, standard output and standard error."""

    def call(*words):
        try:
            cli.main([str(word) for word in words])
        except SystemExit as end:
            code = end.code or 0
        else:
            code = 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_every_source_of_the_reference_gives_the_same_bits_and_the_reference_logits(
    shared, tmp_path
):
    sources = [
        f"{shared / REFERENCE}.ckpt",
        f"{shared / REFERENCE}.ckpt.index",
        f"{shared / REFERENCE}.frozen_inference_graph.pb",
        pack(tmp_path / "both.tar.gz", reference_files(shared)),
    ]
    models = [from_tensorflow(source) for source in sources]
    assert len({hash_tensors(model.state_dict()) for model in models}) == 1
    save(models[0], tmp_path / "model.safetensors")
    models.append(load(tmp_path / "model.safetensors"))
    reference = np.load(f"{shared / REFERENCE}.npz")
    images = torch.from_numpy(reference["image"]).permute(0, 3, 1, 2)
    deviation = reference["logits"].std((1, 2)).mean()
    with torch.inference_mode():
        logits = [model.coarse_logits(images).permute(0, 2, 3, 1).numpy() for model in models]
    assert np.abs(logits[0] - reference["logits"]).max() < 1e-3 * deviation
    assert all(np.array_equal(other, logits[0]) for other in logits[1:])


def test_sources_are_told_apart_by_what_they_are(tmp_path, checkpoint, variables):
    expected = hash_tensors(load(checkpoint).state_dict())
    graph = write_graph(tmp_path / "graph.pb", variables)
    model = load(checkpoint)
    run_folder = tmp_path / "run"
    save(model, run_folder / "best.safetensors")
    for source in (graph, run_folder, run_folder / "best.safetensors", f"{checkpoint}.index"):
        assert hash_tensors(load(source).state_dict()) == expected


def test_provenance_names_the_file_and_its_hash(tmp_path, variables):
    graph = write_graph(tmp_path / "graph.pb", variables)
    provenance = load(graph).provenance
    assert provenance.source == "graph.pb"
    assert provenance.sha256 == hashlib.sha256(graph.read_bytes()).hexdigest()


def test_a_checkpoint_is_hashed_with_all_its_files(tmp_path, checkpoint):
    whole = b"".join(p.read_bytes() for p in sorted(tmp_path.glob("model.ckpt-30.*"), reverse=True))
    found = load(checkpoint).provenance
    assert found.source == "model.ckpt-30"
    assert found.sha256 == hashlib.sha256(whole).hexdigest()  # .index, then .data


def fill(source):
    return load_weights(random_network("mobilenet_v2", depth_multiplier=0.1), source)


@pytest.mark.parametrize("function", [load, convert, fill])
def test_what_is_not_there_gets_the_nearest_name(tmp_path, function):
    (tmp_path / "model.safetensors").write_bytes(b"")
    names = {
        "xception65_coco_voc_trainau": "xception65_coco_voc_trainaug",
        "Street": "street",
        "streets": "street",
        "missing.onnx": "atrous models",
        str(tmp_path / "modle.safetensors"): "model.safetensors",
    }
    for name, near in names.items():
        with pytest.raises(AtrousError) as caught:
            function(name)
        assert caught.value.code == "E-MODEL-MISSING"
        assert near in caught.value.fix


@pytest.mark.parametrize("function", [load, convert, fill])
def test_what_is_no_model_is_said_to_be_none(tmp_path, function):
    (tmp_path / "a.txt").write_text("hello")
    Image.new("RGB", (3, 3)).save(tmp_path / "a.jpg")
    for source in (tmp_path, tmp_path / "a.txt", tmp_path / "a.jpg"):
        with pytest.raises(AtrousError) as caught:
            function(source)
        assert caught.value.code == "E-MODEL-KIND"


@pytest.mark.parametrize("head", ["keep", "Strict", ""])
def test_an_unknown_head_is_refused(tmp_path, head):
    with pytest.raises(AtrousError) as caught:
        load_weights(random_network("mobilenet_v2", depth_multiplier=0.1), tmp_path, head=head)
    assert caught.value.code == "E-UNKNOWN-NAME"


def test_a_published_name_is_fetched_and_loaded_at_its_published_stride(
    monkeypatch, tmp_path, checkpoint
):
    archive = pack(
        tmp_path / "zoo.tar.gz",
        {f"m/{p.name}": p for p in tmp_path.iterdir() if p.name.startswith("model.ckpt")},
    )
    monkeypatch.setattr(zoo, "download", lambda name: archive)
    model = load("mobilenetv2_dm05_coco_voc_trainval")
    assert model.output_stride == 8
    assert model.provenance.licence == "Apache-2.0"
    assert model.provenance.source.startswith("http://download.tensorflow.org/models/")


def test_a_classifier_is_pointed_to_pretrained(tmp_path, variables):
    names = [name for name in variables if name.startswith("MobilenetV2/")]
    path = write_checkpoint(tmp_path / "imagenet", {name: variables[name] for name in names})
    with pytest.raises(AtrousError, match="E-WEIGHTS-HEAD") as caught:
        load(path)
    assert "pretrained=" in caught.value.fix


def test_public_functions_load_and_save(tmp_path, checkpoint):
    model = atrous.load(checkpoint)
    atrous.change_classes(model, ["cat", "dog"])
    atrous.save(model, tmp_path / "pets.safetensors")
    assert atrous.load(tmp_path / "pets.safetensors").classes == ("cat", "dog")


def test_convert_writes_a_checked_file_and_says_what_it_did(run, tmp_path, checkpoint, variables):
    slots = {f"{name}/Momentum": np.zeros_like(array) for name, array in variables.items()}
    write_checkpoint(checkpoint, {**variables, **slots, "global_step": np.array(30)})
    out = tmp_path / "voc.safetensors"
    code, said, err = run("convert", checkpoint, "--out", out, "--output-stride", 8)
    assert (code, err) == (0, "")
    assert "model.ckpt-30: mobilenet_v2, aspp, no decoder, output stride 8, 21 classes" in said
    assert f"left out: optimizer slots ({len(slots)}): " in said
    assert "trained for 30 steps" in said
    assert "read back bit for bit" in said
    assert load(out).output_stride == 8
    assert load(out).classes[15] == "person"


def test_convert_answers_in_json(run, tmp_path, checkpoint):
    out = tmp_path / "voc.safetensors"
    code, said, _ = run("convert", checkpoint, "--out", out, "--json")
    record = json.loads(said)
    assert code == 0
    assert record["out"] == str(out)
    assert record["tensors_sha256"] == hash_tensors(load(out).state_dict())
    assert len(record["classes"]) == 21


def test_convert_changes_classes_by_name(run, tmp_path, checkpoint):
    names = tmp_path / "pets.txt"
    names.write_text("background\npet\nwalrus\n")
    out = tmp_path / "pets.safetensors"
    words = ("--classes", names, "--map", "pet=cat+dog", "--out", out)
    code, said, _ = run("convert", checkpoint, *words)
    assert code == 0
    for line in ("background: copied from background", "pet: mean of cat, dog", "walrus: new"):
        assert line in said
    assert load(out).classes == ("background", "pet", "walrus")


def test_convert_starts_a_new_head(run, tmp_path, checkpoint):
    out = tmp_path / "new.safetensors"
    code, said, _ = run("convert", checkpoint, "--out", out, "--head", "reinit")
    assert code == 0
    assert said.count("new, randomly initialised") == 21


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--atrous-rates", "6,x"), "not a list of integers"),
        (("--map", "pet"), "not NEW=OLD"),
        (("--classes", "vok"), "neither a file nor one of voc"),
        (("--atrous-rates", "6,12"), "0 atrous branches, atrous_rates has 2"),
        (("--head", "new"), "'keep', 'reinit'"),
        (("--out", "model.pth"), "saved as .safetensors"),
    ],
)
def test_convert_refuses_impossible_options(run, tmp_path, checkpoint, words, message):
    code, _, err = run("convert", checkpoint, "--out", tmp_path / "out.safetensors", *words)
    assert code in (2, 4)
    assert message in err
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("backbone", ["timm/efficientnet_lite0", "mobilenet_v2"])
def test_convert_writes_a_backbone_that_training_can_start_from(run, tmp_path, backbone):
    theirs = EfficientNetLite0() if "lite" in backbone else timm.create_model("mobilenetv2_100")
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    out = tmp_path / "backbone.safetensors"
    code, said, _ = run("convert", tmp_path / "theirs.pth", "--backbone", backbone, "--out", out)
    assert code == 0
    assert "backbone only; the rest is randomly initialised" in said
    model = atrous.create_model(backbone, num_classes=3, pretrained=out)
    stem = next(model.encoder.backbone.parameters())
    assert torch.equal(stem, next(theirs.parameters()))
    expected = (127.0, 1e-3) if "lite" in backbone else (123.675, 1e-5)
    assert (model.normalize.mean.flatten()[0].item(), model.architecture.epsilon) == pytest.approx(
        expected
    )


def test_convert_has_no_classes_for_a_backbone_alone(run, tmp_path, checkpoint):
    words = ("--backbone", "mobilenet_v2", "--classes", "voc")
    code, _, err = run("convert", checkpoint, "--out", tmp_path / "out.safetensors", *words)
    assert code == 2
    assert "--backbone goes with" in err


def test_convert_replaces_no_file_unasked(run, tmp_path, checkpoint):
    out = tmp_path / "out.safetensors"
    out.write_text("precious")
    code, _, err = run("convert", checkpoint, "--out", out)
    assert code == 2
    assert "--overwrite" in err
    assert out.read_text() == "precious"
    assert run("convert", checkpoint, "--out", out, "--overwrite")[0] == 0


def test_W08_convert_of_a_malicious_pickle_executes_nothing(run, tmp_path):
    from tests.weights.torch.test_files import Malicious

    torch.save({"x": Malicious(tmp_path / "proof")}, tmp_path / "evil.pth")
    code, _, err = run("convert", tmp_path / "evil.pth", "--out", tmp_path / "out.safetensors")
    assert code == 4
    assert "posix.system" in err
    assert "Traceback" not in err
    assert not (tmp_path / "proof").exists()
    assert not (tmp_path / "out.safetensors").exists()


def test_convert_needs_a_hash_for_files_without_one(run, tmp_path):
    name = "xception65_coco_voc_trainaug"
    code, _, err = run("convert", name, "--out", tmp_path / "out.safetensors")
    assert code == 2
    assert "--sha256" in err


def test_unknown_variables_are_warned_about(caplog, variables):
    with caplog.at_level(logging.WARNING):
        from_tensorflow({**variables, "my_head/weights": np.zeros(3, np.float32)})
    assert "my_head/weights" in caplog.text
