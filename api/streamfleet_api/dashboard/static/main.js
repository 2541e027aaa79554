// The page: refreshes what it shows of the fleet every second and after each event. Of a large fleet it shows, and
// asks for, one page of each list.

import { Cameras } from "./cameras.js";
import { Details } from "./details.js";
import { showDevices } from "./devices.js";
import { LoginRequired, request, saveToken } from "./api.js";
import { Events } from "./events.js";
import { Models } from "./models.js";
import { Pager } from "./pager.js";
import { Rollouts } from "./rollouts.js";

const INTERVAL = 1000; // ms
const MODELS = 10; // intervals between two looks at the models, which change rarely
const ROLLOUTS = 3; // intervals between two looks at roll-outs while none is under way
const OF_CAMERAS = "pipeline_id,status,device,reason,fps,latency,age"; // what a card shows
const LATE = 1000; // ms without a response, after which the page says so

const problem = document.querySelector("#problem");
const login = document.querySelector("#login");
const loginNote = document.querySelector("#login-note");
const list = document.querySelector("#devices");
const details = new Details(refresh);
const cameras = new Cameras(document.querySelector("#cameras"), (id) => details.open(id));
const cameraPages = new Pager(document.querySelector("#camera-pages"), refresh);
const devicePages = new Pager(document.querySelector("#device-pages"), refresh);
const events = new Events(document.querySelector("#events"), refresh);
const models = new Models();
const rollouts = new Rollouts(refresh);
let turns = 0; // of refreshing
let refreshing = false;
let following = false;

async function refresh() {
  if (refreshing || document.hidden) return;
  refreshing = true;
  const late = setTimeout(showWhichIsLate, LATE);
  try {
    const lists = [`v2/devices?${devicePages.query}`, `v2/pipelines?${cameraPages.query}&fields=${OF_CAMERAS}`];
    const [devices, pipelines] = await Promise.all([...lists.map((path) => request(path)), details.refresh()]);
    devicePages.show(devices.devices.length, devices.next);
    cameraPages.show(pipelines.pipelines.length, pipelines.next);
    const isPaged = devicePages.isPaged || cameraPages.isPaged;
    show(devices.devices, pipelines.pipelines, isPaged ? await request("readyz").catch(() => null) : null);
    if (turns % MODELS === 0) models.show((await request("v2/models")).models);
    if (turns % ROLLOUTS === 0 || rollouts.areActive) rollouts.show((await request("v2/rollouts")).rollouts);
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

/** Show devices and pipelines. `fleet` has the numbers of all, if these are not all. */
function show(devices, pipelines, fleet) {
  showDevices(list, devices);
  cameras.show(pipelines);
  document.querySelector("#no-devices").hidden = devices.length > 0;
  document.querySelector("#no-cameras").hidden = pipelines.length > 0;
  const ready = devices.filter(({ state }) => state === "ready").length;
  total("devices", `${fleet?.devices_ready ?? ready} of ${fleet?.devices ?? devices.length}`);
  const running = pipelines.filter(({ status }) => status === "running").length;
  total("cameras", `${running} of ${pipelines.length}${cameraPages.isPaged ? ` shown, ${fleet?.pipelines ?? "more"} in all` : ""}`);
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
  await request("v2/devices?limit=1").then(refresh, (error) => error instanceof LoginRequired && showLogin(error)); // one request per token
};
document.addEventListener("visibilitychange", refresh);
setInterval(refresh, INTERVAL);
refresh();
