"""Small real video files: a window that moves over photographs, encoded with PyAV."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
from av.filter import Graph
from sklearn.datasets import load_sample_images

from nl_jax.data.coco.masks import compressed


@pytest.fixture(scope="session")
def pan() -> Callable[..., np.ndarray]:
    """pan(t, width, height, photo) -> uint8 (t, h, w, 3): no two of its frames are equal."""
    photos = load_sample_images().images

    def make(frames: int, width: int = 64, height: int = 48, photo: int = 0) -> np.ndarray:
        image = photos[photo]
        y = (200 + np.arange(frames) * 2) % (image.shape[0] - height)  # starts below the sky, whose rows look alike
        x = np.arange(frames) * 3 % (image.shape[1] - width)
        return np.stack([image[j : j + height, i : i + width] for j, i in zip(y, x, strict=True)])

    return make


@pytest.fixture(scope="session")
def encode() -> Callable[..., Path]:
    """encode(path, video, ...) -> path. The ending of the path decides the container."""

    def write(
        path: Path,
        video: np.ndarray,
        *,
        codec: str = "libx264",
        rate: int = 25,
        times: np.ndarray | None = None,
        audio: bool = False,
        rotation: int = 0,
        pixels: str = "yuv420p",
        **options: str | int,
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=rate, options={k: str(v) for k, v in options.items()})
            stream.height, stream.width = video.shape[1:3]
            stream.pix_fmt = pixels
            if times is not None:  # one per frame, in milliseconds
                stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
            if rotation:
                stream.set_display_rotation(rotation)
            if audio:
                sound = container.add_stream("aac" if path.suffix == ".mp4" else "mp2", rate=44100)
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 88200), np.int16), format="s16", layout="mono")
                silence.sample_rate = 44100
                resampler = av.AudioResampler(sound.format.name, sound.layout.name, 44100, sound.frame_size or 1152)
                for piece in resampler.resample(silence):
                    container.mux(sound.encode(piece))
                container.mux(sound.encode(None))
            for i, image in enumerate(video):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                if times is not None:
                    frame.pts, frame.time_base = int(times[i]), Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return write


@pytest.fixture(scope="session")
def decode_all() -> Callable[..., np.ndarray]:
    """decode_all(path, (w, h)) -> uint8 (t, h, w, 3): all frames that decode from the start and are not damaged."""

    def read(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
        images = []
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # libav repairs a broken frame differently with threads
            graph = None
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    continue
                for frame in (frame for frame in frames if not frame.is_corrupt):
                    if graph is None:
                        graph = Graph()
                        steps = [("scale", f"{size[0]}:{size[1]}:flags=bilinear")] if size else []
                        steps += [("scale", "flags=bilinear"), ("format", "rgb24"), ("buffersink", None)]
                        graph.link_nodes(graph.add_buffer(template=stream), *(graph.add(*step) for step in steps))
                        graph.configure()
                    graph.push(frame)
                    images.append(graph.pull().to_ndarray())
        return np.stack(images)

    return read


@pytest.fixture
def cut() -> Callable[[Path, float], Path]:
    """cut(path, part): cuts a file to its first part, a fraction of its size."""

    def shorten(path: Path, part: float) -> Path:
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * part)])
        return path

    return shorten


@pytest.fixture
def coco_set(tmp_path) -> Callable[..., tuple[Path, Path, dict]]:
    """coco_set(change) -> (folder, annotation file, its content): four photographs, and `change` may alter the content.

    wide.jpg has a triangle of two parts and a crowd. tall.png has a box of compressed run-lengths. square.jpg has
    uncompressed run-lengths. empty.jpg has no annotation. Category ids have a gap.
    """
    photo = load_sample_images().images[0]
    sizes = {"wide.jpg": (60, 96), "tall.png": (96, 64), "square.jpg": (80, 80), "empty.jpg": (60, 96)}

    def write(change: Callable[[dict, Path], object] | None = None) -> tuple[Path, Path, dict]:
        folder = tmp_path / "images"
        folder.mkdir()
        for name, (height, width) in sizes.items():
            PIL.Image.fromarray(photo[200 : 200 + height, 100 : 100 + width]).save(folder / name, quality=95)
        block = np.zeros((96, 64), np.uint8)
        block[20:60, 8:40] = 1
        counts = [80 * 10 + 10, 30, 50, 30, 80 * 68 + 40]  # columns 10 and 11, rows 10 to 40
        triangles = [[10.0, 10.0, 40.0, 10.0, 10.0, 40.0], [50.5, 20.5, 60.5, 20.5, 60.5, 50.0]]
        annotations = [
            {"bbox": [10, 10, 50.5, 40], "image_id": 3, "category_id": 2, "segmentation": triangles},
            {
                "bbox": [0, 0, 96, 10],
                "image_id": 3,
                "category_id": 7,
                "iscrowd": 1,
                "segmentation": {"size": [60, 96], "counts": [0, *[10, 50] * 95, 10, 50]},
            },
            {"bbox": [8, 20, 32, 40], "image_id": 11, "category_id": 7, "segmentation": compressed(block)},
            {
                "bbox": [10, 10, 2, 30],
                "image_id": 12,
                "category_id": 2,
                "segmentation": {"size": [80, 80], "counts": counts},
            },
        ]
        content = {
            "images": [
                {"id": number, "file_name": name, "height": height, "width": width}
                for number, (name, (height, width)) in zip((3, 11, 12, 40), sizes.items(), strict=True)
            ],
            "annotations": [
                {"id": 100 + place, "iscrowd": 0, "area": 600.0} | entry for place, entry in enumerate(annotations)
            ],
            "categories": [{"id": 7, "name": "leaf"}, {"id": 2, "name": "roof"}],
        }
        file = tmp_path / "instances.json"
        result = change(content, folder) if change else None
        if not file.exists():
            file.write_text(json.dumps(content if result is None else result))
        return folder, file, content

    return write
