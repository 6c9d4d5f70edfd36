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

// What may be wider than its box: it then scrolls sideways, by key too, and says so.
function sideways(name, wide) {
  const box = el("div", { class: "scroll", role: "region", "aria-label": name }, wide);
  const hint = el("p", { class: "hint", "aria-hidden": "true", hidden: true }, "Scroll sideways for more →");
  const look = () => {
    const beyond = box.scrollWidth - box.clientWidth;
    box.classList.toggle("pushed", beyond > 1);
    box.classList.toggle("more", beyond - box.scrollLeft > 1);
    box.tabIndex = beyond > 1 ? 0 : -1;
    hint.hidden = beyond <= 1;
  };
  box.addEventListener("scroll", look, { passive: true });
  const seen = new ResizeObserver(look);
  seen.observe(box);
  seen.observe(wide);
  return [box, hint];
}

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
