// Models that wait for memory, requests that wait for their turn: each with its reason.

import { Place, element } from "./dom.js";
import { waitingGroups } from "./traffic.js";
import { count, counted, seconds } from "./words.js";

const since = (text, at) => {
  const began = text === null ? NaN : Date.parse(text);
  return Number.isNaN(began) ? "" : ` for ${seconds(Math.max(0, (at - began) / 1000))}`;
};

export class Waiting {
  constructor(models, requests) {
    this.models = new Place(models);
    this.requests = new Place(requests);
  }

  update(waiting, live) {
    const at = Date.parse(live.router.at);
    // A minute is exact enough: what is shown anew each second cannot be read or copied.
    const rounded = waiting.map((one) => [one, since(one.since, Math.floor(at / 60000) * 60000 + 60000)]);
    this.models.show(rounded, () => [
      element("h3", "", `Models: ${waiting.length || "none waits"}`),
      ...(waiting.length ? [element("ul", "reasons", ...rounded.map(([one, age]) => model(one, age)))] : []),
    ]);
    const groups = waitingGroups(live.queue);
    const number = live.numWaiting;
    const facts = [number, groups.map((one) => [one.model, one.why, one.number, Math.round(one.longest)])];
    this.requests.show(facts, () => [
      element("h3", "", `Requests: ${number || "none waits"}`),
      ...(groups.length ? [element("ul", "reasons", ...groups.map(group))] : []),
      ...(number > live.queue.length ? [element("p", "quiet", `of these, the first ${live.queue.length} are told apart`)] : []),
    ]);
  }
}

function model(one, age) {
  const ready = one.wanted === null ? counted(one.ready, "replica") : `${one.ready} of ${one.wanted} ready`;
  const item = element("li", "", element("b", "", one.model), " ", element("span", "badge", one.reason), " ",
    element("span", "quiet", ready + age));
  if (one.message) item.append(element("p", "why", one.message));
  return item;
}

function group(one) {
  const tenants = one.tenants.size ? `, ${counted(one.tenants.size, "tenant")}` : "";
  return element("li", "", element("b", "", one.model), " ", element("span", "badge", `waits for ${one.waitsFor}`), " ",
    element("span", "quiet", `${counted(one.number, "request")}${tenants}, ${count(one.tokens)} tokens, longest ${seconds(one.longest)}`),
    element("p", "why", one.why));
}
