// Charts with a line for each row: against the ceiling, first call against steady, what kernels took the time.

const MOST_BARS = 24;
const LINE = 28;
const LINE_BELOW = 44;

// Where names stand: left of the bars, or above them where there is no room.
function lanes(rows, width, nameOf) {
  const longest = Math.max(...rows.map((row) => textWidth(nameOf(row), true))) + 30;
  const above = longest > width * 0.36;
  return {
    above,
    left: above ? 0 : Math.ceil(longest),
    height: above ? LINE_BELOW : LINE,
    name(row, n, top) {
      const y = top + n * (above ? LINE_BELOW : LINE) + (above ? 13 : 18);
      const content = above ? shortened(nameOf(row), width - 24, true) : nameOf(row);
      return [marker(row, 7, y - 4, 5, { "data-row": row.id }), words(18, y, content, { class: "mono-text", "data-row": row.id })];
    },
    bar(n, top) {
      return top + n * (above ? LINE_BELOW : LINE) + (above ? 21 : 6);
    },
  };
}

function capped(rows, what) {
  return rows.length > MOST_BARS ? ` The best ${MOST_BARS} of ${plural(rows.length, what)}.` : "";
}

function sharesOf(row, workload) {
  const speed = speedOf(row);
  if (speed.share === undefined) return null;
  const scaled = (bound) => speed.share * (workload.better === "higher" ? bound / speed.value : speed.value / bound);
  return { share: speed.share, whisker: speed.bounds ? speed.bounds.map(scaled) : null };
}

function ceilingChart(workload, all, width) {
  const rows = all.filter(hasSpeed);
  if (!rows.length) return null;
  const known = rows.some((row) => speedOf(row).share !== undefined);
  const shown = rows.slice(0, MOST_BARS);
  return known ? shareBars(workload, shown, rows, width) : speedBars(workload, shown, rows, width);
}

function shareBars(workload, shown, rows, width) {
  const lane = lanes(shown, width, (row) => row.legend);
  const found = shown.map((row) => sharesOf(row, workload));
  const top = 18;
  const bottom = top + shown.length * lane.height + 4;
  const high = Math.max(1, ...found.map((item) => (item ? item.share : 0)));
  const x = linear(0, high, lane.left, width - 10);
  const bars = shown.map((row, n) => shareBar(workload, row, found[n], x, lane, lane.bar(n, top)));
  const percent = (value) => `${Math.round(value * 100)} %`;
  const told = shown.map((row, n) => `${row.legend} ${found[n] ? speedOf(row).shareText : "no share"}`).join(", ");
  return chart(
    "Against the ceiling",
    `Share of what this device was measured to do in the same run, ${protocolName()}; longer is better.${capped(rows, "row")}`,
    picture(
      width, bottom + AXIS_HEIGHT, `Share of the ceiling: ${told}`,
      xGrid(x, top, bottom, 4), bars, shown.map((row, n) => lane.name(row, n, top)),
      shape("line", { class: "ceiling", x1: x(1), x2: x(1), y1: top - 2, y2: bottom }),
      words(x(1), top - 6, "ceiling", { class: "dim", "text-anchor": "end" }),
      xAxis(x, lane.left, width - 10, bottom, "of the ceiling", percent),
    ),
  );
}

function shareBar(workload, row, found, x, lane, y) {
  const height = 16;
  const speed = speedOf(row);
  const figure = `${speed.text} ${workload.unit}`;
  if (!found) return words(x(0) + 5, y + 12, `${figure}, no share`, { class: "dim", "data-row": row.id });
  const tip = `${row.legend}\n${speed.shareText} of the ceiling (${speed.bound})\n${figure}${speed.interval ? " " + speed.interval : ""}`;
  const end = x(found.share);
  const text = `${speed.shareText} ${speed.bound} · ${figure}`;
  const wide = textWidth(text) + 12;
  const whiskerEnd = found.whisker ? x(Math.max(...found.whisker)) : end;
  const room = x(1) - Math.max(end, whiskerEnd) > wide;
  const inside = !room && end - x(0) > wide + (found.whisker ? end - x(Math.min(...found.whisker)) : 0);
  const inner = found.whisker ? x(Math.min(...found.whisker)) : end;
  return shape(
    "g", { "data-row": row.id, "data-tip": tip },
    shape("rect", { class: "track", x: x(0), y, width: x(1) - x(0), height }),
    shape("rect", { class: `fill ${colour(row)}`, x: x(0), y, width: Math.max(end - x(0), 1), height }),
    found.whisker ? whisker(x, found.whisker, y + height / 2) : null,
    room ? words(Math.max(end, whiskerEnd) + 6, y + 12, text, null) : null,
    inside ? words(inner - 7, y + 12, text, { class: "on", "text-anchor": "end" }) : null,
    !room && !inside ? words(Math.max(end, whiskerEnd) + 6, y + 12, speed.shareText, null) : null,
  );
}

function whisker(x, bounds, y) {
  const [low, high] = [x(Math.min(...bounds)), x(Math.max(...bounds))];
  return shape("path", { class: "whisker", d: `M${low},${y - 4}v8M${low},${y}H${high}M${high},${y - 4}v8` });
}

function speedBars(workload, shown, rows, width) {
  const lane = lanes(shown, width, (row) => row.legend);
  const top = 4;
  const bottom = top + shown.length * lane.height + 4;
  const high = niceTop(Math.max(...shown.map((row) => Math.max(speedOf(row).value, ...(speedOf(row).bounds || [])))));
  const room = Math.max(...shown.map((row) => textWidth(speedOf(row).text))) + 14;
  const x = linear(0, high, lane.left, width - room);
  const bars = shown.map((row, n) => {
    const y = lane.bar(n, top);
    const speed = speedOf(row);
    const end = Math.max(x(speed.value), speed.bounds ? x(Math.max(...speed.bounds)) : 0);
    return shape(
      "g", { "data-row": row.id, "data-tip": `${row.legend}\n${speed.text} ${workload.unit} ${speed.interval || ""}` },
      shape("rect", { class: `fill ${colour(row)}`, x: x(0), y, width: Math.max(x(speed.value) - x(0), 1), height: 16 }),
      speed.bounds ? whisker(x, speed.bounds, y + 8) : null,
      words(end + 6, y + 12, speed.text, null),
    );
  });
  const told = shown.map((row) => `${row.legend} ${speedOf(row).text}`).join(", ");
  return chart(
    "Speed",
    `${protocolName()}, in ${workload.unit}; ${workload.better} is better. No share of the ceiling is known.${capped(rows, "row")}`,
    picture(
      width, bottom + AXIS_HEIGHT, `Speed in ${workload.unit}: ${told}`,
      xGrid(x, top, bottom, 4), bars, shown.map((row, n) => lane.name(row, n, top)),
      xAxis(x, lane.left, width - room, bottom, workload.unit),
    ),
  );
}

function firstCallChart(workload, all, width) {
  const rows = all.filter((row) => row.first && row.steady.seconds);
  if (!rows.length) return null;
  const shown = rows.slice(0, MOST_BARS);
  const lane = lanes(shown, width, (row) => row.legend);
  const top = 4;
  const bottom = top + shown.length * lane.height + 4;
  const times = shown.flatMap((row) => [row.first.seconds, perCall(row), row.first.warm || row.first.seconds]);
  const low = 10 ** Math.floor(Math.log10(Math.min(...times)));
  const high = Math.max(10 ** Math.ceil(Math.log10(Math.max(...times))), low * 10);
  const x = logarithmic(low, high, lane.left + 8, width - 10);
  const lines = shown.map((row, n) => {
    const y = lane.bar(n, top) + 8;
    const [from, to] = [x(perCall(row)), x(row.first.seconds)];
    const times_ = row.first.seconds / perCall(row);
    const text = `${row.first.text} s${row.first.cache ? ` ${row.first.cache}` : ""}, ${short(times_).replace(/\.0+$/, "")}×`;
    return shape(
      "g", { "data-row": row.id, "data-tip": `${row.legend}\nfirst call ${row.first.text} s ${row.first.cache}\n${row.first.warm ? `${row.first.warmText} s warm, over a filled compile cache\n` : ""}afterwards ${short(perCall(row))} s a call` },
      shape("line", { class: `line ${colour(row)}`, x1: from, x2: to, y1: y, y2: y }),
      shape("circle", { class: `hollow ${colour(row)}`, cx: from, cy: y, r: 5 }),
      shape("circle", { class: `mark ${colour(row)}`, cx: to, cy: y, r: 6 }),
      row.first.warm ? shape("rect", { class: `mark ${colour(row)}`, x: x(row.first.warm) - 2.5, y: y - 7, width: 5, height: 14 }) : null,
      firstCallText(text, lane, [from, to], y, width),
    );
  });
  const told = shown.map((row) => `${row.legend} ${row.first.text} s against ${short(perCall(row))} s`).join(", ");
  return chart(
    "First call against steady",
    `Seconds of one call: ring steady, dot first call, compilation included${shown.some((row) => row.first.warm) ? ", bar first call over a warm cache" : ""}. Logarithmic.${capped(rows, "row")}`,
    picture(
      width, bottom + AXIS_HEIGHT, `First call against steady: ${told}`,
      xGrid(x, top, bottom), lines, shown.map((row, n) => lane.name(row, n, top)),
      xAxis(x, lane.left, width - 10, bottom, "seconds, logarithmic"),
    ),
  );
}

function firstCallText(text, lane, [from, to], y, width) {
  if (lane.above) return words(width - 10, y - 16, text, { class: "dim", "text-anchor": "end" });
  const right = Math.max(from, to) + 10;
  if (right + textWidth(text) <= width) return words(right, y + 4, text, { class: "dim" });
  return words((from + to) / 2, y - 6, text, { class: "dim", "text-anchor": "middle" });
}

// Of training at many shapes the figure is a total: a call is one step of it.
function perCall(row) {
  if (!row.of.manyShapes) return row.steady.seconds;
  const timed = samplesOf(row).flat().filter((sample) => sample[1] === "timed").length;
  return timed ? row.steady.seconds / timed : row.steady.seconds;
}

const kinds = new Map();

function kindClass(name) {
  if (!kinds.has(name)) kinds.set(name, kinds.size);
  return "c" + (kinds.get(name) % COLOURS);
}

function kernelChart(workload, all, width) {
  const rows = all.filter((row) => row.groups && row.groups.length);
  if (!rows.length) return null;
  const shown = rows.slice(0, MOST_BARS);
  const lane = lanes(shown, width, (row) => row.legend);
  const top = 4;
  const bottom = top + shown.length * lane.height + 4;
  const x = linear(0, 1, lane.left, width - 10);
  const names = [...new Set(shown.flatMap((row) => row.groups.map((group) => group[0])))];
  const lines = shown.map((row, n) => {
    let from = 0;
    return row.groups.filter((group) => group[1]).map(([name, share, launches]) => {
      const left = x(Math.min(from, 1));
      from += share;
      const wide = Math.max(x(Math.min(from, 1)) - left, 0);
      const y = lane.bar(n, top);
      const tip = `${row.legend}\n${name}: ${(share * 100).toFixed(1)} %, ${plural(launches, "launch").replace(/launchs$/, "launches")}`;
      const fitted = wide > textWidth(name) + 8;
      return shape(
        "g", { "data-row": row.id, "data-tip": tip },
        shape("rect", { class: `fill cut ${kindClass(name)}`, x: left, y, width: wide, height: 17 }),
        fitted ? words(left + 5, y + 12.5, name, { class: "on" }) : null,
      );
    });
  });
  const told = shown.map((row) => `${row.legend}: ${row.groups.map((g) => `${g[0]} ${g[1] === null ? "not known" : (g[1] * 100).toFixed(1) + " %"}`).join(", ")}`).join("; ");
  const operators = shown.every((row) => row.kinds === "operators");
  return chart(
    operators ? "Operators" : "Kernels",
    `Share of one call's ${operators ? "operators' own" : "device"} time, by kind.${capped(rows, "row")}`,
    picture(
      width, bottom + AXIS_HEIGHT, `Share of the time by kind. ${told}`,
      lines, shown.map((row, n) => lane.name(row, n, top)),
      xAxis(x, lane.left, width - 10, bottom, "of the time", (value) => `${Math.round(value * 100)} %`),
    ),
    el("ul", { class: "legend" }, names.map((name) => el("li", null, swatch(kindClass(name)), name))),
  );
}

function swatch(name) {
  return shape("svg", { class: "key", width: 14, height: 14, "aria-hidden": "true" }, shape("rect", { class: `fill ${name}`, x: 1, y: 1, width: 12, height: 12, rx: 2 }));
}
