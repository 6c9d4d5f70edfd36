// Side by side: a column for each stack of each run and for what others published, a line for each method.

const MOST_LINES = 100;
const TABLES_AT_ONCE = 25;

function compareColumns() {
  const found = new Map();
  for (const row of data.rows) {
    const key = `${row.run} ${row.stack}`;
    const name = several ? `${row.runName} · ${row.stack}` : row.stack;
    const column = kept(found, key, () => ({ key, name, gpus: new Set(), rows: new Map() }));
    if (row.gpu) column.gpus.add(row.gpu);
    kept(column.rows, lineKey(row.workload, row.method), () => []).push(row);
  }
  data.workloads.forEach((workload, n) => {
    for (const published of workload.published) {
      const [key, name] = [`published ${published.name}`, `${published.short}, published`];
      const gpus = new Set([published.gpu]);
      const column = kept(found, key, () => ({ key, name, published: true, gpus, figures: new Map() }));
      for (const figure of published.figures) column.figures.set(lineKey(n, figure.method), figure);
    }
  });
  return [...found.values()];
}

const lineKey = (workload, method) => `${workload} ${method}`;

const columns = { all: null, tables: TABLES_AT_ONCE };

function buildCompare() {
  columns.all = compareColumns();
  const own = columns.all.filter((column) => !column.published);
  const known = own.length > 1 ? own[0] : columns.all[columns.all.length - 1];
  state.base = known ? known.key : null;
  const select = el("select", { id: "base", on: { change: () => { state.base = select.value; drawCompare(); } } }, columns.all.map((column) =>
    el("option", { value: column.key, selected: column.key === state.base }, column.name)));
  byId("compare").append(
    el("h1", null, "Side by side"),
    el("div", { class: "compare-head" }, el("label", null, "Against ", select), el("span", { class: "muted", id: "compare-mean" })),
    el("div", { id: "compare-remarks" }),
    el("div", { id: "compare-tables" }),
  );
}

// What stands in a cell: the best row of that method there, or a published figure.
function cellOf(column, workload, method) {
  const place = lineKey(workload, method);
  if (column.figures) return column.figures.get(place) ?? null;
  const rows = ordered((column.rows.get(place) || []).filter(fits));
  if (!rows.length) return null;
  const speed = speedOf(rows[0]);
  return { row: rows[0], value: speed.value, text: speed.value === undefined ? rows[0].status : speed.text, interval: speed.interval, status: rows[0].status };
}

function timesAsFast(cell, base, workload) {
  if (!cell || !base || !cell.value || !base.value) return null;
  return workload.better === "higher" ? cell.value / base.value : base.value / cell.value;
}

function drawCompare() {
  const base = columns.all.find((column) => column.key === state.base);
  const ratios = new Map(columns.all.map((column) => [column.key, []]));
  const found = data.workloads.map((workload, n) => compareLines(workload, n, base, ratios)).filter(Boolean);
  const more = found.length > columns.tables
    ? el("button", { type: "button", class: "plain", on: { click: () => { columns.tables = Infinity; drawCompare(); } } }, `Show all ${found.length} workloads`)
    : "";
  byId("compare-tables").replaceChildren(...found.slice(0, columns.tables).map((lines) => compareTable(lines, base)), more);
  const means = columns.all.filter((column) => column !== base && ratios.get(column.key).length).map((column) => {
    const found = ratios.get(column.key);
    const mean = Math.exp(found.reduce((sum, ratio) => sum + Math.log(ratio), 0) / found.length);
    return `${column.name} ${mean.toFixed(2)}× (${plural(found.length, "cell")})`;
  });
  const shown = columns.all.filter((column) => found.some(({ lines }) => lines.some((line) => line.cells.some((item) => item.column === column && item.cell))));
  byId("compare-remarks").replaceChildren(...cautions(shown).map((line) => el("p", { class: "remarks" }, line)));
  byId("compare-mean").textContent = means.length ? `Geometric mean, times as fast: ${means.join("; ")}` : "";
}

// A workload's lines: for each method what stands in each column, and its ratio to the base. Null: no row fits.
function compareLines(workload, n, base, ratios) {
  const own = sections[n].rows.filter(fits).map((row) => row.method);
  if (!own.length) return null;
  const named = [...new Set([...own, ...publishedMethods(workload)])].slice(0, MOST_LINES);
  const lines = named.map((method) => {
    const against = base ? cellOf(base, n, method) : null;
    const cells = columns.all.map((column) => {
      const cell = cellOf(column, n, method);
      const ratio = column === base ? null : timesAsFast(cell, against, workload);
      if (ratio) ratios.get(column.key).push(ratio);
      return { column, cell, ratio };
    });
    return { method, against, cells };
  });
  return { workload, lines };
}

// A method's colour and marker; one that others alone published has the next ones.
function hueOf(method, nth = 0) {
  const hue = kept(hues, method, () => hues.size);
  return { hue, variant: hue + nth };
}

function compareTable({ workload, lines: found }, base) {
  const shown = columns.all.filter((column, n) => found.some((line) => line.cells[n].cell));
  const lines = found.map((line) => {
    const cells = line.cells.filter((item) => shown.includes(item.column));
    return el("tr", null, el("th", { scope: "row" }, keyOf(hueOf(line.method)), line.method), cells.map((item) => compareCell(item, line.against, item.column === base)));
  });
  const gpus = new Set(shown.flatMap((column) => [...column.gpus]));
  const head = el("tr", null, el("th", { scope: "col" }, "method"), shown.map((column) =>
    el("th", { scope: "col", class: column === base ? "base" : null }, column.name, gpus.size > 1 ? el("small", null, [...column.gpus].join(", ")) : null)));
  return el(
    "section", { class: "workload" },
    el("header", null, el("h2", null, workload.benchmark, el("span", null, ` ${workload.what}`)), el("p", null, `${protocolName()}, in ${workload.unit}; ${workload.better} is better.`)),
    el("div", { class: "beside" },
      el("div", { class: "wide-table" }, sideways(`${workload.benchmark} side by side`, el("table", { class: "matrix" }, el("thead", null, head), el("tbody", null, lines)))),
      compareChart(workload, found, shown, base)),
    remarkList("What to know of the published figures", workload.caveats),
  );
}

// What holds of all tables, said once above them.
function cautions(shown) {
  const gpus = new Set(shown.flatMap((column) => [...column.gpus]));
  const published = state.protocol === "steady" && shown.some((column) => column.published);
  return [
    gpus.size > 1 && "The columns are of different GPUs: their ratios are of the hardware too, not of the software alone.",
    published && "Published figures were made by the note's protocol: switch to “as the note” to compare like with like.",
    byId("compare-tables").querySelector(".doubt") && `${FLAG} marks a ratio that is not proven: a verdict takes five rounds a side, and an interval that does not hold 1.`,
  ].filter(Boolean);
}

function publishedMethods(workload) {
  const chosen = state.chosen.method;
  if (state.words.length) return [];
  const all = workload.published.flatMap((found) => found.figures.map((figure) => figure.method));
  return chosen.size ? all.filter((method) => chosen.has(method)) : all;
}

function compareCell({ cell, ratio }, against, isBase) {
  const place = { class: isBase ? "base" : null };
  if (!cell) return el("td", place, MISSING);
  const open = cell.row ? el("button", { type: "button", "data-row": cell.row.id, "aria-haspopup": "dialog" }, cell.text) : cell.text;
  return el(
    "td", place, open,
    cell.interval ? el("small", null, cell.interval) : null,
    ratio ? el("span", { class: "times" }, `${ratio.toFixed(2)}×`, verdictNote(cell, against)) : null,
  );
}

function verdictNote(cell, against) {
  if (!cell.row || !against.row) return null;
  const found = data.verdicts[`${cell.row.id}:${against.row.id}`];
  if (!found || state.protocol !== "steady" || found[0] === "inconclusive") return flagged(found?.[1] ?? "inconclusive: under five rounds a side");
  return el("small", { class: `verdict ${found[0]}`, title: found[1] }, found[0]);
}

function compareChart(workload, found, shown, base) {
  if (!base) return null;
  const items = found.flatMap((line) => line.cells.map((item) => ({ ...item, method: line.method }))).filter((item) => item.ratio).slice(0, MOST_BARS);
  if (items.length < 2) return null;
  const room = byId("main").clientWidth;
  const width = room > 1100 && shown.length < 4 ? 560 : Math.min(Math.max(room - 70, 240), 860);
  const many = new Set(items.map((item) => item.column)).size > 1;
  const rows = items.map(({ column, cell, method }) => ({
    id: cell.row?.id ?? "",
    ...hueOf(method, many ? shown.indexOf(column) : 0),
    legend: many ? `${method} · ${column.name}` : method,
  }));
  const item = (row) => items[rows.indexOf(row)];
  return laneChart(rows, width, {
    says: `Times as fast as ${base.name}`,
    each: (row) => `${row.legend} ${item(row).ratio.toFixed(2)}`,
    top: 18,
    right: 60,
    scale: (from, to) => linear(0, niceTop(Math.max(1, ...items.map(({ ratio }) => ratio))), from, to),
    draw: (row, y, x) => {
      const { cell, ratio } = item(row);
      return shape(
        "g", { "data-row": row.id, "data-tip": `${row.legend}\n${cell.text} ${workload.unit}, ${ratio.toFixed(2)} times as fast as ${base.name}` },
        filledBar(colour(row), x(0), x(ratio), y),
        words(x(ratio) + 6, y + 12, `${ratio.toFixed(2)}×`),
      );
    },
    extra: unitLine(shortened(base.name, 240)),
    axis: `times as fast as ${base.name}`,
  });
}
