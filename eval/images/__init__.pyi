# The public names and their types. `__init__.py` reads this file: a name is imported when it is first asked for.
from fewstep.eval.images.generated import Generated as Generated
from fewstep.eval.images.image_sets import ImageSet as ImageSet
from fewstep.eval.images.sources import holds_images as holds_images
from fewstep.eval.images.sources import image_set as image_set

__all__ = [
    "image_set",
    "holds_images",
    "ImageSet",
    "Generated",
]
