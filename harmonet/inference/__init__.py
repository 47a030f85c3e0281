"""Whole volumes from a network that was trained on patches.

*The dense definition*: a target voxel is what the model says of it from the patch of the trained size that is centred
on its source voxel. *The definition by cores*: the volume is covered with patches a stride apart, of each the central
core is kept, and where cores overlap their weighted mean. The dense definition is a core and a stride of 1.

A model whose patch-centred prediction sees no border of its patch gives the same from tiles of any size, at a fraction
of the work. Whether it does is measured on the model itself. Deeper models have learnt the zeros around their patches
and are applied to patches of that size.
"""

from harmonet.inference.tiles import Where
from harmonet.inference.volume import CORE, MEMORY, Filled, predict_stages

__all__ = ["CORE", "MEMORY", "Filled", "Where", "predict_stages"]
