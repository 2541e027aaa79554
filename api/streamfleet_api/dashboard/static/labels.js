// Texts and colours of states and metrics. Pure: nothing here accesses the page.

const COLOURS = {
  ready: "good", running: "good",
  syncing: "warn", suspect: "warn", starting: "warn", reconnecting: "warn", unknown: "warn", moving: "warn", cordoned: "warn", draining: "warn", drained: "warn", backoff: "warn", restarting: "warn",
  lost: "bad", quarantined: "bad", failed: "bad",
};
const LATE = 2; // seconds without a status, after which the metrics are outdated

export const colourOf = (state) => COLOURS[state] ?? "";

/** The state of a device to show, the text and colour of its badge, and a short reason. */
export function deviceState(device) {
  const silent = Math.max(device.silent ?? 0, device.age ?? 0);
  if (device.state === "ready" && silent > LATE) {
    return { state: "silent", badge: "silent", colour: "bad", why: `no message for ${silent.toFixed(0)} s` };
  }
  const why = device.state === "ready" || device.silent == null ? "" : `last message ${duration(device.silent)} ago`;
  const badge = (device.state === "ready" && cordonState(device)) || device.state;
  return { state: device.state, badge, colour: colourOf(badge), why };
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** The id of a pipeline, shortened if the fleet generated it. */
export const shortName = (id) => (UUID.test(id) ? id.slice(0, 8) : id);

/** Whether the metrics of a pipeline are current. */
const isFresh = (pipeline) => pipeline.age != null && pipeline.age <= LATE;

/** Why a pipeline is not healthy, or "". */
export function cameraProblem(pipeline) {
  if (pipeline.reason) return pipeline.reason;
  return pipeline.age > LATE ? `no status for ${pipeline.age.toFixed(0)} s` : "";
}

/** Whether a device takes no pipelines, and how far its drain is, in one word; or "". */
function cordonState(device) {
  if (!device.draining) return device.cordoned ? "cordoned" : "";
  return device.remaining.every(({ state }) => state === "staying") ? "drained" : "draining";
}

/** The same for users, with what is left. */
export function cordonNote(device) {
  const state = cordonState(device);
  if (!device.draining) return state && `${state}: no pipeline is placed here`;
  const left = device.remaining.map(({ pipeline_id, reason }) => `${shortName(pipeline_id)} (${reason})`);
  return `${state}${left.length ? `, left: ${left.join(", ")}` : ""}`;
}

export function deviceMetrics(device) {
  const parts = [`${device.pipelines} of ${device.capacity} pipelines`];
  if (device.cores) parts.push(`load ${device.load.toFixed(1)} on ${device.cores} cores`);
  const providers = deviceProviders(device);
  if (providers) parts.push(`models on ${providers}`);
  const activity = device.engines.map((engine) => engine.activity).find(Boolean);
  if (activity) parts.push(activity);
  if (device.memory) parts.push(`${gigabytes(device.memory_available)} of ${gigabytes(device.memory)} GB free`);
  if (device.temperature != null) parts.push(`${device.temperature.toFixed(0)} °C`);
  if (device.gpu_load != null) parts.push(`GPU ${(100 * device.gpu_load).toFixed(0)} %`);
  return parts.join(" · ");
}

/** Why a device is slowed down, or "". */
export function throttleProblem(device) {
  return device.throttled ? `throttled: ${device.throttle_reason}` : "";
}

/** What runs the models of a device: "CUDA", "CPU", or both. */
export function deviceProviders(device) {
  const names = device.engines.map(({ provider }) => provider.replace("ExecutionProvider", "")).filter(Boolean);
  return [...new Set(names)].sort().join(", ");
}

/** Why a device does not use its accelerator, and what to do, or "". */
export function acceleratorProblem(device) {
  const missing = device.missing_accelerator;
  return missing ? `${missing.reason}. ${missing.remedy}` : "";
}

export function cameraMetrics(pipeline) {
  const parts = [pipeline.device ?? "no device"];
  if (isFresh(pipeline)) {
    parts.push(`${pipeline.fps.toFixed(1)} frames/s`);
    if (pipeline.latency != null) parts.push(`${(pipeline.latency * 1000).toFixed(0)} ms`);
  }
  return parts.join(" · ");
}

/** [term, text] pairs of a pipeline's settings and counters. */
export function pipelineFacts(pipeline) {
  const { spec } = pipeline;
  const facts = [
    ["id", pipeline.pipeline_id],
    ["device", pipeline.device ?? "none yet"],
    ["model", spec.model.id],
    ["sinks", spec.sinks.map((sink) => `udp ${sink.host.includes(":") ? `[${sink.host}]` : sink.host}:${sink.port}`).join(", ") || "ZeroMQ only"],
    ["tracker", spec.tracker ?? "none"],
    ["emitted", count(pipeline.emitted)],
    ["not emitted", count(pipeline.dropped)],
    ["restarts", count(pipeline.restarts)],
  ];
  if (spec.confidence != null) facts.push(["confidence", String(spec.confidence)]);
  if (spec.priority !== "normal") facts.push(["priority", spec.priority]);
  if (spec.mask_format !== "polygon") facts.push(["masks", spec.mask_format]);
  if (spec.max_fps != null) facts.push(["max. rate", `${spec.max_fps} frames/s`]);
  const labels = Object.entries(pipeline.labels).map(([key, value]) => `${key}=${value}`);
  if (labels.length) facts.push(["labels", labels.join(", ")]);
  return facts;
}

/** The title of each source, and [term, text] pairs of its state. */
export function sourceFacts(pipeline) {
  if (!pipeline.sources.length) {
    return pipeline.spec.sources.map(({ reference }) => ({ title: String(reference), facts: [] }));
  }
  return pipeline.sources.map((source) => {
    const facts = [["state", source.state], ["frames/s", source.fps.toFixed(1)], ["received", count(source.received)]];
    if (source.width) facts.push(["picture", `${source.width} × ${source.height}`]);
    facts.push(...choices(pipeline.spec.sources[source.source_id]));
    if (source.decoder) facts.push(["decoder", [source.decoder, source.decoder_note].filter(Boolean).join(": ")]);
    const dropped = Object.entries(source.dropped).map(([cause, number]) => `${cause} ${count(number)}`);
    if (dropped.length) facts.push(["dropped", dropped.join(", ")]);
    if (source.attempts) facts.push(["attempts", count(source.attempts)]);
    if (source.reason) facts.push(["problem", source.reason]);
    return { title: String(source.reference), facts };
  });
}

/** [term, text] pairs of what a source leaves out. */
function choices(source) {
  const facts = [];
  if (source?.classes) facts.push(["only", source.classes.join(", ")]);
  if (source?.motion) facts.push(["motion gate", `sensitivity ${source.motion.sensitivity}, a frame after ${source.motion.max_still} s`]);
  if (source?.region) facts.push(["region", `${source.region.length} corners`]);
  return facts;
}

/** The text in place of a picture before the first one arrives. */
export function placeholderText(pipeline) {
  return { running: "waiting for a picture", starting: "starting", paused: "paused", ended: "ended" }[pipeline.status] ?? "no picture";
}

export function eventText(event) {
  const where = event.subject === "pipeline" && event.device ? ` on ${event.device}` : "";
  return { who: shortName(event.id), state: event.state, colour: colourOf(event.state), rest: `${where}${event.reason ? `: ${event.reason}` : ""}` };
}

export const clock = (unixSeconds) => new Date(unixSeconds * 1000).toLocaleTimeString("en-GB");

const count = (number) => (number ?? 0).toLocaleString("en");
const gigabytes = (bytes) => (bytes / 1e9).toFixed(1);

function duration(seconds) {
  if (seconds < 90) return `${seconds.toFixed(0)} s`;
  if (seconds < 5400) return `${(seconds / 60).toFixed(0)} min`;
  return `${(seconds / 3600).toFixed(0)} h`;
}
