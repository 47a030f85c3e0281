"""The wiring as a graph for documents: boxes and arrows, as SVG or as Mermaid.

Four columns: the source, the networks of each platform, the fusions, the predictions. Colours are those of Okabe and
Ito (2008, https://jfly.uni-koeln.de/color/), one for each platform; every box also says in words what it is.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import east_asian_width
from xml.sax.saxutils import escape

from harmonet.report.wiring import Network, Wiring, cost_text, joins_text, size_text, total_text

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, PALE = "#222222", "#5A5A5A"
COLUMNS = ("source", "networks", "fusion", "predictions")

WIDEST = 44  # characters of a line of a box
LETTER, LINE = 8.0, 18  # pixels: advance of a character at SIZE, from line to line
SIZE = 13  # pixels: a monospaced character is 0.6 of it wide, or a little less; LETTER leaves room
INSET, GAP, BETWEEN, MARGIN = 12, 22, 110, 24  # pixels: in a box, between rows, between columns, around all


@dataclass(frozen=True)
class Box:
    """A box: the column it stands in, its platforms' rows, a title and lines."""

    column: int
    rows: tuple[int, ...]
    colour: str
    title: str
    lines: tuple[str, ...]
    dashed: bool = False

    @property
    def text(self) -> list[str]:
        """Title and lines, none longer than WIDEST."""
        return [piece for line in (self.title, *self.lines) for piece in folded(line)]

    @property
    def width(self) -> float:
        """Pixels."""
        return max(map(columns_of, self.text)) * LETTER + 2 * INSET

    @property
    def height(self) -> float:
        """Pixels."""
        return len(self.text) * LINE + 2 * INSET - 4

    def below_top(self, line: str) -> float:
        """How far down the middle of a line lies, in pixels."""
        before = [piece for other in (self.title, *self.lines[: self.lines.index(line)]) for piece in folded(other)]
        return INSET + (len(before) + 0.5) * LINE - 2


@dataclass(frozen=True)
class Arrow:
    """An arrow from box to box, by their places in the list; to one line of it where one is named."""

    tail: int
    head: int
    colour: str
    line: str | None = None


def folded(text: str) -> list[str]:
    """A line as several, none longer than WIDEST; what cannot be printed is left out.

    >>> folded("one line"), [len(piece) for piece in folded("x" * 50)]
    (['one line'], [44, 8])
    """
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    indent = " " * (len(printable) - len(printable.lstrip()) + 2)
    return textwrap.wrap(printable, WIDEST, subsequent_indent=indent) or [""]


def columns_of(text: str) -> int:
    """How many characters wide a text is; Chinese and Japanese ones count twice."""
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def graph(wiring: Wiring) -> tuple[list[Box], list[Arrow]]:
    """Boxes and arrows; platforms that no fusion refines stand above the others, so that no arrow crosses a box."""
    refined = [platform for join in wiring.joins for platform in join.refines]
    platforms = [platform for platform in wiring.platforms if platform not in refined] + list(dict.fromkeys(refined))
    row = {platform: number for number, platform in enumerate(platforms)}
    colour = {platform: COLOURS[number % len(COLOURS)] for number, platform in enumerate(wiring.platforms)}
    boxes = [Box(0, tuple(row.values()), INK, wiring.source, (size_text(wiring.patch),))]
    arrows: list[Arrow] = []
    network: dict[str, int] = {}
    target: dict[str, int] = {}
    for platform in platforms:
        if networks := wiring.networks_of(platform):
            network[platform] = len(boxes)
            lines = tuple(line for one in networks for line in _lines(one))
            frozen = all(one.frozen for one in networks)
            boxes.append(Box(1, (row[platform],), colour[platform], platform, lines, frozen))
            arrows.append(Arrow(0, network[platform], INK))
    for platform, (last, _) in wiring.answers.items():
        target[platform] = len(boxes)
        stages = wiring.predicted(platform).items()
        lines = tuple(f"stage {n}: {size_text(size)}{' (answer)' if n == last else ''}" for n, size in stages)
        boxes.append(Box(3, (row[platform],), colour[platform], platform, lines))
        if platform in network and not any(platform in join.gives for join in wiring.joins):
            arrows.append(Arrow(network[platform], target[platform], colour[platform]))
    for join in wiring.joins:
        place = len(boxes)
        reads = {platform: f"{platform}: {words}" if words else platform for platform, words in join.reads.items()}
        title = f"{wiring.fusion} for {joins_text(join.refines)}"
        lines = (*cost_text(join).split(", "), *reads.values())
        boxes.append(Box(2, tuple(row[platform] for platform in join.refines), INK, title, lines))
        arrows += [Arrow(network[p], place, colour[p], line) for p, line in reads.items()]
        arrows += [Arrow(place, target[p], colour[p]) for p in join.gives]
    return boxes, arrows


def _foot(wiring: Wiring) -> str:
    text = total_text(wiring)
    return f"{text[0].upper()}{text[1:]}. Sizes are channels @ voxels."


def _lines(network: Network) -> list[str]:
    words = [network.network, *([network.role] if network.role != "alone" else []), *(["frozen"] * network.frozen)]
    taps = [f"  tap {network.taps[name]}: {size_text(size)}" for name, size in network.features.items()]
    return [
        ", ".join(words),
        *(f"  {part}" for part in cost_text(network).split(", ")),
        *taps,
        f"  gives {size_text(network.prediction)}",
    ]


def mermaid(wiring: Wiring) -> str:
    """The graph in Mermaid's words."""
    boxes, arrows = graph(wiring)
    lines = ["---", f"title: {_foot(wiring)}", "---", "flowchart LR"]
    for place, box in enumerate(boxes):
        label = "<br/>".join([f"<b>{_plain(box.title)}</b>", *(_plain(line.strip()) for line in box.lines)])
        lines.append(f'  n{place}["{label}"]')
    lines += [f"  n{arrow.tail} --> n{arrow.head}" for arrow in arrows]
    lines += [
        f"  style n{place} fill:#fff,stroke:{box.colour},color:{INK}{',stroke-dasharray:6 4' * box.dashed}"
        for place, box in enumerate(boxes)
    ]
    return "\n".join([*lines, ""])


def _plain(text: str) -> str:
    """A text that Mermaid shows as it is: what it would read as markup is written as entities."""
    return "".join(letter if letter not in "#\"'<>&`\\" else f"#{ord(letter)};" for letter in " ".join(text.split()))


def svg(wiring: Wiring) -> str:
    """The graph drawn; a picture of its own that needs no font but a monospaced one."""
    boxes, arrows = graph(wiring)
    lefts = _lefts(boxes)
    tops = _tops(boxes)
    width = max(lefts[box.column] + box.width for box in boxes) + MARGIN
    foot_lines = textwrap.wrap(_foot(wiring), max(int((width - 2 * MARGIN) / LETTER), 20))
    bottom = max(top + box.height for top, box in zip(tops, boxes, strict=True))
    height = bottom + GAP + len(foot_lines) * LINE + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" font-family="\'DejaVu Sans Mono\', Menlo, Consolas, monospace" '
        f'font-size="{SIZE}">',
        f"<title>{escape(f'Wiring, fusion {wiring.fusion or None}')}</title>",
        f'<rect width="{width:g}" height="{height:g}" fill="#FFFFFF"/>',
    ]
    parts += [
        f'<text x="{lefts[column]:g}" y="{MARGIN + SIZE}" fill="{PALE}">{name}</text>'
        for column, name in enumerate(COLUMNS)
        if column in lefts
    ]
    for arrow in arrows:
        tail, head = boxes[arrow.tail], boxes[arrow.head]
        middle = head.height / 2 if arrow.line is None else head.below_top(arrow.line)
        start = (lefts[tail.column] + tail.width, tops[arrow.tail] + tail.height / 2)
        parts.append(_arrow(start, (lefts[head.column], tops[arrow.head] + middle), arrow.colour))
    parts += [_drawn(box, lefts[box.column], top) for box, top in zip(boxes, tops, strict=True)]
    parts += [
        f'<text x="{MARGIN}" y="{bottom + GAP + (number + 1) * LINE - 4:g}" fill="{PALE}">{escape(line)}</text>'
        for number, line in enumerate(foot_lines)
    ]
    return "\n".join([*parts, "</svg>", ""])


def _lefts(boxes: Sequence[Box]) -> dict[int, float]:
    """Left edge of each column that holds a box."""
    lefts, left = {}, float(MARGIN)
    for column in sorted({box.column for box in boxes}):
        lefts[column] = left
        left += max(box.width for box in boxes if box.column == column) + BETWEEN
    return lefts


def _tops(boxes: Sequence[Box]) -> list[float]:
    """Upper edge of each box: rows are as high as they must be, a box of several rows stands in their middle."""
    count = 1 + max(row for box in boxes for row in box.rows)
    heights = [max((b.height for b in boxes if b.rows == (row,)), default=0.0) for row in range(count)]
    for box in boxes:
        lacking = box.height - sum(heights[row] for row in box.rows) - GAP * (len(box.rows) - 1)
        for row in box.rows:
            heights[row] += max(lacking, 0.0) / len(box.rows)
    upper = MARGIN + 2 * LINE
    begins = [upper + sum(heights[:row]) + GAP * row for row in range(count)]
    middles = [(begins[min(box.rows)] + begins[max(box.rows)] + heights[max(box.rows)]) / 2 for box in boxes]
    return [middle - box.height / 2 for middle, box in zip(middles, boxes, strict=True)]


def _arrow(start: tuple[float, float], end: tuple[float, float], colour: str) -> str:
    (x, y), (u, v) = start, end
    bend, tip = BETWEEN * 0.6, 9
    return (
        f'<path d="M{x:g} {y:g}C{x + bend:g} {y:g} {u - tip - bend:g} {v:g} {u - tip:g} {v:g}" fill="none" '
        f'stroke="{colour}" stroke-width="1.6"/>'
        f'<path d="M{u:g} {v:g}l{-tip - 1} -4.5v9z" fill="{colour}"/>'
    )


def _drawn(box: Box, left: float, top: float) -> str:
    dashes = ' stroke-dasharray="6 4"' if box.dashed else ""
    parts = [
        f'<rect x="{left:g}" y="{top:g}" width="{box.width:g}" height="{box.height:g}" rx="6" fill="#FFFFFF" '
        f'stroke="{box.colour}" stroke-width="1.6"{dashes}/>'
    ]
    bold = len(folded(box.title))
    for number, line in enumerate(box.text):
        weight = ' font-weight="bold"' if number < bold else ""
        y = top + INSET + (number + 1) * LINE - 7
        parts.append(
            f'<text x="{left + INSET:g}" y="{y:g}" fill="{INK}"{weight} xml:space="preserve">{escape(line)}</text>'
        )
    return "\n".join(parts)
