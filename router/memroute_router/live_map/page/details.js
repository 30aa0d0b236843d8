// All that is known of the device (or replica) that is selected.

import { Bar } from "./bar.js";
import { element, setText } from "./dom.js";
import { KINDS, byKind, kvOf, kvWords, partsOf, widthOf } from "./shares.js";
import { UNKNOWN, bytes, count, counted, percent, product, seconds } from "./words.js";

const yes = (value, word, other) => (value ? word : other);

/** Of a device: names and texts, in order. */
function deviceFields(node, device, parts) {
  const kinds = byKind(parts);
  const fields = [["Product", product(device.product)], ["Usable", bytes(device.usable)]];
  for (const { kind, name } of KINDS) {
    if (kind !== "free" && kinds.get(kind)) fields.push([name, bytes(kinds.get(kind)), kind]);
  }
  fields.push(["free, may be promised", bytes(device.free), "free"]);
  const age = device.observedAgeSeconds === null ? "" : `, ${seconds(device.observedAgeSeconds)} old`;
  fields.push(["In use, as its exporter reads", bytes(device.observed) + age]);
  fields.push(["Foreign use", bytes(device.foreign)]);
  if (device.strangers.length) fields.push(["Held by", device.strangers.join(", ")]);
  const why = device.unusable ?? node.unusable;
  fields.push(["New replicas", why ? `none: ${why}` : "may be placed"]);
  return fields;
}

/** Of a replica, as this router knows it. */
function replicaFields(holder, replica) {
  const fields = [["Model", holder.model ?? UNKNOWN]];
  if (holder.state) fields.push(["State", holder.state]);
  if (holder.promised?.numDevices) {
    const { weights, overhead, kv, other, numDevices } = holder.promised;
    fields.push(["Promised", `${bytes((weights ?? 0) + (overhead ?? 0) + (kv ?? 0) + other)} on ${counted(numDevices, "device")}; nobody says which`]);
  }
  if (!replica) return [...fields, ["Requests, KV cache", "unknown: this router does not serve it"]];
  const kv = kvOf(replica);
  fields.push(["KV cache, used", kvWords(replica)]);
  fields.push(["Projected, of what is allowed", kv === null ? UNKNOWN : `${percent(kv.projected)} of ${percent(kv.ceiling)}`]);
  fields.push(["Requests there", `${count(replica.numThere)}; of this router ${count(replica.numInFlight)}, not begun ${count(replica.numPending)}`]);
  fields.push(["Takes requests", replica.isOut ? "no: it does not answer as it should" : yes(replica.isRoutable, yes(kv?.isClosed, "when it has room again", "yes"), replica.sleep ? `no: ${replica.sleep.replace("-", " ")}` : "no: not ready, or leaving")]);
  fields.push(["Metrics read", replica.readingAgeSeconds === null ? UNKNOWN : `${seconds(replica.readingAgeSeconds)} ago`]);
  if (replica.version && replica.version !== holder.model) fields.push(["Version", replica.version]);
  return fields;
}

/** A list of names and texts, whose texts are written anew where they change. */
class Fields {
  constructor(root) {
    this.root = root;
    this.names = "";
    this.texts = [];
  }

  update(fields) {
    const names = fields.map(([name, , kind]) => `${name} ${kind ?? ""}`).join("\n");
    if (names !== this.names) {
      this.names = names;
      this.texts = fields.map(() => element("dd"));
      this.root.replaceChildren(...fields.map(([name, , kind], index) => {
        const title = element("dt", "", name);
        if (kind) title.prepend(element("span", `swatch part ${kind}`));
        return element("div", "", title, this.texts[index]);
      }));
    }
    fields.forEach(([, text], index) => setText(this.texts[index], text));
  }
}

export class Details {
  constructor(root) {
    this.root = root;
    this.drawn = null;
  }

  update(node, device, replicas) {
    const shape = node === null ? "" : JSON.stringify([node.node, device.index, device.uuid, device.holders.map((one) => one.pod)]);
    if (shape !== this.drawn) {
      this.drawn = shape;
      this.make(node, device);
    }
    if (node === null) return;
    const parts = partsOf(device, replicas);
    this.bar.update(parts, widthOf(device, parts));
    if (!device.isReplica) this.fields.update(deviceFields(node, device, parts));
    device.holders.forEach((holder, index) => {
      this.holders[index].update(replicaFields(holder, replicas.get(holder.pod)));
    });
  }

  make(node, device) {
    if (node === null) {
      this.root.replaceChildren(element("p", "quiet", "Select a device: click it, or Enter on it."));
      return;
    }
    const bar = element("div", "bar large");
    bar.setAttribute("aria-hidden", "true");
    this.bar = new Bar(bar);
    const title = device.isReplica ? "A replica" : `${node.node}, device ${device.index}`;
    const own = element("dl", "fields");
    this.fields = new Fields(own);
    const made = [element("h3", "", title), bar];
    if (device.uuid) made.push(element("p", "quiet", device.uuid));
    if (!device.isReplica) made.push(own);
    this.holders = device.holders.map((holder) => {
      const list = element("dl", "fields");
      made.push(element("h3", "pod", holder.pod), list);
      return new Fields(list);
    });
    this.root.replaceChildren(...made);
  }
}
