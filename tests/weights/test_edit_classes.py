from dataclasses import replace

import pytest
import torch

from atrous.classes import CITYSCAPES, VOC, ClassTable
from atrous.errors import AtrousError
from atrous.weights.edit_classes import change_classes, graft
from tests.networks import random_network


@pytest.fixture
def model():
    network = random_network("mobilenet_v2", num_classes=21, depth_multiplier=0.1, decoder=False)
    network.decoder.classifier.bias.data.normal_()
    network.name_classes(VOC)
    return network


def logits_of(model):
    images = torch.arange(3 * 33 * 33, dtype=torch.float32).view(1, 3, 33, 33) % 256
    with torch.inference_mode():
        return model.eval()(images)[0]  # (K, 33, 33)


def test_rows_are_copied_by_name(model):
    before = logits_of(model)
    rows = change_classes(model, ["cat", "Dining Table", "background"])
    assert [row.sources for row in rows] == [("cat",), ("diningtable",), ("background",)]
    old = [VOC.classes.index(name) for name in ("cat", "diningtable", "background")]
    torch.testing.assert_close(logits_of(model), before[old])
    assert model.architecture.num_classes == 3
    assert model.classes == ("cat", "Dining Table", "background")


def test_merged_classes_get_the_mean_and_split_ones_a_copy(model):
    before = logits_of(model)
    mapping = {"pet": ("cat", "dog"), "kitten": "cat", "puppy": "dog"}
    rows = change_classes(model, ["pet", "kitten", "puppy", "person"], mapping=mapping)
    cat, dog, person = (before[VOC.classes.index(n)] for n in ("cat", "dog", "person"))
    expected = torch.stack([(cat + dog) / 2, cat, dog, person])
    torch.testing.assert_close(logits_of(model), expected)
    assert [str(row) for row in rows] == [
        "pet: mean of cat, dog",
        "kitten: copied from cat",
        "puppy: copied from dog",
        "person: copied from person",
    ]


def test_classes_without_a_source_start_anew(model):
    torch.manual_seed(0)
    rows = change_classes(model, ["person", "walrus"])
    assert str(rows[1]) == "walrus: new, randomly initialised"
    weight, bias = model.decoder.classifier.weight[1], model.decoder.classifier.bias[1]
    assert 0 < weight.abs().max() <= 0.02  # as in a new model: nothing beyond two deviations
    assert bias == 0


def test_the_rest_takes_the_pixels_of_the_classes_that_go(model):
    before = logits_of(model)
    rows = change_classes(model, ["cat", "walrus", "Background"], rest="Background")
    cat = VOC.classes.index("cat")
    others = [index for index in range(21) if index != cat]
    after = logits_of(model)
    torch.testing.assert_close(after[0], before[cat])
    # Where the network has logits; between them they are interpolated.
    torch.testing.assert_close(after[2, ::16, ::16], before[others][:, ::16, ::16].amax(0))
    assert rows[2].rest == tuple(VOC.classes[index] for index in others if index)
    assert str(rows[2]).startswith("Background: copied from background; also aeroplane, bicycle")
    kept = change_classes(model, ["background", "cat"])  # rows go where their class goes
    assert kept[0].rest == ()
    torch.testing.assert_close(logits_of(model), after[[2, 0]])
    change_classes(model, ["person", "other"], rest="other", mapping={"person": "cat"})
    torch.testing.assert_close(logits_of(model)[0], after[0])
    new_row = model.decoder.classifier.weight[1]
    assert new_row.abs().max() <= 0.02
    assert model.architecture.extra_rows == (1,) * 20
    with pytest.raises(AtrousError, match="E-UNKNOWN-NAME"):
        change_classes(model, ["person"], rest="background")
    fresh = change_classes(model, ["person", "other"], rest="other", reinit=True)
    assert not fresh[1].rest
    assert model.architecture.extra_rows == ()


def test_nothing_is_copied_if_so_wanted(model):
    before = model.decoder.classifier.weight.clone()
    rows = change_classes(model, VOC, reinit=True)
    assert all(row.sources == () for row in rows)
    assert (model.decoder.classifier.weight != before).all()


def test_colours_of_a_table_are_taken(model):
    change_classes(model, CITYSCAPES)
    assert model.classes == CITYSCAPES.classes
    assert model.palette == CITYSCAPES.palette


def test_the_rest_of_the_model_stays(model):
    before = {n: t.clone() for n, t in model.state_dict().items() if "classifier" not in n}
    change_classes(model, ["cat", "x"])
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert "classes changed: cat: copied from cat; x: new" in model.provenance.notes[-1]


@pytest.mark.parametrize(
    ("classes", "mapping", "code"),
    [
        (["cat", "cat"], {}, "E-CLASSES"),
        ([], {}, "E-CLASSES"),
        (["pet"], {"pet": "catt"}, "E-UNKNOWN-NAME"),
        (["pet"], {"pett": "cat"}, "E-UNKNOWN-NAME"),
    ],
)
def test_impossible_changes_are_refused_and_change_nothing(model, classes, mapping, code):
    before = logits_of(model)
    with pytest.raises(AtrousError, match=code):
        change_classes(model, classes, mapping=mapping)
    assert torch.equal(logits_of(model), before)


def test_a_misspelt_class_gets_the_nearest(model):
    with pytest.raises(AtrousError) as caught:
        change_classes(model, ClassTable("", ("pet",), ((0, 0, 0),)), mapping={"pet": "catt"})
    assert caught.value.code == "E-UNKNOWN-NAME"
    assert "'cat'" in caught.value.fix


def test_a_graft_with_atrous_branches_computes_what_the_source_did():
    """Zero columns of the projection let new branches of ASPP join without disturbing it."""
    source = random_network("mobilenet_v2", depth_multiplier=0.1, atrous_rates=())
    source.name_classes(ClassTable("", ("sky", "sea"), ((0, 0, 1), (0, 1, 0))))
    new, fresh = graft(source, replace(source.architecture, atrous_rates=(6, 12, 18)))
    torch.testing.assert_close(logits_of(new), logits_of(source), rtol=0, atol=1e-5)
    assert new.classes == source.classes
    assert len(new.encoder.aspp.atrous) == 3
    assert all(name.startswith("encoder.aspp.atrous.") for name in fresh)
    assert len(fresh) == 3 * 6


@pytest.mark.parametrize("refine", [((3, 256), (3, 256)), ((1, 256),)])
def test_a_graft_with_a_decoder_computes_what_the_source_did(model, refine):
    new, fresh = graft(model, replace(model.architecture, decoder=True, refine=refine))
    assert new.logits_stride == 4
    torch.testing.assert_close(logits_of(new), logits_of(model), rtol=0, atol=1e-4)
    assert "decoder.classifier.weight" not in fresh
    assert any("stages.0.reduce" in name for name in fresh)


def test_a_graft_lets_the_low_level_features_learn(model):
    """They join in with weights of zero, which have gradients."""
    new, _ = graft(model, replace(model.architecture, decoder=True))
    images = torch.arange(3 * 33 * 49, dtype=torch.float32).view(1, 3, 33, 49) % 256
    new(images).square().mean().backward()
    pointwise = new.decoder.stages[0].refine[0].pointwise.conv.weight
    assert not pointwise[:, 256:].any()
    assert pointwise.grad[:, 256:].abs().sum() > 0


def test_a_graft_with_a_decoder_of_other_width_keeps_the_encoder(model):
    new, fresh = graft(model, replace(model.architecture, decoder=True, refine=((3, 64), (3, 64))))
    images = torch.rand(1, 3, 33, 49) * 255
    encoded, _ = new.eval().encoder(new.normalize(images))
    expected, _ = model.encoder(model.normalize(images))
    torch.testing.assert_close(encoded, expected, rtol=0, atol=0)
    assert {name.split(".")[0] for name in fresh} == {"decoder"}
    assert "decoder.classifier.weight" in fresh


def test_a_graft_brings_its_preprocessing_and_takes_no_other_backbone(model):
    model.architecture = replace(model.architecture, mean=(128.0,), std=(64.0,), epsilon=0.01)
    new, _ = graft(model, replace(model.architecture, mean=None, std=None, epsilon=None))
    assert (new.architecture.mean, new.architecture.epsilon) == ((128.0,), 0.01)
    with pytest.raises(AtrousError, match="E-GRAFT"):
        graft(model, replace(model.architecture, backbone="resnet50", depth_multiplier=1.0))


def test_a_graft_at_a_finer_stride_says_what_the_source_does_where_both_have_features(model):
    """Image pooling goes on seeing the source's positions; seeing more of them changes classes."""
    finer = replace(model.architecture, decoder=True, output_stride=8)
    new, _ = graft(model, finer)
    images = torch.arange(3 * 49 * 81, dtype=torch.float32).view(1, 3, 49, 81) % 251
    with torch.inference_mode():
        encoded, _ = new.eval().encoder(new.normalize(images))
        expected, _ = model.eval().encoder(model.normalize(images))
    torch.testing.assert_close(encoded[..., ::2, ::2], expected, rtol=1e-4, atol=1e-5)
    assert new.architecture.pooling_stride == 16
    again, _ = graft(new, new.architecture)
    assert again.architecture.pooling_stride == 16


def test_a_graft_at_a_finer_stride_at_first_smooths(model):
    """The decoder's result is the encoder's, smoothed by a standard deviation of one step of 4."""
    new, _ = graft(model, replace(model.architecture, decoder=True, output_stride=8))
    impulse = torch.zeros(1, 256, 9, 9)
    impulse[:, :, 4, 4] = 1
    stage = new.eval().decoder.stages[0]
    with torch.inference_mode():
        spread = stage.refine(torch.cat([impulse, torch.zeros(1, 48, 9, 9)], 1))[0, 0]
    steps = torch.arange(9.0) - 4
    assert spread.sum() == pytest.approx(1, abs=1e-4)
    assert (spread.sum(0) * steps**2).sum() == pytest.approx(1, abs=1e-4)
