"""Regions of georeferenced pictures as polygons in map units, in one file."""

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from atrous.errors import AtrousError, needing
from atrous.images.decode import atomic
from atrous.predict.batch import Outcome

SUFFIXES = (".geojson", ".json", ".gpkg")


def check_file(path: Path | None) -> Path | None:
    """Returns the file, if there is one, to which polygons can be written under this name.

    Raises:
        AtrousError: Another format than GeoJSON and GeoPackage, or the extra ``geo`` is missing.
    """
    if path is not None and path.suffix.lower() not in SUFFIXES:
        raise AtrousError(
            "E-OUT",
            f"polygons are written as .geojson or .gpkg, not {path.suffix or 'without a suffix'}",
            where=path,
            fix=f"name it {path.with_suffix('.geojson').name}; "
            f"'ogr2ogr {path.name} {path.with_suffix('.geojson').name}' turns it into others",
        )
    if path is not None and path.suffix.lower() == ".gpkg":
        with needing("a GeoPackage", "geo"):
            import pyogrio  # noqa: F401  # said before the first picture, not after the last
    return path


def write_polygons(path: Path, outcomes: Sequence[Outcome], classes: Sequence[str]) -> int:
    """Writes the regions of pictures with a place on the ground; returns their number.

    Every connected region of a class becomes a polygon along the borders of its pixels, with its
    holes and the properties ``class``, ``value`` and ``input``. All are in the coordinate reference
    system of the first picture, which the file names.
    """
    import rasterio

    files = [(str(each.path), labels) for each in outcomes if (labels := labels_on_ground(each))]
    crs = None
    if files:
        with rasterio.open(files[0][1]) as first:
            crs = first.crs
    features = (feature for file in files for feature in _features(*file, classes, crs))
    with atomic(path) as temporary:
        if path.suffix.lower() != ".gpkg":
            return _write_geojson(temporary, features, crs)
        with TemporaryDirectory() as folder:
            source = Path(folder, "labels.geojson")
            count = _write_geojson(source, features, crs)
            _as_geopackage(source, temporary)
        return count


def labels_on_ground(outcome: Outcome) -> str:
    """Returns the label file of a picture with a place on the ground; empty for others."""
    labels = str((outcome.record or {}).get("labels"))
    return labels if labels.endswith(".tif") else ""


def _write_geojson(path: Path, features: Iterable[dict[str, Any]], crs: Any) -> int:
    name = {"type": "name", "properties": {"name": crs.to_string()}} if crs else None
    count = 0
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"type": "FeatureCollection", "crs": {json.dumps(name)}, "features": [')
        for feature in features:
            file.write((",\n" if count else "\n") + json.dumps(feature))
            count += 1
        file.write("\n]}\n")
    return count


def _features(
    input_: str, labels: str, classes: Sequence[str], crs: Any
) -> Iterator[dict[str, Any]]:
    import rasterio
    from rasterio.features import shapes
    from rasterio.warp import transform_geom

    # A transform without a coordinate system is not news.
    with warnings.catch_warnings(action="ignore"), rasterio.open(labels) as file:
        for geometry, number in shapes(rasterio.band(file, 1), transform=file.transform):
            value = int(number)
            if value >= len(classes):
                continue  # no label
            if file.crs != crs:
                geometry = transform_geom(file.crs, crs, geometry)
            properties = {"class": classes[value], "value": value, "input": input_}
            yield {"type": "Feature", "properties": properties, "geometry": geometry}


def _as_geopackage(source: Path, out: Path) -> None:
    from pyogrio import raw

    meta, _, geometry, fields = raw.read(source)
    raw.write(
        out, geometry, fields, meta["fields"], crs=meta["crs"], geometry_type="Polygon",
        layer="labels", driver="GPKG",
    )  # fmt: skip
