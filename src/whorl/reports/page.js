// Draws the charts of a whorl report as SVG, from the JSON that the page carries. No library, no network.
// The data says everything (charts.py): points, axes with their ticks, the rows shown on hover.
"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const hidden = new Set(); // names of the encodings switched off, in every chart alike
  const redraws = [];
  const COLOURS = 7;
  const MARKS = [
    "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0-4 0Z",
    "M-3.600-3.600H3.600V3.600H-3.600Z",
    "M0-4.600L4.500 3.600H-4.500Z",
    "M0-4.900L4.900 0L0 4.900L-4.900 0Z",
    "M0 4.600L4.500-3.600H-4.500Z",
  ];

  // Elements

  function svg(tag, attributes = {}, parent = null, text = "") {
    return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, parent, text);
  }
  function html(tag, attributes = {}, parent = null, text = "") {
    return fill(document.createElement(tag), attributes, parent, text);
  }
  function fill(element, attributes, parent, text) {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  }
  const colour = (index) => `--series: var(--s${index % COLOURS})`;
  const label = (line) => (line.note ? `${line.name} (${line.note})` : line.name);
  const mark = (index) => MARKS[index % MARKS.length];

  function key(index, parent) {
    const box = svg("svg", { viewBox: "-7 -7 14 14", width: 14, height: 14, "aria-hidden": "true", style: colour(index) }, parent);
    svg("path", { d: mark(index), class: "dot", transform: "scale(1.2)" }, box);
  }

  // Parts that every chart has

  function tooltip(plot) {
    const box = html("div", { class: "tip", hidden: "" }, plot);
    const live = html("p", { class: "unseen", "aria-live": "polite" }, plot);
    return {
      hide() { box.hidden = true; },
      show(x, y, name, index, heading, rows) {
        box.replaceChildren();
        const title = html("strong", {}, box);
        key(index, html("span", { class: "key" }, title));
        title.append(name);
        if (heading) html("p", {}, box, heading);
        const list = html("dl", {}, box);
        for (const [term, value] of rows) {
          html("dt", {}, list, term);
          html("dd", {}, list, value);
        }
        box.hidden = false;
        const room = plot.clientWidth - box.offsetWidth;
        const left = x + 16 > room ? x - box.offsetWidth - 16 : x + 16;
        box.style.left = `${Math.max(0, Math.min(left, room))}px`;
        box.style.top = `${Math.max(-30, y - box.offsetHeight - 12)}px`;
        live.textContent = [name, heading, ...rows.map((row) => row.join(" "))].filter(Boolean).join(", ");
      },
    };
  }

  function legend(series, parent) {
    const box = html("div", { class: "legend", role: "group", "aria-label": "Show or hide encodings" }, parent);
    for (const { name, index, note } of series) {
      const button = html("button", { type: "button", "data-name": name, "aria-pressed": String(!hidden.has(name)) }, box);
      key(index, html("span", { class: "key" }, button));
      button.append(name);
      if (note) html("small", {}, button, note);
      button.addEventListener("click", () => {
        if (!hidden.delete(name)) hidden.add(name);
        for (const same of document.querySelectorAll(".legend button"))
          if (same.dataset.name === name) same.setAttribute("aria-pressed", String(!hidden.has(name)));
        redraws.forEach((redraw) => redraw());
      });
    }
  }

  function viewSwitch(views, parent, choose) {
    if (views.length < 2) return;
    const box = html("div", { class: "switch", role: "group", "aria-label": "Quantity shown" }, parent);
    views.forEach((view, i) => {
      const button = html("button", { type: "button", "aria-pressed": String(i === 0) }, box, view.label);
      button.addEventListener("click", () => {
        [...box.children].forEach((other, j) => other.setAttribute("aria-pressed", String(i === j)));
        choose(i);
      });
    });
  }

  function redrawWith(plot, draw) {
    redraws.push(draw);
    let width = 0;
    new ResizeObserver(() => {
      if (plot.clientWidth === width) return;
      width = plot.clientWidth;
      draw();
    }).observe(plot);
    draw();
  }

  // Lines

  function scale(axis, from, to) {
    const at = axis.scale === "log" ? Math.log : (value) => value;
    const [low, high] = [at(axis.low), at(axis.high)];
    return (value) => from + ((at(value) - low) / (high - low)) * (to - from);
  }

  function lineChart(figure, chart) {
    const controls = html("div", { class: "controls" }, figure);
    legend(chart.views[0].lines, controls);
    const plot = html("div", { class: "plot", tabindex: "0", role: "group" }, figure);
    plot.setAttribute("aria-label", `${chart.title}. Arrow keys go from value to value.`);
    const tip = tooltip(plot);
    let view = 0;
    let spots = []; // every drawn point, with its place in pixels
    let current = null;
    let overlay = null;
    viewSwitch(chart.views, controls, (i) => { view = i; current = null; draw(); });

    function draw() {
      const { lines, y: axis } = chart.views[view];
      const shown = lines.filter((line) => !hidden.has(line.name));
      const width = Math.max(plot.clientWidth, 280);
      const height = Math.round(Math.min(430, Math.max(260, width * 0.5)));
      const longest = Math.max(...lines.map((line) => label(line).length)) * 7.6 + 18;
      const named = width > 620 && longest < width / 3;
      const area = { left: 46, right: width - (named ? longest : 14), top: 46, bottom: height - 50 };
      const [x, y] = [scale(chart.x, area.left, area.right), scale(axis, area.bottom, area.top)];
      const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${axis.label} against ${chart.x.label}` });

      svg("text", { x: 0, y: 14 }, root, axis.label);
      for (const [value, text] of axis.ticks) {
        svg("line", { x1: area.left, x2: area.right, y1: y(value), y2: y(value), class: "grid" }, root);
        svg("text", { x: area.left - 8, y: y(value) + 4, "text-anchor": "end" }, root, text);
      }
      svg("line", { x1: area.left, x2: area.right, y1: area.bottom, y2: area.bottom, class: "base" }, root);
      for (const [value, text] of chart.x.ticks)
        text.split("\n").forEach((part, row) =>
          svg("text", { x: x(value), y: area.bottom + 18 + 15 * row, "text-anchor": "middle" }, root, part));
      svg("text", { x: area.right, y: height - 2, "text-anchor": "end" }, root, chart.x.label);
      if (chart.mark) {
        const [value, text] = chart.mark;
        svg("line", { x1: x(value), x2: x(value), y1: area.top - 8, y2: area.bottom, class: "mark" }, root);
        svg("text", { x: x(value), y: area.top - 14, "text-anchor": x(value) - area.left < 60 ? "start" : "middle" }, root, text);
      }
      overlay = svg("g", {}, root);
      spots = [];
      const ends = [];
      for (const line of shown) {
        const group = svg("g", { style: colour(line.index), "data-line": line.name }, root);
        const points = line.points.filter((point) => point.y !== null);
        svg("path", { d: band(points, x, y), class: "band" }, group);
        for (const seed of line.seeds) svg("path", { d: path(seed, x, y), class: "thin" }, group);
        svg("path", { d: path(line.points.map((point) => [point.x, point.y]), x, y), class: "line" }, group);
        for (const point of points) {
          const spot = { line, point, x: x(point.x), y: y(point.y) };
          spots.push(spot);
          if (chart.markers) svg("path", { d: mark(line.index), class: "dot", transform: `translate(${spot.x} ${spot.y}) scale(1.150)` }, group);
        }
        if (points.length) ends.push({ line, y: y(points[points.length - 1].y) });
      }
      if (named)
        for (const end of apart(ends, 16))
          svg("text", { x: area.right + 12, y: end.y + 4, class: "name", style: colour(end.line.index) }, root, label(end.line));
      plot.querySelector("svg.drawn")?.remove();
      root.classList.add("drawn");
      plot.prepend(root);
      current = null;
      tip.hide();
    }

    function light(spot) {
      current = spot;
      overlay.replaceChildren();
      if (!spot) return tip.hide();
      const drawn = plot.querySelector("svg.drawn").viewBox.baseVal;
      svg("line", { x1: spot.x, x2: spot.x, y1: 40, y2: drawn.height - 50, class: "guide" }, overlay);
      svg("circle", { cx: spot.x, cy: spot.y, r: 9, class: "halo", style: colour(spot.line.index) }, overlay);
      tip.show(spot.x, spot.y, spot.line.name, spot.line.index, spot.point.heading, spot.point.rows);
    }

    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      const [px, py] = [event.clientX - box.left, event.clientY - box.top];
      light(nearest(spots, (spot) => Math.hypot(spot.x - px, spot.y - py)));
    });
    plot.addEventListener("pointerleave", () => light(null));
    plot.addEventListener("blur", () => light(null));
    plot.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return light(null);
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step || !spots.length) return;
      event.preventDefault();
      light(current ? neighbour(spots, current, ...step) : spots[0]);
    });
    redrawWith(plot, draw);
  }

  /** Along the line for dx, to the next value above or below at the same place for dy. */
  function neighbour(spots, from, dx, dy) {
    const on = spots.filter((spot) =>
      dx ? spot.line === from.line && Math.sign(spot.x - from.x) === dx
         : Math.abs(spot.x - from.x) < 1 && Math.sign(spot.y - from.y) === dy);
    return nearest(on, (spot) => Math.abs(spot.x - from.x) + Math.abs(spot.y - from.y)) ?? from;
  }

  function nearest(spots, distance) {
    return spots.reduce((best, spot) => (best === null || distance(spot) < distance(best) ? spot : best), null);
  }

  /** A path through (x, y) pairs that breaks where y is null. */
  function path(pairs, x, y) {
    let pen = "M";
    return pairs.map(([px, py]) => {
      if (py === null) { pen = "M"; return ""; }
      const piece = `${pen}${x(px).toFixed(1)} ${y(py).toFixed(1)}`;
      pen = "L";
      return piece;
    }).join("");
  }

  function band(points, x, y) {
    const wide = points.filter((point) => point.low !== null && point.high !== null);
    if (wide.length < 2) return "";
    const upper = wide.map((point) => [point.x, point.high]);
    const lower = wide.map((point) => [point.x, point.low]).reverse();
    return `${path([...upper, ...lower], x, y)}Z`;
  }

  /** Moves names at the line ends apart, in place, as little as keeps them `gap` pixels from each other. */
  function apart(ends, gap) {
    const groups = [];
    for (const end of [...ends].sort((a, b) => a.y - b.y)) {
      groups.push([end]);
      while (groups.length > 1 && top(groups[groups.length - 1]) - bottom(groups[groups.length - 2]) < gap)
        groups[groups.length - 2].push(...groups.pop());
    }
    function middle(group) { return group.reduce((sum, end) => sum + end.y, 0) / group.length; }
    function top(group) { return middle(group) - (gap * (group.length - 1)) / 2; }
    function bottom(group) { return middle(group) + (gap * (group.length - 1)) / 2; }
    return groups.flatMap((group) => group.map((end, i) => ({ ...end, y: top(group) + gap * i })));
  }

  // Strips: the channel pairs of each encoding

  function stripChart(figure, chart) {
    const plot = html("div", { class: "plot" }, figure);
    const tip = tooltip(plot);
    const states = html("p", { class: "states" }, figure);
    for (const [state, words] of Object.entries(chart.legend)) {
      const item = html("span", {}, states);
      const box = svg("svg", { viewBox: "0 0 14 14", width: 14, height: 14, "aria-hidden": "true", style: "--series: var(--muted)" }, item);
      if (state === "mark") svg("line", { x1: 7, x2: 7, y1: 0, y2: 14, class: "crossing" }, box);
      else svg("rect", { width: 14, height: 14, rx: 2, class: `pair ${state}` }, box);
      item.append(words);
    }

    function draw() {
      const shown = chart.strips.filter((strip) => !hidden.has(strip.name));
      const width = Math.max(plot.clientWidth, 280);
      const letters = Math.max(0, ...chart.strips.map((strip) => strip.name.length + 2 + strip.turning.length));
      const beside = Math.max(...chart.strips.map((strip) => strip.name.length)) * 7.6 + 16;
      const counts = Math.max(...chart.strips.map((strip) => strip.turning.length)) * 6.6 + 12;
      const wide = width > 620 && letters * 7.2 < width / 2;
      const [left, right] = wide ? [beside, width - counts] : [0, width];
      const pairs = Math.max(...chart.strips.map((strip) => strip.layers[0].length));
      const cell = (right - left) / pairs;
      const [rowHeight, barHeight] = wide ? [40, 24] : [56, 24];
      const height = shown.length * rowHeight + 34;
      const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "drawn" });
      root.setAttribute("aria-label", `${chart.title}: ${shown.map((strip) => `${strip.name} ${strip.turning}`).join("; ")}`);
      shown.forEach((strip, row) => {
        const top = row * rowHeight + (wide ? 6 : 22);
        const group = svg("g", { style: colour(strip.index), "data-line": strip.name }, root);
        svg("text", { x: 0, y: wide ? top + 17 : top - 6, class: "name" }, group, strip.name);
        svg("text", { x: width, y: wide ? top + 17 : top - 6, "text-anchor": "end" }, group, strip.turning);
        const deep = barHeight / strip.layers.length;
        strip.layers.forEach((layer, depth) => layer.forEach((pair, i) => {
          const box = svg("rect", {
            x: left + i * cell + cell * 0.06, y: top + depth * deep, width: cell * 0.88, height: Math.max(deep - 1, 1), rx: Math.min(2, cell / 6),
            class: `pair ${pair.state}`,
          }, group);
          box.addEventListener("pointerenter", () => {
            box.classList.add("lit");
            tip.show(left + (i + 0.5) * cell, top, strip.name, strip.index, "", pair.rows);
          });
          box.addEventListener("pointerleave", () => { box.classList.remove("lit"); tip.hide(); });
        }));
        if (strip.mark !== null) {
          const at = left + strip.mark * cell;
          svg("line", { x1: at, x2: at, y1: top - 5, y2: top + barHeight + 4, class: "crossing" }, group);
        }
      });
      const every = Math.max(1, 2 ** Math.round(Math.log2(pairs / 8)));
      for (let i = 0; i < pairs; i += every)
        svg("text", { x: left + (i + 0.5) * cell, y: height - 18, "text-anchor": "middle" }, root, String(i));
      svg("text", { x: right, y: height - 1, "text-anchor": "end" }, root, `${chart.x_label} (fastest first)`);
      plot.querySelector("svg.drawn")?.remove();
      plot.prepend(root);
      tip.hide();
    }
    redrawWith(plot, draw);
  }

  for (const span of document.querySelectorAll(".key[data-series]")) key(Number(span.dataset.series), span);
  for (const chart of charts)
    ({ lines: lineChart, strips: stripChart })[chart.kind](document.querySelector(`[data-chart="${chart.name}"]`), chart);
})();
