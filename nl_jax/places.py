"""Where files may lie: on a file system. A bucket has an address, and is mounted to be one."""

import os
import re

from nl_jax.errors import InputError

# gs://bucket/run, and gs:/bucket/run, which pathlib makes of it.
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)


def check_place(name: str, path: str | os.PathLike) -> None:
    """Raises InputError for the address of a bucket or a server, which would become a local folder of that name.

    Args:
      name: of the flag, field or argument that has it.
    """
    if match := _ADDRESS.match(os.fspath(path)):
        raise InputError(
            f"{name}={os.fspath(path)} is an address ({match[1]}:), and files are read and written on a file system "
            "alone; mount the bucket (gcsfuse, mountpoint-s3) or copy it, and give that folder"
        )
