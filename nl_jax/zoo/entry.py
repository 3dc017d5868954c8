"""What is known of one published network: where its file is, how it is built and tested, and its owner's figures."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file of weights that its owner publishes. Everything here is what the owner's page or configuration says.

    Attributes:
      name: by which `nl_jax.from_pretrained` finds it.
      source: whose names the arrays have, a key of `nl_jax.weights.SOURCES` or of those of detectors.
      address: of the file, or of the archive that holds it.
      member: the file in the archive; "" where the address is that of the file itself.
      row: the config in this repository that describes the network, FILE.py:ROW.
      fields: what differs from the row, {"model.geometry": "slowfast", ..}.
      classes: "kinetics400", "imagenet1k", "coco80" (80 classes in a row) or "coco90" (labels are COCO's own numbers);
        "" where the page does not say that the file has a classifier, and then it is left out.
      figures: in percent as the owner reports them: top1 and top5, or box_ap and mask_ap.
      views: (clips, crops) that the figures are the average of; None for images.
      digest: the kind and the first digits of a hash of the file, where it is published.
      licence: of the weights; None where the page does not state one for them.
      page: where all of this is written.
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
        """The name of the file of weights."""
        return (self.member or self.address).rsplit("/", 1)[-1]

    @property
    def is_detector(self) -> bool:
        """Whether it finds objects in images, and does not name classes."""
        return self.classes.startswith("coco")
