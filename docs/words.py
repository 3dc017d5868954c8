"""A hook of mkdocs: a browser does not break a line inside a word of inline code, such as a flag after its --."""

import re

CODE = re.compile(r"<pre.*?</pre>|<code>(?P<text>[^<]*)</code>", re.DOTALL)
WORD = re.compile(r"[^\s<>]+")


def on_page_content(html: str, **_) -> str:
    """The page with a span around each word of inline code."""
    return CODE.sub(_mark, html)


def _mark(found: re.Match) -> str:
    text = found["text"]
    return found[0] if text is None else f"<code>{WORD.sub(_whole, text)}</code>"


def _whole(word: re.Match) -> str:
    return f'<span class="word">{word[0]}</span>'
