import csv

import numpy as np
import pytest

from nl_jax.data.dataset import Dataset
from nl_jax.errors import InputError
from nl_jax.training.faults import BadExamples


class Videos(Dataset):
    names = tuple(f"{i}.mp4" for i in range(100))

    def __len__(self):
        return 100

    def failure_reason(self, index):
        return f"reason {index}"


def failed(*rows):
    return np.array([row + (-1,) * (3 - len(row)) for row in rows])


def test_every_bad_video_is_listed_once(tmp_path):
    bad = BadExamples(tmp_path, Videos(), "video", 1.0)
    assert bad.add(failed((), (5,), (7, 5))) == ["5.mp4: reason 5", "7.mp4: reason 7"]
    assert bad.add(failed((7,), (9,))) == ["9.mp4: reason 9"]
    again = BadExamples(tmp_path, Videos(), "video", 1.0)
    assert again.indices == {5, 7, 9} and again.add(failed((5,))) == []
    with (tmp_path / "bad_videos.csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["5.mp4", "7.mp4", "9.mp4"]


def test_names_need_not_be_utf8(tmp_path):
    class Latin(Videos):
        names = ("caf\udce9.mp4",)

    BadExamples(tmp_path, Latin(), "video", 1.0).add(failed((0,)))
    assert b"caf\xe9.mp4" in (tmp_path / "bad_videos.csv").read_bytes()
    assert BadExamples(tmp_path, Latin(), "video", 1.0).indices == {0}


def test_a_run_of_too_many_bad_videos_stops_with_the_first_errors(tmp_path):
    bad = BadExamples(tmp_path, Videos(), "video", 0.2)
    for index in range(4):  # the share counts 20 examples at least
        bad.add(failed((index,)))
    with pytest.raises(InputError) as error:
        bad.add(failed((10,)))
    message = str(error.value)
    assert message.startswith(
        "5 of the first 20 training videos cannot be decoded, more than the share max_bad_videos=0.2"
    )
    assert "0.mp4: reason 0; 1.mp4: reason 1; 2.mp4: reason 2; 3.mp4: reason 3; 10.mp4: reason 10" in message
    assert "bad_videos.csv" in message


def test_the_share_is_of_the_videos_seen(tmp_path):
    bad = BadExamples(tmp_path, Videos(), "video", 0.2)
    bad.add(failed(*[()] * 60))
    for index in range(12):
        bad.add(failed((index,)))
    for _ in range(50):
        bad.add(failed((3,)))  # a repeated index counts once
    for index in range(20, 28):
        bad.add(failed((index,)))
    with pytest.raises(InputError, match="21 of the first 100 training videos"):
        bad.add(failed((40,)))


def test_a_resumed_run_counts_what_it_sees_itself(tmp_path):
    BadExamples(tmp_path, Videos(), "video", 1.0).add(failed(*((index,) for index in range(50))))
    BadExamples(tmp_path, Videos(), "video", 0.2).add(failed((1,), (2,)))
