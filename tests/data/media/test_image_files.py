"""A broken image is refused with words about an image, its path and the reason, in every format and by every reader."""

import io

import av
import numpy as np
import PIL.Image
import pytest

from nl_jax.data.coco.images import read_image
from nl_jax.data.media.decode import all_frames, probe, read_frames
from nl_jax.data.media.failure import DecodeError
from nl_jax.data.media.image_files import FORMATS, IMAGE_SUFFIXES, format_of, is_image
from nl_jax.data.media.transcode import scan
from nl_jax.data.video.stream import clips_of_file

HEIGHT, WIDTH = 48, 64
READERS = {
    "probe": probe,
    "read_frames": lambda path: read_frames(path, [0]),
    "all_frames": lambda path: list(all_frames(path)),
    "scan": scan,
    "clips_of_file": lambda path: list(clips_of_file(path, lambda count, rate: np.zeros((1, 1), int), 32)),
    "read_image": lambda path: read_image(path, WIDTH, HEIGHT),
}


@pytest.fixture(scope="module")
def files():
    """Returns {format: bytes} of one image."""
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    written = {name: io.BytesIO() for name in FORMATS.values()}
    for name, file in written.items():
        image.save(file, name)
    return {name: file.getvalue() for name, file in written.items()}


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_format_is_known_by_name_and_by_bytes(suffix, files):
    data = files[FORMATS[suffix]]
    assert format_of(data) == FORMATS[suffix] and is_image(data) and is_image(f"a/IMAGE{suffix.upper()}")
    assert not is_image("a/video.mp4") and not is_image(b"hello")


def broken(data: bytes, how: str) -> bytes:
    if how == "damaged":
        middle = len(data) // 2
        return data[:middle] + bytes(64) + data[middle + 64 :]
    return {"text": b"hello" * 50, "40 bytes": data[:40], "half": data[: len(data) // 2], "empty": b""}[how]


@pytest.mark.parametrize("how", ["40 bytes", "half", "damaged", "text", "empty"])
@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES | {".gif"}))
def test_a_broken_image_is_told_as_an_image(suffix, how, files, tmp_path):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(broken(files[FORMATS[suffix]], how))
    refused = 0
    for reader in READERS.values():
        try:
            reader(path)
        except DecodeError as error:
            assert error.path == str(path) and str(error) == f"{path}: {error.reason}"
            assert ("image" in error.reason or how == "empty") and "video" not in error.reason, error.reason
            refused += 1
    # The decoders of some formats fill up lost pixels, and only `read_image` asks a JPEG for a whole image. No decoder
    # finds other pixels in a format without checksums.
    fills = {"half": {".gif"}, "damaged": {".bmp", ".gif", ".tif", ".tiff", ".webp"}}.get(how, set())
    some = {
        "half": {".jpg", ".jpeg", ".bmp", ".tif", ".tiff"},
        "damaged": {".png", ".jpg", ".jpeg"},
        "40 bytes": {".gif"},
    }
    if suffix in fills:
        assert not refused
    elif suffix in some.get(how, set()):
        assert refused  # the header is whole, so `probe` answers
    else:
        assert refused == len(READERS)


def test_bytes_that_are_no_image_are_told_as_one_where_an_image_is_asked_for():
    with pytest.raises(DecodeError, match=r"^file in memory: not an image that can be opened"):
        read_image(b"hello" * 50, WIDTH, HEIGHT)
    with pytest.raises(DecodeError, match=r"^file in memory: not a video that can be opened"):
        read_frames(b"hello" * 50, [0])


@pytest.mark.parametrize("tag", [{274: 1}, {296: 2}, {339: (1, 1, 1)}, {42113: "0"}, {65000: "a camera"}])
def test_a_tiff_may_have_tags_that_its_decoder_does_not_know(tag):
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "TIFF", tiffinfo=tag)
    np.testing.assert_array_equal(read_image(file.getvalue(), WIDTH, HEIGHT), image)


@pytest.mark.parametrize("reader", ["probe", "read_frames", "read_image"])
def test_a_tiff_that_is_compressed_as_jpeg_is_refused_and_not_black(reader, tmp_path):
    path = tmp_path / "aerial.tif"
    PIL.Image.new("RGB", (WIDTH, HEIGHT), "white").save(path, compression="jpeg")
    with pytest.raises(DecodeError, match="its tiff image is compressed as JPEG, valid are other compressions"):
        READERS[reader](path)


def test_an_animated_webp_is_its_first_image_or_told_as_a_kind_without_a_decoder():
    first, second = (PIL.Image.new("RGB", (WIDTH, HEIGHT), name) for name in ("red", "blue"))
    file = io.BytesIO()
    first.save(file, "WEBP", save_all=True, append_images=[second])
    if int(av.__version__.partition(".")[0]) < 19:
        with pytest.raises(DecodeError, match="or of a kind without a decoder, such as an animated WebP"):
            read_image(file.getvalue(), WIDTH, HEIGHT)
    else:
        np.testing.assert_allclose(read_image(file.getvalue(), WIDTH, HEIGHT).mean((0, 1)), (255, 0, 0), atol=4)


def test_a_frame_of_a_folder_that_cannot_be_decoded_is_named(files, tmp_path):
    for number in (1, 2):
        (tmp_path / f"img_{number}.png").write_bytes(files["PNG"])
    damaged = tmp_path / "img_2.png"
    damaged.write_bytes(broken(files["PNG"], "damaged"))
    with pytest.raises(DecodeError, match=r"img_2\.png: its png image cannot be decoded \("):
        read_frames(tmp_path, [0, 1])
