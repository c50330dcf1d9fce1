// A text shown token by token; one token can be chosen, by click or by arrow keys.

import { arrows, h } from "./dom.js";

export class Sheet {
  constructor(element, choose) {
    Object.assign(this, { element, choose, nodes: [], spans: [] });
    element.setAttribute("role", "listbox");
    element.setAttribute("aria-orientation", "horizontal");
    element.addEventListener("click", (event) => {
      const at = this.spans.indexOf(event.target);
      if (at >= 0) choose(this.nodes[at], at);
    });
    arrows(
      element,
      () => this.spans,
      (at) => choose(this.nodes[at], at),
    );
  }

  show(nodes, vocabulary) {
    this.vocabulary = vocabulary;
    this.nodes = nodes;
    const pieces = vocabulary ? vocabulary.pieces(nodes.map((node) => node.id)) : [];
    this.spans = nodes.map((node, at) => this.span(node, pieces[at]));
    this.element.replaceChildren(...this.spans);
    if (this.spans.length) this.spans[0].tabIndex = 0;
    this.decoder = null;
  }

  // One more token at the end, while a text is being written.
  append(node) {
    this.decoder ??= new TextDecoder();
    const low = this.element.scrollHeight - this.element.scrollTop - this.element.clientHeight < 60;
    const span = this.span(node, this.decoder.decode(this.vocabulary.bytes(node.id), { stream: true }));
    this.nodes.push(node);
    this.spans.push(span);
    this.element.append(span);
    if (low) this.element.scrollTop = this.element.scrollHeight;
  }

  span(node, piece) {
    const special = this.vocabulary.special.has(node.id);
    const kinds = [
      "token",
      `by-${node.by}`,
      special && "special",
      !piece && "part",
      piece.trim() === "" && piece.includes("\n") && "end",
    ]
      .filter(Boolean)
      .join(" ");
    const span = h("span", { class: kinds, role: "option", tabindex: -1, "aria-selected": "false" }, piece);
    this.tell(span, node);
    return span;
  }

  // What is heard of a token, and its tint: 0 for a certain one, 1 for one in ten thousand.
  tell(span, node) {
    const said = this.vocabulary.said(node.id);
    const known = node.logprob != null;
    span.setAttribute("aria-label", known ? `${said}, ${(100 * Math.exp(node.logprob)).toPrecision(2)} percent` : said);
    span.style.setProperty("--heat", known ? heat(node.logprob) : 0);
  }

  retint() {
    this.spans.forEach((span, at) => this.tell(span, this.nodes[at]));
  }

  heat(values) {
    this.spans.forEach((span, at) => span.style.setProperty("--heat", (values[at] ?? 0).toFixed(3)));
  }

  // The place of a token, at the top; of none, the beginning.
  begin(node = null) {
    const span = this.spans[this.nodes.indexOf(node)];
    this.element.scrollTop = span ? span.offsetTop - this.element.offsetTop - 8 : 0;
  }

  reveal(span) {
    const top = span.offsetTop - this.element.offsetTop;
    const [low, high] = [
      this.element.scrollTop,
      this.element.scrollTop + this.element.clientHeight - 2 * span.offsetHeight,
    ];
    if (top < low || top > high) this.element.scrollTop = top - this.element.clientHeight / 2;
  }

  mark(node) {
    const at = this.nodes.indexOf(node);
    this.spans.forEach((span, index) => {
      span.setAttribute("aria-selected", index === at);
      span.tabIndex = index === Math.max(at, 0) ? 0 : -1;
    });
    if (at >= 0) this.reveal(this.spans[at]);
    return at;
  }
}

export const heat = (logprob) => Math.min(1, Math.max(0, -logprob / Math.log(1e4))).toFixed(3);
