// Charts with a line for each row: against the ceiling, first call against steady, what kernels took the time.

const MOST_BARS = 24;
const LINE = 28;
const LINE_BELOW = 44;
const BAR = 16;

// Where names stand: left of the bars, or above them where there is no room; there `beside` takes the end of the line.
function lanes(rows, width, beside) {
  const longest = Math.max(...rows.map((row) => textWidth(row.legend, true))) + 30;
  const besides = beside ? Math.max(...rows.map((row) => textWidth(beside(row)))) + 10 : 0;
  const above = longest > width * 0.36 || longest + besides > width * 0.6;
  const height = above ? LINE_BELOW : LINE;
  return {
    above,
    besides,
    height,
    left: above ? 0 : Math.ceil(longest),
    name(row, n, top) {
      const y = top + n * height + (above ? 13 : 18);
      const content = above ? shortened(row.legend, width - 24 - (beside ? textWidth(beside(row)) + 12 : 0), true) : row.legend;
      return [marker(row, 7, y - 4, 5, { "data-row": row.id }), words(18, y, content, { class: "mono-text", "data-row": row.id })];
    },
    bar: (n, top) => top + n * height + (above ? 21 : 6),
  };
}

// `scale` makes the axis in the room that the names leave, `draw` a row's line, `says` and `each` the words for readers who cannot see the picture.
function laneChart(rows, width, { title, about, says, each, top = 4, right = 10, scale, ticks = 4, draw, beside, extra, axis, format, below }) {
  const shown = rows.slice(0, MOST_BARS);
  const lane = lanes(shown, width, beside);
  if (!lane.above) right += lane.besides;
  const bottom = top + shown.length * lane.height + 4;
  const x = scale(lane.left, width - right, shown);
  return chart(
    title, about && about + capped(rows, MOST_BARS),
    picture(
      width, bottom + AXIS_HEIGHT, `${says}: ${shown.map(each).join(", ")}`,
      ticks && xGrid(x, top, bottom, ticks),
      shown.map((row, n) => draw(row, lane.bar(n, top), x, lane)),
      shown.map((row, n) => lane.name(row, n, top)),
      extra && extra(x, top, bottom),
      xAxis(x, lane.left, width - right, bottom, axis, format),
    ),
    below && below(shown),
  );
}

// What a ratio of 1 stands for.
function unitLine(name) {
  return (x, top, bottom) => [
    shape("line", { class: "ceiling", x1: x(1), x2: x(1), y1: top - 2, y2: bottom }),
    words(x(1), top - 6, name, { class: "dim", "text-anchor": "end" }),
  ];
}

function filledBar(name, from, to, y) {
  return shape("rect", { class: `fill ${name}`, x: from, y, width: Math.max(to - from, 1), height: BAR });
}

const percentOf = (value) => `${Math.round(value * 100)} %`;

function ceilingChart(workload, all, width) {
  const rows = all.filter(hasSpeed);
  if (rows.length < 2) return null;
  return rows.some((row) => speedOf(row).share !== undefined) ? shareBars(workload, rows, width) : speedBars(workload, rows, width);
}

function shareBars(workload, rows, width) {
  const shareOf = (row) => speedOf(row).share;
  return laneChart(rows, width, {
    title: "Against the ceiling",
    about: `Share of what this device was measured to do in the same run, ${protocolName()}; longer is better.`,
    says: "Share of the ceiling",
    each: (row) => `${row.legend} ${speedOf(row).shareText || "no share"}`,
    top: 18,
    scale: (from, to, shown) => linear(0, Math.max(1, ...shown.map((row) => shareOf(row) || 0)), from, to),
    draw: (row, y, x) => shareBar(workload, row, x, y),
    extra: unitLine("ceiling"),
    axis: "of the ceiling",
    format: percentOf,
  });
}

function shareBar(workload, row, x, y) {
  const { share, shareText, bound, bounds, value, interval, text: speed } = speedOf(row);
  const figure = `${speed} ${workload.unit}`;
  if (share === undefined) return words(x(0) + 5, y + 12, `${figure}, no share`, { class: "dim", "data-row": row.id });
  const scaled = (one) => x(share * (workload.better === "higher" ? one / value : value / one));
  const end = x(share);
  const [first, last] = bounds ? [Math.min(...bounds.map(scaled)), Math.max(end, ...bounds.map(scaled))] : [end, end];
  const text = `${shareText} ${bound} · ${figure}`;
  const wide = textWidth(text) + 12;
  const room = x(1) - last > wide;
  const inside = !room && end - x(0) > wide + end - first;
  return shape(
    "g", { "data-row": row.id, "data-tip": `${row.legend}\n${shareText} of the ceiling (${bound})\n${figure} ${interval || ""}` },
    shape("rect", { class: "track", x: x(0), y, width: x(1) - x(0), height: BAR }),
    filledBar(colour(row), x(0), end, y),
    bounds && whisker(bounds.map(scaled), y + BAR / 2),
    inside ? words(first - 7, y + 12, text, { class: "on", "text-anchor": "end" }) : words(last + 6, y + 12, room ? text : shareText),
  );
}

function whisker(ends, y) {
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  return shape("path", { class: "whisker", d: `M${low},${y - 4}v8M${low},${y}H${high}M${high},${y - 4}v8` });
}

function speedBars(workload, rows, width) {
  const farthest = (row) => Math.max(speedOf(row).value, ...(speedOf(row).bounds || []));
  return laneChart(rows, width, {
    title: "Speed",
    about: `${protocolName()}, in ${workload.unit}; ${workload.better} is better. No share of the ceiling is known.`,
    says: `Speed in ${workload.unit}`,
    each: (row) => `${row.legend} ${speedOf(row).text}`,
    right: Math.max(...rows.slice(0, MOST_BARS).map((row) => textWidth(speedOf(row).text))) + 14,
    scale: (from, to, shown) => linear(0, niceTop(Math.max(...shown.map(farthest))), from, to),
    draw: (row, y, x) => {
      const { value, text, bounds, interval } = speedOf(row);
      return shape(
        "g", { "data-row": row.id, "data-tip": `${row.legend}\n${text} ${workload.unit} ${interval || ""}` },
        filledBar(colour(row), x(0), x(value), y),
        bounds && whisker(bounds.map(x), y + BAR / 2),
        words(x(farthest(row)) + 6, y + 12, text),
      );
    },
    axis: workload.unit,
  });
}

function firstCallChart(workload, all, width) {
  const rows = all.filter((row) => row.first && row.steady.seconds);
  if (rows.length < 2) return null;
  const bar = rows.slice(0, MOST_BARS).some((row) => row.first.warm) ? ", bar first call over a warm cache" : "";
  return laneChart(rows, width, {
    title: "First call against steady",
    about: `Seconds of one call: ring steady, dot first call, compilation included${bar}. Logarithmic.`,
    says: "First call against steady",
    each: (row) => `${row.legend} ${row.first.text} s against ${short(perCall(row))} s`,
    scale: (from, to, shown) => {
      const times = shown.flatMap((row) => [row.first.seconds, perCall(row), row.first.warm || row.first.seconds]);
      const low = 10 ** Math.floor(Math.log10(Math.min(...times)));
      return logarithmic(low, Math.max(10 ** Math.ceil(Math.log10(Math.max(...times))), low * 10), from + 8, to);
    },
    draw: (row, y, x, lane) => firstCallLine(row, y + 8, x, lane, width),
    beside: firstCallText,
    axis: "seconds, logarithmic",
  });
}

function firstCallLine(row, y, x, lane, width) {
  const { seconds, text, cache, warm, warmText } = row.first;
  const [from, to] = [x(perCall(row)), x(seconds)];
  const tip = [row.legend, `first call ${text} s ${cache}`, warm && `${warmText} s warm, over a filled compile cache`, `afterwards ${short(perCall(row))} s a call`];
  return shape(
    "g", { "data-row": row.id, "data-tip": tip.filter(Boolean).join("\n") },
    shape("line", { class: `line ${colour(row)}`, x1: from, x2: to, y1: y, y2: y }),
    shape("circle", { class: `hollow ${colour(row)}`, cx: from, cy: y, r: 5 }),
    shape("circle", { class: `mark ${colour(row)}`, cx: to, cy: y, r: 6 }),
    warm && shape("rect", { class: `mark ${colour(row)}`, x: x(warm) - 2.5, y: y - 7, width: 5, height: 14 }),
    words(width, lane.above ? y - 16 : y + 4, firstCallText(row), { class: "dim", "text-anchor": "end" }),
  );
}

function firstCallText(row) {
  const { seconds, text, cache } = row.first;
  const times = seconds / perCall(row);
  return `${text} s${cache && ` ${cache}`}, ${times < 100 ? Number(times.toPrecision(2)) : Math.round(times)}×`;
}

// Of training at many shapes the figure is a total: a call is one step of it.
function perCall(row) {
  if (!row.of.manyShapes) return row.steady.seconds;
  const timed = samplesOf(row).flat().filter((sample) => sample[1] === "timed").length;
  return timed ? row.steady.seconds / timed : row.steady.seconds;
}

const kinds = new Map();
const SHADES_OF_KINDS = 8;
const UNWRITTEN = ["k3", "k5", "k7"]; // neither light nor dark enough to have a name on them

// A kind of kernel has a shade, the same in all rows and tables; the colour is the row's method's, as everywhere.
const kindShade = (name) => "k" + (kept(kinds, name, () => kinds.size) % SHADES_OF_KINDS);

function kernelChart(workload, all, width) {
  const rows = all.filter((row) => row.groups && row.groups.length);
  if (rows.length < 2) return null;
  const operators = rows.slice(0, MOST_BARS).every((row) => row.kinds === "operators");
  const share = (value) => (value === null ? "not known" : `${(value * 100).toFixed(1)} %`);
  return laneChart(rows, width, {
    title: operators ? "Operators" : "Kernels",
    about: `Share of one call's ${operators ? "operators' own" : "device"} time, by kind.`,
    says: "Share of the time by kind",
    each: (row) => `${row.legend}: ${row.groups.map((group) => `${group[0]} ${share(group[1])}`).join(", ")}`,
    scale: (from, to) => linear(0, 1, from, to),
    ticks: null,
    draw: (row, y, x) => {
      let from = 0;
      return row.groups.filter((group) => group[1]).map(([name, part, launches]) => {
        const left = x(Math.min(from, 1));
        from += part;
        const wide = Math.max(x(Math.min(from, 1)) - left, 0);
        return shape(
          "g", { "data-row": row.id, "data-tip": `${row.legend}\n${name}: ${share(part)}, ${plural(launches, "launch", "launches")}` },
          shape("rect", { class: `kind ${colour(row)} ${kindShade(name)}`, x: left, y, width: wide, height: BAR + 1 }),
          wide > textWidth(name) + 8 && !UNWRITTEN.includes(kindShade(name)) && words(left + 5, y + 12.5, name, { class: kindShade(name) === "k0" ? "on" : "on-light" }),
        );
      });
    },
    axis: "of the time",
    format: percentOf,
    below: (shown) => {
      const names = [...new Set(shown.flatMap((row) => row.groups.map((group) => group[0])))];
      const key = (name) => keyBox(shape("rect", { class: `kind ${kindShade(name)}`, x: 1, y: 1, width: 12, height: 12, rx: 2 }));
      return el("ul", { class: "legend" }, names.map((name) => el("li", null, key(name), name)));
    },
  });
}
