"""Reports: one document of findings, tables and charts, written as Markdown, as one HTML page and as PNG figures.

A leaf of the library: it reads plain result dictionaries and imports nothing else of whorl.

    summary.py    the results of a comparison, gathered by encoding over its seeds
    words.py      what the numbers show and what they do not, in sentences
    charts.py     the charts as data: points, axes, ticks, the text shown on hover
    document.py   a report as a sequence of headings, paragraphs, tables, figures
    figures.py    those charts as PNG, by matplotlib
    html.py       the document as one self-contained page (page.html, page.css, page.js draw the same charts)
    markdown.py   the document as Markdown
    comparison.py puts them together: `write(results, out)`

and for inspections, which have more to draw than points with their words:

    inspected.py         one model's summary and arrays, any part of which may be missing
    inspection_words.py  what the numbers show and what they do not: `findings(summary)`
    panels.py            curves and heat maps as data, a panel for each model
    inspection_charts.py those of an inspection
    panel_figures.py     them as PNG
    inspection.py        puts them together: `write(results, out)`
"""
