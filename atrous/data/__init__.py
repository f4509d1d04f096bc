"""Labelled pictures: what they are, where they come from, how they reach the network.

Importing this package imports no torch; names that need it live in their own modules.
"""

from atrous.data.dataset import Dataset, FileDataset, Item, Sample
from atrous.data.opening import open_dataset
from atrous.data.scenes.procedural import scenes
from atrous.data.splitting import split_off

__all__ = ["Dataset", "FileDataset", "Item", "Sample", "open_dataset", "scenes", "split_off"]
