"""Pre-annotates CVAT tasks: a function for ``cvat-cli``, no server needed.

::

    pip install atrous cvat-cli
    cvat-cli task auto-annotate 42 --function-module atrous.serve.cvat \
        -p model=str:street --allow-unmatched-labels

CVAT matches classes to the task's labels by name. Needs the package ``cvat-sdk``.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous.errors import needing
from atrous.predict.predictor import Predictor
from atrous.predict.regions import boxed, outlines
from atrous.predict.rle import encode_runs


class Function:
    """What CVAT calls an auto-annotation function: a mask for every class in a picture.

    Args:
        model: As `atrous.Predictor` takes it; None: the default one.
        threads: Threads to use; None: one for each usable processor.
        skip: Classes that are not annotated, between commas.

    Attributes:
        spec: The labels there can be, for CVAT.

    Raises:
        AtrousError: ``cvat-sdk`` is not installed, or no such model.
    """

    def __init__(
        self, model: str | None = None, threads: int | None = None, skip: str = "background"
    ) -> None:
        with needing("pre-annotating for CVAT", "integration"):
            import cvat_sdk.auto_annotation as cvat
        self._cvat: Any = cvat
        self._predictor = Predictor(model, threads=threads)
        self._skipped = frozenset(skip.split(","))
        self.spec = cvat.DetectionFunctionSpec(
            labels=[
                cvat.label_spec(name, index, type="any")
                for index, name in enumerate(self._predictor.classes)
                if name not in self._skipped
            ]
        )

    def detect(self, context: Any, image: Image.Image) -> list[Any]:
        """Returns the shapes of a picture: masks, or polygons where CVAT asks for those.

        Args:
            context: From CVAT; pixels of a lower probability than its threshold are left out.
            image: The picture.
        """
        engine, least = self._predictor.engine, context.conf_threshold or 0.0
        result = Predictor(engine, unknown_below=least)(image)
        shapes = []
        for name in result.areas:
            if name in self._skipped or name not in result.classes:
                continue
            index = result.classes.index(name)
            mask = result.labels == index
            if context.conv_mask_to_poly:
                rings = [ring.astype(float).ravel().tolist() for ring in outlines(mask)]
                shapes += [self._cvat.polygon(index, points) for points in rings]
            else:
                shapes.append(self._cvat.mask(index, encoded(mask)))
        return shapes


create = Function  # what cvat-cli looks for


def encoded(mask: NDArray[np.bool_]) -> list[int]:
    """Returns a mask (H, W) that is somewhere true as CVAT has it.

    That is: run lengths of its bounding box row by row, then the box, its ends included.

    >>> encoded(np.array([[0, 0, 0], [0, 1, 1], [0, 0, 1]], bool))
    [0, 2, 1, 1, 1, 1, 2, 2]
    """
    part, (left, top, right, bottom) = boxed(mask)
    return [*encode_runs(part.ravel()), left, top, right - 1, bottom - 1]
