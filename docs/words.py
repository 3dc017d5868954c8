"""A hook of mkdocs: a browser does not break a line inside a word of inline code, such as a flag after its --."""

import re

CODE = re.compile(r"<pre.*?</pre>|<code>[^<]*</code>", re.DOTALL)
WORD = re.compile(r"[^\s<>]*-[^\s<>]*")


def on_page_content(html: str, **_) -> str:
    """The page with a span around each word of inline code that has a hyphen."""
    return CODE.sub(lambda found: found[0] if found[0].startswith("<pre") else WORD.sub(_whole, found[0]), html)


def _whole(word: re.Match) -> str:
    return f'<span class="word">{word[0]}</span>'
