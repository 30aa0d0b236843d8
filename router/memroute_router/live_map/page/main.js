// The page's wiring: answers in, everything that shows them out.

import { Decisions } from "./decisions.js";
import { Details } from "./details.js";
import { DeviceMap, keyOf } from "./device_map.js";
import { DeviceTable } from "./device_table.js";
import { setText } from "./dom.js";
import { Feed } from "./feed.js";
import { byReplica, nodesOf, placed, totals } from "./shares.js";
import { Summary } from "./summary.js";
import { followTheme } from "./theme.js";
import { rates, waitingModels } from "./traffic.js";
import { Waiting } from "./waiting.js";
import { clock, count, counted, seconds } from "./words.js";

// Over how many answers rates are taken: ten seconds.
const RATE_ANSWERS = 10;
// Fleets of more devices are drawn without movement: each that moves is a layer of its own.
const MOVING_DEVICES = 100;

const at = (id) => document.getElementById(id);
const asked = { shown: "all", find: "" };
const isMeasured = new URLSearchParams(location.search).has("measure");
const history = [];
const names = [];
let now = null;
let source = null;
let drawn = null;
let selected = null;

const select = (key) => {
  selected = key === selected ? null : key;
  draw();
};
const summary = new Summary(at("tiles"), at("fleet-bar"), at("legend"));
const map = new DeviceMap(at("map-view"), select);
const table = new DeviceTable(at("table-view"), select);
const details = new Details(at("selected-body"));
const waiting = new Waiting(at("waiting-models"), at("waiting-requests"));
const decisions = new Decisions(at("decisions"), at("decided-note"));
details.update(null, null, null);

/** Show what is known now. */
function draw() {
  if (now === null) return;
  const { live, fleet } = now;
  const replicas = byReplica(live);
  // Replicas are not drawn by themselves for the second until it is known where they are.
  const nodes = live.fleet.isBeingRead ? [] : nodesOf(fleet, live);
  const models = waitingModels(fleet, live);
  const isTable = at("view").value === "table";
  summary.update(nodes, replicas, live, rates(history[0], history.at(-1)), models);
  const number = (isTable ? table : map).update(nodes, replicas, asked, selected);
  const all = nodes.reduce((sum, node) => sum + node.devices.length, 0);
  document.body.classList.toggle("table", isTable);
  document.body.classList.toggle("still", all > MOVING_DEVICES);
  note(live, fleet, nodes, replicas, number, all);
  const found = find(nodes, selected);
  details.update(found?.node ?? null, found?.device ?? null, replicas);
  waiting.update(models, live);
  decisions.update(live, at("kinds").value);
}

function find(nodes, key) {
  if (key === null) return null;
  for (const node of nodes) {
    for (const device of node.devices) if (keyOf(node, device) === key) return { node, device };
  }
  return null;
}

function note(live, fleet, nodes, replicas, number, all) {
  const { numDevices, numReplicas, numNodes } = totals(nodes, replicas);
  const said = [];
  if (number !== all) said.push(`${count(number)} shown of`);
  if (numDevices) said.push(`${counted(numDevices, "device")} on ${counted(numNodes, "node")}`);
  if (numReplicas) said.push(`${numDevices ? "and " : ""}${counted(numReplicas, "replica")} on unknown devices`);
  setText(at("devices-count"), said.join(" "));
  if (live.fleet.isBeingRead) setText(at("devices-none"), "The operator's map is being read.");
  else setText(at("devices-none"), all === 0 ? "No devices and no replicas are known yet." : "Nothing matches.");
  at("devices-none").hidden = number > 0;
  const notes = [];
  if (live.fleet.why && !live.fleet.isBeingRead) notes.push(fleet === null ? `Devices are unknown: ${live.fleet.why}.` : `The map is not read any more: ${live.fleet.why}.`);
  if (fleet !== null) {
    const age = (Date.parse(live.router.at) - Date.parse(fleet.at)) / 1000;
    if (age > 120) notes.push(`What devices hold is as it was ${seconds(age)} ago: does the operator run?`);
    if (fleet.leftOut.devices) notes.push(`${count(fleet.leftOut.devices)} more devices are not drawn: memroute top has them.`);
    if (fleet.leftOut.models) notes.push(`${count(fleet.leftOut.models)} more models are not listed.`);
  }
  if (live.numReplicas > live.replicas.length) notes.push(`${count(live.numReplicas - live.replicas.length)} more replicas are not drawn.`);
  if (new Set(names).size > 1) notes.push("Several routers answer in turn, each with its own queue and decisions: forward a port to one pod.");
  setText(at("fleet-note"), notes.join(" "));
  at("fleet-note").hidden = notes.length === 0;
  const peers = live.router.numPeers;
  const others = peers ? `, beside ${counted(peers, "other router")}: their queues are on their own maps` : "";
  setText(at("router"), `${live.router.name}, ${live.router.release}${others}`);
}

function onData(live, fleet) {
  if (isMeasured) performance.mark("map-update-begins");
  if (now !== null && now.live.router.name !== live.router.name) history.length = 0;
  if (fleet !== source) {
    source = fleet;
    drawn = placed(fleet);
  }
  now = { live, fleet: drawn };
  names.push(live.router.name);
  history.push({ at: Date.parse(live.router.at) / 1000, counts: live.ended });
  if (names.length > RATE_ANSWERS) names.shift();
  if (history.length > RATE_ANSWERS) history.shift();
  draw();
  if (isMeasured) {
    performance.mark("map-layout-begins");
    document.body.getBoundingClientRect(); // the layout is a part of the update
    performance.measure("map-layout", "map-layout-begins");
    performance.measure("map-update", "map-update-begins");
  }
}

function onState({ state, since, why }) {
  const words = {
    live: () => "live",
    paused: () => `paused at ${clock(since)}: figures are of then`,
    disconnected: () => `disconnected since ${clock(since)}, retrying${why ? ` (${why})` : ""}`,
  };
  setText(at("connection"), words[state]());
  at("connection").dataset.state = state;
  document.body.classList.toggle("old", state !== "live");
}

const feed = new Feed(onData, onState);
at("pause").addEventListener("click", () => {
  const isPaused = at("pause").getAttribute("aria-pressed") !== "true";
  at("pause").setAttribute("aria-pressed", String(isPaused));
  feed.pause(isPaused);
});
at("view").addEventListener("change", () => {
  const isTable = at("view").value === "table";
  at("map-view").hidden = isTable;
  at("table-view").hidden = !isTable;
  draw();
});
for (const [id, name] of [["shown", "shown"], ["find", "find"]]) {
  at(id).addEventListener("input", () => {
    asked[name] = at(id).value.trim();
    draw();
  });
}
at("kinds").addEventListener("change", draw);
followTheme(at("theme"));
feed.soon();
