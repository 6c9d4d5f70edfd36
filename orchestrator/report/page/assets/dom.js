// Elements are made by hand and every string becomes a text node: nothing from a record is ever parsed as markup.

const el = (tag, attributes, ...children) => filled(document.createElement(tag), attributes, children);

function shape(tag, attributes, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === false || (value ?? null) === null) continue;
    if (name === "on") for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined && child !== false && child !== "") node.append(child);
  return node;
}

const byId = (id) => document.getElementById(id);

// What `map` has under `key`, made when it is first asked for.
function kept(map, key, make) {
  if (!map.has(key)) map.set(key, make());
  return map.get(key);
}

const plural = (count, noun, many = `${noun}s`) => `${count.toLocaleString("en")} ${count === 1 ? noun : many}`;

const canvas = document.createElement("canvas").getContext("2d");
const widths = new Map();
const fonts = [false, true].map((mono) => `12px ${getComputedStyle(document.documentElement).getPropertyValue(mono ? "--mono" : "--sans")}`);

// Width of a text in a chart, in pixels.
function textWidth(text, mono) {
  return kept(widths, (mono ? "m" : "s") + text, () => {
    canvas.font = fonts[mono ? 1 : 0];
    return canvas.measureText(text).width;
  });
}

function shortened(text, pixels, mono) {
  if (textWidth(text, mono) <= pixels) return text;
  let kept = text.length;
  while (kept > 1 && textWidth(text.slice(0, kept) + "…", mono) > pixels) kept -= 1;
  return text.slice(0, kept) + "…";
}
