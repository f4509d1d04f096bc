"""The table of a call's records, read by pyarrow and pandas."""

import pytest

from atrous.errors import AtrousError
from atrous.predict import index
from atrous.predict.find import Picture
from atrous.predict.index import indexed
from atrous.predict.jobs import killed_its_workers
from atrous.predict.many import segment_many
from atrous.predict.predictor import Predictor
from tests.fake_engine import BrightestChannel
from tests.predict.test_jobs import draw

parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra cloud")


def segment(tmp_path, **options):
    pictures = tmp_path / "in"
    if not pictures.exists():
        (draw(pictures, 5) / "bad.png").write_bytes(b"no picture")
    predictor = Predictor(BrightestChannel())
    file = tmp_path / "all.parquet"
    return segment_many([pictures], predictor, tmp_path / "out", index=file, **options), file


def test_the_index_holds_every_record_and_error(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "_ROWS", 2)  # several row groups
    lines, file = segment(tmp_path)
    rows = parquet.read_table(file).to_pylist()
    assert [row["place"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for row, line in zip(rows, lines, strict=True):
        assert row["input"] == line["input"]
        assert (row["error"], row["code"]) == (line.get("error"), line.get("code"))
        assert (row["labels"], row["confidence"]) == (line.get("labels"), line.get("confidence"))
        assert dict(row["areas"] or {}) == line.get("areas", {})
        assert [row["height"], row["width"]] == list(line.get("size", (None, None)))
    segment(tmp_path)  # kept output is in it too
    assert parquet.read_table(file).to_pylist() == rows


def test_pandas_reads_the_index(tmp_path):
    pandas = pytest.importorskip("pandas")
    _, file = segment(tmp_path)
    table = pandas.read_parquet(file)
    assert table["error"].notna().sum() == 1
    assert (table["height"].dropna() == 9).all()


def test_a_call_that_ends_early_leaves_the_index_as_it_was(tmp_path):
    def broken():
        yield killed_its_workers(1, Picture(tmp_path / "x.png", "x"))
        raise AtrousError("E-DISK-FULL", "full")

    (tmp_path / "all.parquet").write_bytes(b"before")
    with pytest.raises(AtrousError):
        list(indexed(broken(), tmp_path / "all.parquet"))
    assert [path.name for path in tmp_path.iterdir()] == ["all.parquet"]
    assert (tmp_path / "all.parquet").read_bytes() == b"before"
