// The text as a tree of tokens: every choice branches, and nothing that was written is lost.

export class Tree {
  constructor() {
    this.root = { id: null, parent: null, children: [], depth: 0 };
    this.leaf = this.root;
    this.chosen = null; // the token that is looked at
    this.about = null; // of a text that is written: { id, run, fingerprint, prompt, settings, when }
  }

  // As plain values: [number of the parent, id, by, logprob, number of its draw] of each node, parents first; 0 is the
  // root.
  pack() {
    const numbers = new Map([[this.root, 0]]);
    const nodes = [];
    const draws = new Map();
    const rest = [this.root];
    while (rest.length) {
      for (const child of rest.pop().children) {
        const { id, by, logprob, draw } = child;
        if (draw && !draws.has(draw)) draws.set(draw, draws.size);
        nodes.push([numbers.get(child.parent), id, by, logprob, draws.get(draw)]);
        numbers.set(child, nodes.length);
        rest.push(child);
      }
    }
    return { about: this.about, nodes, draws: [...draws.keys()], leaf: numbers.get(this.leaf) };
  }

  static unpack(packed) {
    const tree = new Tree();
    const made = tree.graft(packed);
    tree.about = packed.about;
    const leaf = made[packed.leaf];
    tree.go(leaf, leaf);
    return tree;
  }

  // The branches of a packed tree beside those that are here; the one that is shown stays. Returns the nodes in order.
  graft({ nodes, draws = [] }) {
    const made = [this.root];
    for (const [parent, id, by, logprob, draw] of nodes) {
      const { last, children } = made[parent];
      const size = children.length;
      const node = this.add(made[parent], id, by, logprob);
      if (children.length === size) made[parent].last = last;
      node.draw ??= draws[draw];
      made.push(node);
    }
    this.go(this.leaf, this.leaf);
    return made;
  }

  // The child of `node` with this id, made if there is none; `by` is "prompt", "model" or "hand". One that the model
  // wrote has a `draw`, what it was drawn with last: { run, step, settings, depth }, from the token at `depth` on.
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
