// Throughput against latency: for each model and prompt a chart with a line for each row's name, from batch to batch.

const LADDER_HEIGHT = 300;
const TIGHT_TICKS = 7;
const MOST_BATCHES = 60;

// 1, 2 and 5 times the powers of ten, or the powers alone where many would fit.
function roundTicks(low, high) {
  const powers = wholeNumbers(Math.floor(Math.log10(low)), Math.ceil(Math.log10(high)));
  const every = powers.flatMap((power) => [1, 2, 5].map((factor) => factor * 10 ** power)).filter((tick) => tick >= low && tick <= high);
  return every.length <= TIGHT_TICKS ? every : every.filter((tick) => Number.isInteger(Math.log10(tick)));
}

function ladderScale(values, from, to) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = Math.max(high / low, 1.2) ** 0.07;
  const scale = logarithmic(low / room, high * room, from, to);
  scale.ticks = () => roundTicks(low / room, high * room);
  return scale;
}

function drawLadders() {
  const place = byId("ladders");
  const charts = data.ladders.map((ladder) => ({ ...ladder, points: ladder.points.filter((point) => fits(data.rows[point.row])) })).filter((ladder) => ladder.points.length);
  place.replaceChildren();
  if (!charts.length) return;
  const box = el("div", { class: "charts" });
  const about = "Up and to the left is better; the numbers are sequences at once. Ringed, on the wide line, is the Pareto front: no row whose output is proved beats these in both. "
    + "Hollow: not everything of the row could be checked, and it is never on the front. A wrong row has no point. Steady figures.";
  place.append(el("section", { class: "ladders", "aria-labelledby": "ladders-head" },
    el("h2", { id: "ladders-head" }, "Throughput against latency"), el("p", { class: "lede" }, about), box));
  const width = chartWidth(box);
  if (width) box.replaceChildren(...charts.map((ladder) => ladderChart(ladder, width)));
}

function ladderChart({ what, device, points }, width) {
  const [top, bottom, right] = [16, LADDER_HEIGHT - AXIS_HEIGHT, width - 24];
  const y = ladderScale(points.map((point) => point.tokens), bottom - 8, top);
  const left = yAxisWidth(y) + 2;
  const x = ladderScale(points.map((point) => point.further), left + 10, right);
  const at = (point) => [x(point.further), y(point.tokens)];
  const series = new Map();
  for (const point of points) kept(series, data.rows[point.row].legend, () => []).push(point);
  const line = (kind, some) => shape("path", { class: kind, d: some.map((point, n) => `${n ? "L" : "M"}${at(point).map((value) => value.toFixed(1)).join(",")}`).join("") });
  const front = points.filter((point) => point.front).sort((a, b) => a.further - b.further);
  const lines = [...series.values()].map((some) => line(`line ${colour(data.rows[some[0].row])} ${dash(data.rows[some[0].row])}`, some));
  const named = points.map((point) => ({ row: data.rows[point.row], label: String(point.batch), x: at(point)[0], y: at(point)[1] }));
  const spoken = points.map((point) => `${data.rows[point.row].legend} at batch ${point.batch} ${point.text[0]} tokens/s, ${point.text[2]} ms a token${point.front ? ", on the front" : ""}`).join("; ");
  return chart(
    what, `Tokens/s of all sequences by ms for a further token of each${device ? `, on ${device}` : ""}; both axes are logarithmic.`,
    picture(width, LADDER_HEIGHT, `Throughput against latency, ${what}: ${spoken}`,
      yAxis(y, left, right), xGrid(x, top, bottom), xAxis(x, left, right, bottom, "ms for a further token"),
      line("front", front), lines, points.map((point) => ladderPoint(point, at(point))), pointLabels(named, width, left, bottom, MOST_BATCHES)),
    legend(points.map((point) => data.rows[point.row])),
  );
}

function ladderPoint(point, [x, y]) {
  const row = data.rows[point.row];
  const doubt = point.proved ? "" : "\nnot all of it is proved";
  const tip = `${row.legend}\nbatch ${point.batch}: ${point.text[0]} tokens/s\nfirst token ${point.text[1]} ms, a further one ${point.text[2]} ms${point.front ? "\non the Pareto front" : ""}${doubt}`;
  return shape("g", { "data-row": row.id, "data-tip": tip },
    point.front && shape("circle", { class: "ring", cx: x, cy: y, r: 9 }),
    marker(row, x, y, 4.5, point.proved ? null : { class: `hollow ${colour(row)}` }),
    shape("circle", { cx: x, cy: y, r: 9, fill: "transparent" }));
}
