// The filters: a chip for each value, with how many rows have it. Within a facet any of them, between facets all.

const FACETS = [["run", "Run"], ["benchmark", "Benchmark"], ["stack", "Stack"], ["method", "Method"], ["status", "Status"], ["flag", "Flag"]];

function buildFilters() {
  for (const [facet, name] of FACETS) {
    const counts = new Map();
    for (const row of data.rows) for (const value of valuesOf(row, facet)) counts.set(value, (counts.get(value) || 0) + 1);
    const alone = counts.size === 1 && [...counts.values()][0] === data.rows.length;
    if (counts.size === 0 || alone) continue;
    const chips = [...counts].map(([value, count]) => chip(facet, value, count));
    byId("filters").append(el("fieldset", { class: "facet", "data-facet": facet }, el("legend", null, name), chips));
  }
  byId("words").addEventListener("input", filterByWords);
  byId("clear").addEventListener("click", clearFilters);
  byId("filters-toggle").addEventListener("click", () => foldFilters(!byId("filters").hidden));
  if (matchMedia("(max-width: 760px)").matches) foldFilters(true);
}

function chip(facet, value, count) {
  const choose = () => {
    state.chosen[facet][box.checked ? "add" : "delete"](value);
    applyFilters();
  };
  const box = el("input", { type: "checkbox", value, on: { change: choose } });
  return el("label", { class: "chip" }, box, value, el("span", { class: "number" }, String(count)));
}

function filterByWords() {
  state.words = byId("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  applyFilters();
}

function clearFilters() {
  byId("words").value = "";
  for (const box of byId("filters").querySelectorAll("input")) box.checked = false;
  for (const chosen of Object.values(state.chosen)) chosen.clear();
  filterByWords();
  byId("words").focus();
}

function foldFilters(fold) {
  byId("filters").hidden = fold;
  byId("filters-toggle").setAttribute("aria-expanded", String(!fold));
}
