// The map of one head: rows read, columns are read from. A cursor, moved by press or arrow keys, tells each number.

import { percent, s } from "./dom.js";

const LARGE = 36; // tokens on the map, fewer where it is narrow
const SIZE = 16;
const STEPS = { ArrowRight: [0, 1], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowUp: [-1, 0] };

export class Heatmap {
  constructor(element, output) {
    Object.assign(this, { element, output, row: 0, column: 0, map: null });
    element.addEventListener("keydown", (event) => {
      const step = STEPS[event.key];
      if (!step || !this.map) return;
      event.preventDefault();
      this.move(this.row + step[0], this.column + step[1]);
    });
    element.addEventListener("click", (event) => {
      const svg = element.firstElementChild;
      if (!svg) return;
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      this.move(Math.floor((point.y - this.top) / SIZE), Math.floor((point.x - this.left) / SIZE));
    });
  }

  // `map`: { bytes, tokens, head, at, names, label }; the end of the text, or what lies around the chosen token. The
  // same map again, as at another width, has its cursor where it was.
  show(map) {
    const { tokens, head, at, bytes } = map;
    const same = this.map?.bytes === bytes && this.map.head === head && this.map.at === at;
    const [row, column] = same ? [this.first + this.row, this.first + this.column] : [-1, -1];
    this.map = map;
    this.shown = Math.min(LARGE, tokens, Math.max(12, Math.floor(this.element.clientWidth / 20)));
    this.first = Math.min(Math.max(0, at - this.shown + 6), tokens - this.shown);
    const names = map.names.slice(this.first, this.first + this.shown).map((name) => name.slice(0, 12));
    const longest = Math.max(...names.map((name) => name.length));
    [this.left, this.top] = [12 + 6.5 * longest, 14 + 5.5 * longest];
    const edge = SIZE * this.shown;
    this.root = (row, column) => bytes[(head * tokens + this.first + row) * tokens + this.first + column] / 255;
    const bed = s("path", { class: "bed", d: `M${this.left} ${this.top}v${edge}h${edge}Z` });
    const around = { viewBox: `0 0 ${this.left + edge + 48} ${this.top + edge + 4}`, "aria-hidden": "true" };
    const svg = s("svg", around, bed, this.cells(), this.line(at - this.first), this.titles(names));
    this.cursor = this.box("cursor", 0, 0, SIZE);
    svg.append(this.cursor);
    this.element.replaceChildren(svg);
    this.element.setAttribute("aria-label", map.label);
    if (!this.move(row - this.first, column - this.first)) this.point(Math.min(Math.max(0, at - this.first), this.shown - 1));
  }

  // At what a row reads most.
  point(row) {
    const most = Array.from({ length: row + 1 }, (_, column) => this.root(row, column));
    this.move(row, most.indexOf(Math.max(...most)));
  }

  clear() {
    this.map = null;
    this.element.replaceChildren();
  }

  cells() {
    const found = [];
    for (let row = 0; row < this.shown; row++) {
      for (let column = 0; column <= row; column++) {
        const shade = this.root(row, column);
        if (shade < 0.03) continue;
        const cell = this.box("cell", row, column, SIZE - 1);
        cell.setAttribute("opacity", shade.toFixed(3));
        found.push(cell);
      }
    }
    return found;
  }

  box(kind, row, column, width) {
    const [x, y] = [this.left + column * SIZE, this.top + row * SIZE];
    return s("rect", { class: kind, x, y, width, height: width, rx: 2 });
  }

  // Around the row of the chosen token.
  line(row) {
    if (row < 0 || row >= this.shown) return null;
    const box = this.box("line", row, 0, SIZE);
    box.setAttribute("width", (row + 1) * SIZE);
    return box;
  }

  titles(names) {
    return names.flatMap((name, at) => [
      s("text", { x: this.left - 7, y: this.top + at * SIZE + 12, "text-anchor": "end" }, name),
      s("text", { transform: `translate(${this.left + at * SIZE + 11} ${this.top - 7}) rotate(-60)` }, name),
    ]);
  }

  // False where there is no such cell.
  move(row, column) {
    if (row < 0 || row >= this.shown || column < 0 || column > row) return false;
    Object.assign(this, { row, column });
    this.cursor.setAttribute("x", this.left + column * SIZE);
    this.cursor.setAttribute("y", this.top + row * SIZE);
    const name = (at) => `“${this.map.names[this.first + at]}”`;
    const from = row === column ? "itself" : name(column);
    this.output.textContent = `${name(row)} reads ${percent(this.root(row, column) ** 2)} from ${from}.`;
    return true;
  }
}
