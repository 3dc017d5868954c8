"""A folder of six small videos. Two of them cannot be decoded."""

import shutil

import pytest


@pytest.fixture(scope="session")
def video_folder_with_broken_files(video_folder, tmp_path_factory):
    """(folder, names of the files that cannot be decoded). Another file is cut, and its rest decodes."""
    folder = tmp_path_factory.mktemp("broken") / "videos"
    shutil.copytree(video_folder, folder)
    cut = folder / "flower" / "clip.avi"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 3 // 4])  # the remaining frames decode
    (folder / "pagoda" / "text.mp4").write_text("this is no video\n" * 100)
    (folder / "flower" / "empty.mp4").touch()
    (folder / "flower" / "notes.txt").write_text("ignored, and said so")
    return folder, ["pagoda/text.mp4", "flower/empty.mp4"]
