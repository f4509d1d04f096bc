from functools import cache

import pytest

from atrous.build import BACKBONES
from tests.networks import random_network


@cache
def _backbone(name):
    return random_network(name).encoder.backbone


@pytest.fixture(params=BACKBONES)
def backbone(request):
    """Each backbone of ours with random weights, at output stride 16, built once."""
    found = _backbone(request.param)
    found.set_output_stride(16)
    return found
