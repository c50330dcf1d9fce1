// Elements from names, attributes and children. Text is only ever text: nothing here reads markup.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

function fill(element, attributes = {}, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (name.startsWith("aria-"))
      element.setAttribute(name, value); // "false" says something there
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

export function later(work, wait = 150) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), wait);
  };
}

// When the window gets another width; its height changes on phones as one scrolls.
export function resized(work) {
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    work();
  });
}

// One of `items` can be reached by Tab, the others by arrow keys, Home and End; moving calls `choose(index)`.
export function arrows(container, items, choose) {
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  container.addEventListener("keydown", (event) => {
    const all = items();
    const at = all.indexOf(event.target);
    if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    let to = at + (steps[event.key] ?? 0);
    if (event.key === "Home") to = 0;
    if (event.key === "End") to = all.length - 1;
    to = Math.min(Math.max(to, 0), all.length - 1);
    if (to === at) return;
    event.preventDefault();
    choose(to);
    items()[to].focus();
  });
}

// Likewise for rows of items, which arrow keys go through in both directions; moving calls `choose(row, column)`.
export function grid(container, rows, choose) {
  const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
  container.addEventListener("keydown", (event) => {
    const all = rows();
    const row = all.findIndex((items) => items.includes(event.target));
    if (row < 0 || !(event.key in steps) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const [down, across] = steps[event.key];
    const to = all[row + down];
    const at = all[row].indexOf(event.target) + across;
    if (!to?.[at]) return;
    choose(row + down, at);
    to[at].focus();
  });
}

// A colour of the style sheet, as it is in the theme that is shown, for canvases.
export function colour(name) {
  const probe = h("span", {});
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

export const signed = (value, digits = 2) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;

export const ordinal = (n) => {
  const tail = n % 100 > 10 && n % 100 < 14 ? "th" : ({ 1: "st", 2: "nd", 3: "rd" }[n % 10] ?? "th");
  return n === 1 ? "very" : `${count(n)}${tail}`;
};

export const percent = (p) => {
  const value = 100 * p;
  if (value > 0 && value < 0.01) return "< 0.01 %";
  return `${value >= 99.95 ? 100 : value.toFixed(value >= 10 ? 1 : 2)} %`;
};

// As many equally likely ones as an entropy or a surprise amounts to.
export const among = (n) => (n < 100 ? n.toFixed(1) : count(Math.round(n)));

export const count = (n) => n.toLocaleString("en");
