"""Reports: one document of findings, tables and charts, written as Markdown, as one HTML page and as PNG figures.

It reads results by attribute and knows nothing of the verbs that made them.

    chart.py      what a chart shows, said once: axes, curves, cells, marks, and the choices among them
    style.py      colours and shapes of marks; axes.py: limits and ticks; strips.py: pairs that turn
    png.py        draws charts as PNG, by matplotlib; page.js and charts.js draw the same charts in the page
    document.py   a report as a sequence of headings, paragraphs, tables, charts
    html.py       the document as one self-contained page; markdown.py: as Markdown; writing.py: both, and the PNGs

    comparison/   the report of a comparison: its sections, its words, and what is called a difference
    inspection/   the report of an inspection: a module for each section, with its charts, words and tables
    bins.py       curves over bins, and tables of cells

    extension.py, spectrum.py   the figures of `whorl extend` and `whorl spectrum`
"""
