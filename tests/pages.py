"""A page as a reader and a browser find it: parsed by the standard library, and looked at for what it may not hold."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br"}
# Attributes by which a page asks for something or leads somewhere.
ADDRESSES = {"src", "href", "action", "data", "poster", "srcset", "xlink:href"}


@dataclass
class Element:
    """A tag with its attributes and what is inside: text and other elements."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str = "") -> Iterator[Element]:
        """Find the elements inside by their tag, or all of them."""
        for child in self.children:
            if isinstance(child, Element):
                if tag in ("", child.tag):
                    yield child
                yield from child.all(tag)

    @property
    def text(self) -> str:
        """Give all text inside, with single spaces."""
        return " ".join(" ".join(child if isinstance(child, str) else child.text for child in self.children).split())

    def by_id(self, name: str) -> Element:
        """Find the one element of this identifier."""
        (found,) = (element for element in self.all() if element.attributes.get("id") == name)
        return found

    def rows(self) -> list[list[str]]:
        """Give the cells of all rows inside."""
        return [
            [cell.text for cell in row.children if isinstance(cell, Element) and cell.tag in ("th", "td")]
            for row in self.all("tr")
        ]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parsed(page: str) -> Element:
    """Parse a page; every tag has to be closed in its place."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert len(reader.open) == 1, f"<{reader.open[-1].tag}> is never closed"
    return reader.open[0]


def check_page(page: str) -> Element:
    """Hold a page against the rules that all pages keep, and give it parsed."""
    root = parsed(page)
    elements = list(root.all())
    ids = [element.attributes["id"] for element in elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    assert page.startswith("<!doctype html>")
    assert [element.attributes["lang"] for element in root.all("html")] == ["en"]
    assert not {"script", "iframe", "object", "embed", "form", "base"} & {element.tag for element in elements}
    for element in elements:
        _check_element(element, set(ids))
    for style in root.all("style"):
        assert "url(" not in style.text
        assert "@import" not in style.text
    for table in root.all("table"):
        _check_table(table)
    levels = [int(element.tag[1]) for element in elements if element.tag in {"h1", "h2", "h3", "h4"}]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(level <= before + 1 for before, level in itertools.pairwise(levels))
    return root


def _check_element(element: Element, ids: set[str]) -> None:
    for name, value in element.attributes.items():
        assert not name.startswith("on"), element
        if name in ADDRESSES:
            relative = not value.startswith("/") and ":" not in value and element.tag == "a"
            assert relative or value.startswith("data:") or value[1:] in ids, (element.tag, value)
        if name in ("aria-labelledby", "aria-describedby"):
            assert set(value.split()) <= ids
    if element.tag == "img":
        assert element.attributes["alt"]
        assert element.attributes["src"].startswith("data:image/png;base64,")
    if element.tag == "svg" and element.attributes.get("aria-hidden") != "true":
        assert element.attributes["role"] == "img"
        assert "aria-labelledby" in element.attributes
    if element.attributes.get("tabindex") == "0":
        assert element.attributes["aria-label"]


def _check_table(table: Element) -> None:
    (caption,) = table.all("caption")
    assert caption.text
    assert all(head.attributes.get("scope") in ("row", "col") for head in table.all("th"))
    assert len({len(row) for row in table.rows()}) == 1, caption.text
