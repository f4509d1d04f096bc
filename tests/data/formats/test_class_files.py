import json
from pathlib import Path

import pytest

from atrous.classes import pascal_palette
from atrous.data.formats.class_files import find_class_file, read_class_file
from atrous.errors import AtrousError
from tests.data.trees import write


def test_json_gives_names_colours_and_void(tmp_path: Path) -> None:
    content = {"classes": ["a", "b"], "palette": [[1, 2, 3], [4, 5, 6], [0, 0, 0]], "void": 2}
    found = read_class_file(write(tmp_path / "classes.json", json.dumps(content)))
    assert found.table.classes == ("a", "b")
    assert found.table.palette == ((1, 2, 3), (4, 5, 6))
    assert found.mapping == {2: None}
    assert found.colors == (((1, 2, 3), 0), ((4, 5, 6), 1), ((0, 0, 0), 2))


def test_names_alone_get_the_pascal_colours(tmp_path: Path) -> None:
    found = read_class_file(write(tmp_path / "classes.txt", "\ufeffa b\n\nc\n"))
    assert found.table.classes == ("a b", "c")
    assert found.table.palette == pascal_palette(2)


def test_colours_of_a_label_map_become_classes_and_void_is_last(tmp_path: Path) -> None:
    lines = "# label:color_rgb:parts:actions\nvoid:9,9,9::\nbackground:0,0,0::\ncat:1,2,3::\n"
    found = read_class_file(write(tmp_path / "labelmap.txt", lines))
    assert found.table.classes == ("background", "cat")
    assert found.mapping == {2: None}
    assert dict(found.colors) == {(0, 0, 0): 0, (1, 2, 3): 1, (9, 9, 9): 2}


def test_class_dict_is_names_and_colours(tmp_path: Path) -> None:
    found = read_class_file(
        write(tmp_path / "class_dict.csv", "name,r,g,b\ncar,64,0,128\nVoid,0,0,0\n")
    )
    assert found.table.classes == ("car",)
    assert dict(found.colors) == {(64, 0, 128): 0, (0, 0, 0): 1}
    assert found.mapping == {1: None}


def test_values_of_an_export_are_mapped_in_order(tmp_path: Path) -> None:
    text = "Pixel Value, Class\n0, background\n7, car\n255, ignore\n"
    found = read_class_file(write(tmp_path / "_classes.csv", text))
    assert found.table.classes == ("background", "car")
    assert found.mapping == {0: 0, 7: 1, 255: None}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.json", "{"),
        ("classes.json", "[1]"),
        ("classes.json", '{"classes": ["a"], "palette": [[1, 2]]}'),
        ("classes.json", '{"classes": ["a"], "palette": [[1, 2, 256]]}'),
        ("labelmap.txt", "cat"),
        ("class_dict.csv", "name,r,g,b\ncar,1,2\n"),
        ("_classes.csv", "Pixel Value, Class\nx, car\n"),
        ("classes.txt", ""),
    ],
)
def test_broken_class_file_is_refused(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(AtrousError) as caught:
        read_class_file(write(tmp_path / name, content))
    assert (caught.value.code, Path(caught.value.where).name) == ("E-DATA-CLASSES", name)


def test_D14_repeated_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match=r"cat.*E-DATA-CLASSES"):
        read_class_file(write(tmp_path / "classes.txt", "cat\ndog\ncat\n"))


def test_nearer_folder_and_richer_file_come_first(tmp_path: Path) -> None:
    write(tmp_path / "far/classes.txt", "far")
    write(tmp_path / "near/classes.txt", "near")
    write(tmp_path / "near/classes.json", '{"classes": ["rich"]}')
    found = find_class_file(tmp_path / "near", tmp_path / "far")
    assert found is not None
    assert found.table.classes == ("rich",)
    assert find_class_file(tmp_path) is None
