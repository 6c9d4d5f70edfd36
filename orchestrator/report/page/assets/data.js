// What the page knows, and what its reader chose.

const MISSING = "–";
const COLOURS = 8;
const MARKERS = 6;
const DASHES = 4;
const data = JSON.parse(byId("data").textContent);
const several = data.runs.length > 1;
const state = {
  view: "results",
  protocol: "steady",
  words: [],
  chosen: { run: new Set(), benchmark: new Set(), stack: new Set(), method: new Set(), status: new Set(), flag: new Set() },
  base: null,
};
// A method has one colour in all views; rows of one colour, of other stacks or runs, have another marker.
const methods = [...new Set(data.rows.map((row) => row.method))].sort();
const hues = new Map(methods.map((method, n) => [method, n]));
const variants = new Map();

data.rows.forEach((row, place) => {
  row.id = place;
  row.of = data.workloads[row.workload];
  row.runName = data.runs[row.run].name;
  row.legend = several ? `${row.name} · ${row.runName}` : row.name;
  row.hue = hues.get(row.method);
  row.variant = row.hue + kept(variants, row.legend.slice(row.method.length), () => variants.size);
});

const proofs = new Map();

// A row's proof is parsed when it is first asked for: a page of thousands opens at once.
const proofOf = (row) => kept(proofs, row.id, () => JSON.parse(byId("p" + row.id).textContent));

// [index, phase, since_s, wall_s, device_s, loss, taint, shape] of each sample of each round.
function samplesOf(row) {
  const blocks = (round) => round.sections.flatMap((section) => section.blocks);
  return proofOf(row).rounds.map((round) => blocks(round).find((block) => block.kind === "samples")?.rows ?? []);
}

// What a column's head or a flag means; heads have a unit or more after the term.
const meaningOf = (head) => data.glossary[head.split(/[,:]/)[0]];
const flagNode = (flag) => el("span", { class: `flag ${flag}`, title: meaningOf(flag) }, flag);
const speedOf = (row) => row[state.protocol];
const hasSpeed = (row) => speedOf(row).value !== undefined;
const protocolName = () => state.protocol === "note" ? "as the note" : "steady";
const titleOf = (row) => `${row.of.benchmark} ${row.legend}`;

function valuesOf(row, facet) {
  if (facet === "flag") return row.flags;
  return [{ run: row.runName, benchmark: row.of.benchmark }[facet] ?? row[facet]];
}

function haystack(row) {
  const { name, status, flags, runName, reason, of, gpu, cell } = row;
  row.haystack ??= [of.benchmark, name, status, ...flags, runName, reason, of.what, gpu, cell].join(" ").toLowerCase();
  return row.haystack;
}

function fits(row) {
  const chosen = ([facet, values]) => !values.size || valuesOf(row, facet).some((value) => values.has(value));
  return Object.entries(state.chosen).every(chosen) && state.words.every((word) => haystack(row).includes(word));
}

// Rows in the order of the protocol: the best of a table first.
const ordered = (rows) => state.protocol === "note" ? [...rows].sort((a, b) => a.noteOrder - b.noteOrder) : rows;
