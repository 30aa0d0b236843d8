// Nodes as cards, devices as bars. One place of the tab order; arrows move from device to device.

import { Bar } from "./bar.js";
import { element, setAttribute, setText } from "./dom.js";
import { fullest, isShown, partsOf, sentence, widthOf } from "./shares.js";
import { percent, product, shortName } from "./words.js";

/** The key of a device: the same after the map has been written anew. */
export function keyOf(node, device) {
  const own = device.isReplica ? device.holders[0].pod : (device.uuid ?? device.index);
  return `${node.node} ${node.resource ?? ""} ${own}`;
}

// A sentence is written anew at every so many updates: nobody hears 400 of them within a second.
const UPDATES_OF_A_SENTENCE = 5;

export class DeviceMap {
  constructor(root, onSelect) {
    this.root = root;
    this.onSelect = onSelect;
    this.cards = new Map();
    this.order = [];
    this.focused = null;
    this.updates = 0;
    root.addEventListener("click", (event) => this.clicked(event));
    root.addEventListener("keydown", (event) => this.pressed(event));
    root.addEventListener("focusin", (event) => this.rove(event.target.dataset.key));
  }

  /** Draw what has changed. How many devices are shown. */
  update(nodes, replicas, asked, selected) {
    this.place(nodes);
    this.updates += 1;
    let num = 0;
    for (const card of this.cards.values()) {
      let numHere = 0;
      for (const row of card.rows) {
        const parts = partsOf(row.device, replicas);
        const shown = isShown(row.device, parts, card.node, asked);
        if (row.root.hidden === shown) row.root.hidden = !shown;
        if (!shown) continue;
        numHere += 1;
        this.draw(row, parts, card.node, selected);
      }
      const isEmpty = card.rows.length > 0 && numHere === 0;
      const isLeftOut = isEmpty || (card.rows.length === 0 && (asked.find !== "" || asked.shown === "full"));
      if (card.root.hidden !== isLeftOut) card.root.hidden = isLeftOut;
      num += numHere;
    }
    this.keepRoving();
    return num;
  }

  draw(row, parts, node, selected) {
    row.bar.update(parts, widthOf(row.device, parts));
    const most = fullest(parts);
    const hasKV = parts.some((part) => part.kind === "kv");
    let level = "";
    if (most !== null) level = percent(most.used);
    else if (hasKV || row.device.promised === null) level = "?";
    setText(row.level, level);
    if (row.isClosed !== (most?.isClosed ?? false)) {
      row.isClosed = most?.isClosed ?? false;
      row.root.classList.toggle("closed", row.isClosed);
    }
    const isDue = (this.updates + row.device.index) % UPDATES_OF_A_SENTENCE === 0;
    if (isDue || row.key === this.focused || !row.told.firstChild) setText(row.told, sentence(row.device, parts, node));
    setAttribute(row.root, "aria-selected", String(row.key === selected));
  }

  // Cards.

  place(nodes) {
    const had = document.activeElement?.dataset?.key;
    const cards = new Map();
    let hasChanged = nodes.length !== this.cards.size;
    nodes.forEach((node, number) => {
      const key = `${node.node} ${node.resource ?? ""}`;
      let card = this.cards.get(key);
      if (!card || (card.node !== node && card.shape !== JSON.stringify(node))) {
        card = this.card(node, number);
        hasChanged = true;
      }
      card.node = node;
      node.devices.forEach((device, index) => { card.rows[index].device = device; });
      cards.set(key, card);
    });
    if (!hasChanged) return;
    this.cards = cards;
    this.root.replaceChildren(...[...cards.values()].map((card) => card.root));
    this.order = [...cards.values()].flatMap((card) => card.rows);
    if (had) this.order.find((row) => row.key === had)?.root.focus({ preventScroll: true });
  }

  card(node, number) {
    const root = element("div", "node");
    root.setAttribute("role", "group");
    const why = node.unusable ?? node.devicesUnknown;
    root.setAttribute("aria-label", why ? `${node.node}, ${why}` : node.node);
    const name = element("span", "name", node.node);
    name.title = node.node;
    const head = element("div", "head", name);
    if (node.isReplicas) head.append(element("span", "quiet", "KV caches"));
    else head.append(element("span", "quiet", `${node.numDevices} × ${product(node.devices[0]?.product)}`));
    if (node.mode === "shared") head.append(element("span", "badge", "shared"));
    if (node.unusable) head.append(element("span", "badge bad", node.unusable));
    root.append(head);
    if (node.devicesUnknown) root.append(element("p", "quiet unknown-devices", `devices unknown: ${node.devicesUnknown}`));
    const rows = node.devices.map((device) => this.row(node, device, number));
    const first = node.isReplicas ? -1 : node.devices.findIndex((device) => device.isReplica);
    rows.forEach((row, index) => {
      if (index === first) root.append(element("p", "quiet where", "KV caches of replicas on devices that nobody names:"));
      root.append(row.root);
    });
    return { root, node, rows, shape: JSON.stringify(node) };
  }

  row(node, device, number) {
    const root = element("div", device.isReplica ? "device replica" : "device");
    const key = keyOf(node, device);
    root.setAttribute("role", "option");
    root.setAttribute("aria-selected", "false");
    root.tabIndex = -1;
    root.dataset.key = key;
    const name = device.isReplica ? shortName(device.holders[0].pod) : String(device.index);
    const label = element("span", "index", name);
    if (device.isReplica) label.title = device.holders[0].pod;
    const bar = element("span", "bar");
    const level = element("span", "level");
    bar.setAttribute("aria-hidden", "true");
    const told = element("span", "unseen");
    root.append(label, bar, level, told);
    if (device.unusable) root.classList.add("unusable");
    return { root, key, node: number, device, bar: new Bar(bar), level, told, isClosed: false };
  }

  // The one that has the focus, or would have it.

  rove(key) {
    if (!key || key === this.focused) return;
    this.focused = key;
    this.keepRoving();
  }

  keepRoving() {
    const visible = this.visible();
    const target = visible.find((row) => row.key === this.focused) ?? visible[0];
    if (this.tabbed === target && target?.root.tabIndex === 0) return;
    if (this.tabbed) this.tabbed.root.tabIndex = -1;
    this.tabbed = target;
    if (target) target.root.tabIndex = 0;
  }

  visible() {
    return this.order.filter((row) => !row.root.hidden);
  }

  clicked(event) {
    const key = event.target.closest("[data-key]")?.dataset.key;
    if (!key) return;
    this.rove(key);
    this.tabbed?.root.focus({ preventScroll: true });
    this.onSelect(key);
  }

  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const rows = this.visible();
    const at = rows.findIndex((row) => row.key === this.focused);
    let to = null;
    if (event.key === "ArrowDown") to = at + 1;
    else if (event.key === "ArrowUp") to = at - 1;
    else if (event.key === "ArrowRight") to = this.beside(rows, at, 1);
    else if (event.key === "ArrowLeft") to = this.beside(rows, at, -1);
    else if (event.key === "Home") to = 0;
    else if (event.key === "End") to = rows.length - 1;
    else if (event.key === "Enter" || event.key === " ") this.onSelect(this.focused);
    else if (event.key === "Escape") this.onSelect(null);
    else return;
    event.preventDefault();
    const row = to === null ? null : rows[Math.max(0, Math.min(rows.length - 1, to))];
    row?.root.focus();
  }

  /** The same device of the next node that is shown, or its last one. */
  beside(rows, at, step) {
    if (at < 0) return 0;
    const here = rows[at].node;
    const first = rows.findIndex((row) => row.node === here);
    const others = [...new Set(rows.map((row) => row.node))];
    const there = others[others.indexOf(here) + step];
    if (there === undefined) return at;
    const begins = rows.findIndex((row) => row.node === there);
    const length = rows.filter((row) => row.node === there).length;
    return begins + Math.min(at - first, length - 1);
  }
}

