"""The recipes, under the name they have always had; they live in `atrous.training.recipes`."""

from atrous.training.recipes import *  # noqa: F403
from atrous.training.recipes import RECIPES as RECIPES
