// Keys, and the choices that both keys and buttons make.

// Shows which of the buttons with one data attribute is the choice.
function press(name, choice) {
  for (const button of document.querySelectorAll(`button[data-${name}]`)) button.setAttribute("aria-pressed", String(button.dataset[name] === String(choice)));
}

function setProtocol(protocol) {
  state.protocol = protocol;
  press("protocol", protocol);
  made.clear();
  for (const section of sections) section.list = null;
  applyFilters();
}

function setView(view) {
  state.view = view;
  press("view", view);
  byId("results").hidden = view !== "results";
  byId("compare").hidden = view !== "compare";
  if (view === "compare") drawCompare();
  remember(view === "compare" ? "compare" : "");
  scrollTo(0, 0);
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function showTheme() {
  byId("theme").setAttribute("aria-pressed", String(isDark()));
  byId("theme").textContent = isDark() ? "Light" : "Dark";
}

function toggleTheme() {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("stackbench-theme", theme);
  } catch {
    // No storage: the choice holds as long as the page is open.
  }
  showTheme();
}

let current = null;

// One row of all tables is in the order of the tab key; the arrows go on from there.
function setCurrent(node) {
  if (current) current.tabIndex = -1;
  current = node;
  if (current) current.tabIndex = 0;
}

function makeOneRowReachable() {
  if (!current || !current.isConnected || current.closest("[hidden]")) setCurrent(shownRows.length ? made.get(shownRows[0].id) : null);
}

function moveTo(place) {
  const row = shownRows[Math.max(0, Math.min(place, shownRows.length - 1))];
  const node = row && made.get(row.id);
  if (!node) return;
  setCurrent(node);
  node.focus({ preventScroll: true });
  node.scrollIntoView({ block: "nearest" });
}

const MOVES = {
  ArrowDown: (place) => place + 1,
  ArrowUp: (place) => place - 1,
  Home: () => 0,
  End: () => shownRows.length - 1,
};

function onRows(event) {
  const node = event.target.closest?.("tr[data-row]");
  const move = MOVES[event.key];
  if (node && (event.key === "Enter" || event.key === " ") && event.target === node) {
    event.preventDefault();
    openRow(data.rows[Number(node.dataset.row)]);
    return true;
  }
  const loose = document.activeElement === document.body || document.activeElement === byId("main");
  if (!move || state.view !== "results" || (!node && !(loose && event.key.startsWith("Arrow")))) return false;
  event.preventDefault();
  moveTo(node ? move(shownRows.findIndex((row) => row.id === Number(node.dataset.row))) : shownRows.findIndex((row) => made.get(row.id) === current));
  return true;
}

const LETTERS = {
  t: toggleTheme,
  p: () => setProtocol(state.protocol === "steady" ? "note" : "steady"),
  c: () => setView(state.view === "compare" ? "results" : "compare"),
  "?": () => openDialog(byId("keys"), byId("keys-close")),
  "/": () => { byId("words").focus(); byId("words").select(); },
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches?.("input:not([type=checkbox]), select, textarea");
  if (dialog.node) inDialog(event);
  else if (event.target === byId("words")) inWords(event);
  else if (!typing && !onRows(event) && LETTERS[event.key]) {
    event.preventDefault();
    LETTERS[event.key]();
  }
}

function inWords(event) {
  if (event.key === "Escape") {
    byId("words").value = "";
    filterByWords();
    byId("words").blur();
  } else if (event.key === "Enter" || event.key === "ArrowDown") {
    event.preventDefault();
    moveTo(0);
  }
}

function inDialog(event) {
  if (event.key === "Escape") {
    event.preventDefault();
    closeDialog();
  } else if (event.key === "Tab") trap(event);
  else if (event.key === "t") toggleTheme();
  else if (dialog.row && (event.key === "ArrowLeft" || event.key === "ArrowRight")) go(event.key === "ArrowLeft" ? -1 : 1);
}

function onClick(event) {
  const target = event.target instanceof Element ? event.target : null;
  if (!target || getSelection().toString()) return;
  const view = target.closest("[data-view]");
  const protocol = target.closest("[data-protocol]");
  const row = target.closest("[data-row]");
  if (view) setView(view.dataset.view);
  else if (protocol) setProtocol(protocol.dataset.protocol);
  else if (row && row.dataset.row !== "" && !dialog.node) openRow(data.rows[Number(row.dataset.row)]);
}
