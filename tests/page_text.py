"""Pages as tests read them."""

import re
from html.parser import HTMLParser


class Tags(HTMLParser):
    """All tags of a page with their attributes; fails where one is not closed in its turn."""

    EMPTY = {"meta", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("p", "li") or tag in self.open:
            assert self.open.pop() == tag, tag


def plain(html):
    """The text that a reader sees."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", html.split("<main>")[1])).replace("&#39;", "'")
