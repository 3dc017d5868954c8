"""A published network as the start of a run: `config.start.model`."""

from pathlib import Path

import jax
from jax.sharding import Mesh

from nl_jax.models import flat
from nl_jax.models.flat import FlatParams
from nl_jax.tasks import task_of
from nl_jax.training import sharding
from nl_jax.training.start import Start
from nl_jax.zoo.classes import class_names
from nl_jax.zoo.config import config_of
from nl_jax.zoo.pretrained import pretrained
from nl_jax.zoo.table import find


class StartFromPublished(Start):
    """A published network as the start of a run, in place of a workdir. `arrays` reads the file of the network.

    Raises:
      InputError: for an unknown name.
    """

    def __init__(self, name: str):
        super().__init__(Path(name), task_of(config_of(find(name))))

    def classes(self) -> tuple[str, ...]:
        """Returns the class names of the network."""
        return class_names(find(self.directory.name).classes)

    def arrays(self, mesh: Mesh) -> list[FlatParams]:
        """Returns parameters and statistics, laid out over the mesh.

        Raises:
          InputError: as `nl_jax.from_pretrained`.
        """
        _, *arrays = flat.split(pretrained(self.directory.name).model)
        return jax.device_put(arrays, sharding.state_shardings(mesh, arrays))
