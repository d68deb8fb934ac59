"""What a test reads of an HTML page: its elements, attributes and text; and text that must stay text."""

from html.parser import HTMLParser

HOSTILE = "</script><img src=x onerror=alert(1)><b>&amp;\"'</b>\u202e\x00\x1b\ud800"
SHOWN = "</script><img src=x onerror=alert(1)><b>&amp;\"'</b>" + "\ufffd" * 4
_VOID = {"meta", "br"}


class Parsed(HTMLParser):
    """The elements, attributes and text of a page whose elements are all closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def harmless(page: Parsed) -> bool:
    """Return whether no element or attribute came of text, and nothing is loaded from anywhere."""
    names = {name for name, _ in page.attributes}
    values = [value for name, value in page.attributes if name in ("href", "src")]
    elements = {"script", "img", "b>", "link", "iframe", "object"}
    far = [value for value in values if ":" in value or value.startswith("//")]
    return not elements & set(page.tags) and not names & {"src", "onerror"} and not far
