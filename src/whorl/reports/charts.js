// The three kinds of charts, drawn as chart.py says them; a field that is not there is empty.

// Curves

function curveChart(figure, chart) {
  const state = { view: 0, option: 0, x: 0, chosen: 0 }; // chosen: 0 for all lines, else one more than its number
  const controls = html("div", { class: "controls" }, figure);
  const menus = chart.options.length > 1; // without them there is room for the legend beside the buttons
  const beside = menus ? null : html("div", { class: "keys" }, controls);
  const buttons = html("div", { class: "choices" }, controls);
  const choices = menus ? html("div", { class: "choices" }, controls) : buttons;
  viewSwitch(chart.views.map((view) => view.label), buttons, (i) => { state.view = i; renew(); });
  selector(chart.selector, choices, (i) => { state.option = i; renew(); })(chart.options);
  const fillLines = selector("highlight", choices, (i) => { state.chosen = i; redraw(); });
  viewSwitch(chart.xs.map(([name]) => name), choices, (i) => { state.x = i; redraw(); }, "Scale of the horizontal axis");
  const keys = beside ?? html("div", { class: "keys" }, figure);
  const draws = panels(chart.views, figure).map((plot, i) => curvePanel(plot, chart, state, i));
  const redraw = () => draws.forEach((draw) => draw());

  /** The lines have changed: their legend, and what can be highlighted. */
  function renew() {
    state.chosen = 0;
    const curves = chart.views[state.view].panels.flatMap((panel) => panel.frames[state.option]?.curves ?? []);
    const lines = [...new Map(curves.map((curve) => [curve.name, curve])).values()];
    const many = lines.some((line) => "shade" in line);
    keys.replaceChildren();
    if (many) rampKey(keys, "many", [lines[0].name, lines[lines.length - 1].name], "");
    else if (lines.length > 1 || chart.named) legend(lines, keys);
    fillLines(many ? ["all", ...lines.map((line) => line.name)] : []);
    redraw();
  }
  renew();
}

function curvePanel(plot, chart, state, number) {
  const tip = tooltip(plot);
  const label = (curve) => (curve.note ? `${curve.name} (${curve.note})` : curve.name);
  let spots = []; // every value of the lines that are not behind, with its place in pixels
  let overlay = null;
  let area = null;
  const leave = pointingAt(plot, () => spots, light);

  function draw() {
    const view = chart.views[state.view];
    const panel = view.panels[number];
    const frame = panel.frames[state.option];
    const [xAxis, yAxis] = [view.x ?? chart.xs[state.x][1], view.axes[state.option]];
    const curves = frame?.curves ?? [];
    const width = Math.max(plot.clientWidth, 260);
    const height = Math.round(Math.min(430, Math.max(250, width * 0.48)));
    const longest = Math.max(0, ...curves.map((curve) => label(curve).length)) * 7.6 + 18;
    const named = chart.named && width > 620 && longest < width / 3;
    const letters = Math.max(...yAxis.ticks.map(([, text]) => text.length));
    area = { left: Math.max(40, letters * 7 + 14), right: width - (named ? longest : 14), top: 44, bottom: height - 50 };
    const [x, y] = [scale(xAxis, area.left, area.right), scale(yAxis, area.bottom, area.top)];
    const inside = (place) => place >= xAxis.low && place <= xAxis.high;
    const root = drawing(width, height, `${yAxis.label} against ${xAxis.label}`);
    plot.setAttribute("aria-label", `${chart.title} ${panel.name}. Arrow keys go from value to value.`);
    for (const [low, high, text] of panel.spans ?? []) {
      svg("rect", { x: x(low), width: x(high) - x(low), y: area.top, height: area.bottom - area.top, class: "span" }, root);
      svg("text", { x: (x(low) + x(high)) / 2, y: (area.top + area.bottom) / 2, "text-anchor": "middle" }, root, text);
    }
    grid(root, area, height, xAxis, yAxis, x, y);
    for (const [value] of view.levels ?? [])
      svg("line", { x1: area.left, x2: area.right, y1: y(value), y2: y(value), class: "level" }, root);
    for (const [value, text] of panel.marks ?? []) {
      if (!inside(value)) continue;
      svg("line", { x1: x(value), x2: x(value), y1: area.top - 8, y2: area.bottom, class: "mark" }, root);
      const side = x(value) > area.right - 60 ? "end" : x(value) < area.left + 60 ? "start" : "middle";
      svg("text", { x: x(value), y: area.top - 13, "text-anchor": side }, root, text);
    }
    overlay = svg("g", {}, root);
    if (!frame) nothing(root, width, height);
    spots = [];
    const ends = [];
    const order = curves.map((curve, i) => [curve, i]);
    if (state.chosen) order.push(...order.splice(state.chosen - 1, 1)); // drawn last, on top
    for (const [curve, i] of order) {
      if (!("shade" in curve) && hidden.has(curve.name)) continue;
      const behind = state.chosen && state.chosen - 1 !== i;
      const found = drawCurve(root, view.markers, curve, panel.grids[frame.grid], { x, y, inside }, behind, state.chosen);
      if (behind) continue;
      spots.push(...found);
      if (found.length) ends.push({ curve, y: found[found.length - 1].y });
    }
    for (const [value, text] of view.levels ?? []) {
      const at = view.level_side === "left" ? { x: area.left + 4 } : { x: area.right, "text-anchor": "end" };
      svg("text", { ...at, y: y(value) - 5, class: "over" }, root, text);
    }
    if (named)
      for (const end of apart(ends, 16))
        svg("text", { x: area.right + 12, y: end.y + 4, class: "name", style: curveColour(end.curve) }, root, label(end.curve));
    replace(plot, root);
    leave();
  }

  function light(spot) {
    overlay.replaceChildren();
    if (!spot) return tip.hide();
    const { line, x, y, rows } = spot;
    svg("line", { x1: x, x2: x, y1: area.top, y2: area.bottom, class: "guide" }, overlay);
    svg("circle", { cx: x, cy: y, r: 8, class: "halo", style: curveColour(line) }, overlay);
    const unit = chart.views[state.view].axes[state.option].label;
    tip.show(x, y, line.name, line.index, spot.heading, rows ?? [[unit, write(spot.value)]], curveColour(line));
  }

  redrawWith(plot, draw);
  return draw;
}

/** One line with its band, its single runs and its marks; returns its values with their places. */
function drawCurve(root, markers, curve, grid, { x, y, inside }, behind, chosen) {
  const group = svg("g", { style: curveColour(curve), "data-line": curve.name, class: behind ? "behind" : "" }, root);
  const within = (values) => values.map((value, i) => (inside(grid.x[i]) ? value : null));
  if (curve.low) svg("path", { d: band(grid.x, within(curve.low), curve.high, x, y), class: "band" }, group);
  for (const run of curve.thin ?? []) svg("path", { d: path(grid.x, within(run), x, y), class: "thin" }, group);
  const fine = curve.faint || ("shade" in curve && !chosen);
  svg("path", { d: path(grid.x, within(curve.y), x, y), class: fine ? "line fine" : "line" }, group);
  const spots = [];
  within(curve.y).forEach((value, i) => {
    if (value === null) return;
    const spot = { line: curve, heading: grid.notes[i], rows: curve.rows?.[i], value, x: x(grid.x[i]), y: y(value) };
    spots.push(spot);
    if (markers && !("shade" in curve) && !behind)
      svg("path", { d: mark(curve.index), class: "dot", transform: `translate(${spot.x} ${spot.y}) scale(1.1)` }, group);
  });
  return spots;
}

// Heat maps: cells of one colour are one path, so that ten thousand of them stay quick

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
    rampKey(keys, colours.scale, colours.ends, colours.label, colours.beyond);
    draws.forEach((draw) => draw());
  }
  redraw();
}

function heatPanel(plot, chart, state, number) {
  const tip = tooltip(plot);
  let shown = { rows: [] };
  let overlay = null;
  const leave = pointing(plot, under, step, light);

  function draw() {
    const view = chart.views[state.view];
    const panel = view.panels[number];
    const frame = panel.frames[state.option];
    const colours = view.colours[state.option];
    const rows = frame?.rows ?? [];
    const width = Math.max(plot.clientWidth, 260);
    const deep = rows.length ? Math.max(Math.min(26, 400 / rows.length), 5) : 26;
    const labels = rows.length ? (panel.columns[rows[0].columns].marks ?? []).length : 0;
    const letters = Math.max(0, ...(frame?.ticks ?? []).map(([, text]) => text.length));
    const area = { left: letters * 7 + 12, right: width - (frame?.marks ? 84 : 4), top: 18 + 15 * labels };
    area.bottom = area.top + deep * Math.max(rows.length, 4 * !rows.length);
    const height = area.bottom + 40;
    const wide = rows.length ? (area.right - area.left) / rows[0].values.length : 0;
    const root = drawing(width, height, `${colours.label} by ${frame?.label ?? "row"} and ${chart.x_label}`);
    plot.setAttribute("aria-label", `${chart.title} ${panel.name}. Arrow keys go from cell to cell.`);
    shown = { rows, panel, frame, colours, area, deep, wide };
    if (rows.length) fillCells(root, shown, chart, height);
    else nothing(root, width, height);
    overlay = svg("g", {}, root);
    replace(plot, root);
    leave();
  }

  function light(cell) {
    overlay.replaceChildren();
    if (!cell) return tip.hide();
    const { rows, panel, colours, area, deep, wide } = shown;
    const row = rows[cell.r];
    const [x, y] = [area.left + cell.c * wide, area.top + cell.r * deep];
    svg("rect", { x, y, width: wide, height: deep, class: "lit" }, overlay);
    const value = row.values[cell.c];
    const text = value === null ? "not measured" : write(value) + (isBeyond(value, colours) ? ", beyond the colours" : "");
    tip.show(x + wide, y, row.note, null, panel.columns[row.columns].notes[cell.c], [[colours.label, text]]);
  }

  function under(x, y) {
    const { rows, area, deep, wide } = shown;
    if (!rows.length) return null;
    const [r, c] = [Math.floor((y - area.top) / deep), Math.floor((x - area.left) / wide)];
    return r >= 0 && r < rows.length && c >= 0 && c < rows[0].values.length ? { r, c } : null;
  }

  function step(from, dx, dy) {
    const { rows } = shown;
    if (!rows.length) return null;
    const keep = (at, count) => Math.max(0, Math.min(count - 1, at));
    return from ? { r: keep(from.r + dy, rows.length), c: keep(from.c + dx, rows[0].values.length) } : { r: 0, c: 0 };
  }

  redrawWith(plot, draw);
  return draw;
}

const isBeyond = (value, colours) => "beyond" in colours && Math.abs(value) > colours.high * STYLE.rounding;

function fillCells(root, { panel, frame, colours, area, deep, wide }, chart, height) {
  const paths = new Map();
  let none = "", dots = "";
  frame.rows.forEach((row, r) => row.values.forEach((value, c) => {
    const [x, y] = [area.left + c * wide, area.top + r * deep];
    if (value === null) { none += `M${x.toFixed(1)} ${(y + deep).toFixed(1)}L${(x + wide).toFixed(1)} ${y.toFixed(1)}`; return; }
    const part = Math.max(0, Math.min(1, (value - colours.low) / (colours.high - colours.low)));
    const level = Math.round(part * (LEVELS - 1));
    if (isBeyond(value, colours)) dots += dot(x + wide / 2, y + deep / 2, Math.max(1, Math.min(2, wide / 3)));
    paths.set(level, `${paths.get(level) ?? ""}M${x.toFixed(1)} ${y.toFixed(1)}h${(wide + 0.3).toFixed(1)}v${(deep + 0.3).toFixed(1)}h${(-wide - 0.3).toFixed(1)}z`);
  }));
  for (const [level, d] of paths)
    svg("path", { d, class: "cells", style: `fill: ${tint(colours.scale, level / (LEVELS - 1))}` }, root);
  if (none) svg("path", { d: none, class: "none" }, root);
  if (dots) svg("path", { d: dots, class: "beyond-it" }, root);

  svg("text", { x: 0, y: area.top - 7 }, root, frame.label);
  for (const [at, text] of frame.ticks)
    svg("text", { x: area.left - 6, y: area.top + at * deep + 4, "text-anchor": "end" }, root, text);
  let from = -Infinity;
  for (const [at, text] of panel.ticks) {
    const x = area.left + at * wide;
    if (x - from < text.length * 7 + 8) continue; // no room on a narrow screen
    from = x;
    svg("text", { x, y: area.bottom + 16, "text-anchor": "middle" }, root, text);
  }
  svg("text", { x: area.right, y: height - 4, "text-anchor": "end" }, root, chart.x_label);
  const named = new Map(); // drawn last, so that no line runs through them
  frame.rows.forEach((row, r) => (panel.columns[row.columns].marks ?? []).forEach(([at, text], depth) => {
    const x = area.left + at * wide;
    const [top, bottom] = [area.top + r * deep, area.top + (r + 1) * deep];
    const up = named.has(text) ? 0 : 4 + 15 * depth;
    svg("line", { x1: x, x2: x, y1: top - up, y2: bottom, class: depth ? "cut second" : "cut" }, root);
    if (named.has(text)) return;
    const other = panel.columns[row.columns].marks[1 - depth]; // whose line a name must not stand on
    let side = x > area.right - 90 || (depth === 0 && other && other[0] > at) ? "end" : "start";
    if (x < area.left + 90) side = "start";
    named.set(text, { x: x + (side === "end" ? -4 : 4), y: area.top - 4 - 15 * depth, "text-anchor": side, class: "over" });
  }));
  for (const [text, place] of named) svg("text", place, root, text);
  const beside = (frame.marks ?? []).map(([at, text], depth) => ({ text, depth, at: area.top + at * deep, y: area.top + at * deep }));
  for (const { at, depth } of beside)
    svg("line", { x1: area.left, x2: area.right + 4, y1: at, y2: at, class: depth ? "cut second" : "cut" }, root);
  for (const { text, y } of apart(beside, 15)) svg("text", { x: area.right + 8, y: y + 4 }, root, text);
}

// Strips: the channel pairs of each encoding

function stripChart(figure, chart) {
  const plot = plotIn(figure);
  plot.setAttribute("aria-label", `${chart.title}. Arrow keys go from pair to pair.`);
  const tip = tooltip(plot);
  const states = html("p", { class: "states" }, figure);
  for (const [state, words] of Object.entries(chart.legend)) {
    const item = html("span", {}, states);
    const box = svg("svg", { viewBox: "0 0 14 14", width: 14, height: 14, "aria-hidden": "true", style: "--series: var(--muted)" }, item);
    if (state === "mark") svg("line", { x1: 7, x2: 7, y1: 0, y2: 14, class: "crossing" }, box);
    else svg("rect", { width: 14, height: 14, rx: 2, class: `pair ${state}` }, box);
    item.append(words);
  }
  let spots = [];
  let overlay = null;
  const leave = pointingAt(plot, () => spots, light);

  function draw() {
    const shown = chart.strips.filter((strip) => !hidden.has(strip.name));
    const width = Math.max(plot.clientWidth, 280);
    const beside = widest(plot, chart.strips.map((strip) => strip.name), "name") + 14;
    const counts = widest(plot, chart.strips.map((strip) => strip.turning)) + 12;
    const wide = width > 620 && beside + counts < width / 2;
    const [left, right] = wide ? [beside, width - counts] : [0, width];
    const cell = (right - left) / Math.max(...chart.strips.map((strip) => strip.layers[0].length));
    const [rowHeight, barHeight] = wide ? [40, 24] : [56, 24];
    const height = shown.length * rowHeight + 34;
    const root = drawing(width, height, `${chart.title}: ${shown.map((strip) => `${strip.name} ${strip.turning}`).join("; ")}`);
    spots = [];
    shown.forEach((strip, row) => {
      const top = row * rowHeight + (wide ? 6 : 22);
      const group = svg("g", { style: colour(strip.index), "data-line": strip.name }, root);
      svg("text", { x: 0, y: wide ? top + 17 : top - 6, class: "name" }, group, strip.name);
      svg("text", { x: width, y: wide ? top + 17 : top - 6, "text-anchor": "end" }, group, strip.turning);
      const deep = barHeight / strip.layers.length;
      strip.layers.forEach((layer, depth) => layer.forEach((pair, i) => {
        const box = {
          x: left + i * cell + cell * 0.06, y: top + depth * deep, width: cell * 0.88, height: Math.max(deep - 1, 1), rx: Math.min(2, cell / 6),
        };
        svg("rect", { ...box, class: `pair ${pair.state}` }, group);
        spots.push({ line: layer, strip, rows: pair.rows, box, x: box.x + box.width / 2, y: box.y + box.height / 2 });
      }));
      if ("mark" in strip) {
        const at = left + strip.mark * cell;
        svg("line", { x1: at, x2: at, y1: top - 5, y2: top + barHeight + 4, class: "crossing" }, group);
      }
    });
    for (const [at, text] of chart.ticks)
      svg("text", { x: left + at * cell, y: height - 18, "text-anchor": "middle" }, root, text);
    svg("text", { x: right, y: height - 1, "text-anchor": "end" }, root, chart.x_label);
    overlay = svg("g", {}, root);
    replace(plot, root);
    leave();
  }

  function light(spot) {
    overlay.replaceChildren();
    if (!spot) return tip.hide();
    svg("rect", { ...spot.box, class: "lit" }, overlay);
    tip.show(spot.x, spot.y, spot.strip.name, spot.strip.index, "", spot.rows, colour(spot.strip.index));
  }

  redrawWith(plot, draw);
}

for (const span of document.querySelectorAll(".key[data-series]")) key(Number(span.dataset.series), span);
for (const chart of JSON.parse(document.getElementById("charts").textContent))
  ({ curves: curveChart, heat: heatChart, strips: stripChart })[chart.kind](document.querySelector(`[data-chart="${chart.name}"]`), chart);
