// A table's rows. Each is made when it is first shown, and kept until the protocol changes.

const ROWS_AT_ONCE = 50;
const made = new Map();

// Columns that stay on a narrow window longer than the rest.
const LAST_TO_GO = new Set(["versus", "checks", "first", "peak"]);

function columnsOf(workload) {
  return [
    { head: "method@stack", cell: nameCell },
    { head: `${protocolName()}, ${workload.unit}`, cell: speedCell },
    { head: "of the ceiling", cell: shareCell, name: "share" },
    ...workload.columns.map(([key, head]) => ({ head, cell: (row) => lines(row.cells[key]), name: LAST_TO_GO.has(key) ? "wide" : "mid wide" })),
    { head: "status", cell: statusCell, name: "status left" },
  ];
}

// Beside a ratio that is no verdict; what the mark means stands below the matrix.
const flagged = (why) => el("span", { class: "doubt", title: why }, FLAG, el("span", { class: "hidden-text" }, why));

// A figure, and what stands below it.
function lines([text, ...below] = [MISSING]) {
  if (below.at(-1) === "inconclusive") text = [text, flagged(below.pop())];
  return [text, below.map((line) => el("small", { class: OUTCOMES.has(line) ? `verdict ${line}` : null }, line))];
}

const OUTCOMES = new Set(["faster", "slower", "same", "inconclusive"]);

function headOf(columns) {
  return el("tr", null, columns.map((column) => el("th", { scope: "col", class: column.name, title: meaningOf(column.head) }, el("span", null, column.head))));
}

function rowNode(row, columns) {
  return kept(made, row.id, () => {
    const cells = columns.map((column, n) => el(n ? "td" : "th", { class: column.name, scope: n ? null : "row" }, column.cell(row)));
    cells[0].className = "name left";
    cells[1].className = "speed";
    return el("tr", { "data-row": row.id, tabindex: -1, class: row.status === "incorrect" ? "wrong" : null, "aria-haspopup": "dialog" }, cells);
  });
}

function nameCell(row) {
  return [keyOf(row), breakable(row.method), el("wbr"), `@${row.stack}`, several ? el("small", null, row.runName) : null, row.alike ? el("small", null, row.cell.slice(0, 8)) : null];
}

// A long name may be broken after its underscores, and before the stack.
const breakable = (name) => name.split(/(?<=_)/).flatMap((part, n) => (n ? [el("wbr"), part] : [part]));

function speedCell(row) {
  const { cell: [text, ...below], level, why } = speedOf(row);
  return [why ? el("span", { title: why }, text) : el("b", null, text), below.map((line) => el("small", { title: level }, line))];
}

function shareCell(row) {
  const speed = speedOf(row);
  if (speed.share === undefined) return [MISSING];
  const wide = 46;
  const bar = shape(
    "svg", { width: wide, height: 8, "aria-hidden": "true" },
    shape("rect", { class: "track", width: wide, height: 8, rx: 2 }),
    shape("rect", { class: `fill ${colour(row)}`, width: Math.min(speed.share, 1) * wide, height: 8, rx: 2 }),
  );
  return [el("span", { class: "share-line" }, bar, speed.shareText), el("small", null, speed.bound)];
}

function statusCell(row) {
  const [rounds, ok] = row.rounds;
  const some = rounds > 1 && ok < rounds ? `${ok} of ${rounds} rounds ok` : null;
  const missing = row.status === "ok" && row.steady.value === undefined ? row.steady.why : null;
  const why = [some, row.reason || missing].filter(Boolean).join("; ");
  return [
    el("span", { class: `state ${row.status}` }, row.status),
    row.flags.map(flagNode),
    why ? el("small", { title: why }, why) : null,
  ];
}
