"""Labelled pictures: the data sets, the formats on disk, and the way to the network.

Importing this package does not import torch. Names that need torch live in modules of their own.
"""

from atrous.data.dataset import Dataset, FileDataset, Item, Sample
from atrous.data.opening import open_dataset
from atrous.data.scenes.procedural import scenes
from atrous.data.splitting import split_off

__all__ = ["Dataset", "FileDataset", "Item", "Sample", "open_dataset", "scenes", "split_off"]
