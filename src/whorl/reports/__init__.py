"""Reports: one document of findings, tables and charts, written as Markdown, as one HTML page and as PNG figures.

It reads results by attribute and knows nothing of the verbs that made them.

    chart.py      what a chart shows, said once: axes, curves, cells, marks, and the choices among them
    style.py      colours and shapes of marks; axes.py: limits and ticks
    png.py        draws charts as PNG, by matplotlib; page.js and charts.js draw the same charts in the page
    document.py   a report as a sequence of headings, paragraphs, tables, charts
    html.py       the document as one self-contained page; markdown.py: as Markdown

    summary.py    the results of a comparison, gathered by encoding over its seeds
    words.py      what the numbers show and what they do not, in sentences
    charts.py     its charts
    comparison.py puts them together: `write(results, out)`

    inspection/   the report of an inspection: a module for each section, with its charts, words and tables
    bins.py       curves over bins, and tables of cells

    extension.py, spectrum.py   the figures of `whorl extend` and `whorl spectrum`
"""
