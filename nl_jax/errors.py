"""What can end a program without being a defect of ours."""


class InputError(ValueError):
    """Bad input: a config value, a file or a flag.

    Its message names the field or file, what was found and what is valid. The programs under `experiments/` print it
    as one line and exit with code 2; every other exception is a defect of ours and shows its traceback.
    """


class TrainingError(RuntimeError):
    """A run that cannot go on through no fault of its input's form: a loss that is not finite.

    The programs print it as one line and exit with code 1.
    """


class Preempted(Exception):
    """A run that was asked to end has saved its state; the same command goes on from there."""
