"""DeepLabv3+ (arXiv:1802.02611): from a photograph to a mask, and from labelled pictures to a model.

The runtime half (Predictor) needs no torch; names of the training half load when first used and
need ``pip install 'atrous[train]'``.
"""

__version__ = "0.1.0"
