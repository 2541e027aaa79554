// Texts about models. Pure: nothing here accesses the page.

const TASKS = {
  detect: "detection", segment: "segmentation", obb: "oriented boxes", pose: "poses", classify: "classification",
};
const MOST = 200; // classes that are shown

/** One line about a model in the list. */
export function modelSummary(model) {
  if (!model.family) return "its manifest is missing";
  return [taskOf(model), countOf(model.labels, "class", "classes"), sizeOf(model)].join(" · ");
}

/** [term, text] pairs of a model's card. */
export function modelFacts(model) {
  const facts = [];
  if (model.family) facts.push(["task", taskOf(model)], ["family", model.family], ["input", inputOf(model)]);
  if (model.keypoints?.length) facts.push(["key points", model.keypoints.join(", ")]);
  if (model.card) facts.push(...fileFacts(model.card));
  if (model.weights) facts.push(["file", bytes(model.weights.size)], ["sha256", model.weights.sha256]);
  for (const variant of model.variants ?? []) facts.push(["variant", variantText(variant)]);
  facts.push(["pipelines", model.pipelines.join(", ") || "none"]);
  return facts;
}

/** The title above the classes, and those that are shown. */
export function modelClasses(model) {
  const labels = model.labels ?? [];
  const more = labels.length > MOST ? `, the first ${MOST}` : "";
  return { title: `${countOf(labels, "class", "classes")}${more}`, labels: labels.slice(0, MOST) };
}

/** What the file says of itself, as far as it says something. */
function fileFacts(card) {
  const told = [["licence", card.license], ["author", card.author], ["exported", card.date], ["description", card.description]];
  return [["ONNX", `opset ${card.opset}, IR version ${card.ir_version}`], ...told.filter(([, text]) => text)];
}

function inputOf(model) {
  const parts = [sizeOf(model)];
  if (model.card?.input_type) parts.push(model.card.input_type);
  if (model.card?.dynamic_size) parts.push("exported for any size");
  if (model.card?.dynamic_batch) parts.push("exported for any batch");
  return parts.join(", ");
}

function variantText(variant) {
  const gain = `${variant.speedup.toFixed(1)} times as fast, agreement ${variant.agreement.toFixed(3)}`;
  return `${variant.board}: ${variant.precision} by ${variant.provider}, ${gain}`;
}

const taskOf = (model) => TASKS[model.task] ?? model.task;
const sizeOf = (model) => `${model.input_width} × ${model.input_height}`;
const countOf = (list, one, more) => `${list.length.toLocaleString("en")} ${list.length === 1 ? one : more}`;
const bytes = (count) => (count < 1e6 ? `${(count / 1e3).toFixed(1)} kB` : `${(count / 1e6).toFixed(1)} MB`);
