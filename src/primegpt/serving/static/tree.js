// The text as a tree of tokens: every choice branches, and nothing that was written is lost.

export class Tree {
  constructor() {
    this.root = { id: null, parent: null, children: [], depth: 0 };
    this.leaf = this.root;
    this.chosen = null; // the token that is looked at
    this.about = null; // of a text that is written: { id, run, fingerprint, prompt, settings, when }
  }

  // As plain values: [number of the parent, id, by, logprob] of each node, parents first; 0 is the root.
  pack() {
    const numbers = new Map([[this.root, 0]]);
    const nodes = [];
    const rest = [this.root];
    while (rest.length) {
      for (const child of rest.pop().children) {
        nodes.push([numbers.get(child.parent), child.id, child.by, child.logprob]);
        numbers.set(child, nodes.length);
        rest.push(child);
      }
    }
    return { about: this.about, nodes, leaf: numbers.get(this.leaf) };
  }

  static unpack({ about, nodes, leaf }) {
    const tree = new Tree();
    const made = [tree.root];
    for (const [parent, id, by, logprob] of nodes) made.push(tree.add(made[parent], id, by, logprob));
    tree.about = about;
    tree.go(made[leaf], made[leaf]);
    return tree;
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

  go(node, leaf = this.end(node)) {
    for (let at = node; at !== this.root; at = at.parent) at.parent.last = at;
    this.leaf = leaf;
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
