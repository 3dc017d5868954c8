import threading

from nl_jax.training.processes.watchdog import Notes, Watchdog


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


class Service:
    """A stand-in for JAX's service, for one process."""

    def __init__(self):
        self.notes = {}

    def key_value_set(self, key, value, allow_overwrite):
        assert allow_overwrite
        self.notes[key] = value

    def key_value_try_get(self, key):
        return self.notes[key]

    def key_value_dir_get(self, folder):
        return [(key, value) for key, value in self.notes.items() if key.startswith(folder)]


def test_the_process_that_has_not_come_is_named(capsys):
    service, said, ended = Service(), [], threading.Event()
    for process, (count, what) in {1: (1, "batch 6"), 2: (2, "step 7")}.items():
        Notes(service, process, 4).leave(count, what)
    watchdog = Watchdog(
        said.append, warn_after=0.02, end_after=0.3, end=lambda code: ended.set(), notes=Notes(service, 0, 4)
    )
    with watchdog:
        with watchdog.waiting_for("batch 6"):
            pass
        with watchdog.waiting_for("step 7"):
            assert ended.wait(60)
    late = "process 1 of 4 has not come, it is at batch 6; process 3 of 4 has not come, it is at its start"
    assert said and said[0].startswith("waiting for step 7 for ") and said[0].endswith(f"s: {late}")
    assert f"and input_timeout=0.3: {late}. The same command" in capsys.readouterr().err
    assert service.notes["nl_jax/at/0"] == "2 step 7"


def test_a_process_that_waits_and_was_asked_to_end_does_so(capsys):
    """JAX's service leaves this note on all processes after one of them had a SIGTERM."""
    service, codes, ended = Service(), [], threading.Event()

    def end(code):
        codes.append(code)
        ended.set()

    with Watchdog(lambda line: None, warn_after=0.05, end_after=0.0, end=end, notes=Notes(service, 0, 2)) as watchdog:
        with watchdog.waiting_for("the checkpoint of step 7"):
            service.notes["RECEIVED_PREEMPTION_NOTICE"] = "2026-01-01T00:00:00"
            assert not ended.wait(0.3)
        with watchdog.waiting_for("step 8"):
            assert ended.wait(60)
    assert codes == [75]
    error = capsys.readouterr().err
    assert "asked to stop while it waited for step 8, for 0 s: process 1 of 2" in error


def test_a_wait_within_a_wait_does_not_end_it():
    said, over = [], threading.Event()
    with Watchdog(said.append, warn_after=0.05, end_after=0.0) as watchdog, watchdog.waiting_for("the outer"):
        with watchdog.waiting_for("the inner"):
            pass
        over.wait(0.5)
    assert said and all("the outer" in line for line in said)
