// A table's rows. Each is made when it is first shown, and kept until the protocol changes.

const ROWS_AT_ONCE = 50;
let made = new Map();

function forgetRows() {
  made = new Map();
}

function columnsOf(workload, rows) {
  const unit = workload.unit;
  const published = workload.published[0];
  const found = [
    { head: "method@stack", cell: nameCell },
    { head: `${protocolName()}, ${unit}`, cell: speedCell },
    { head: "of the ceiling", cell: shareCell, name: "share" },
  ];
  if (workload.tokens) {
    found.push({ head: "first token, ms", cell: (row) => [row.tokens[0]], name: "mid wide" });
    found.push({ head: "each further, ms", cell: (row) => [row.tokens[1]], name: "mid wide" });
  }
  found.push({ head: "peak GB", cell: memoryCell, name: "wide" });
  found.push({ head: "steady", cell: (row) => [row.memory.steady], name: "mid wide" });
  found.push({ head: "reserved", cell: (row) => [row.memory.reserved], name: "mid wide" });
  found.push({ head: "first call, s", cell: firstCell, name: "wide" });
  if (rows.some((row) => row.versus)) found.push({ head: "against eager", cell: versusCell, name: "mid wide" });
  if (rows.some((row) => row.energy)) found.push({ head: rows.find((row) => row.energy).energy[1], cell: (row) => [row.energy ? row.energy[0] : MISSING], name: "mid wide" });
  if (published) found.push({ head: `${published.short}, ${unit}`, cell: (row) => [row.published || MISSING], name: "mid wide" });
  found.push({ head: "status", cell: statusCell, name: "status left" });
  return found;
}

function headOf(columns) {
  return el("tr", null, columns.map((column) => el("th", { scope: "col", class: column.name }, column.head)));
}

function rowNode(row, columns) {
  if (!made.has(row.id)) {
    const cells = columns.map((column, n) => el(n ? "td" : "th", { class: column.name, scope: n ? null : "row" }, column.cell(row)));
    cells[0].className = "name left";
    cells[1].className = "speed";
    const node = el("tr", { "data-row": row.id, tabindex: -1, class: row.status === "incorrect" ? "wrong" : null, "aria-haspopup": "dialog" }, cells);
    made.set(row.id, node);
  }
  return made.get(row.id);
}

function nameCell(row) {
  return [keyOf(row), breakable(row.method), el("wbr"), `@${row.stack}`, several ? el("small", null, row.runName) : null, row.alike ? el("small", null, row.cell.slice(0, 8)) : null];
}

// A long name may be broken after its underscores, and before the stack.
function breakable(name) {
  return name.split(/(?<=_)/).flatMap((part, n) => (n ? [el("wbr"), part] : [part]));
}

function speedCell(row) {
  const speed = speedOf(row);
  if (speed.value === undefined) return [el("span", { title: speed.why || "" }, MISSING)];
  const star = state.protocol === "note" && !speed.complete ? "\u00a0*" : "";
  const level = speed.level && !speed.level.startsWith("99 %") ? ` at ${speed.level.split(",")[0]}` : "";
  return [el("b", null, speed.text + star), speed.interval ? el("small", { title: speed.level }, speed.interval + level) : null];
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

function memoryCell(row) {
  return [row.memory.process, row.memory.host ? el("small", null, "host") : null];
}

function firstCell(row) {
  if (!row.first) return [MISSING];
  return [row.first.text, row.first.cache ? el("small", null, row.first.cache) : null];
}

function versusCell(row) {
  if (!row.versus) return [MISSING];
  return [row.versus[0], el("small", { class: `verdict ${row.versus[1]}` }, row.versus[1])];
}

function statusCell(row) {
  const [rounds, ok] = row.rounds;
  const some = rounds > 1 && ok < rounds ? `${ok} of ${rounds} rounds ok` : null;
  const missing = row.status === "ok" && row.steady.value === undefined ? row.steady.why : null;
  const told = [some, row.reason || missing].filter(Boolean).join("; ");
  return [
    el("span", { class: `state ${row.status}` }, row.status),
    row.flags.map((flag) => el("span", { class: `flag ${flag}` }, flag)),
    told ? el("small", { title: told }, told) : null,
  ];
}
