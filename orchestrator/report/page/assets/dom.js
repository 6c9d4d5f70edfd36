// Elements are made by hand and every string becomes a text node: nothing from a record is ever parsed as markup.

function el(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function shape(tag, attributes, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined && child !== false && child !== "") node.append(child);
  return node;
}

function byId(id) {
  return document.getElementById(id);
}

function plural(count, noun, many = `${noun}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? noun : many}`;
}

const canvas = document.createElement("canvas").getContext("2d");
const widths = new Map();
const fonts = [false, true].map((mono) => `12px ${getComputedStyle(document.documentElement).getPropertyValue(mono ? "--mono" : "--sans")}`);

// Width of a text in a chart, in pixels.
function textWidth(text, mono) {
  const key = (mono ? "m" : "s") + text;
  if (!widths.has(key)) {
    canvas.font = fonts[mono ? 1 : 0];
    widths.set(key, canvas.measureText(text).width);
  }
  return widths.get(key);
}

function shortened(text, pixels, mono) {
  if (textWidth(text, mono) <= pixels) return text;
  let kept = text.length;
  while (kept > 1 && textWidth(text.slice(0, kept) + "…", mono) > pixels) kept -= 1;
  return text.slice(0, kept) + "…";
}
