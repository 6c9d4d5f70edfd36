// Dialogs: the drawer with a row's whole proof, and the list of keys. Focus stays inside while one is open.

const dialog = { node: null, back: null, row: null, round: 0 };
const FOCUSABLE = "button, a[href], input, select, summary, pre[tabindex], [tabindex='0']";

function openDialog(node, focused) {
  if (!dialog.node) dialog.back = document.activeElement;
  dialog.node = node;
  tip.hidden = true;
  for (const part of [document.querySelector(".bar"), byId("main"), document.querySelector(".foot"), document.querySelector(".skip")]) part.inert = true;
  document.body.classList.add("locked");
  byId("shade").hidden = false;
  node.hidden = false;
  (focused || node).focus({ preventScroll: true });
}

function closeDialog() {
  if (!dialog.node) return;
  dialog.node.hidden = true;
  byId("shade").hidden = true;
  document.body.classList.remove("locked");
  for (const part of document.querySelectorAll("[inert]")) part.inert = false;
  // To where it was opened from; where the reader went on to another row, to that.
  const same = dialog.row && dialog.back?.dataset.row === String(dialog.row.id);
  const back = dialog.row && !same && state.view === "results" && made.get(dialog.row.id);
  const target = back?.isConnected ? back : dialog.back;
  dialog.node = null;
  dialog.row = null;
  remember("");
  if (target?.isConnected) {
    if (target.dataset.row && target.tagName === "TR") setCurrent(target);
    target.focus();
  }
}

function trap(event) {
  const inside = [...dialog.node.querySelectorAll(FOCUSABLE)].filter((node) => node.getClientRects().length && !node.disabled);
  if (!inside.length) return event.preventDefault();
  const [from, to] = event.shiftKey ? [inside[0], inside.at(-1)] : [inside.at(-1), inside[0]];
  const { activeElement } = document;
  if (activeElement === from || activeElement === dialog.node || !dialog.node.contains(activeElement)) {
    event.preventDefault();
    to.focus();
  }
  return undefined;
}

// Puts the place into the address, so that a link can lead to a row; a browser may forbid it, and nothing is lost.
function remember(mark) {
  try {
    history.replaceState(null, "", mark ? `#${mark}` : location.pathname + location.search);
  } catch {
    // A sandboxed frame.
  }
}

function openRow(row) {
  dialog.row = row;
  const proof = proofOf(row);
  dialog.round = Math.max(0, proof.rounds.length - 1);
  const close = el("button", { type: "button", class: "plain", "aria-label": "Close", on: { click: closeDialog } }, "✕");
  const step = (by, name, sign) => el("button", { type: "button", class: "plain", "aria-label": name, disabled: !neighbour(by), on: { click: () => go(by) } }, sign);
  const node = byId("drawer");
  node.replaceChildren(
    el("div", { class: "drawer-head" },
      el("h2", { id: "drawer-title" }, titleOf(row)),
      el("p", null, row.of.what),
      el("div", { class: "drawer-tools" }, step(-1, "The row before", "←"), step(1, "The row after", "→"), close)),
    el("p", { class: "reason" }, statusLine(row)),
    el("p", { class: "muted" }, proof.about),
    ...proof.top.map((section) => sectionNode(section, row)),
    proof.rounds.length > 1 ? roundChoice(row, proof) : "",
    el("div", { id: "round" }),
    el("div", null, proof.bottom.map((section) => sectionNode(section, row))),
  );
  node.hidden = false;
  showRound(row, proof);
  node.scrollTop = 0;
  openDialog(node, close);
  remember(`row-${row.id}-${row.cell}`);
}

function statusLine(row) {
  const flags = row.flags.map(flagNode);
  return [el("span", { class: `state ${row.status}` }, row.status), flags, row.reason ? ` ${row.reason}` : null];
}

function roundChoice(row, proof) {
  const buttons = proof.rounds.map((round, n) => el(
    "button", { type: "button", "data-round": n, "aria-pressed": n === dialog.round, on: { click: () => { dialog.round = n; showRound(row, proof); } } },
    `Round ${round.number}${round.status === "ok" ? "" : ` (${round.status})`}`,
  ));
  return el("div", { class: "rounds", role: "group", "aria-label": "Rounds" }, buttons);
}

function showRound(row, proof) {
  const round = proof.rounds[dialog.round];
  press("round", dialog.round);
  const flags = round.flags.length ? ` (${round.flags.join(", ")})` : "";
  const line = `Round ${round.number}: ${round.status}${flags}${round.began ? `, started ${round.began}` : ""}`;
  byId("round").replaceChildren(
    el("p", { class: "reason muted" }, line),
    round.reason && proof.rounds.length > 1 ? el("p", { class: "reason" }, round.reason) : "",
    ...round.sections.map((section) => sectionNode(section, row)),
  );
}

function neighbour(by) {
  const place = shownRows.indexOf(dialog.row);
  return place < 0 ? null : shownRows[place + by] || null;
}

function go(by) {
  const next = neighbour(by);
  if (next) openRow(next);
}

const tip = byId("tip");

function showTip(event) {
  const on = event.target instanceof Element ? event.target.closest("[data-tip]") : null;
  tip.hidden = !on;
  if (!on) return;
  tip.textContent = on.dataset.tip;
  const [w, h] = [tip.offsetWidth, tip.offsetHeight];
  const x = event.clientX + 14 + w > innerWidth ? event.clientX - 14 - w : event.clientX + 14;
  const y = event.clientY + 14 + h > innerHeight ? event.clientY - 10 - h : event.clientY + 14;
  tip.style.left = `${Math.max(4, x)}px`;
  tip.style.top = `${Math.max(4, y)}px`;
}
