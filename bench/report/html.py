"""A report as one HTML file that needs nothing else: no network, no script, no other file. Pure.

Its content security policy forbids scripts altogether, so that even a name that got past the
escaping could do nothing.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from bench.results.record import ResultSet

from . import svg
from .content import Block, Document, Heading, Items, Paragraph, Picture, Table
from .story import document
from .svg import text_of

END_ID: Final = "end"  # of the last element: whoever finds it has seen all of the page

_STYLE: Final = """
:root{color-scheme:light dark;
--ink:#1c1e21;--faint:#d8dadf;--ground:#fff;--bad:#b3261e;--ok:#1a7f37}
@media(prefers-color-scheme:dark){:root{--ink:#dfe1e5;--faint:#3a3d44;--ground:#16181c;--bad:#ff8a80;
--ok:#6fdd8b}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--ground);
max-width:64rem;margin:0 auto;padding:1rem 1.5rem 4rem}
h2{border-bottom:1px solid var(--faint);margin-top:2.5rem}
nav a{margin-right:1rem}
a{color:inherit}
a:focus-visible,.scroll:focus-visible{outline:3px solid #4c9ffe;outline-offset:2px}
.scroll{overflow-x:auto;margin:.75rem 0}
table{border-collapse:collapse;font-size:13px}
th,td{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0;
border-bottom:1px solid var(--faint);overflow-wrap:anywhere;min-width:4.5rem}
.figure{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap;overflow-wrap:normal}
.bad{color:var(--bad);font-weight:700}.ok{color:var(--ok)}
figure{margin:1.25rem 0}
figure svg{max-width:100%;height:auto}
figcaption{font-size:13px}
@media print{nav{display:none}figure,tr{break-inside:avoid}h2,h3{break-after:avoid}
body{max-width:none;padding:0}}
"""


def page(result: ResultSet, *, is_noise_allowed: bool | None = None) -> str:
    """The report of a result set."""
    return written(document(result, is_noise_allowed=is_noise_allowed))


def written(report: Document) -> str:
    """A document as HTML."""
    title = text_of(f"Seawall: {report.title}")
    headings = [block for block in report.blocks if isinstance(block, Heading)]
    anchors = {id(block): f"section-{at}" for at, block in enumerate(headings, 1)}
    links = "".join(
        f'<a href="#{anchors[id(block)]}">{text_of(block.text)}</a> '
        for block in headings
        if block.level == 2  # noqa: PLR2004  # sections; what is below them is near
    )
    body = "\n".join(
        part for block in report.blocks for part in _block(block, anchors.get(id(block), ""))
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}{svg.style()}</style>
</head>
<body>
<h1>{title}</h1>
<nav aria-label="Sections">{links}</nav>
<main>
{body}
</main>
<footer id="{END_ID}"></footer>
</body>
</html>
"""


def _block(block: Block, anchor: str) -> Iterator[str]:
    match block:
        case Heading(text, level):
            yield f'<h{level} id="{anchor}">{text_of(text)}</h{level}>'
        case Paragraph(text):
            yield f"<p>{text_of(text)}</p>"
        case Items(texts):
            yield "<ul>" + "".join(f"<li>{text_of(text)}</li>" for text in texts) + "</ul>"
        case Picture(name, drawn, caption):
            yield (
                f'<figure id="{text_of(name)}">{drawn}'
                f"<figcaption>{text_of(caption)}</figcaption></figure>"
            )
        case Table():
            yield _table(block)


def _table(table: Table) -> str:
    def cell(tag: str, at: int, value: str) -> str:
        kinds = ["figure"] if at in table.figures else []
        if at == table.verdict and tag == "td":
            kinds.append("ok" if value == "ok" else "bad")
        css = f' class="{" ".join(kinds)}"' if kinds else ""
        scope = ' scope="col"' if tag == "th" else ""
        return f"<{tag}{scope}{css}>{text_of(value)}</{tag}>"

    def row(tag: str, values: Sequence[str]) -> str:
        return "<tr>" + "".join(cell(tag, at, value) for at, value in enumerate(values)) + "</tr>"

    body = "".join(row("td", values) for values in table.rows)
    # A table wider than the window scrolls by itself, and by keyboard too.
    return (
        f'<div class="scroll" tabindex="0"><table><thead>{row("th", table.head)}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
