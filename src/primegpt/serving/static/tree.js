// The text as a tree of tokens: every choice branches, and nothing that was written is lost.

export class Tree {
  constructor() {
    this.root = { id: null, parent: null, children: [], depth: 0 };
    this.leaf = this.root;
    this.chosen = null; // the token that is looked at
  }

  // The child of `node` with this id, made if there is none; `by` is "prompt", "model" or "hand".
  add(node, id, by, logprob = null) {
    let child = node.children.find((other) => other.id === id);
    if (!child) {
      child = { id, by, logprob, rank: null, parent: node, children: [], depth: node.depth + 1 };
      node.children.push(child);
    }
    node.last = child; // where a visit to this branch goes on
    return child;
  }

  path(node = this.leaf) {
    const found = [];
    for (let at = node; at !== this.root; at = at.parent) found.push(at);
    return found.reverse();
  }

  ids(node = this.leaf) {
    return this.path(node).map((at) => at.id);
  }

  // The end of the branch that `node` lies on, as it was last visited.
  end(node) {
    while (node.last) node = node.last;
    return node;
  }

  go(node) {
    for (let at = node; at !== this.root; at = at.parent) at.parent.last = at;
    this.leaf = this.end(node);
  }

  // Runs of tokens without a choice, each with the runs that follow it.
  segments(node = this.root) {
    return node.children.map((first) => {
      const nodes = [first];
      while (nodes.at(-1).children.length === 1) nodes.push(nodes.at(-1).children[0]);
      return { nodes, following: this.segments(nodes.at(-1)) };
    });
  }
}
