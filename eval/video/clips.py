"""Clips of videos as a set of samples: uint8 (T, 3, H, W) each, read as images are, so that every metric is one of clips too.

frames of clip j of a video of L frames:   s_j + stride (0, 1, ..., T - 1),   s_j = j (L - span) / max(clips - 1, 1), floor
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.checks import whole
from fewstep.eval.images.decode import BadImage, as_tensor, checked_range, from_array
from fewstep.eval.images.folders import Files
from fewstep.eval.images.image_sets import ImageSet, digest
from fewstep.eval.images.sources import image_set

VIDEO_FILES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg")
FRAMES = 16  # of a clip: what FVD was published with


class Clips(ImageSet):
    """Clips of a folder with a folder of frames for each video, of an array, or of a list of arrays, one a video.

    Args:
        source: such a folder or .zip; an array (N, T, C, H, W) or (N, T, H, W, C), or a .npy or .npz of one; arrays (T, ...).
        frames: of a clip.
        stride: between its frames.
        clips: of each video, evenly from its beginning to its end; one begins with the first frame.
        how: range, key, skip_bad, limit ... as `image_set` takes them.

    Raises:
        ValueError: a video with fewer frames than a clip, a file of video, no videos.
    """

    parallel = True

    def __init__(self, source: Any, frames: int = FRAMES, stride: int = 1, clips: int = 1, **how: Any) -> None:
        whole("frames", frames, 2)
        self.frames, self.stride, self.clips = frames, whole("stride", stride, 1), whole("clips", clips, 1)
        self.videos: Videos = _videos(source, how)
        span = stride * (frames - 1) + 1
        for video, length in enumerate(self.videos.lengths):
            if length < span:
                raise ValueError(
                    f"{self.videos.label(video)} has {length} frame{'s' * (length > 1)}, and a clip of {frames} at stride "
                    f"{stride} takes {span}: give frames= and stride= that fit (--frames), or longer videos"
                )
        self.starts = [
            (video, j * (length - span) // max(clips - 1, 1))
            for video, length in enumerate(self.videos.lengths)
            for j in range(clips)
        ]
        super().__init__(f"clips of {frames} frames of {self.videos.name}", len(self.starts), self.videos.lossy)

    def label(self, index: int) -> str:
        video, start = self.starts[index]
        return f"the clip from frame {start} of {self.videos.label(video)}"

    def image(self, index: int) -> Tensor:
        video, start = self.starts[index]
        found = [self.videos.frame(video, start + self.stride * k) for k in range(self.frames)]
        if len({frame.shape for frame in found}) > 1:
            raise BadImage("has frames of several sizes")
        return torch.stack(found)

    @property
    def labels(self) -> np.ndarray | None:
        return None

    @property
    def fingerprint(self) -> str:
        return digest(self.videos.fingerprint, self.frames, self.stride, self.clips)

    @property
    def content(self) -> str:
        return digest(self.videos.content, self.frames, self.stride, self.clips)


class Videos:
    """Frames by video, of a set of image files of which a folder is a video."""

    def __init__(self, images: Files) -> None:
        self.images, self.name, self.lossy = images, images.name, images.lossy

    @cached_property
    def groups(self) -> list[list[int]]:
        """Numbers of the frames of each video."""
        folders = [str(PurePosixPath(file).parent) for file in self.images.files]
        return [[i for i, _ in members] for _, members in groupby(enumerate(folders), key=lambda pair: pair[1])]

    @property
    def lengths(self) -> list[int]:
        return [len(group) for group in self.groups]

    def label(self, video: int) -> str:
        return f"{PurePosixPath(self.images.files[self.groups[video][0]]).parent} in {self.name}"

    def frame(self, video: int, index: int) -> Tensor:
        return self.images.image(self.groups[video][index])

    @property
    def fingerprint(self) -> str:
        return self.images.fingerprint

    @property
    def content(self) -> str:
        return self.images.content


class ArrayVideos(Videos):
    """Frames of arrays (T, C, H, W) or (T, H, W, C), one a video."""

    def __init__(self, arrays: Any, name: str, range: Any = None) -> None:
        self.arrays, self.name, self.lossy, self.range = arrays, name, None, range
        one = as_tensor(arrays[0][:1])
        if one.ndim != 4:
            raise ValueError(f"{name}: a video is (T, C, H, W) or (T, H, W, C); got {tuple(arrays[0].shape)}")
        if one.is_floating_point():
            checked_range(range, one.dtype)

    @property
    def lengths(self) -> list[int]:
        return [len(video) for video in self.arrays]

    def label(self, video: int) -> str:
        return f"video {video} of {self.name}"

    def frame(self, video: int, index: int) -> Tensor:
        return from_array(self.arrays[video][index], self.range)

    @property
    def fingerprint(self) -> str:
        some = np.linspace(0, len(self.arrays) - 1, min(len(self.arrays), 256)).astype(int)
        first = (as_tensor(self.arrays[int(i)][0]).cpu().float().numpy().tobytes() for i in some)
        return digest(self.lengths, self.range, *first)

    @property
    def content(self) -> str:
        return self.fingerprint


def _videos(source: Any, how: dict[str, Any]) -> Videos:
    """The videos of a source. ValueError: a file of video, or nothing that videos can be."""
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        _refuse_video_files(path)
        if path.suffix.lower() not in (".npy", ".npz"):
            images = image_set(path, **how)
            if not isinstance(images, Files):
                raise ValueError(f"{path} holds no videos: give a folder with a folder of frames for each")
            return Videos(images)
        source, name = _array(path, how.get("key")), str(path)
    else:
        name = f"{type(source).__name__} of videos"
    arrays = isinstance(source, (Tensor, np.ndarray)) or (
        isinstance(source, Sequence) and all(getattr(video, "ndim", 0) == 4 for video in source)
    )
    if not arrays or (hasattr(source, "ndim") and source.ndim != 5) or not len(source):
        raise ValueError(
            f"{name} is no set of videos: give a folder with a folder of frames for each, an array (N, T, C, H, W) or "
            "(N, T, H, W, C), or a list of arrays (T, C, H, W)"
        )
    return ArrayVideos(source, name, how.get("range"))


def _array(path: Path, key: str | None) -> Any:
    """The array of a .npy, memory-mapped, or one of an .npz."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        return found if path.suffix.lower() == ".npy" else found[key or "arr_0"]
    except Exception as error:  # of zipfile, numpy and what they inflate with: anything
        raise ValueError(f"{path} holds no array of videos that can be read ({error})") from error


def _refuse_video_files(path: Path) -> None:
    """ValueError for what only a decoder of video reads."""
    files = [path] if path.is_file() else list(path.iterdir()) if path.is_dir() else []
    video = next((file for file in files if file.suffix.lower() in VIDEO_FILES), None)
    if video is not None:
        raise ValueError(
            f"{video} is a file of video, whose decoder would decide about its frames: write these as .png into a folder for "
            f"each video, for example ffmpeg -i {video.name} {video.stem}/%05d.png"
        )
