"""The recipes, under their public name; `atrous.training` holds them."""

from atrous.training.finetune import finetune as finetune
from atrous.training.recipes import *  # noqa: F403
from atrous.training.recipes import RECIPES as RECIPES
