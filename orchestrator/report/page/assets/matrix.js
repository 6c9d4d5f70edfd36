// The answer, before all tables: methods by benchmarks, how many times as fast as eager; one matrix for each device.

const MOST_METHODS = 30;
const MOST_BENCHMARKS = 12;
const EAGER = "eager";
const TONES = [1.02, 1.15, 1.6];
const FLAG = "⚑";

// A failed row may not know its device: it is its run's.
const devices = new Map();
for (const row of data.rows) if (row.gpu) kept(devices, row.run, () => row.gpu);
const deviceOf = (row) => row.gpu || devices.get(row.run) || "a device that no record names";

const eagerPlace = (row) => [row.run, row.stack, row.workload].join(" ");
const eagers = new Map(data.rows.filter((row) => row.method === EAGER && row.steady.value).map((row) => [eagerPlace(row), row]));

// Times as fast as eager on its stack in its run: the verdict's, and of the note's figures, of which there is none, their ratio.
function timesEager(row) {
  if (!hasSpeed(row)) return null;
  if (row.method === EAGER) return { value: 1, text: "1×" };
  const eager = eagers.get(eagerPlace(row));
  if (state.protocol === "steady" || !row.steady.versus || !eager) return row[state.protocol].versus || null;
  const value = timesAsFast(speedOf(row), speedOf(eager), row.of);
  return value && { value, text: `${value.toPrecision(3)}×`, why: "as the note: its protocol makes no verdict" };
}

// What is not proven of a cell, in words.
const doubtsOf = ({ row, times }) => [times?.why, ...row.flags.map((flag) => `${flag}: ${meaningOf(flag) || "see its row"}`)].filter(Boolean);

function drawMatrix(rows) {
  const groups = new Map();
  for (const row of rows) kept(groups, deviceOf(row), () => []).push(row);
  const matrices = [...groups].map(([device, own]) => matrixOf(device, own));
  const cells = matrices.flatMap((matrix) => matrix.lines.flatMap((line) => [...line.cells.values()])).filter((cell) => cell.figure);
  const compared = cells.filter((cell) => cell.times && cell.row.method !== EAGER);
  // What holds of every ratio is said once and marked nowhere.
  const common = compared.length ? doubtsOf(compared[0]).filter((doubt) => compared.every((cell) => doubtsOf(cell).includes(doubt))) : [];
  const numbers = new Map();
  for (const cell of cells) {
    cell.doubts = doubtsOf(cell).filter((doubt) => !common.includes(doubt));
    cell.marks = cell.doubts.map((doubt) => kept(numbers, doubt, () => numbers.size + 1));
  }
  const nodes = matrices.map((matrix) => matrixTable(matrix, matrices.length > 1));
  if (cells.length) nodes.splice(1, 0, matrixLegend(compared.length > 0, common, numbers, new Set(matrices.flatMap((matrix) => matrix.remarks))));
  byId("matrix").replaceChildren(...nodes);
}

// The lines and columns of one device: by the first benchmark, the fastest method first, those without a figure last.
function matrixOf(device, rows) {
  const found = new Set(rows.map((row) => row.workload));
  const based = new Set(rows.filter((row) => row.method === EAGER || row.steady.versus).map((row) => row.workload));
  // Without an eager a workload has no ratio: it has a column where there is a figure, or its benchmark has no other.
  const benchmarks = new Set([...based].map((n) => data.workloads[n].benchmark));
  const measured = new Set(rows.filter(hasSpeed).map((row) => row.workload));
  const all = [...found].filter((n) => based.has(n) || measured.has(n) || !benchmarks.has(data.workloads[n].benchmark));
  const columns = all.sort((a, b) => based.has(b) - based.has(a) || a - b).slice(0, MOST_BENCHMARKS).sort((a, b) => a - b);
  const lines = new Map();
  let again = false;
  for (const row of rows) {
    const line = kept(lines, row.name, () => ({ row, cells: new Map() }));
    const before = line.cells.get(row.workload);
    again ||= Boolean(before);
    if (!before || better(row, before.row)) line.cells.set(row.workload, { row, times: timesEager(row), figure: hasSpeed(row) });
  }
  const sorted = [...lines.values()].filter((line) => columns.some((n) => line.cells.has(n))).sort((a, b) => byRatios(a, b, columns));
  const without = [...found].filter((n) => !columns.includes(n));
  const few = all.length > MOST_BENCHMARKS ? "In the tables below alone: " : "No row has a figure here, and no eager ran: ";
  const links = without.slice(0, MOST_BENCHMARKS).map((n, place) => [place ? ", " : "", toTable(n, found)]);
  const left = without.length ? [few, links, without.length > MOST_BENCHMARKS ? " and others." : "."] : [];
  const remarks = [
    again && "Where a method ran more than once on a stack, its row of most rounds stands here, of those the last run's; a ratio is against eager of the same run.",
    sorted.length > MOST_METHODS && `Another ${sorted.length - MOST_METHODS} methods are in the tables below.`,
  ].filter(Boolean);
  return { device, columns, lines: sorted.slice(0, MOST_METHODS), left, remarks };
}

// Whether a row stands for its method rather than another of the same stack and workload.
function better(row, other) {
  const worth = (one) => [hasSpeed(one), Boolean(timesEager(one)), one.rounds[1], one.run];
  const [mine, its] = [worth(row), worth(other)];
  const place = mine.findIndex((value, n) => value !== its[n]);
  return place >= 0 && mine[place] > its[place];
}

function byRatios(one, other, columns) {
  const worth = (line, n) => line.cells.get(n)?.times?.value ?? (line.cells.get(n)?.figure ? 0 : -1);
  const place = columns.find((n) => worth(one, n) !== worth(other, n));
  return place === undefined ? 0 : worth(other, place) - worth(one, place);
}

function toTable(n, among) {
  const { benchmark, what } = data.workloads[n];
  const others = [...among].filter((other) => other !== n && data.workloads[other].benchmark === benchmark).map((other) => data.workloads[other].what.split(", "));
  const own = what.split(", ").filter((part) => others.some((parts) => !parts.includes(part)));
  return el("a", { href: `#workload-${n}` }, breakable(benchmark), own.length ? el("small", null, " ", breakable(own.join(", "))) : null);
}

function matrixTable({ device, columns, lines, left }, named) {
  const stacks = new Set(lines.map((line) => line.row.stack)).size > 1;
  const head = el("tr", null, el("th", { scope: "col" }, "method"), columns.map((n) => el("th", { scope: "col" }, toTable(n, columns))));
  const body = lines.map((line) => el("tr", null,
    el("th", { scope: "row" }, keyOf(line.row), breakable(line.row.method), stacks ? el("small", null, `@${line.row.stack}`) : null),
    columns.map((n) => matrixCell(line.cells.get(n)))));
  const table = el("table", { class: "answer", "aria-label": `Times as fast as eager on ${device}` }, el("thead", null, head), el("tbody", null, body));
  return el("div", { class: "answer-of" }, named ? el("h2", null, device) : null, sideways(`Times as fast as eager on ${device}`, table), left.length ? el("p", { class: "remarks" }, left) : null);
}

function matrixCell(cell) {
  if (!cell) return el("td", null, el("span", { class: "muted" }, MISSING));
  const { row, times, figure, doubts, marks } = cell;
  const speed = figure ? `${speedOf(row).text} ${row.of.unit}` : null;
  const tip = [titleOf(row), speed && `${speed} ${speedOf(row).interval || ""}`, times?.beside?.length && `${times.text} ${times.beside.join(" ")}`, row.reason, ...(doubts || []).map((doubt) => `${FLAG} ${doubt}`)];
  const content = figure
    ? [el("b", null, times ? times.text : speed), marks.length ? el("sup", { class: "doubt" }, FLAG, marks.sort((a, b) => a - b).join(",")) : null, el("small", null, times ? speed : "no eager")]
    : el("span", { class: `state ${row.status}` }, row.status === "ok" ? MISSING : breakable(row.status));
  const button = el("button", { type: "button", "data-row": row.id, "data-tip": tip.filter(Boolean).join("\n"), "aria-haspopup": "dialog" }, content);
  return el("td", { class: times ? `tone ${toneOf(times)}` : null }, button);
}

// Between -3 and 3, by how much faster or slower than eager; 0 where the figure or the verdict says the same.
function toneOf({ value, beside }) {
  const far = Math.max(value, 1 / value);
  const step = beside?.includes("same") ? 0 : TONES.filter((from) => far >= from).length;
  return step ? `${value > 1 ? "fast" : "slow"}${step}` : "even";
}

function matrixLegend(compared, common, numbers, remarks) {
  const scale = ["slow3", "slow2", "slow1", "even", "fast1", "fast2", "fast3"].map((name) => el("i", { class: `tone ${name}` }));
  const doubts = [...common.map((doubt) => ["every ratio", doubt]), ...[...numbers].map(([doubt, n]) => [n, doubt])];
  return el("div", { class: "answer-legend" },
    compared ? el("p", null, "slower than eager ", el("span", { class: "scale", "aria-hidden": "true" }, scale), " faster; below each ratio its figure.") : null,
    doubts.length ? el("dl", null, doubts.map(([mark, doubt]) => [el("dt", null, `${FLAG} ${mark}`), el("dd", null, doubt)])) : null,
    [...remarks].map((line) => el("p", null, line)),
    el("p", null, doubts.length ? `${FLAG} marks what is not proven, or in doubt. ` : "", el("a", { href: "#how" }, "How to read this")));
}
