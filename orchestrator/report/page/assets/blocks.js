// The blocks that a drawer is made of.

const BLOCKS = {
  facts: (block) => { const list = factList(block.facts); list.classList.add("block"); return list; },
  text: (block) => el("div", { class: "block" }, block.paragraphs.map((line) => el("p", { class: block.warning ? "warning" : "muted" }, line))),
  table: tableBlock,
  code: codeBlock,
  shares: sharesBlock,
  samples: samplesBlock,
  environment: environmentBlock,
};

function sectionNode(section, row) {
  const blocks = section.blocks.map((block) => BLOCKS[block.kind](block, row));
  const [whole, title] = section.folded ? ["details", "summary"] : ["section", "h3"];
  return el(whole, { class: "block-section" }, el(title, null, section.title), blocks);
}

function tableBlock(block) {
  const side = (n) => (block.numeric.includes(n) ? "right" : null);
  const lines = block.rows.map((cells) => el("tr", { class: block.state !== null && cells[block.state] === "failed" ? "wrong" : null }, cells.map((cell, n) => {
    const name = n === block.state ? `state ${cell}` : side(n) || (cell.length > 28 ? "long" : null);
    return el("td", { class: name }, cell);
  })));
  const head = block.head.map((name, n) => el("th", { scope: "col", class: side(n) }, name || el("span", { class: "hidden-text" }, "outcome")));
  return el("div", { class: "block wrap" }, el("table", null, el("thead", null, el("tr", null, head)), el("tbody", null, lines)));
}

function codeBlock(block) {
  const text = el("pre", { tabindex: 0 }, block.text);
  if (!block.command) return el("div", { class: "block" }, text);
  const button = el("button", { type: "button", class: "plain copy", on: { click: () => copy(block.text, text, button) } }, "Copy");
  return el("div", { class: "block" }, text, button);
}

async function copy(content, node, button) {
  try {
    await navigator.clipboard.writeText(content);
    button.textContent = "Copied";
  } catch {
    // No clipboard here: the text is selected, and the reader's own keys copy it.
    getSelection().selectAllChildren(node);
    button.textContent = "Selected";
  }
}

function sharesBlock(block) {
  const lines = block.rows.map(([name, share, text]) => [
    el("span", null, name),
    el("span", { class: "muted" }, text),
    shape("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
      shape("rect", { class: "track", width: 100, height: 10 }),
      shape("rect", { class: "fill c0", width: Math.max(0, Math.min(share || 0, 1)) * 100, height: 10 })),
  ]);
  return el("div", { class: "block share-bars" }, lines);
}

const PHASE_NAMES = { first: "first call", warmup: "warm-up", timed: "timed", repeat: "repeated" };

function samplesBlock(block, row) {
  const width = Math.max(Math.min(byId("drawer").clientWidth - 48, 680), 260);
  const head = ["sample", "phase", "start, s", "wall, s", "device, s", "loss", "shape", "taint"];
  const rows = block.rows.map(([index, phase, since, wall, device, loss, taint, shapeText]) =>
    [String(index), PHASE_NAMES[phase] || phase, since.toFixed(3), short(wall), device === null ? "" : short(device), loss === null ? "" : short(loss), shapeText, taint || ""]);
  const list = tableBlock({ head, rows, numeric: [0, 2, 3, 4, 5], state: null });
  return el(
    "div", { class: "block" },
    allSamples(block.rows, row, width),
    el("details", null, el("summary", null, `All ${plural(block.rows.length, "sample")} as a table`), list),
  );
}

// Every sample of a round, the first call and the warm-up too: logarithmic where they lie far apart.
function allSamples(samples, row, width) {
  const height = 190;
  const [top, bottom] = [10, height - AXIS_HEIGHT];
  const walls = samples.map((sample) => sample[3]).filter((wall) => wall > 0);
  if (!walls.length) return null;
  const [low, high] = [Math.min(...walls), Math.max(...walls)];
  const far = high / low > 8;
  const y = far
    ? logarithmic(10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(high) + 1e-9), bottom, top)
    : linear(...ends(walls), bottom, top);
  const left = yAxisWidth(y) + 2;
  const last = Math.max(...samples.map((sample) => sample[0]));
  const x = linear(0, Math.max(last, 1), left + 6, width - 12);
  const drawn = samples.filter((sample) => sample[3] > 0);
  const marks = [...drawn.filter((sample) => !sample[6]), ...drawn.filter((sample) => sample[6])].map(([index, phase, , wall, , , taint, shapeText]) => {
    const at = [x(index), y(wall)];
    const tip = `sample ${index}, ${PHASE_NAMES[phase] || phase}\n${short(wall)} s, ${shapeText}${taint ? `\ntainted: ${taint}` : ""}`;
    const timed = phase === "timed" || phase === "repeat";
    const mark = shape("circle", { class: `${timed ? "mark" : "hollow"} ${colour(row)}`, cx: at[0], cy: at[1], r: timed ? 4 : 3.6 });
    return sampleMark(at, taint, mark, { "data-tip": tip });
  });
  const tainted = samples.filter((sample) => sample[6]).length;
  const about = `Seconds of each sample${far ? ", logarithmic" : ""}; rings are the first call and the warm-up${tainted ? `, ${tainted} tainted crossed out` : ""}.${far ? "" : cutAxes([["seconds", ends(walls)]])}`;
  return [
    el("p", { class: "muted" }, about),
    picture(width, height, `${plural(samples.length, "sample")} from ${short(low)} to ${short(high)} s, ${tainted} tainted`,
      yAxis(y, left, width - 12), xAxis(x, left + 6, width - 12, bottom, "sample"), marks),
  ];
}

function environmentBlock(block) {
  const found = data.environments[block.number];
  const part = (title, entries) => (entries.length
    ? el("details", null, el("summary", null, `${title} (${entries.length})`), factList(entries))
    : null);
  return el("div", { class: "block" }, factList(found.facts), part("Settings", found.settings), part("Packages", found.packages));
}
