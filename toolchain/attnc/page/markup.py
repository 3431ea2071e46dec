"""Elements of HTML and SVG. Text and attributes are escaped here, and nowhere else: names come from models."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape

from attnc.messages import brief, clean

LONGEST = 200
"""Characters of a name that are shown."""
LONGEST_ATTRIBUTE = 1 << 20
"""Of an attribute, which may be the path of a drawing."""


def text(value: object, longest: int = LONGEST) -> Markup:
    """Text of a file as part of a page: escaped, of bounded length, without characters that steer what surrounds them."""
    return value if isinstance(value, Markup) else escape(clean(brief(str(value), longest, 5 * longest)))


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element. Attributes that are None or False are left out; `class_` and `font_size` stand for class and font-size."""
    given = (
        Markup(' {}="{}"').format(_attribute(key), text(value, LONGEST_ATTRIBUTE))
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, Markup("").join(given), join(children))


def join(parts: Iterable[object]) -> Markup:
    """Parts behind each other, those that are no elements escaped."""
    return Markup("").join(map(text, parts))


def _attribute(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def svg(width: float, height: float, *children: object, **attributes: object) -> Markup:
    """A drawing in units of its own, as wide as there is room."""
    return tag("svg", *children, **{"viewBox": f"0 0 {number(width)} {number(height)}", "role": "img", **attributes})


def number(value: float) -> str:
    """A coordinate, short."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def count(value: float) -> str:
    """A whole number, with its thousands apart."""
    return f"{value:,.0f}"


def compact(value: float) -> str:
    """Three figures and a unit: 1.24 M."""
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def percent(part: float, whole: float = 1.0, digits: int = 0) -> str:
    """A share; nothing of nothing is 0 %."""
    return f"{100 * part / whole if whole else 0:.{digits}f} %"
