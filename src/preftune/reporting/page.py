"""The shell of a self-contained HTML page: its style, and text that stays text. No script, no file beside it."""

import html

from preftune.reporting.inert import inert

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
"""

_STYLE = """
:root {
  color-scheme: light dark;
  --page: #fbfbfa; --card: #ffffff; --ink: #1b1b1a; --quiet: #5d5c58; --rule: #dddcd7;
  --chosen: #2470c8; --chosen-tint: #e1edfb; --rejected: #c2541b; --rejected-tint: #fcebe0;
  --plain: #77756f; --faint: #c9c7c0; --dropped: #c98a12; --warn-tint: #fdf3dc; --on-end: #ffffff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #141413; --card: #1c1c1a; --ink: #ecebe6; --quiet: #a9a7a0; --rule: #3a3936;
    --chosen: #6aa7ee; --chosen-tint: #1b2f47; --rejected: #ee8a58; --rejected-tint: #43271a;
    --plain: #98968e; --faint: #55534e; --dropped: #d9a440; --warn-tint: #33290f; --on-end: #141413;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 40px 0 4px; }
h3 { font-size: 15px; margin: 0 0 6px; }
p { margin: 4px 0 12px; max-width: 76ch; }
.quiet, .lede { color: var(--quiet); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 16px; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 14px 16px; min-width: 0; }
.warnings { margin: 20px 0 0; padding: 0; list-style: none; display: grid; gap: 8px; }
.warnings li { background: var(--warn-tint); border-left: 4px solid var(--dropped); padding: 8px 12px;
  border-radius: 4px; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; max-width: 720px; }
th, td { text-align: left; font-weight: normal; padding: 4px 0; vertical-align: middle; overflow-wrap: anywhere; }
th { padding-right: 12px; }
.bars th { width: 36%; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; padding-left: 12px; width: 1%; }
tr.total th, tr.total .number { font-weight: 600; }
.track { display: flex; height: 14px; }
.track i { display: block; min-width: 1px; }
.track i.gap { min-width: 0; }
.stack { height: 22px; gap: 2px; border-radius: 4px; overflow: hidden; }
.legend { list-style: none; padding: 0; margin: 8px 0 12px; display: flex; flex-wrap: wrap; gap: 4px 20px; }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 6px; }
.legend b { font-weight: 600; font-variant-numeric: tabular-nums; }
.chosen { background: var(--chosen); } .rejected { background: var(--rejected); } .plain { background: var(--plain); }
.dropped { background: var(--dropped); } .faint { background: var(--faint); }
svg { display: block; width: 100%; height: auto; max-width: 420px; }
svg text { font: 11px system-ui, sans-serif; fill: var(--quiet); font-variant-numeric: tabular-nums; }
svg .axis { stroke: var(--plain); } svg .grid { stroke: var(--rule); }
svg .mark { stroke: var(--ink); stroke-dasharray: 3 3; } svg text.mark { stroke: none; fill: var(--ink); }
svg rect.chosen { fill: var(--chosen); } svg rect.rejected { fill: var(--rejected); }
svg rect.plain { fill: var(--plain); }
svg polyline { fill: none; stroke: var(--plain); stroke-width: 2; stroke-linejoin: round; }
svg polyline.chosen { stroke: var(--chosen); } svg polyline.rejected { stroke: var(--rejected); }
.numbers { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 6px 0 0; color: var(--quiet); font-size: 14px; }
.numbers b { color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }
.example { margin: 16px 0 0; }
.example h3, .origin { overflow-wrap: anywhere; unicode-bidi: isolate; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 16px; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, monospace; min-width: 0; }
.prompt .text { color: var(--quiet); }
.text .trained { border-radius: 3px; box-decoration-break: clone; -webkit-box-decoration-break: clone; }
.preferred .trained { background: var(--chosen-tint); } .other .trained { background: var(--rejected-tint); }
.end { color: var(--on-end); border-radius: 3px; padding: 0 2px; }
.preferred .end { background: var(--chosen); } .other .end { background: var(--rejected); }
a { color: var(--chosen); }
code { font: 13px/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
.formula { overflow-x: auto; overflow-y: hidden; padding: 6px 0 10px; }
.formula math { display: block math; width: max-content; margin: 0; }
.contents { list-style: none; padding: 0; margin: 16px 0 24px; display: flex; flex-wrap: wrap; gap: 4px 18px; }
.cut { font: 600 13px system-ui, sans-serif; border: 1px solid var(--dropped); border-radius: 3px; padding: 0 5px; }
.label { font-weight: 600; font-size: 13px; margin: 10px 0 2px; }
summary { cursor: pointer; } summary::marker { content: ""; } summary::-webkit-details-marker { display: none; }
summary .fold { font: 13px system-ui, sans-serif; color: var(--ink); text-decoration: underline; }
details[open] > summary > .part { display: none; } details:not([open]) > summary > .less { display: none; }
.note { color: var(--quiet); font-size: 13px; margin: 2px 0 0; }
.axis-name { color: var(--quiet); font-size: 13px; margin: 0 0 2px; }
svg.chart { max-width: 560px; } svg.chart text { font-size: 12.5px; } svg.wide { max-width: 680px; }
svg .line { fill: none; stroke: var(--line, var(--plain)); stroke-width: 2; stroke-linejoin: round;
  stroke-dasharray: var(--dash, none); }
svg .error { stroke: var(--line, var(--plain)); opacity: 0.45; } svg .dot { fill: var(--line, var(--plain)); }
.line-chosen { --line: var(--chosen); } .line-rejected { --line: var(--rejected); }
.line-plain { --line: var(--plain); } .line-light { --line: var(--plain); --dash: 3 3; }
.legend .key { display: inline-block; width: 30px; height: 12px; margin-right: 6px; }
.beside { display: flex; flex-wrap: wrap; gap: 8px 28px; align-items: center; }
.beside > div { flex: 1 1 320px; min-width: 0; max-width: 680px; }
@media (min-width: 800px) {
  .beside .legend { flex-direction: column; max-width: 360px; } svg.chart.wide text { font-size: 9px; }
}
.warnings + h2, .card + h3 { margin-top: 28px; }
.scroll { overflow-x: auto; margin: 0 -4px; padding: 0 4px;
  background: linear-gradient(to left, var(--card) 50%, transparent) right / 48px 100% no-repeat local,
    linear-gradient(to left, var(--faint), transparent) right / 16px 100% no-repeat scroll; }
.scroll table { max-width: none; }
.scroll th, .scroll td { padding: 6px 12px 6px 0; border-bottom: 1px solid var(--rule); white-space: nowrap;
  overflow-wrap: normal; font-variant-numeric: tabular-nums; }
.scroll thead th { white-space: normal; vertical-align: bottom; color: var(--quiet); font-size: 13px;
  line-height: 1.3; }
.scroll thead th[title] { min-width: 8ch; }
.scroll .held { position: sticky; left: 0; background: var(--card); }
.scroll .held.long { white-space: normal; overflow-wrap: anywhere; min-width: 20ch; max-width: min(30ch, 44vw); }
.scroll.named tbody th { white-space: normal; }
.scroll td, .scroll tbody th { vertical-align: top; }
small { color: var(--quiet); font-size: 12px; font-weight: normal; }
.scroll .best > * { background: var(--chosen-tint); font-weight: 600; }
.answer { border-left: 4px solid var(--chosen); } .answer.unsure { border-color: var(--dropped); }
.answer.none { border-color: var(--rejected); }
.answer .said { font-size: 17px; margin: 0 0 6px; max-width: none; overflow-wrap: anywhere; }
.word { font-weight: 600; }
del, ins { border-radius: 3px; padding: 0 1px; color: inherit; text-underline-offset: 3px; }
del { background: var(--rejected-tint); text-decoration: underline dashed var(--rejected) 1.5px; }
ins { background: var(--chosen-tint); text-decoration: underline solid var(--chosen) 1.5px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, monospace; margin: 6px 0 0; }
.facts th { color: var(--quiet); width: 30%; padding-right: 10px; vertical-align: top; overflow-wrap: normal; }
.facts td { vertical-align: top; }
details.more > summary { color: var(--ink); text-decoration: underline; margin: 12px 0; }
@media (max-width: 560px) {
  main { padding: 16px 12px 48px; }
  .card { padding: 12px; }
  .bars th { width: 42%; }
}
"""


def page(title: str, body: str, style: str = "") -> str:
    """Return a whole page.

    Args:
        title: Text.
        body: HTML in which all text has passed through `safe`.
        style: What the page adds to the style of all pages; nothing that a user gave.
    """
    head = f"<title>{safe(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n<main>\n"
    return f"{_HEAD}{head}{body}\n</main>\n</body>\n</html>\n"


def safe(text: str) -> str:
    """Return `text` for an element or a quoted attribute: no markup, no control character."""
    return html.escape(inert(text), quote=True)
