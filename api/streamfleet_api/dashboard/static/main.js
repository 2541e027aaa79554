// The page: refreshes the fleet's state every second and after each event.

import { Cameras } from "./cameras.js";
import { Details } from "./details.js";
import { showDevices } from "./devices.js";
import { LoginRequired, request, saveToken } from "./api.js";
import { Events } from "./events.js";
import { Models } from "./models.js";

const INTERVAL = 1000; // ms
const MODELS = 10; // intervals between two looks at the models, which change rarely
const LATE = 1000; // ms without a response, after which the page says so

const problem = document.querySelector("#problem");
const login = document.querySelector("#login");
const loginNote = document.querySelector("#login-note");
const list = document.querySelector("#devices");
const details = new Details(refresh);
const cameras = new Cameras(document.querySelector("#cameras"), (id) => details.open(known.get(id)));
const events = new Events(document.querySelector("#events"), refresh);
const models = new Models();
const known = new Map(); // pipeline id → pipeline
let turns = 0; // of refreshing
let refreshing = false;
let following = false;

async function refresh() {
  if (refreshing || document.hidden) return;
  refreshing = true;
  const late = setTimeout(showWhichIsLate, LATE);
  try {
    const [{ devices }, { pipelines }] = await Promise.all([request("v2/devices"), request("v2/pipelines")]);
    show(devices, pipelines);
    if (turns % MODELS === 0) models.show((await request("v2/models")).models);
    turns += 1;
    if (!following) await follow();
    problem.hidden = login.hidden = true;
  } catch (error) {
    if (error instanceof LoginRequired) showLogin(error);
    else showProblem(`The fleet does not respond: ${error.message}`);
  } finally {
    clearTimeout(late);
    refreshing = false;
  }
}

function showProblem(text) {
  login.hidden = true;
  problem.hidden = false;
  problem.textContent = text;
}

function showLogin({ message }) {
  login.hidden = false;
  problem.hidden = true;
  if (message) loginNote.textContent = message;
}

/** The health route of the API does not wait for the broker, so it shows which of the two is late. */
async function showWhichIsLate() {
  const responds = await request("healthz", { timeout: LATE }).then(() => true, () => false);
  if (refreshing) showProblem(responds ? "The broker does not respond. The data shown is outdated." : "The API does not respond.");
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
  const recent = await request("v2/events/recent?limit=50");
  events.show(recent.events);
  following = true;
  events.follow();
}

login.onsubmit = async (event) => {
  event.preventDefault();
  loginNote.textContent = "";
  saveToken(document.querySelector("#token").value);
  await request("v2/devices").then(refresh, (error) => error instanceof LoginRequired && showLogin(error)); // one request per token
};
document.addEventListener("visibilitychange", refresh);
setInterval(refresh, INTERVAL);
refresh();
