"""How the report looks: fonts of the system, colours for the day, the night and paper."""

from __future__ import annotations


STYLE = """
:root { color-scheme: light dark; --page: #f4f5f7; --card: #fff; --ink: #1b1f24; --muted: #57606a; --grid: #d8dde3;
  --first: #1a66c2; --second: #b04a00; --third: #7a3ea8; }
@media (prefers-color-scheme: dark) { :root { --page: #0e1116; --card: #171b22; --ink: #e6e9ee; --muted: #9aa5b1;
  --grid: #2e3540; --first: #5aa9f5; --second: #f0964b; --third: #c39af0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0 0; }
h2 { font-size: 1.15rem; margin: 1.75rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
header p, .about, footer { color: var(--muted); }
header p { margin: .15rem 0 1rem; }
.about { font-size: .85rem; margin: .1rem 0 .6rem; }
.empty { color: var(--muted); margin: .5rem 0; }
.tiles { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); margin: 0; }
.tiles > div, article { background: var(--card); border: 1px solid var(--grid); border-radius: .6rem; padding: .9rem; }
.tiles dt, .tiles dd + dd { color: var(--muted); font-size: .85rem; }
.tiles dd { margin: 0; }
.tiles dt + dd { font-size: 1.5rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.cards { columns: 3 21rem; column-gap: .75rem; }
article { break-inside: avoid; margin-bottom: .75rem; }
svg { display: block; width: 100%; height: auto; font-family: inherit; }
svg text { font-variant-numeric: tabular-nums; }
details { margin-top: .6rem; font-size: .85rem; }
summary { cursor: pointer; color: var(--muted); }
.scroll { overflow-x: auto; max-height: 24rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem .25rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--grid); }
th:first-child { text-align: left; font-weight: 400; white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
thead th, thead th:first-child { font-weight: 600; }
footer { font-size: .85rem; margin: 1.5rem 0; }
footer p { margin: .2rem 0; }
@media (max-width: 30rem) { main { padding: .75rem; } .tiles { grid-template-columns: 1fr 1fr; }
  .tiles dt + dd { font-size: 1.25rem; } }
@media print {
  :root { color-scheme: light; --page: #fff; --card: #fff; --ink: #000; --muted: #444; --grid: #bbb; --first: #1a66c2;
    --second: #b04a00; --third: #7a3ea8; }
  @page { margin: 12mm; }
  :root { font-size: 11px; }
  body { font-size: 1rem; }
  main { max-width: none; padding: 0; }
  .cards { columns: 2; }
  .tiles { grid-template-columns: repeat(3, 1fr); }
  .tiles > div { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  details { display: none; }
  svg * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
