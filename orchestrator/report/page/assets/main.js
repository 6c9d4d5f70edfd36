buildFilters();
buildResults();
buildCompare();
applyFilters();
showTheme();

document.addEventListener("click", onClick);
document.addEventListener("keydown", onKey);
document.addEventListener("pointermove", showTip);
document.addEventListener("pointerdown", showTip);
document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true, capture: true });
byId("theme").addEventListener("click", toggleTheme);
byId("help").addEventListener("click", LETTERS["?"]);
byId("keys-close").addEventListener("click", closeDialog);
byId("shade").addEventListener("click", closeDialog);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
sections.forEach((section) => inView.observe(section.node));

let lastWidth = innerWidth;
new ResizeObserver(() => {
  const bar = document.querySelector(".bar").offsetHeight;
  document.documentElement.style.setProperty("--bar-height", `${bar - 1}px`);
  if (innerWidth !== lastWidth) {
    lastWidth = innerWidth;
    redraw();
  }
}).observe(document.body);
addEventListener("beforeprint", () => sections.forEach(drawCharts));

const pointed = /^#row-(\d+)-([0-9a-f]+)$/.exec(location.hash);
if (pointed && data.rows[Number(pointed[1])] && data.rows[Number(pointed[1])].cell === pointed[2]) openRow(data.rows[Number(pointed[1])]);
else if (location.hash === "#compare") setView("compare");
document.documentElement.dataset.ready = "yes";
