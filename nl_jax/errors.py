"""The one exception that means: what the user gave cannot be used as it is."""


class InputError(ValueError):
    """Bad input: a config value, a file or a flag.

    Its message names the field or file, what was found and what is valid. The programs under `experiments/` print it
    as one line and exit with code 2; every other exception is a defect of ours and shows its traceback.
    """


class TrainingError(RuntimeError):
    """A run that cannot go on through no fault of its input's form: a loss that is not finite.

    The programs print it as one line and exit with code 1.
    """
