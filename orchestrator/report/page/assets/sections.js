// The results: a section for each workload with its table and charts. Charts are drawn when they come into view.

const CHARTS = [ceilingChart, memoryChart, samplesChart, firstCallChart, growthChart, kernelChart, lossChart];
const sections = [];
let shownRows = [];

const inView = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const section = sections[Number(entry.target.dataset.section)];
    section.visible = entry.isIntersecting;
    if (section.visible) drawCharts(section);
  }
}, { rootMargin: "400px 0px" });

function buildResults() {
  const place = byId("results");
  const compared = data.rows.some((row) => row.steady.versus);
  place.append(
    el("h1", null, compared ? "Times as fast as eager" : "Speed by method and benchmark"),
    el("p", { class: "lede" }, lede()),
    el("div", { id: "matrix" }),
    el("div", { id: "ladders" }),
    ...data.runs.flatMap(warningsOf),
  );
  data.workloads.forEach((workload, n) => {
    const rows = data.rows.filter((row) => row.workload === n);
    const names = new Map();
    for (const row of rows) kept(names, row.legend, () => []).push(row);
    for (const row of rows) row.alike = names.get(row.legend).length > 1;
    sections.push({ workload, rows, list: null, limit: ROWS_AT_ONCE, visible: false, drawn: null });
  });
  if (!sections.length) place.append(el("p", { class: "nothing" }, "No cell has a record yet."));
  sections.forEach((section, n) => place.append(buildSection(section, n)));
  place.append(el("details", { class: "about" }, el("summary", null, `About the ${several ? "runs" : "run"}`), data.runs.map(runCard)));
  place.classList.toggle("many", data.rows.length > 300);
}

function runCard(run) {
  return el(
    "section", { class: "run" },
    el("h2", null, run.name, el("span", { class: "muted" }, ` suite ${run.suite}`)),
    factList(run.facts),
  );
}

// What a page is of, in a line: its devices, its runs, and how its rows came out.
function lede() {
  const found = [...new Set(data.rows.map(deviceOf))];
  const counts = new Map();
  for (const { status } of data.rows) counts.set(status, (counts.get(status) || 0) + 1);
  const states = counts.size === 1 && counts.has("ok") ? "all ok" : [...counts].map(([status, count]) => `${count} ${status}`).join(", ");
  const names = several ? `${data.runs.length} runs: ${data.runs.map((run) => run.name).join(", ")}` : `suite ${data.runs[0].suite}`;
  return [found.join(", "), names, data.rows.length ? `${plural(data.rows.length, "row")}, ${states}` : null].filter(Boolean).join(" · ");
}

function warningsOf(run) {
  const of = several ? `${run.name}: ` : "";
  return [
    run.unreadable.map((line) => el("p", { class: "warning" }, `${of}Could not be read, and is not on this page: ${line}`)),
    run.failed.map((line) => el("p", { class: "warning" }, `${of}A reference could not be made, and its rows are unchecked: ${line}`)),
    run.finished ? [] : el("p", { class: "warning" }, `${of}This run was not finished.`),
  ].flat();
}

function factList(facts) {
  return el("dl", { class: "facts" }, facts.map(([name, value]) => [
    el("dt", null, name),
    el("dd", null, Array.isArray(value) ? value.map((line) => el("div", null, line)) : value),
  ]));
}

function buildSection(section, n) {
  const { workload } = section;
  section.head = el("thead");
  section.body = el("tbody");
  section.more = el("button", { type: "button", class: "plain more-rows", on: { click: () => showAll(section) } });
  section.charts = el("div", { class: "charts" });
  section.node = el(
    "section", { class: "workload", id: `workload-${n}`, "data-section": n, "aria-labelledby": `heading-${n}` },
    el("header", null, el("h2", { id: `heading-${n}` }, workload.benchmark, el("span", null, ` ${workload.what}`)), el("p", null, workload.about)),
    sideways(workload.benchmark, el("table", { class: "rows sticky", "aria-labelledby": `heading-${n}` }, section.head, section.body)),
    section.more,
    remarkList("How these figures were made, and what to know of them", [...workload.remarks, ...workload.caveats]),
    section.charts,
  );
  return section.node;
}

function remarkList(title, lines) {
  if (!lines.length) return null;
  return el("details", { class: "remarks" }, el("summary", null, title), el("ul", null, lines.map((line) => el("li", null, line))));
}

function showAll(section) {
  section.limit = Infinity;
  section.list = null;
  applyFilters();
}

// Put the rows that fit on the page: called whenever a filter or the protocol changes.
function applyFilters() {
  const fitting = data.rows.filter(fits);
  const wanted = sections.map(() => []);
  for (const row of fitting) wanted[row.workload].push(row);
  shownRows = [];
  drawMatrix(fitting);
  drawLadders();
  sections.forEach((section, n) => showRows(section, ordered(wanted[n])));
  byId("count").textContent = fitting.length === data.rows.length
    ? plural(data.rows.length, "row")
    : `${fitting.length.toLocaleString("en")} of ${plural(data.rows.length, "row")}`;
  byId("nothing").hidden = fitting.length > 0 || data.rows.length === 0;
  if (state.view === "compare") drawCompare();
  makeOneRowReachable();
}

function showRows(section, list) {
  section.node.hidden = list.length === 0;
  const shown = list.slice(0, section.limit);
  shownRows.push(...shown);
  const same = section.list && section.list.length === list.length && list.every((row, n) => row === section.list[n]);
  if (same) return;
  section.list = list;
  const columns = columnsOf(section.workload);
  section.head.replaceChildren(headOf(columns));
  section.body.replaceChildren(...shown.map((row) => rowNode(row, columns)));
  section.more.hidden = list.length <= section.limit;
  section.more.textContent = `Show all ${list.length.toLocaleString("en")} rows`;
  section.drawn = null;
  if (section.visible) requestAnimationFrame(() => setTimeout(() => section.visible && drawCharts(section), 0));
}

function drawCharts(section) {
  const width = section.charts.isConnected ? chartWidth(section.charts) : 0;
  const stamp = `${state.protocol} ${width}`;
  if (!width || section.drawn === stamp) return;
  section.drawn = stamp;
  const drawn = CHARTS.map((draw) => draw(section.workload, section.list || [], width)).filter(Boolean);
  section.charts.replaceChildren(...drawn, absent(section));
}

const measured = { at: 0, width: 0 };

// The width of a column of charts, the same in all sections: measured once for each width of the window.
function chartWidth(place) {
  if (measured.at !== innerWidth || !measured.width) {
    if (!place.firstElementChild) place.append(el("div", { class: "chart" }), el("div", { class: "chart" }));
    measured.width = Math.floor(place.querySelector(".chart")?.getBoundingClientRect().width ?? 0);
    measured.at = innerWidth;
  }
  return measured.width;
}

function absent(section) {
  const ok = (section.list || []).filter((row) => row.status === "ok");
  if (!ok.length) return el("p", { class: "absent" }, "No row here has a speed: there is nothing to draw.");
  if (ok.length < 2) return el("p", { class: "absent" }, "One row alone has a speed: a chart would say no more than its table. Its samples and kernels are in its proof.");
  const without = ok.filter((row) => !row.groups).map((row) => row.legend);
  if (!without.length) return "";
  const whose = without.length === ok.length ? "these rows" : without.slice(0, 6).join(", ") + (without.length > 6 ? " and others" : "");
  return el("p", { class: "absent" }, `No kernels were recorded for ${whose}.`);
}

function redraw() {
  for (const section of sections) if (section.visible) drawCharts(section);
  drawLadders();
  if (state.view === "compare") drawCompare();
}
