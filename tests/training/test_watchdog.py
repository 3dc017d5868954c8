import threading

from nl_jax.training.watchdog import Watchdog


def test_a_hung_input_is_told_of_and_ends_the_run(capsys):
    said, codes, ended = [], [], threading.Event()

    def end(code):
        codes.append(code)
        ended.set()

    with Watchdog(said.append, warn_after=0.02, end_after=0.2, end=end) as watchdog:
        with watchdog.waiting_for("batch 6"):
            pass
        with watchdog.waiting_for("batch 7"):
            assert ended.wait(60)
    assert codes == [1]
    assert 1 <= len(said) <= 4 and all(line.startswith("waiting for batch 7 for ") for line in said)
    assert "for batch 7, and input_timeout=0.2: the input pipeline hangs" in capsys.readouterr().err


def test_waits_that_end_in_time_are_not_added_up():
    codes, over = [], threading.Event()
    with Watchdog(lambda line: None, warn_after=100.0, end_after=2.0, end=codes.append) as watchdog:
        for number in range(30):
            with watchdog.waiting_for(f"batch {number}"):
                over.wait(0.1)  # 3 seconds in all
    assert not codes


def test_batches_are_handed_on_and_one_that_does_not_come_ends_the_run(capsys):
    codes, ended = [], threading.Event()

    def end(code):
        codes.append(code)
        ended.set()

    def batches():
        yield from (10, 11)
        assert ended.wait(60)

    with Watchdog(lambda line: None, warn_after=0.02, end_after=0.2, end=end) as watchdog:
        assert list(watchdog.over(batches(), "batch for testing")) == [10, 11]
    assert codes == [1] and "for batch for testing 2, and" in capsys.readouterr().err
