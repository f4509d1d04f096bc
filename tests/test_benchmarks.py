"""Tables of the documents are those that the scripts print from the committed results."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import atrous
from atrous.classes import CAMVID
from atrous.training import checkpoint
from atrous.training.setup import create_network
from tests.networks import random_network

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_the_tables_of_the_ablations_are_those_of_the_committed_results():
    from ablation_tables import tables

    document = (ROOT / "docs" / "ablations.md").read_text()
    assert (
        document.partition("\n## Tables\n")[2].partition("\n## Method\n")[0].strip()
        == "\n".join(tables()).strip()
    )


BASES = ("street", "cityscapes")


@pytest.mark.parametrize("base", BASES)
def test_the_difference_at_one_pixel_follows_from_the_committed_counts(base):
    from ablation_tables import paired, read, trimap_of

    if not (gains := trimap_of(base)):
        pytest.skip("not run")
    found = read()
    counts = [
        [found[base, row][seed]["narrowest"] for seed in gains["seeds"]]
        for row in ("bilinear", "decoder")
    ]
    gain = paired(*counts)
    assert (gain.mean_iou, gain.low, gain.high) == pytest.approx(
        [gains[key][0] for key in ("difference", "low", "high")]
    )


@pytest.mark.parametrize("base", BASES)
def test_the_trimap_figure_shows_the_committed_results(base):
    pytest.importorskip("matplotlib")
    from ablation_trimap import digest, figure_of

    if not figure_of(base).exists():
        pytest.skip("not run")
    with Image.open(figure_of(base)) as figure:
        assert figure.text["Source"] == digest(base)


@pytest.mark.parametrize("row", ["bilinear", "one_3x3", "dense"])
def test_the_rows_of_street_start_from_one_encoder_and_a_new_decoder(row, tmp_path):
    import ablations

    def start(name):
        config = ablations.config_of("street", name, 0)
        weights = ablations.start_of("street", 0, len(CAMVID.classes), tmp_path)
        data = SimpleNamespace(classes=CAMVID.classes, palette=CAMVID.palette)
        return create_network(replace(config, weights=weights, graft=True), data).state_dict()

    source = ROOT / ablations.SHARED / "weights" / ablations.BASES["street"].start
    if not source.exists():
        pytest.skip("needs the shared weights")
    theirs = atrous.load(source).state_dict()
    reference, other = start("decoder"), start(row)
    backbone = [name for name in theirs if name.startswith("encoder.backbone.")]
    alike = [
        name
        for name in reference
        if name.startswith("encoder.") and name in other and "branches" not in name
    ]
    assert backbone
    assert set(backbone) < set(alike)
    assert all(torch.equal(reference[name], theirs[name]) for name in backbone)
    assert all(torch.equal(reference[name], other[name]) for name in alike)
    assert not any(
        torch.equal(tensor, theirs[name])
        for name, tensor in reference.items()
        if name.startswith("decoder.") and name.endswith("conv.weight") and name in theirs
    )


def test_the_network_at_the_end_of_a_run_is_measured_and_not_the_best(tmp_path):
    import ablations

    best, last = (
        random_network("mobilenet_v2", seed=seed, depth_multiplier=0.1) for seed in (0, 1)
    )
    atrous.save(best, tmp_path / "best.safetensors")
    tensors = {"model": best.state_dict(), "average": last.state_dict()}
    checkpoint.save(tmp_path / "checkpoints", checkpoint.Checkpoint(5, tensors))
    found = ablations.last_of(tmp_path).state_dict()
    assert all(torch.equal(found[name], value) for name, value in last.state_dict().items())


def test_tables_and_the_readme_say_what_the_committed_results_say():
    from tables import TABLES, claims, write

    for name, tables in TABLES.items():
        document = (ROOT / "docs" / name).read_text()
        assert document == write(document, tables), name
    ratios = re.findall(r"\b[\d.]+x(?= )", (ROOT / "README.md").read_text())
    assert len(ratios) >= 4
    assert all(ratio in claims() for ratio in ratios)


def test_the_throughput_of_a_network_alone_is_that_of_its_best_streams(capsys):
    from throughput import compared

    milliseconds = {
        "ours, fp32": 300, "peer, fp32": 360, "eager, fp32": 600,
        "ours network alone 1, fp32": 290, "ours network alone 2, fp32": 240,
        "peer network alone 1, fp32": 300, "peer network alone 2, fp32": 320,
    }  # fmt: skip
    times = {key: {"median_ms": ms, "processor_ms": 2 * ms} for key, ms in milliseconds.items()}
    found = compared(times, 12)
    assert found["network_alone_pictures_a_second"] == {"ours, fp32": 50.0, "peer, fp32": 40.0}
    assert found["pictures_a_second"] == {"ours, fp32": 40, "peer, fp32": 33.33, "eager, fp32": 20}
    shown = capsys.readouterr().out
    assert "ours, fp32: the network alone takes 80 % of the time" in shown
    assert "ours in fp32 against eager, fp32: x2.0, wanted 3.0, at most x2.50" in shown


def test_the_tables_of_fine_tuning_are_those_of_the_committed_results():
    from finetune import tables
    from measuring import RESULTS

    document = (ROOT / "docs" / "train.md").read_text()
    for path in RESULTS.glob("finetune.*.json"):
        assert "\n".join(tables(json.loads(path.read_text()))).strip() in document


def test_the_table_of_starts_of_street_is_that_of_the_committed_results():
    from street_starts import RESULT, table

    document = (ROOT / "docs" / "results.md").read_text()
    assert "\n".join(table(json.loads(RESULT.read_text()))) in document


@pytest.mark.parametrize(
    ("processor", "slug"),
    [
        ("AMD EPYC", "amd-epyc"),
        ("Intel(R) Xeon(R) Processor @ 2.60GHz", "intel-xeon-processor"),
        ("Intel(R) Core(TM) i7-1185G7 CPU @ 3.00GHz", "intel-core-i7-1185g7"),
    ],
)
def test_results_are_kept_under_the_name_of_the_processor(processor, slug):
    from measuring import processor_slug

    assert processor_slug(processor) == slug
