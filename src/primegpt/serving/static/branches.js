// The tree of branches as nested lists; the branch that is shown is marked.

import { h } from "./dom.js";
import { state } from "./state.js";

export function drawBranches(container, go) {
  const shown = new Set(state.tree.path());
  const list = (segments) =>
    h(
      "ul",
      {},
      segments.map((segment) =>
        h("li", {}, button(segment), segment.following.length ? list(segment.following) : null),
      ),
    );

  function button({ nodes }) {
    const text = state.vocabulary
      .pieces(nodes.map((node) => node.id))
      .join("")
      .replace(/\s+/g, " ")
      .trim();
    const size = h("small", {}, `${nodes.length}`);
    size.setAttribute("aria-label", `${nodes.length} tokens`);
    return h(
      "button",
      { type: "button", "aria-current": shown.has(nodes[0]) ? "true" : "false", onclick: () => go(nodes[0]) },
      text.slice(0, 80) || "∅",
      size,
    );
  }

  container.replaceChildren(list(state.tree.segments()));
}
