from atrous.classes import ADE20K, ADE20K_31, CAMVID, CITYSCAPES, CITYSCAPES_LABELS, VOC, numbered

# The devkit's colours of a few classes, from its own documentation.
VOC_COLORS = {
    "background": (0, 0, 0),
    "aeroplane": (128, 0, 0),
    "cat": (64, 0, 0),
    "person": (192, 128, 128),
    "tvmonitor": (0, 64, 128),
}


def test_voc_colours_are_the_devkits():
    assert {name: VOC.palette[VOC.classes.index(name)] for name in VOC_COLORS} == VOC_COLORS


def test_tables_have_the_numbers_of_classes_of_their_data_sets():
    tables = (VOC, CITYSCAPES, ADE20K, ADE20K_31, CAMVID)
    assert [len(table.classes) for table in tables] == [21, 19, 150, 32, 11]


def test_cityscapes_training_ids_count_up_and_raw_ids_are_the_servers():
    raw = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert [label.raw_id for label in CITYSCAPES_LABELS] == raw


def test_camvid_is_the_shared_data_sets(shared):
    import json

    table = json.loads((shared / "data" / "camvid" / "classes.json").read_text())
    assert list(CAMVID.classes) == table["classes"]
    assert [list(color) for color in CAMVID.palette] == table["palette"][: len(CAMVID.classes)]


def test_palettes_tell_the_first_256_classes_apart():
    assert len(set(numbered(256).palette)) == 256
