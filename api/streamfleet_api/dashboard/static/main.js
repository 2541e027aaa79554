// The page: looks at the fleet once a second, and at once when something happened.

import { Cameras } from "./cameras.js";
import { Details } from "./details.js";
import { showDevices } from "./devices.js";
import { ask, Locked, remember } from "./door.js";
import { Events } from "./events.js";

const INTERVAL = 1000; // ms
const LATE = 1000; // ms without an answer, after which we say so

const trouble = document.querySelector("#trouble");
const door = document.querySelector("#door");
const doorNote = document.querySelector("#door-note");
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
  const late = setTimeout(tellWhoIsLate, LATE);
  try {
    const [{ devices }, { pipelines }] = await Promise.all([ask("v2/devices"), ask("v2/pipelines")]);
    show(devices, pipelines);
    if (!following) await follow();
    trouble.hidden = door.hidden = true;
  } catch (error) {
    if (error instanceof Locked) lock(error);
    else tell(`The fleet does not answer: ${error.message}`);
  } finally {
    clearTimeout(late);
    looking = false;
  }
}

function tell(text) {
  door.hidden = true;
  trouble.hidden = false;
  trouble.textContent = text;
}

function lock({ message }) {
  door.hidden = false;
  trouble.hidden = true;
  if (message) doorNote.textContent = message;
}

/** The api answers for itself at once, however long the broker takes. */
async function tellWhoIsLate() {
  const answers = await ask("healthz", { within: LATE }).then(() => true, () => false);
  if (looking) tell(answers ? "The broker does not answer. What is shown is of the past." : "The api does not answer.");
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

door.onsubmit = async (event) => {
  event.preventDefault();
  doorNote.textContent = "";
  remember(document.querySelector("#token").value);
  await ask("v2/devices").then(look, (error) => error instanceof Locked && lock(error)); // one question a token
};
document.addEventListener("visibilitychange", look);
setInterval(look, INTERVAL);
look();
