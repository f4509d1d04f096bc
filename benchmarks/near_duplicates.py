"""How far apart are the thumbnails of copies, and of different pictures?

The threshold of ``atrous.data.doctor.duplicates`` lies between the two. A copy is scaled by 0.6
and saved again as JPEG of quality 50.

    python benchmarks/near_duplicates.py ../shared/data/camvid ../shared/data/voc2012
"""

import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous.data.dataset import FileDataset, Item
from atrous.data.doctor.measure import measure
from atrous.data.opening import open_dataset

SCALE, QUALITY, COPIES = 0.6, 50, 100


def thumbnails(items: Sequence[Item], dataset: FileDataset) -> NDArray[np.int64]:
    rows = [measure(item, dataset.read_target).thumbnail for item in items]
    return np.array([np.frombuffer(row, np.uint8) for row in rows], dtype=np.int64)


def copy(item: Item, folder: Path) -> Item:
    with Image.open(item.image) as image:
        size = (int(image.width * SCALE), int(image.height * SCALE))
        stream = io.BytesIO()
        image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(
            stream, "JPEG", quality=QUALITY
        )
    path = folder / f"{abs(hash(item.name))}.jpg"
    path.write_bytes(stream.getvalue())
    return item._replace(image=path)


def main(roots: Sequence[str]) -> None:
    result = {}
    for root in roots:
        train, val = open_dataset(root, "train"), open_dataset(root, "val")
        assert isinstance(train, FileDataset)
        assert isinstance(val, FileDataset)
        ours, theirs = thumbnails(train.items, train), thumbnails(val.items, val)
        apart = min(float(np.abs(ours - row).mean(axis=1).min()) for row in theirs)
        with tempfile.TemporaryDirectory() as folder:
            copies = thumbnails([copy(i, Path(folder)) for i in val.items[:COPIES]], val)
        together = np.abs(copies - theirs[:COPIES]).mean(axis=1)
        result[Path(root).name] = {
            "copies_at_most": round(float(together.max()), 2),
            "train_and_val_at_least": round(apart, 2),
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
