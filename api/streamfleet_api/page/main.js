// The page: looks at the fleet once a second, and at once when something happened.

import { Cameras } from "./cameras.js";
import { Details } from "./details.js";
import { showDevices } from "./devices.js";
import { ask, Locked, remember } from "./door.js";
import { Events } from "./events.js";

const INTERVAL = 1000; // ms

const trouble = document.querySelector("#trouble");
const door = document.querySelector("#door");
const list = document.querySelector("#devices");
const details = new Details(look);
const cameras = new Cameras(document.querySelector("#cameras"), (id) => details.open(known.get(id)));
const events = new Events(document.querySelector("#events"), look);
const known = new Map(); // pipeline id → pipeline
let looking = false;
let following = false;

async function look() {
  if (looking || document.hidden) return;
  looking = true;
  try {
    const [{ devices }, { pipelines }] = await Promise.all([ask("v2/devices"), ask("v2/pipelines")]);
    show(devices, pipelines);
    if (!following) await follow();
    trouble.hidden = door.hidden = true;
  } catch (error) {
    door.hidden = !(error instanceof Locked);
    trouble.hidden = error instanceof Locked;
    trouble.textContent = `The fleet does not answer: ${error.message}`;
  } finally {
    looking = false;
  }
}

function show(devices, pipelines) {
  known.clear();
  for (const pipeline of pipelines) known.set(pipeline.pipeline_id, pipeline);
  showDevices(list, devices);
  cameras.show(pipelines);
  details.show(pipelines);
  document.querySelector("#no-devices").hidden = devices.length > 0;
  document.querySelector("#no-cameras").hidden = pipelines.length > 0;
  total("devices", `${devices.filter(({ state }) => state === "ready").length} of ${devices.length}`);
  total("cameras", `${pipelines.filter(({ status }) => status === "running").length} of ${pipelines.length}`);
  total("fps", pipelines.reduce((sum, { fps }) => sum + (fps ?? 0), 0).toFixed(1));
}

function total(name, text) {
  document.querySelector(`#total-${name}`).textContent = text;
}

async function follow() {
  const recent = await ask("v2/events/recent?limit=50");
  events.show(recent.events);
  following = true;
  events.follow();
}

door.onsubmit = (event) => {
  event.preventDefault();
  remember(document.querySelector("#token").value);
  look();
};
document.addEventListener("visibilitychange", look);
setInterval(look, INTERVAL);
look();
