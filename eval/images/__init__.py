"""Images from wherever they are: `image_set(source) -> ImageSet`."""

from fewstep.lazy import lazily

# Public name -> module: on first use, so that none of them is imported for the sake of another.
_LAZY = {
    "image_set": ".sources",
    "holds_images": ".sources",
    "ImageSet": ".image_sets",
    "Generated": ".generated",
}
__all__ = list(_LAZY)
__getattr__ = lazily("fewstep.eval.images", _LAZY)
