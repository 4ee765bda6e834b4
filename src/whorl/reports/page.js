// Draws the charts of a whorl report as SVG, from the JSON that the page carries. No library, no network.
// The data says everything (charts.py, panels.py): points, axes with their ticks, the rows shown on hover.
"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const hidden = new Set(); // names of the encodings switched off, in every chart alike
  const redraws = [];
  const COLOURS = 7;
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
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

  function key(index, parent, style = colour(index)) {
    const box = svg("svg", { viewBox: "-7 -7 14 14", width: 14, height: 14, "aria-hidden": "true", style }, parent);
    svg("path", { d: mark(index), class: "dot", transform: "scale(1.2)" }, box);
  }

  // Parts that every chart has

  function tooltip(plot) {
    const box = html("div", { class: "tip", hidden: "" }, plot);
    const live = html("p", { class: "unseen", "aria-live": "polite" }, plot);
    return {
      hide() { box.hidden = true; },
      /** `index` null: no mark before the name; `style`: its colour, where that is not the one of the index. */
      show(x, y, name, index, heading, rows, style = undefined) {
        box.replaceChildren();
        const title = html("strong", {}, box);
        if (index !== null) key(index, html("span", { class: "key" }, title), style);
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
    const box = html("div", { class: "legend", role: "group", "aria-label": "Show or hide lines" }, parent);
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

  function viewSwitch(labels, parent, choose, name = "Quantity shown") {
    if (labels.length < 2) return;
    const box = html("div", { class: "switch", role: "group", "aria-label": name }, parent);
    labels.forEach((text, i) => {
      const button = html("button", { type: "button", "aria-pressed": String(i === 0) }, box, text);
      button.addEventListener("click", () => {
        [...box.children].forEach((other, j) => other.setAttribute("aria-pressed", String(i === j)));
        choose(i);
      });
    });
  }

  /** A labelled list to choose from; returns how to fill it anew. */
  function selector(name, parent, choose) {
    const box = html("label", { class: "choice" }, parent, name);
    const list = html("select", {}, box);
    list.addEventListener("change", () => choose(list.selectedIndex));
    return (options) => {
      box.hidden = options.length < 2;
      list.replaceChildren();
      for (const text of options) html("option", {}, list, text);
    };
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

  function grid(root, area, height, xAxis, yAxis, x, y) {
    svg("text", { x: 0, y: 14 }, root, yAxis.label);
    for (const [value, text] of yAxis.ticks) {
      svg("line", { x1: area.left, x2: area.right, y1: y(value), y2: y(value), class: "grid" }, root);
      svg("text", { x: area.left - 8, y: y(value) + 4, "text-anchor": "end" }, root, text);
    }
    svg("line", { x1: area.left, x2: area.right, y1: area.bottom, y2: area.bottom, class: "base" }, root);
    for (const [value, text] of xAxis.ticks)
      text.split("\n").forEach((part, row) =>
        svg("text", { x: x(value), y: area.bottom + 18 + 15 * row, "text-anchor": "middle" }, root, part));
    svg("text", { x: area.right, y: height - 2, "text-anchor": "end" }, root, xAxis.label);
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
    viewSwitch(chart.views.map((each) => each.label), controls, (i) => { view = i; current = null; draw(); });

    function draw() {
      const { lines, y: axis, level } = chart.views[view];
      const shown = lines.filter((line) => !hidden.has(line.name));
      const width = Math.max(plot.clientWidth, 280);
      const height = Math.round(Math.min(430, Math.max(260, width * 0.5)));
      const longest = Math.max(...lines.map((line) => label(line).length)) * 7.6 + 18;
      const named = width > 620 && longest < width / 3;
      const area = { left: 46, right: width - (named ? longest : 14), top: 46, bottom: height - 50 };
      const [x, y] = [scale(chart.x, area.left, area.right), scale(axis, area.bottom, area.top)];
      const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${axis.label} against ${chart.x.label}` });

      grid(root, area, height, chart.x, axis, x, y);
      if (chart.mark) {
        const [value, text] = chart.mark;
        svg("line", { x1: x(value), x2: x(value), y1: area.top - 8, y2: area.bottom, class: "mark" }, root);
        svg("text", { x: x(value), y: area.top - 14, "text-anchor": x(value) - area.left < 60 ? "start" : "middle" }, root, text);
      }
      if (level) {
        const [value, text] = level;
        svg("line", { x1: area.left, x2: area.right, y1: y(value), y2: y(value), class: "mark" }, root);
        svg("text", { x: area.left + 4, y: y(value) + 14 }, root, text);
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

    pointing(plot, () => spots, () => current, light);
    redrawWith(plot, draw);
  }

  /** The value nearest to the pointer is lit; arrow keys go on from there. */
  function pointing(plot, spots, current, light) {
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      const [px, py] = [event.clientX - box.left, event.clientY - box.top];
      light(nearest(spots(), (spot) => Math.hypot(spot.x - px, spot.y - py)));
    });
    plot.addEventListener("pointerleave", () => light(null));
    plot.addEventListener("blur", () => light(null));
    plot.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return light(null);
      const step = ARROWS[event.key];
      if (!step || !spots().length) return;
      event.preventDefault();
      light(current() ? neighbour(spots(), current(), ...step) : spots()[0]);
    });
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

  // Panels: one for each model, side by side, under the same controls

  const write = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3 });

  function panels(views, parent) {
    const box = html("div", { class: "panels" }, parent);
    return views[0].panels.map(({ name }, _, all) => {
      const panel = html("div", { class: "panel" }, box);
      if (all.length > 1) html("h4", {}, panel, name);
      return html("div", { class: "plot", tabindex: "0", role: "group" }, panel);
    });
  }

  function nothing(root, width, height) {
    svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, root, "not measured");
  }

  function replace(plot, root) {
    plot.querySelector("svg.drawn")?.remove();
    root.classList.add("drawn");
    plot.prepend(root);
  }

  /** Of a few lines each has its own colour; of many, their order has one. */
  function curveColour(index, count) {
    return count <= COLOURS ? colour(index) : `--series: ${tint(["--many-0", "--many-1", "--many-2"], index / (count - 1))}`;
  }

  function curveChart(figure, chart) {
    const state = { view: 0, option: 0, x: 0, chosen: 0 }; // chosen: 0 for all lines, else one more than its number
    const controls = html("div", { class: "controls" }, figure);
    viewSwitch(chart.views.map((view) => view.label), controls, (i) => { state.view = i; renew(); });
    const choices = html("div", { class: "choices" }, controls);
    selector(chart.selector, choices, (i) => { state.option = i; renew(); })(chart.options);
    const fillLines = selector("highlight", choices, (i) => { state.chosen = i; redraw(); });
    viewSwitch(chart.xs.map(([name]) => name), choices, (i) => { state.x = i; redraw(); }, "Scale of the horizontal axis");
    const keys = html("div", { class: "keys" }, figure);
    const draws = panels(chart.views, figure).map((plot, i) => curvePanel(plot, chart, state, i));
    const redraw = () => draws.forEach((draw) => draw());

    /** The lines have changed: their legend, and what can be highlighted. */
    function renew() {
      state.chosen = 0;
      const names = [...new Set(chart.views[state.view].panels.flatMap((panel) => (panel.frames[state.option]?.curves ?? []).map((curve) => curve.name)))];
      keys.replaceChildren();
      if (names.length > COLOURS) rampKey(keys, ["--many-0", "--many-1", "--many-2"], names[0], names[names.length - 1], "");
      else if (names.length > 1) legend(names.map((name, index) => ({ name, index })), keys);
      fillLines(names.length > COLOURS ? ["all", ...names] : []);
      redraw();
    }
    renew();
  }

  function curvePanel(plot, chart, state, number) {
    const tip = tooltip(plot);
    let spots = [];
    let current = null;
    let overlay = null;
    let area = null;

    function draw() {
      const view = chart.views[state.view];
      const panel = view.panels[number];
      const frame = panel.frames[state.option];
      const [xAxis, yAxis] = [chart.xs[state.x][1], view.axes[state.option]];
      const width = Math.max(plot.clientWidth, 260);
      const height = Math.round(Math.min(400, Math.max(250, width * 0.48)));
      const letters = Math.max(...yAxis.ticks.map(([, text]) => text.length));
      area = { left: Math.max(40, letters * 7 + 14), right: width - 14, top: 44, bottom: height - 46 };
      const [x, y] = [scale(xAxis, area.left, area.right), scale(yAxis, area.bottom, area.top)];
      const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${yAxis.label} against ${xAxis.label}` });
      plot.setAttribute("aria-label", `${chart.title} ${panel.name}. Arrow keys go from value to value.`);
      spots = [];
      current = null;
      tip.hide();
      grid(root, area, height, xAxis, yAxis, x, y);
      for (const [value, text] of view.levels) {
        svg("line", { x1: area.left, x2: area.right, y1: y(value), y2: y(value), class: "mark" }, root);
      }
      for (const [value, text] of panel.marks) {
        if (value < xAxis.low || value > xAxis.high) continue;
        svg("line", { x1: x(value), x2: x(value), y1: area.top - 8, y2: area.bottom, class: "mark" }, root);
        const side = x(value) > width - 60 ? "end" : x(value) < area.left + 60 ? "start" : "middle";
        svg("text", { x: x(value), y: area.top - 13, "text-anchor": side }, root, text);
      }
      overlay = svg("g", {}, root);
      if (!frame) nothing(root, width, height);
      const places = frame ? panel.grids[frame.grid] : null;
      const curves = frame ? frame.curves : [];
      const few = curves.length <= COLOURS;
      const order = curves.map((curve, i) => [curve, i]);
      if (state.chosen) order.push(...order.splice(state.chosen - 1, 1)); // drawn last, on top
      for (const [curve, i] of order) {
        if (few && hidden.has(curve.name)) continue;
        const behind = state.chosen && state.chosen - 1 !== i;
        const style = curveColour(i, curves.length);
        const group = svg("g", { style, "data-line": curve.name, class: behind ? "behind" : "" }, root);
        const inside = (px) => px >= xAxis.low && px <= xAxis.high;
        const ends = places.x.map((px, k) => ({ x: px, low: curve.low[k] ?? null, high: curve.high[k] ?? null }));
        if (curve.low.length) svg("path", { d: band(ends.filter((end) => inside(end.x)), x, y), class: "band" }, group);
        svg("path", { d: path(places.x.map((px, k) => [px, inside(px) ? curve.y[k] : null]), x, y), class: few || state.chosen ? "line" : "line fine" }, group);
        if (behind) continue;
        places.x.forEach((px, k) => {
          if (curve.y[k] === null || !inside(px)) return;
          const spot = { line: curve, index: i, style, heading: places.notes[k], value: curve.y[k], x: x(px), y: y(curve.y[k]) };
          spots.push(spot);
          if (chart.markers && few) svg("path", { d: mark(i), class: "dot", transform: `translate(${spot.x} ${spot.y})` }, group);
        });
      }
      for (const [value, text] of view.levels)
        svg("text", { x: area.right, y: y(value) - 5, "text-anchor": "end", class: "over" }, root, text);
      replace(plot, root);
    }

    function light(spot) {
      current = spot;
      overlay.replaceChildren();
      if (!spot) return tip.hide();
      svg("line", { x1: spot.x, x2: spot.x, y1: area.top, y2: area.bottom, class: "guide" }, overlay);
      svg("circle", { cx: spot.x, cy: spot.y, r: 7, class: "halo", style: spot.style }, overlay);
      const unit = chart.views[state.view].axes[state.option].label;
      tip.show(spot.x, spot.y, spot.line.name, spot.index, spot.heading, [[unit, write(spot.value)]], spot.style);
    }

    pointing(plot, () => spots, () => current, light);
    redrawWith(plot, draw);
    return draw;
  }

  // Heat maps: cells of one colour are one path, so that ten thousand of them stay quick

  const LEVELS = 33; // odd: zero has a level of its own in the middle
  const RAMPS = {
    sequential: ["--cold", "--mid", "--hot"],
    diverging: ["--below-2", "--below-1", "--zero", "--mid", "--above-2"],
  };

  /** The colour at `part` of the way along the stops, which are names of colours in page.css. */
  function tint(stops, part) {
    const at = Math.max(0, Math.min(1, part)) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    return `color-mix(in oklab, var(${stops[low + 1]}) ${((at - low) * 100).toFixed(0)}%, var(${stops[low]}))`;
  }

  function rampKey(parent, stops, low, high, text) {
    const box = html("p", { class: "ramp" }, parent);
    if (text) html("span", {}, box, text);
    html("span", { class: "end" }, box, low);
    const bar = svg("svg", { viewBox: "0 0 128 10", width: 128, height: 10, "aria-hidden": "true" }, box);
    for (let i = 0; i < LEVELS; i++)
      svg("rect", { x: i * 4, width: 4.2, height: 10, style: `fill: ${tint(stops, i / (LEVELS - 1))}` }, bar);
    html("span", { class: "end" }, box, high);
  }

  function heatChart(figure, chart) {
    const state = { view: 0, option: 0 };
    const controls = html("div", { class: "controls" }, figure);
    viewSwitch(chart.views.map((view) => view.label), controls, (i) => { state.view = i; redraw(); });
    selector(chart.selector, html("div", { class: "choices" }, controls), (i) => { state.option = i; redraw(); })(chart.options);
    const draws = panels(chart.views, figure).map((plot, i) => heatPanel(plot, chart, state, i));
    const keys = html("div", { class: "keys" }, figure);

    function redraw() {
      const colours = chart.views[state.view].colours[state.option];
      keys.replaceChildren();
      rampKey(keys, RAMPS[colours.scale], write(colours.low), write(colours.high), colours.label);
      draws.forEach((draw) => draw());
    }
    redraw();
  }

  function heatPanel(plot, chart, state, number) {
    const tip = tooltip(plot);
    let cells = { rows: [], panel: null, colours: null, area: null };
    let current = null;
    let overlay = null;

    function draw() {
      const view = chart.views[state.view];
      const panel = view.panels[number];
      const frame = panel.frames[state.option];
      const colours = view.colours[state.option];
      const rows = frame ? frame.rows : [];
      const width = Math.max(plot.clientWidth, 260);
      const deep = rows.length ? Math.max(Math.min(26, 400 / rows.length), 5) : 26;
      const labels = rows.length ? panel.columns[rows[0].columns].marks.length : 0;
      const letters = Math.max(0, ...rows.map((row) => row.tick.length));
      const area = { left: letters * 7 + 12, right: width - (frame?.marks.length ? 84 : 4), top: 18 + 15 * labels };
      area.bottom = area.top + deep * Math.max(rows.length, 4 * !rows.length);
      const height = area.bottom + 40;
      const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${colours.label} by ${frame?.label ?? "row"} and ${chart.x_label}` });
      plot.setAttribute("aria-label", `${chart.title} ${panel.name}. Arrow keys go from cell to cell.`);
      cells = { rows, panel, colours, area, deep };
      current = null;
      tip.hide();
      if (!rows.length) nothing(root, width, height);
      else fillCells(root, frame, panel, colours, area, deep, height);
      overlay = svg("g", {}, root);
      replace(plot, root);
    }

    function fillCells(root, frame, panel, colours, area, deep, height) {
      const count = frame.rows[0].values.length;
      const wide = (area.right - area.left) / count;
      const paths = new Map();
      let none = "";
      frame.rows.forEach((row, r) => row.values.forEach((value, c) => {
        const [x, y] = [area.left + c * wide, area.top + r * deep];
        if (value === null) { none += `M${x.toFixed(1)} ${(y + deep).toFixed(1)}L${(x + wide).toFixed(1)} ${y.toFixed(1)}`; return; }
        const level = Math.round(((value - colours.low) / (colours.high - colours.low)) * (LEVELS - 1));
        paths.set(level, `${paths.get(level) ?? ""}M${x.toFixed(1)} ${y.toFixed(1)}h${(wide + 0.3).toFixed(1)}v${(deep + 0.3).toFixed(1)}h${(-wide - 0.3).toFixed(1)}z`);
      }));
      for (const [level, d] of paths)
        svg("path", { d, class: "cells", style: `fill: ${tint(RAMPS[colours.scale], level / (LEVELS - 1))}` }, root);
      if (none) svg("path", { d: none, class: "none" }, root);

      svg("text", { x: 0, y: area.top - 7 }, root, frame.label);
      const every = Math.ceil(13 / deep);
      frame.rows.forEach((row, r) => {
        if (r % every === 0) svg("text", { x: area.left - 6, y: area.top + (r + 0.5) * deep + 4, "text-anchor": "end" }, root, row.tick);
      });
      let from = -Infinity;
      for (const [at, text] of panel.ticks) {
        const x = area.left + at * wide;
        if (x - from < text.length * 7 + 8) continue;
        from = x;
        svg("text", { x, y: area.bottom + 16, "text-anchor": "middle" }, root, text);
      }
      svg("text", { x: area.right, y: height - 4, "text-anchor": "end" }, root, chart.x_label);
      const named = new Set();
      frame.rows.forEach((row, r) => panel.columns[row.columns].marks.forEach(([at, text], depth) => {
        const x = area.left + at * wide;
        const [top, bottom] = [area.top + r * deep, area.top + (r + 1) * deep];
        const up = named.has(text) ? 0 : 4 + 15 * depth;
        svg("line", { x1: x, x2: x, y1: top - up, y2: bottom, class: depth ? "cut second" : "cut" }, root);
        if (named.has(text)) return;
        named.add(text);
        const side = x > area.right - 90 ? "end" : "start";
        svg("text", { x: x + (side === "end" ? -4 : 4), y: area.top - 4 - 15 * depth, "text-anchor": side }, root, text);
      }));
      const beside = frame.marks.map(([at, text], depth) => ({ text, depth, at: area.top + at * deep, y: area.top + at * deep }));
      for (const { at, depth } of beside)
        svg("line", { x1: area.left, x2: area.right + 4, y1: at, y2: at, class: depth ? "cut second" : "cut" }, root);
      for (const { text, y } of apart(beside, 15)) svg("text", { x: area.right + 8, y: y + 4 }, root, text);
    }

    function light(cell) {
      current = cell;
      overlay.replaceChildren();
      if (!cell) return tip.hide();
      const { rows, panel, colours, area, deep } = cells;
      const row = rows[cell.r];
      const wide = (area.right - area.left) / row.values.length;
      const [x, y] = [area.left + cell.c * wide, area.top + cell.r * deep];
      svg("rect", { x, y, width: wide, height: deep, class: "lit" }, overlay);
      const value = row.values[cell.c];
      tip.show(x + wide, y, row.note, null, panel.columns[row.columns].notes[cell.c], [[colours.label, value === null ? "not measured" : write(value)]]);
    }

    function under(event) {
      const { rows, area, deep } = cells;
      if (!rows.length) return null;
      const box = plot.getBoundingClientRect();
      const count = rows[0].values.length;
      const c = Math.floor(((event.clientX - box.left - area.left) / (area.right - area.left)) * count);
      const r = Math.floor((event.clientY - box.top - area.top) / deep);
      return r >= 0 && r < rows.length && c >= 0 && c < count ? { r, c } : null;
    }

    plot.addEventListener("pointermove", (event) => light(under(event)));
    plot.addEventListener("pointerleave", () => light(null));
    plot.addEventListener("blur", () => light(null));
    plot.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return light(null);
      const step = ARROWS[event.key];
      if (!step || !cells.rows.length) return;
      event.preventDefault();
      const [r, c] = current ? [current.r + step[1], current.c + step[0]] : [0, 0];
      light({ r: Math.max(0, Math.min(cells.rows.length - 1, r)), c: Math.max(0, Math.min(cells.rows[0].values.length - 1, c)) });
    });
    redrawWith(plot, draw);
    return draw;
  }

  for (const span of document.querySelectorAll(".key[data-series]")) key(Number(span.dataset.series), span);
  for (const chart of charts)
    ({ lines: lineChart, strips: stripChart, curves: curveChart, heat: heatChart })[chart.kind](document.querySelector(`[data-chart="${chart.name}"]`), chart);
})();
