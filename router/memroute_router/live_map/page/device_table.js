// The same devices as a table, number by number: for screen readers, and to read off or copy.

import { element, setText } from "./dom.js";
import { keyOf } from "./device_map.js";
import { byKind, fullest, isShown, partsOf } from "./shares.js";
import { UNKNOWN, bytes, percent, product } from "./words.js";

const COLUMNS = [
  "Device", "Product", "Usable", "Weights", "Overhead", "KV used", "KV free", "Other promise", "Foreign", "Free",
  "Fullest KV", "Replicas",
];

/** The cells of a device as texts; a dash: not there; what nobody knows says so. */
export function cells(device, parts, node) {
  const kinds = byKind(parts);
  const size = (kind) => (kinds.get(kind) ? bytes(kinds.get(kind)) : "–");
  const most = fullest(parts);
  const hasKV = parts.some((part) => part.kind === "kv");
  const isBytes = !device.isReplica;
  const told = (value) => (value === 0 ? "–" : bytes(value));
  const kv = (kind) => (kinds.has("kv-unknown") && !kinds.has(kind) ? UNKNOWN : size(kind));
  return [
    isBytes ? product(device.product) : "–",
    isBytes ? bytes(device.usable) : UNKNOWN,
    isBytes ? size("weights") : UNKNOWN,
    isBytes ? size("overhead") : UNKNOWN,
    isBytes ? kv("kv-used") : UNKNOWN,
    isBytes ? kv("kv-free") : UNKNOWN,
    device.promised === null || !isBytes ? UNKNOWN : size("promised"),
    told(device.foreign),
    told(device.free),
    most === null ? (hasKV ? UNKNOWN : "–") : percent(most.used) + (most.isClosed ? ", closed" : ""),
    device.holders.map((one) => one.pod).concat(device.strangers).join(", ")
      || device.unusable || node.unusable || (device.promised === null ? UNKNOWN : "–"),
  ];
}

/** Rows are grids of their own, so that browsers may no longer take them for a table's: they say so. */
function withRole(role, made) {
  made.setAttribute("role", role);
  return made;
}

export class DeviceTable {
  constructor(root, onSelect) {
    this.root = root;
    this.rows = [];
    this.keys = "";
    root.addEventListener("click", (event) => {
      const key = event.target.closest("button")?.dataset.key;
      if (key) onSelect(key);
    });
  }

  /** Draw what has changed. How many devices are shown. */
  update(nodes, replicas, asked, selected) {
    const devices = nodes.flatMap((node) => node.devices.map((device) => ({ node, device, key: keyOf(node, device) })));
    const keys = devices.map((one) => one.key).join("\n");
    if (keys !== this.keys) {
      this.keys = keys;
      this.make(devices);
    }
    let num = 0;
    devices.forEach(({ node, device, key }, index) => {
      const row = this.rows[index];
      const parts = partsOf(device, replicas);
      const shown = isShown(device, parts, node, asked);
      if (row.root.hidden === shown) row.root.hidden = !shown;
      if (!shown) return;
      num += 1;
      cells(device, parts, node).forEach((text, cell) => setText(row.cells[cell], text));
      row.button.setAttribute("aria-pressed", String(key === selected));
    });
    return num;
  }

  make(devices) {
    const body = element("tbody");
    this.rows = devices.map(({ node, device, key }) => {
      const button = element("button", "plain", device.isReplica ? device.holders[0].pod : `${node.node} ${device.index}`);
      button.type = "button";
      button.dataset.key = key;
      const head = withRole("rowheader", element("th", "", button));
      head.scope = "row";
      const own = COLUMNS.slice(1).map((_, index) => withRole("cell", element("td", index > 0 && index < 10 ? "number" : "")));
      const root = withRole("row", element("tr", "", head, ...own));
      body.append(root);
      return { root, button, cells: own };
    });
    const titles = COLUMNS.map((name, index) => {
      const title = withRole("columnheader", element("th", index > 1 && index < 11 ? "number" : "", name));
      title.scope = "col";
      return title;
    });
    const head = withRole("rowgroup", element("thead", "", withRole("row", element("tr", "", ...titles))));
    const table = withRole("table", element("table", "", head, withRole("rowgroup", body)));
    table.setAttribute("aria-label", "Devices, what their memory is for, and whose it is");
    this.root.replaceChildren(table);
  }
}
