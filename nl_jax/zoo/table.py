"""All published networks by name."""

import difflib

from nl_jax.errors import InputError
from nl_jax.zoo import images, videos
from nl_jax.zoo.entry import Entry

ENTRIES = {entry.name: entry for entry in (*videos.ENTRIES, *images.ENTRIES)}


def find(name: str) -> Entry:
    """Returns the entry of a name.

    Raises:
      InputError: for an unknown name. The message lists similar names.
    """
    if name not in ENTRIES:
        near = difflib.get_close_matches(name, ENTRIES, 3) or list(ENTRIES)
        raise InputError(f"there is no published network {name!r}; choose {', '.join(near)} (nl_jax.zoo.ENTRIES)")
    return ENTRIES[name]


def markdown() -> str:
    """Returns the table of all networks for docs/zoo.md. A cell is empty if the owner's page has no value for it."""
    lines = [
        "| name | owner's figures, % | views | licence of the weights | hash known |",
        "| --- | --- | --- | --- | --- |",
    ]
    for entry in ENTRIES.values():
        figures = ", ".join(f"{figure.replace('_', ' ')} {value:g}" for figure, value in entry.figures.items())
        views = " x ".join(map(str, entry.views or ()))
        digest = entry.digest[0] if entry.digest else ""
        lines.append(f"| [`{entry.name}`]({entry.page}) | {figures} | {views} | {entry.licence or ''} | {digest} |")
    return "\n".join(lines)
