// The list of devices.

import { acceleratorProblem, cordonNote, deviceMetrics, deviceState, throttleProblem } from "./labels.js";

export function showDevices(list, devices) {
  list.replaceChildren(...devices.map(item));
}

function item(device) {
  const { state, badge: text, colour, why } = deviceState(device);
  const line = document.createElement("li");
  line.dataset.device = device.device;
  line.dataset.state = state;
  const head = document.createElement("div");
  head.className = "head";
  const name = document.createElement("strong");
  name.textContent = device.device;
  const badge = document.createElement("span");
  badge.className = `badge ${colour}`;
  badge.textContent = text;
  head.append(name, badge);
  const metrics = document.createElement("p");
  metrics.className = "metrics";
  metrics.textContent = why || deviceMetrics(device);
  line.append(head, metrics);
  const note = cordonNote(device);
  if (note) {
    const cordon = document.createElement("p");
    cordon.className = "metrics";
    cordon.textContent = note;
    line.append(cordon);
  }
  for (const problem of [acceleratorProblem(device), throttleProblem(device)].filter(Boolean)) {
    const warning = document.createElement("p");
    warning.className = "problem";
    warning.textContent = problem;
    line.append(warning);
  }
  return line;
}
