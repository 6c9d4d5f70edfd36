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
  const has = (told) => rows.some(told);
  if (has((row) => row.versus)) found.push({ head: "against eager", cell: versusCell, name: "wide" });
  if (has((row) => row.checks !== MISSING && row.checks !== "none")) found.push({ head: "checks", cell: checksCell, name: "wide" });
  if (workload.tokens) found.push({ head: "first, further token, ms", cell: tokensCell, name: "mid wide" });
  found.push({ head: "peak GB", cell: memoryCell, name: "wide" });
  found.push({ head: "first call, s", cell: firstCell, name: "wide" });
  if (published) found.push({ head: `${published.short}, ${unit}`, cell: publishedCell, name: "mid wide" });
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
  const { process, steady, reserved, host } = row.memory;
  const others = [steady !== MISSING ? `steady\u00a0${steady}` : null, reserved !== MISSING ? `reserved\u00a0${reserved}` : null].filter(Boolean);
  return [process, host ? el("small", null, "host") : null, others.map((text) => el("small", { class: "mid" }, text))];
}

function tokensCell(row) {
  return [row.tokens[0] === MISSING ? MISSING : `${row.tokens[0]}, ${row.tokens[1]}`];
}

function checksCell(row) {
  const [counts] = row.checks.split(/[,;] /);
  return [el("span", { title: row.checks }, counts), row.ratio === MISSING ? null : el("small", null, `error ÷ eager's ${row.ratio}`)];
}

function firstCell(row) {
  if (!row.first) return [MISSING];
  const { text, cache, warmText } = row.first;
  const even = row.even === MISSING ? null : row.even === "never" ? "never pays off" : `pays off after ${row.even}`;
  const below = [[cache, warmText ? `${warmText}\u00a0warm` : null].filter(Boolean).join(", "), even].filter(Boolean);
  return [text, below.map((line) => el("small", null, line))];
}

function publishedCell(row) {
  const [figure, ...rest] = (row.published || MISSING).split(" (");
  return [figure, rest.length ? el("small", null, rest.join(" (").replace(/\)$/, "")) : null];
}

function versusCell(row) {
  if (!row.versus) return [MISSING];
  return [row.versus[0], el("small", { class: `verdict ${row.versus[1]}`, title: row.versus[2] }, row.versus[1])];
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
