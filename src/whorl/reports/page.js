// What every chart of the page has: elements, tooltips, legends, menus, axes. charts.js draws the charts with it.
// No library, no network. STYLE is style.py: the shapes of marks, the names of colours.
const hidden = new Set(); // names of the lines switched off, in every chart alike
const redraws = [];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const LEVELS = 129; // steps of a ramp; odd, so that zero has one of its own in the middle

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
function drawing(width, height, label) {
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "drawn", "aria-label": label });
}
function replace(plot, root) {
  plot.querySelector("svg.drawn")?.remove();
  plot.prepend(root);
}
function nothing(root, width, height) {
  svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, root, "not measured");
}
/** The width of the widest of some words, as the plot writes them. */
function widest(plot, words, kind = "") {
  const root = svg("svg", {}, plot);
  const widths = words.map((text) => svg("text", { class: kind }, root, text).getComputedTextLength());
  root.remove();
  return Math.max(...widths);
}
const write = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3 });

// Colours and marks

const colour = (index) => `--series: var(--${STYLE.series[index % STYLE.series.length]})`;
const mark = (index) => STYLE.marks[index % STYLE.marks.length];

/** The colour at `part` of the way along a ramp. */
function tint(ramp, part) {
  const stops = STYLE.ramps[ramp];
  const at = Math.max(0, Math.min(1, part)) * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2);
  return `color-mix(in srgb, var(--${stops[low + 1]}) ${((at - low) * 100).toFixed(0)}%, var(--${stops[low]}))`;
}
const curveColour = (curve) => ("shade" in curve ? `--series: ${tint("many", curve.shade)}` : colour(curve.index));

function key(index, parent, style = colour(index)) {
  const box = svg("svg", { viewBox: "-7 -7 14 14", width: 14, height: 14, "aria-hidden": "true", style }, parent);
  svg("path", { d: mark(index), class: "dot", transform: "scale(1.2)" }, box);
}

/** A filled circle, as a part of a path. */
const dot = (x, y, r) => `M${(x - r).toFixed(1)} ${y.toFixed(1)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`;

function rampKey(parent, ramp, [low, high], text, beyond) {
  const box = html("p", { class: "ramp" }, parent);
  if (text) html("span", {}, box, text);
  html("span", { class: "end" }, box, low);
  const bar = svg("svg", { viewBox: "0 0 128 10", width: 128, height: 10, "aria-hidden": "true" }, box);
  for (let i = 0; i < LEVELS; i++)
    svg("rect", { x: (i * 128) / LEVELS, width: 1.2, height: 10, style: `fill: ${tint(ramp, i / (LEVELS - 1))}` }, bar);
  html("span", { class: "end" }, box, high);
  if (!beyond) return;
  const cell = svg("svg", { viewBox: "0 0 10 10", width: 10, height: 10, "aria-hidden": "true" }, box);
  svg("rect", { width: 10, height: 10, style: `fill: ${tint(ramp, 1)}` }, cell);
  svg("path", { d: dot(5, 5, 2), class: "beyond-it" }, cell);
  html("span", {}, box, beyond);
}

// Controls

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

/** A plot for each panel, under its name where there are several. */
function panels(views, parent) {
  const box = html("div", { class: "panels" }, parent);
  return views[0].panels.map(({ name }, _, all) => {
    const panel = html("div", { class: "panel" }, box);
    if (all.length > 1) html("h4", {}, panel, name);
    return plotIn(panel);
  });
}
function plotIn(parent) {
  return html("div", { class: "plot", tabindex: "0", role: "group" }, parent);
}

/** Draws now, when the plot's width changes and when a line is switched on or off. */
function redrawWith(plot, draw) {
  redraws.push(draw);
  draw();
  let width = plot.clientWidth;
  new ResizeObserver(() => {
    if (plot.clientWidth === width) return;
    width = plot.clientWidth;
    requestAnimationFrame(draw); // a drawing changes heights, which an observer must not do while it is told of sizes
  }).observe(plot);
}

// Pointing at values, with pointer or keys

function tooltip(plot) {
  const box = html("div", { class: "tip", hidden: "" }, plot);
  const live = html("p", { class: "unseen", "aria-live": "polite" }, plot);
  return {
    hide() { box.hidden = true; },
    /** `style`: the colour of the mark before the name; null: no mark. */
    show(x, y, name, index, heading, rows, style = null) {
      box.replaceChildren();
      const title = html("strong", {}, box);
      if (style !== null) key(index, html("span", { class: "key" }, title), style);
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

/** `under` finds what is at a place in pixels, `step` what an arrow key goes to from there; `light` shows either. */
function pointing(plot, under, step, light) {
  let current = null;
  const go = (to) => light((current = to));
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    go(under(event.clientX - box.left, event.clientY - box.top));
  });
  plot.addEventListener("pointerleave", () => go(null));
  plot.addEventListener("blur", () => go(null));
  plot.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return go(null);
    if (!ARROWS[event.key]) return;
    event.preventDefault();
    go(step(current, ...ARROWS[event.key]));
  });
  return () => go(null);
}

/** Pointing at the nearest of `spots()`, each {line, x, y}; keys go along a line, or to the line above or below. */
function pointingAt(plot, spots, light) {
  const nearest = (some, distance) =>
    some.reduce((best, spot) => (best === null || distance(spot) < distance(best) ? spot : best), null);
  return pointing(
    plot,
    (x, y) => nearest(spots(), (spot) => Math.hypot(spot.x - x, spot.y - y)),
    (from, dx, dy) => {
      if (!from) return spots()[0] ?? null;
      const on = spots().filter((spot) =>
        dx ? spot.line === from.line && Math.sign(spot.x - from.x) === dx
           : Math.abs(spot.x - from.x) < 1 && Math.sign(spot.y - from.y) === dy);
      return nearest(on, (spot) => Math.abs(spot.x - from.x) + Math.abs(spot.y - from.y)) ?? from;
    },
    light,
  );
}

// Axes and paths

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

/** A path through places and values that breaks where a value is null. */
function path(places, values, x, y) {
  let pen = "M";
  return places.map((place, i) => {
    if (values[i] === null) { pen = "M"; return ""; }
    const piece = `${pen}${x(place).toFixed(1)} ${y(values[i]).toFixed(1)}`;
    pen = "L";
    return piece;
  }).join("");
}

function band(places, low, high, x, y) {
  const known = places.map((_, i) => i).filter((i) => low[i] !== null && high[i] !== null);
  if (known.length < 2) return "";
  const order = [...known, ...known.slice().reverse()];
  const edge = order.map((i, k) => (k < known.length ? high[i] : low[i]));
  return `${path(order.map((i) => places[i]), edge, x, y)}Z`;
}

/** Moves names apart, as little as keeps them `gap` pixels from each other. */
function apart(names, gap) {
  const groups = [];
  for (const name of [...names].sort((a, b) => a.y - b.y)) {
    groups.push([name]);
    while (groups.length > 1 && top(groups[groups.length - 1]) - bottom(groups[groups.length - 2]) < gap)
      groups[groups.length - 2].push(...groups.pop());
  }
  function middle(group) { return group.reduce((sum, name) => sum + name.y, 0) / group.length; }
  function top(group) { return middle(group) - (gap * (group.length - 1)) / 2; }
  function bottom(group) { return middle(group) + (gap * (group.length - 1)) / 2; }
  return groups.flatMap((group) => group.map((name, i) => ({ ...name, y: top(group) + gap * i })));
}
