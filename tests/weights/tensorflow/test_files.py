import importlib.util
import json
import logging
import sys
import tarfile

import numpy as np
import pytest

from atrous.errors import AtrousError
from atrous.weights.tensorflow.checkpoint import read_checkpoint
from atrous.weights.tensorflow.files import read_tensorflow
from atrous.weights.tensorflow.graph import read_frozen_graph
from atrous.weights.tensorflow.protos import _classes
from tests.weights.tensorflow.tensorflow_files import add_constant, write_checkpoint, write_graph

REFERENCE = "tf_reference/mobilenet_v2_os16"


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    return {
        "aspp0/weights": random.normal(size=(1, 1, 5, 4)).astype(np.float32),
        "aspp0/BatchNorm/gamma": random.normal(size=4).astype(np.float32),
        "logits/semantic/biases": random.normal(size=3).astype(np.float32),
    }


@pytest.fixture(scope="session")
def expected(shared):
    """The reference model's variables, computed from their names."""
    spec = importlib.util.spec_from_file_location("values", shared / "tf_reference/values.py")
    values = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(values)
    case = json.loads((shared / f"{REFERENCE}.json").read_text())
    return {name: values.value(name, shape) for name, shape in case["variables"].items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert np.array_equal(found[name], array), name


def refusal(source):
    """Returns the error that reading a source raises."""
    with pytest.raises(AtrousError) as caught:
        read_tensorflow(source)
    return caught.value


def pack(path, files):
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, file in files.items():
            archive.add(file, name)
    return path


def reference_files(shared, *suffixes):
    folder = "deeplabv3_mnv2"
    names = {
        ".ckpt.index": f"{folder}/model.ckpt.index",
        ".ckpt.data-00000-of-00001": f"{folder}/model.ckpt.data-00000-of-00001",
        ".frozen_inference_graph.pb": f"{folder}/frozen_inference_graph.pb",
    }
    return {names[s]: f"{shared / REFERENCE}{s}" for s in suffixes or names}


@pytest.mark.parametrize("suffix", [".ckpt", ".ckpt.index", ".frozen_inference_graph.pb"])
def test_reference_files_give_the_reference_values_bit_for_bit(shared, expected, suffix):
    found, notes = read_tensorflow(f"{shared / REFERENCE}{suffix}")
    assert_same(found, expected)
    assert notes == []


@pytest.mark.parametrize(
    ("archive", "suffixes"),
    [
        ("both.tar.gz", ()),
        ("checkpoint.tgz", (".ckpt.index", ".ckpt.data-00000-of-00001")),
        ("graph.tgz", (".frozen_inference_graph.pb",)),
    ],
)
def test_archives_give_the_reference_values_bit_for_bit(
    shared, expected, tmp_path, caplog, archive, suffixes
):
    path = pack(tmp_path / archive, reference_files(shared, *suffixes))
    assert_same(read_tensorflow(path)[0], expected)
    assert not caplog.records


def test_a_checkpoint_in_several_data_files_is_read(tmp_path, arrays):
    found, _ = read_tensorflow(write_checkpoint(tmp_path / "model.ckpt", arrays, shards=2))
    assert_same(found, arrays)


def test_an_unpacked_folder_is_read(tmp_path, arrays):
    write_checkpoint(tmp_path / "model.ckpt", arrays)
    assert_same(read_tensorflow(tmp_path)[0], arrays)


def test_what_training_and_imagenet_left_behind_is_listed(arrays, tmp_path):
    extra = {
        "aspp0/weights/Momentum": np.zeros((1, 1, 5, 4), np.float32),
        "aspp0/weights/ExponentialMovingAverage": np.ones((1, 1, 5, 4), np.float32),
        "xception_65/logits/weights": np.zeros((1, 1, 8, 1001), np.float32),
        "global_step": np.array(30000, np.int64),
    }
    prefix = write_checkpoint(tmp_path / "model.ckpt", {**arrays, **extra})
    found, notes = read_tensorflow(prefix)
    assert_same(found, arrays)  # the variable itself, not its average: what the exporter restores
    assert notes == [
        "left out: optimizer slots (1): aspp0/weights/Momentum",
        "left out: moving averages (1): aspp0/weights/ExponentialMovingAverage",
        "left out: counters (1): global_step",
        "left out: classifier of ImageNet (1): xception_65/logits/weights",
        "trained for 30000 steps",
    ]


def test_W12_moving_averages_stand_in_for_variables_that_are_absent(arrays):
    averages = {f"{name}/ExponentialMovingAverage": array for name, array in arrays.items()}
    found, notes = read_tensorflow(averages)
    assert_same(found, arrays)
    assert notes[1] == f"taken from their moving averages (3): {', '.join(sorted(arrays))}"


def test_optimizer_slots_are_not_even_read(tmp_path, arrays):
    slot = {"aspp0/weights/Momentum": np.zeros((1, 1, 5, 4), np.float32)}
    wrong = {"aspp0/weights/Momentum": {"crc32c": 1}}
    prefix = write_checkpoint(tmp_path / "model.ckpt", {**arrays, **slot}, changes=wrong)
    assert_same(read_tensorflow(prefix)[0], arrays)
    with pytest.raises(AtrousError, match="E-WEIGHTS-FORMAT"):
        read_checkpoint(prefix)


def test_a_frozen_graph_of_other_weights_beside_a_checkpoint_is_noticed(tmp_path, arrays, caplog):
    write_checkpoint(tmp_path / "model.ckpt", arrays)
    name = "aspp0/BatchNorm/gamma"
    write_graph(tmp_path / "frozen_inference_graph.pb", {name: arrays[name] + 1})
    with caplog.at_level(logging.WARNING):
        assert_same(read_tensorflow(tmp_path)[0], arrays)
    assert "frozen from other weights" in caplog.text


def test_constants_stored_short_are_filled_with_their_last_value(tmp_path):
    graph = _classes()["Graph"]()
    add_constant(graph, "aspp0/weights", (2, 3), float_val=[1, 2])
    path = tmp_path / "graph.pb"
    path.write_bytes(graph.SerializeToString())
    found = read_frozen_graph(path)["aspp0/weights"]
    assert found.tolist() == [[1, 2, 2], [2, 2, 2]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crc32c": 7}, "checksum of tensor 'aspp0/weights' is wrong"),
        ({"shape": (1, 1, 5, 5)}, "of shape (1, 1, 5, 5) has 80 bytes"),
        ({"shape": (-1, -1, 5, 4)}, "negative"),
        ({"shape": (1 << 40, 1 << 40)}, "has 80 bytes"),
        ({"offset": 20}, "overlaps"),
        ({"offset": 1 << 40}, "ends before tensor"),
        ({"shard_id": 3}, "lies in data file 3"),
        ({"dtype": 1, "size": 79}, "has 79 bytes"),
    ],
)
def test_W10_a_checkpoint_that_lies_is_refused(tmp_path, arrays, changes, message):
    prefix = tmp_path / "model.ckpt"
    error = refusal(write_checkpoint(prefix, arrays, changes={"aspp0/weights": changes}))
    assert error.code == "E-WEIGHTS-FORMAT"
    assert message in str(error)


def test_W10_a_tensor_named_twice_is_refused(tmp_path, arrays):
    prefix = write_checkpoint(tmp_path / "model.ckpt", arrays, twice="aspp0/weights")
    assert "'aspp0/weights' occurs twice" in str(refusal(prefix))


def test_W10_a_cut_index_is_refused_wherever_it_is_cut(tmp_path, arrays):
    prefix = write_checkpoint(tmp_path / "model.ckpt", arrays)
    index = tmp_path / "model.ckpt.index"
    whole = index.read_bytes()
    for length in range(len(whole)):
        index.write_bytes(whole[:length])
        assert refusal(prefix).code == "E-WEIGHTS-FORMAT"


def test_W10_no_flipped_byte_of_a_checkpoint_goes_unnoticed(tmp_path, arrays):
    prefix = write_checkpoint(tmp_path / "model.ckpt", arrays)
    for file in (tmp_path / "model.ckpt.index", tmp_path / "model.ckpt.data-00000-of-00001"):
        whole = file.read_bytes()
        for position in range(len(whole)):
            file.write_bytes(
                whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :]
            )
            try:
                found, _ = read_tensorflow(prefix)
            except AtrousError as error:
                assert error.code in ("E-WEIGHTS-FORMAT", "E-FILE-MISSING")  # noqa: PT017
            else:  # padding of the footer and the unused handle before it mean nothing
                assert_same(found, arrays)
        file.write_bytes(whole)


def test_a_missing_data_file_is_named(tmp_path, arrays):
    prefix = write_checkpoint(tmp_path / "model.ckpt", arrays)
    (tmp_path / "model.ckpt.data-00000-of-00001").unlink()
    assert "model.ckpt.data-00000-of-00001" in str(refusal(prefix))


def test_what_is_not_there_is_said_with_what_would_be_read(tmp_path):
    error = refusal(tmp_path / "model.ckpt")
    assert error.code == "E-FILE-MISSING"
    assert "frozen .pb" in error.fix


def test_a_folder_of_two_checkpoints_asks_which(tmp_path, arrays):
    write_checkpoint(tmp_path / "model.ckpt-1", arrays)
    write_checkpoint(tmp_path / "model.ckpt-2", arrays)
    assert "model.ckpt-1.index, model.ckpt-2.index" in str(refusal(tmp_path))


@pytest.mark.parametrize(
    "content", [b"", b"hello world, this is no graph", b"\x0a\xff\xff\xff\xff\x0f"]
)
def test_W10_what_is_no_graph_is_refused(tmp_path, content):
    path = tmp_path / "graph.pb"
    path.write_bytes(content)
    assert refusal(path).code == "E-WEIGHTS-FORMAT"


def test_W10_a_node_named_twice_is_refused(tmp_path):
    graph = _classes()["Graph"]()
    for _ in range(2):
        add_constant(graph, "aspp0/weights", (1,), float_val=[1])
    path = tmp_path / "graph.pb"
    path.write_bytes(graph.SerializeToString())
    assert "'aspp0/weights' occurs twice" in str(refusal(path))


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits there")
def test_W09_a_graph_that_expands_to_100_gb_is_refused_before_it_does(tmp_path):
    graph = _classes()["Graph"]()
    add_constant(graph, "aspp0/weights", (25, 1 << 30), float_val=[1])
    path = tmp_path / "graph.pb"
    path.write_bytes(graph.SerializeToString())
    assert refusal(path).code == "E-WEIGHTS-SIZE"
