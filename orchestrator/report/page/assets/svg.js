// Scales, axes, markers and the legend: what all charts share. Charts are drawn at the width that they have.

const AXIS_HEIGHT = 34;

function linear(low, high, from, to) {
  const scale = (value) => from + ((value - low) / (high - low || 1)) * (to - from);
  scale.ticks = (wanted) => niceTicks(low, high, wanted);
  return scale;
}

function logarithmic(low, high, from, to) {
  const scale = (value) => from + (Math.log(value / low) / Math.log(high / low || 10)) * (to - from);
  scale.ticks = (wanted) => {
    const powers = wholeNumbers(Math.log10(low) - 1e-9, Math.log10(high) + 1e-9);
    const step = Math.ceil(powers.length / Math.max(wanted, 2));
    return powers.filter((_, n) => n % step === 0).map((power) => 10 ** power);
  };
  return scale;
}

function niceTicks(low, high, wanted) {
  const rough = (high - low) / Math.max(wanted, 1) || 1;
  const magnitude = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * magnitude).find((value) => value >= rough * 0.999);
  return wholeNumbers(low / step - 1e-9, high / step + 1e-9).map((n) => n * step);
}

function wholeNumbers(low, high) {
  const first = Math.ceil(low);
  return Array.from({ length: Math.max(Math.floor(high) - first + 1, 0) }, (_, n) => first + n);
}

function niceTop(value) {
  const ticks = niceTicks(0, value, 4);
  const step = ticks.length > 1 ? ticks[1] - ticks[0] : value || 1;
  return Math.ceil(value / step - 1e-9) * step || 1;
}

function label(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-4) return value.toExponential(0).replace("e+", "e");
  return String(Number(value.toPrecision(6)));
}

function short(value) {
  const size = Math.abs(value);
  if (!size) return "0";
  if (size < 1e-4 || size >= 1e6) return value.toExponential(2);
  return size >= 1000 ? String(Math.round(value)) : value.toPrecision(4);
}

function picture(width, height, description, ...children) {
  const box = { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": description };
  return shape("svg", box, ...children);
}

const words = (x, y, content, attributes) => shape("text", { x, y, ...attributes }, content);

function xAxis(scale, left, right, y, name, format) {
  const room = Math.max(2, Math.floor((right - left) / 75));
  const ticks = scale.ticks(room);
  const marks = ticks.map((tick) => {
    const [at, text] = [scale(tick), (format || label)(tick)];
    const half = textWidth(text) / 2;
    const anchor = at < half ? "start" : at + half > right + 10 ? "end" : "middle";
    return words(at, y + 15, text, { class: "dim", "text-anchor": anchor });
  });
  return [
    shape("line", { class: "axis", x1: left, x2: right, y1: y, y2: y }),
    marks,
    words((left + right) / 2, y + 30, name, { class: "dim", "text-anchor": "middle" }),
  ];
}

function xGrid(scale, top, bottom, wanted) {
  return scale.ticks(wanted || 5).map((tick) => shape("line", { class: "grid", x1: scale(tick), x2: scale(tick), y1: top, y2: bottom }));
}

const Y_TICKS = 4;

function yAxis(scale, left, right) {
  return scale.ticks(Y_TICKS).map((tick) => [
    shape("line", { class: "grid", x1: left, x2: right, y1: scale(tick), y2: scale(tick) }),
    words(left - 6, scale(tick) + 4, label(tick), { class: "dim", "text-anchor": "end" }),
  ]);
}

const yAxisWidth = (scale) => labelsWidth(scale.ticks(Y_TICKS), label);
const labelsWidth = (ticks, format) => Math.ceil(Math.max(...ticks.map((tick) => textWidth(format(tick))), 10)) + 12;
const colour = (row) => "c" + (row.hue % COLOURS);
const dash = (row) => "d" + (row.variant % DASHES);

// A marker of the row's own form: colour is never the only thing that tells two series apart.
function marker(row, x, y, size, extra) {
  const s = size || 5;
  const attributes = { class: `mark ${colour(row)}`, ...extra };
  const polygon = (points) => shape("polygon", { points: points.map(([dx, dy]) => `${x + dx * s},${y + dy * s}`).join(" "), ...attributes });
  switch (row.variant % MARKERS) {
    case 1: return shape("rect", { x: x - s * 0.88, y: y - s * 0.88, width: s * 1.76, height: s * 1.76, ...attributes });
    case 2: return polygon([[0, -1.15], [1.1, 0.85], [-1.1, 0.85]]);
    case 3: return polygon([[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]]);
    case 4: return polygon([[0, 1.15], [1.1, -0.85], [-1.1, -0.85]]);
    case 5: return polygon([[-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4], [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4], [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]]);
    default: return shape("circle", { cx: x, cy: y, r: s, ...attributes });
  }
}

function keyBox(content) {
  return shape("svg", { class: "key", width: 14, height: 14, viewBox: "0 0 14 14", "aria-hidden": "true" }, content);
}

const keyOf = (row) => keyBox(marker(row, 7, 7, 5));

const MOST_KEYS = 24;

function legend(rows) {
  const once = [...new Map(rows.map((row) => [row.legend, row])).values()];
  const rest = once.length > MOST_KEYS ? el("li", { class: "muted" }, `and ${once.length - MOST_KEYS} others`) : null;
  return el("ul", { class: "legend" }, once.slice(0, MOST_KEYS).map((row) => el("li", null, keyOf(row), row.legend)), rest);
}

const capped = (rows, most) => rows.length > most ? ` The best ${most} of ${plural(rows.length, "row")}.` : "";

function chart(title, about, drawn, ...below) {
  return el("figure", { class: "chart" }, title && el("h3", null, title), about && el("p", null, about), drawn, ...below);
}

// Where an axis begins and ends: at zero, unless all that is drawn would then lie in its far half.
function ends(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (low < high / 2 || low <= 0) return [0, niceTop(high * 1.04)];
  // A tenth of the value at least, so that a difference of nothing does not look like one.
  const room = Math.max((high - low) * 0.12, (high * 0.1 - (high - low)) / 2);
  const ticks = niceTicks(low - room, high + room, Y_TICKS);
  const step = ticks[1] - ticks[0] || room;
  return [Math.floor((low - room) / step + 1e-9) * step, Math.ceil((high + room) / step - 1e-9) * step];
}

// What a chart says of axes that do not begin at zero.
function cutAxes(named) {
  const cut = named.filter(([, [low]]) => low > 0).map(([name]) => name);
  if (!cut.length) return "";
  return ` The ${cut.length > 1 ? `axes of ${cut.join(" and ")} do` : `axis of ${cut[0]} does`} not begin at zero.`;
}

// A chart with two axes. `xs` and `ys` are their ends; `draw` gets both scales and where the plot begins and ends.
function plotted(width, height, { title, about, says, xs, ys, axis, draw, below }) {
  const [top, bottom, right] = [12, height - AXIS_HEIGHT, width - 12];
  const y = linear(...ys, bottom, top);
  const left = yAxisWidth(y) + 2;
  const x = linear(...xs, left, right);
  return chart(title, about, picture(width, height, says, yAxis(y, left, right), xAxis(x, left, right, bottom, axis), draw(x, y, { left, bottom })), below);
}

// A sample: crossed out where something else disturbed it, with room around it for the pointer.
function sampleMark(at, taint, drawn, attributes) {
  const [x, y] = at;
  return shape(
    "g", attributes,
    taint ? shape("path", { class: "taint", d: `M${x - 4},${y - 4}l8,8M${x + 4},${y - 4}l-8,8` }) : drawn,
    shape("circle", { cx: x, cy: y, r: 8, fill: "transparent" }),
  );
}
