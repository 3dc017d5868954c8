"""The facts about one published network: its file, how it is built and tested, and its owner's figures."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file of weights that its owner publishes. All facts come from the owner's page or configuration.

    Attributes:
      name: the name for `nl_jax.from_pretrained`.
      source: the source that knows the names of the arrays, a key of `nl_jax.weights.SOURCES` or of the
        detectors' sources.
      address: URL of the file, or of the archive that holds it.
      member: the file in the archive, or "" if the address is the file itself.
      row: the config in this repository that describes the network, FILE.py:ROW.
      fields: the fields that differ from the row, {"model.geometry": "slowfast", ..}.
      classes: the class names, a kind of `class_names`. It is "" if the page does not mention a classifier. The network
        then has no classifier.
      figures: top1 and top5, or box_ap and mask_ap, in percent as the owner reports them.
      views: (clips, crops) that the figures are averaged over. None for images.
      digest: the kind and the first digits of the file's hash, if it is published.
      licence: licence of the weights. None if the page does not state it.
      page: URL of the page with these facts.
    """

    name: str
    source: str
    address: str
    row: str
    page: str
    fields: Mapping[str, object] = dataclasses.field(default_factory=dict)
    member: str = ""
    classes: str = "kinetics400"
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    views: tuple[int, int] | None = None
    digest: tuple[str, str] | None = None
    licence: str | None = None

    @property
    def file(self) -> str:
        """The name of the file that holds the weights."""
        return (self.member or self.address).rsplit("/", 1)[-1]

    @property
    def is_detector(self) -> bool:
        """Whether the network detects objects in images. Otherwise it is a classifier."""
        return self.classes.startswith("coco")
