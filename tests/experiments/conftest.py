"""A folder of six small videos, two of which cannot be decoded."""

import av
import numpy as np
import pytest
from sklearn.datasets import load_sample_images


@pytest.fixture(scope="session")
def video_folder_with_broken_files(tmp_path_factory):
    """(folder, names of the files that cannot be decoded): classes by photograph, mp4 and avi, one cut short."""
    folder = tmp_path_factory.mktemp("videos")
    for label, photo in zip(("pagoda", "flower"), load_sample_images().images, strict=True):
        (folder / label).mkdir()
        for ending, codec in (("mp4", "libx264"), ("avi", "mpeg4")):
            with av.open(str(folder / label / f"clip.{ending}"), "w") as container:
                stream = container.add_stream(codec, rate=25)
                stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
                for i in range(30):
                    image = np.ascontiguousarray(photo[200 + i : 296 + i, 2 * i : 2 * i + 128])
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
                container.mux(stream.encode(None))
    cut = folder / "flower" / "clip.avi"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 3 // 4])  # the frames that are left decode
    (folder / "pagoda" / "text.mp4").write_text("this is no video\n" * 100)
    (folder / "flower" / "empty.mp4").touch()
    (folder / "flower" / "notes.txt").write_text("ignored, and said so")
    return folder, ["pagoda/text.mp4", "flower/empty.mp4"]
