// Elements without markup: text stays text, whatever it says.

/** An element with a class (or none) and children: nodes or texts. */
export function element(tag, className = "", ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** Write a text where it has changed. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Write an attribute where it has changed. */
export function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/** Fill a place anew only where what it shows has changed, so that a selection in it lives on. */
export class Place {
  constructor(root) {
    this.root = root;
    this.shown = null;
  }

  show(facts, make) {
    const signature = JSON.stringify(facts);
    if (signature === this.shown) return;
    this.shown = signature;
    this.root.replaceChildren(...make());
  }
}
