// Charts with two axes: speed against memory, samples over time, first call by layers, loss curves.

const MOST_SERIES = 8;
const MOST_POINTS = 150;

function memoryChart(workload, all, width) {
  const rows = all.filter((row) => hasSpeed(row) && row.memory.bytes);
  if (rows.length < 2) return null;
  const shown = rows.slice(0, MOST_POINTS);
  const gigabytes = (row) => row.memory.bytes / 1e9;
  const speed = (row) => speedOf(row).value;
  const [xs, ys] = [ends(shown.map(gigabytes)), ends(shown.map(speed))];
  return plotted(width, 260, {
    title: "Speed against memory",
    about: `${protocolName()}, in ${workload.unit} (${workload.better} is better); peak of the whole process.${cutAxes([["speed", ys], ["memory", xs]])}${capped(rows, MOST_POINTS)}`,
    says: `Speed against memory: ${shown.map((row) => `${row.legend} ${speedOf(row).text} ${workload.unit} at ${row.memory.text} GB`).join(", ")}`,
    xs,
    ys,
    axis: "peak memory, GB",
    draw: (x, y, { left, bottom }) => {
      const points = shown.map((row) => ({ row, x: x(gigabytes(row)), y: y(speed(row)) }));
      const marks = points.map(({ row, x: px, y: py }) =>
        marker(row, px, py, 6, { "data-row": row.id, "data-tip": `${row.legend}\n${speedOf(row).text} ${workload.unit}\n${row.memory.text} GB` }));
      return [marks, pointLabels(points, width, left, bottom)];
    },
    below: legend(shown),
  });
}

// Names beside the points where they do not run into one another or out of the chart; the legend has all.
function pointLabels(points, width, left, bottom, most = 12) {
  if (points.length > most) return [];
  const taken = points.map((p) => ({ x: p.x - 8, y: p.y - 8, w: 16, h: 16 }));
  const overlaps = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;
  return points.map((p) => {
    const text = p.label ?? p.row.name;
    const w = textWidth(text);
    const places = [
      { x: p.x + 11, y: p.y - 7, anchor: "start", at: p.x + 11, base: p.y + 4 },
      { x: p.x - 11 - w, y: p.y - 7, anchor: "end", at: p.x - 11, base: p.y + 4 },
      { x: p.x - w / 2, y: p.y - 24, anchor: "middle", at: p.x, base: p.y - 12 },
      { x: p.x - w / 2, y: p.y + 10, anchor: "middle", at: p.x, base: p.y + 21 },
    ];
    const free = places.find((place) => {
      const box = { x: place.x, y: place.y, w, h: 14 };
      return box.x > left && box.x + w < width && box.y > 0 && box.y + 14 < bottom && !taken.some((other) => overlaps(box, other));
    });
    if (!free) return null;
    taken.push({ x: free.x, y: free.y, w, h: 14 });
    return words(free.at, free.base, text, { "text-anchor": free.anchor, class: "dim", "data-row": p.row.id });
  });
}

// One strip for each row: rows of different speed show how unsteady they are at the same scale.
function samplesChart(workload, all, width) {
  const rows = all.filter((row) => row.status === "ok" && hasSpeed(row));
  const shown = rows.slice(0, MOST_SERIES).map((row) => strip(row, workload)).filter((item) => item.points.length > 1);
  if (shown.length < 2) return null;
  const relative = !workload.manyShapes;
  const values = shown.flatMap((item) => item.points.map((point) => point.value));
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (relative) [low, high] = [Math.min(low, -0.01), Math.max(high, 0.01)];
  else [low, high] = ends(values);
  const stripHeight = shown.length > 4 ? 64 : 78;
  const above = 18;
  const brief = (v) => label(Number(Math.abs(v).toPrecision(2)));
  const format = relative ? (v) => `${v > 0 ? "+" : v < 0 ? "−" : ""}${brief(v * 100)} %` : brief;
  const left = labelsWidth([low, high], format);
  const x = linear(0, Math.max(...shown.flatMap((item) => item.points.map((point) => point.at))) || 1, left, width - 12);
  const height = shown.length * stripHeight + AXIS_HEIGHT + 4;
  const strips = shown.map((item, n) => drawStrip(item, n, { x, low, high, left, width, stripHeight, above, format }));
  const tainted = shown.reduce((sum, item) => sum + item.tainted, 0);
  // A row is tainted as a whole where others took the host's CPUs all the while.
  const whole = shown.some((item) => (item.row.flags || []).includes("tainted"));
  const taints = tainted ? "tainted ones are crossed out" : whole ? "tainted are whole rows, and no single sample" : "none is tainted";
  const spoken = shown.map((item) => `${item.row.legend} ${plural(item.points.length, "sample")}, ${item.tainted} tainted`).join("; ");
  const how = relative ? "each as its distance from the row's median" : "in seconds, each at its own shape";
  return chart(
    "Samples over time",
    `Timed samples, ${how}; ${taints}.${relative ? "" : cutAxes([["seconds", [low]]])}${capped(rows, MOST_SERIES)}`,
    picture(width, height, `Samples over time: ${spoken}`, strips, xAxis(x, left, width - 12, height - AXIS_HEIGHT, "seconds since the round's first timed sample")),
  );
}

function strip(row, workload) {
  const rounds = samplesOf(row).map((round) => round.filter((sample) => ["timed", "repeat", "sustained"].includes(sample[1])));
  const walls = rounds.flat().map((sample) => sample[3]).sort((a, b) => a - b);
  const median = walls.length ? (walls[(walls.length - 1) >> 1] + walls[walls.length >> 1]) / 2 : 0;
  const points = rounds.flatMap((round, number) => {
    const start = round.length ? Math.min(...round.map((sample) => sample[2])) : 0;
    return round.map((sample) => ({
      at: sample[2] - start,
      value: workload.manyShapes ? sample[3] : sample[3] / median - 1,
      sample,
      number,
    }));
  });
  return { row, points, median, rounds: rounds.length, tainted: points.filter((point) => point.sample[6]).length };
}

function drawStrip(item, n, { x, low, high, left, width, stripHeight, above, format }) {
  const top = n * stripHeight + above;
  const bottom = (n + 1) * stripHeight - 6;
  const y = linear(low, high, bottom, top + 4);
  const { row } = item;
  const dots = item.points.map((point) => {
    const [px, py] = [x(point.at), y(point.value)];
    const [index, phase, , wall, , , taint, shapeText] = point.sample;
    const tip = `${row.legend}\nsample ${index}${item.rounds > 1 ? `, round ${point.number}` : ""}${{ repeat: ", repeated", sustained: ", sustained" }[phase] || ""}, ${shapeText}\n${short(wall)} s${taint ? `\ntainted: ${taint}` : ""}`;
    const mark = marker(row, px, py, 3.2, phase === "repeat" ? { class: `hollow ${colour(row)}` } : null);
    return sampleMark([px, py], taint, mark, { "data-row": row.id, "data-tip": tip });
  });
  const median = `median ${short(item.median)} s`;
  const middle = low < 0 && high > 0 ? [0] : [];
  return [
    words(left, top - 5, shortened(row.legend, width - left - textWidth(median) - 24, true), { class: "mono-text" }),
    words(width - 12, top - 5, median, { class: "dim", "text-anchor": "end" }),
    [low, ...middle, high].map((tick) => shape("line", { class: "grid", x1: left, x2: width - 12, y1: y(tick), y2: y(tick) })),
    [low, high].map((tick) => words(left - 6, y(tick) + 4, format(tick), { class: "dim", "text-anchor": "end" })),
    dots,
  ];
}

// First calls of a row here and of those that differ from it in the model's layers alone.
function growthChart(workload, all, width) {
  const rows = all.filter((row) => row.growth !== undefined).slice(0, MOST_SERIES);
  if (!rows.length) return null;
  const series = rows.map((row) => data.rows.filter((other) => other.growth === row.growth).sort((a, b) => a.layers - b.layers));
  const gpus = Math.max(...rows.map((row) => row.gpus));
  const [xs, ys] = [ends(series.flat().map((row) => row.layers)), ends(series.flat().map((row) => row.first.seconds))];
  const spoken = series.map((points) => `${points[0].legend} ${points.map((row) => `${row.first.text} s at ${row.layers}`).join(", ")}`).join("; ");
  const tip = (row) => `${row.legend}\n${plural(row.layers, "layer")}\n${row.first.text} s ${row.first.cache}${row.further ? `\n${row.further} s for each further layer` : ""}`;
  return plotted(width, 240, {
    title: "First call by layers",
    about: `Seconds of the first call from an empty compile cache, and those of the same workload at other numbers of layers.${gpus > 1 ? ` Measured on ${gpus} GPUs, whose hosts may compile at different speeds: no line leads from one to another.` : ""}${cutAxes([["seconds", ys], ["layers", xs]])}`,
    says: `First call by layers: ${spoken}`,
    xs,
    ys,
    axis: "layers",
    draw: (x, y) => series.map((points, n) => [
      // Between two GPUs there is no line: their hosts compile at different speeds.
      path(rows[n], points.map((row) => [row.further ? "L" : "M", x(row.layers), y(row.first.seconds)])),
      points.map((row) => shape("g", { "data-row": row.id, "data-tip": tip(row) },
        marker(rows[n], x(row.layers), y(row.first.seconds), row === rows[n] ? 6 : 4.5))),
    ]),
    below: legend(rows),
  });
}

function path(row, steps) {
  return shape("path", { class: `line ${colour(row)} ${dash(row)}`, d: steps.map(([step, x, y]) => `${step}${x.toFixed(1)},${y.toFixed(1)}`).join("") });
}

function lossChart(workload, all, width) {
  if (!workload.training) return null;
  const rows = all.filter((row) => row.status === "ok");
  const found = rows.slice(0, MOST_SERIES).map((row) => ({ row, curves: curvesOf(row) })).filter((item) => item.curves.length);
  if (found.length < 2) return null;
  const points = found.flatMap((item) => item.curves.flat());
  const [steps, losses] = [0, 1].map((n) => points.map((point) => point[n]));
  const [low, high] = [Math.min(...losses), Math.max(...losses)];
  const pad = (high - low || Math.abs(high) || 1) * 0.06;
  const firstAndLast = (curve) => [curve[0][1], curve[curve.length - 1][1]].map(short);
  return plotted(width, 260, {
    title: "Loss",
    about: `Of each training step. Rows of one workload see the same data and weights: their curves should lie together.${cutAxes([["loss", [low - pad]]])}${capped(rows, MOST_SERIES)}`,
    says: `Loss by step: ${found.map(({ row, curves }) => `${row.legend} from ${firstAndLast(curves[0]).join(" to ")}`).join("; ")}`,
    xs: [Math.min(...steps), Math.max(...steps)],
    ys: [low - pad, high + pad],
    axis: "step",
    draw: (x, y) => found.map(({ row, curves }) => curves.map((curve) => {
      const drawn = curve.map(([step, loss], n) => [n ? "L" : "M", x(step), y(loss)]);
      const [, lastX, lastY] = drawn[drawn.length - 1];
      return shape("g", { "data-row": row.id, "data-tip": `${row.legend}\nloss ${firstAndLast(curve).join(" at first, ")} at last` },
        path(row, drawn), marker(row, lastX, lastY, 4.5));
    })),
    below: legend(found.map((item) => item.row)),
  });
}

function curvesOf(row) {
  return samplesOf(row)
    .map((round) => round.filter((sample) => sample[5] !== null && sample[1] !== "repeat").map((sample) => [sample[0] + 1, sample[5]]))
    .filter((curve) => curve.length > 1);
}
