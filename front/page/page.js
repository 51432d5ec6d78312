"use strict";
// The form, and what is being generated. What a request may say is decided by the server alone: the page
// passes on what was typed, and marks the field that is refused.

const form = byId("form");
const retrySeconds = 3;

let models = [];
let running = null; // what is being generated: {abort, fields, pictures, ...}
let lastSeed = "";

// ---- The form

const textFields = ["model", "prompt", "negative_prompt", "lora", "output_format"];
const numberFields = ["n", "steps", "guidance", "true_cfg_scale", "output_compression", "strength"];
const allFields = [...textFields, ...numberFields, "seed", "size", "width", "height"];

const isOffered = (field) => !field.disabled && !field.closest("[hidden]");

/** The fields as they stand, for a request and for "use these settings". */
function readFields() {
  const fields = {};
  for (const id of allFields) {
    const field = byId(id);
    if (field.validity.badInput) throw new Refusal(`${labelOf(field)} is not a number.`, id);
    if (isOffered(field)) fields[id] = field.value;
  }
  return fields;
}

const labelOf = (field) => field.labels[0].textContent;

/** The values of a request. What was left empty is left to the server. */
function valuesOf(fields) {
  const values = { prompt: fields.prompt, stream: true, progress: true, partial_images: 3 };
  for (const id of textFields) {
    if (fields[id]) values[id] = fields[id];
  }
  for (const id of numberFields) {
    if (fields[id]) values[id] = Number(fields[id]);
  }
  if (fields.size === "own") values.size = `${fields.width}x${fields.height}`;
  else if (fields.size !== "auto") values.size = fields.size;
  const seed = (fields.seed ?? "").trim();
  // A seed has 63 bits, more than a number holds here: it stays text on its whole way.
  if (seed) values.seed = seed;
  return values;
}

function jsonOf({ seed, ...values }) {
  if (!/^\d+$/.test(seed ?? "")) return JSON.stringify(seed ? { ...values, seed } : values);
  return `${JSON.stringify(values).slice(0, -1)},"seed":${BigInt(seed)}}`;
}

function formOf(values, image) {
  const body = new FormData();
  for (const [name, value] of Object.entries(values)) body.append(name, value);
  body.append("image", image);
  return body;
}

/** The image to start from, where the model takes one. */
function imageNow() {
  const field = byId("image");
  return isOffered(field) ? field.files[0] : undefined;
}

function fillForm(fields) {
  for (const [id, value] of Object.entries(fields)) byId(id).value = value;
  followModel();
}

/** Fields that depend on others. */
function followChoices() {
  byId("sides").hidden = byId("size").value !== "own";
  byId("output_compression").disabled = byId("output_format").value === "png";
  const takesStrength = modelNow()?.inputs?.includes("strength");
  byId("strength-field").hidden = !imageNow() || !takesStrength;
  byId("no-image").hidden = !imageNow();
}

const modelNow = () => models.find((model) => model.id === byId("model").value) ?? models[0];

/** Offers what the model takes. */
function followModel() {
  const model = modelNow();
  const size = model?.default_size;
  byId("size").options[0].textContent = size ? `As the checkpoint (${size})` : "As the checkpoint";
  const sides = size?.split("x") ?? ["1024", "1024"];
  byId("width").defaultValue = sides[0];
  byId("height").defaultValue = sides[1];
  for (const field of document.querySelectorAll("[data-input]")) {
    field.hidden = !model?.inputs?.includes(field.dataset.input);
  }
  followChoices();
}

async function loadModels() {
  try {
    const response = await ask("v1/models");
    models = (await response.json()).data;
    byId("key-field").hidden = !byId("key").value;
  } catch (error) {
    models = [];
    byId("server").textContent = error.message;
    if (error.status === 401) return askForKey();
  }
  const names = models.map((model) => model.id);
  byId("model").replaceChildren(...names.map((name) => new Option(name, name)));
  byId("model-field").hidden = names.length < 2;
  if (names.length > 0) byId("server").textContent = `Model: ${names.join(", ")}`;
  else if (byId("server").textContent === "") byId("server").textContent = "No model is loaded yet.";
  if (names.length === 0) setTimeout(loadModels, retrySeconds * 1000);
  followModel();
}

function askForKey() {
  byId("key-field").hidden = false;
  byId("key").focus();
}

// ---- Errors and words

function showError(error) {
  if (error.status === 401) askForKey();
  byId("error").textContent = error.message;
  byId("error").hidden = false;
  const ids = fieldsOf(error.param);
  for (const id of ids) {
    byId(id).setAttribute("aria-invalid", "true");
    byId(id).setAttribute("aria-errormessage", "error");
    byId(id).closest("details")?.setAttribute("open", "");
  }
  if (ids.length > 0) byId(ids[0]).focus();
}

/** The fields that a request's `param` came from. */
function fieldsOf(param) {
  if (param === "size" && byId("size").value === "own") return ["width", "height"];
  return [...allFields, "image"].includes(param) ? [param] : [];
}

function clearWords() {
  byId("error").hidden = byId("notice").hidden = true;
  for (const field of form.querySelectorAll("[aria-invalid]")) {
    field.removeAttribute("aria-invalid");
    field.removeAttribute("aria-errormessage");
  }
}

function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = false;
}

/** For those who hear the page: less often than what is seen changes. */
function speak(text) {
  if (byId("spoken").textContent !== text) byId("spoken").textContent = text;
}

const secondsText = (seconds) =>
  seconds < 9.5
    ? `${Math.max(0.1, seconds).toFixed(1)} s`
    : seconds < 90
      ? `${Math.round(seconds)} s`
      : `${Math.round(seconds / 60)} min`;

// ---- Generating

async function generate() {
  if (running) return;
  clearWords();
  const job = { abort: new AbortController(), began: 0, total: 0, completed: 0 };
  try {
    job.fields = readFields();
    running = job;
    showRunning(job);
    const values = valuesOf(job.fields);
    const image = imageNow();
    const path = image ? "v1/images/edits" : "v1/images/generations";
    const body = image ? formOf(values, image) : jsonOf(values);
    const response = await ask(path, { method: "POST", body, signal: job.abort.signal });
    await follow(job, response);
  } catch (error) {
    if (error.name !== "AbortError") showError(error);
    else notice("Cancelled: the server has stopped the work.");
  } finally {
    finish(job);
  }
}

async function follow(job, response) {
  const position = Number(response.headers.get("X-Queue-Position"));
  const seconds = Number(response.headers.get("X-Estimated-Seconds"));
  if (position > 0) wait(job, position, seconds);
  const seen = {
    "flux.progress": (event) => showStep(job, event),
    partial_image: (event) => showPreview(job, event),
    completed: (event, text) => showImage(job, event, text),
  };
  for await (const { name, data } of eventsOf(response.body)) {
    stopWaiting(job);
    if (name === "error") throw refusalOf(data, 0);
    seen[name.replace(/^image_(generation|edit)\./, "")]?.(JSON.parse(data), data);
  }
  if (job.completed < job.pictures.length) throw new Refusal(brokenOff);
  byId("doing").textContent = `Done in ${secondsText((performance.now() - job.began) / 1000)}`;
  byId("left").textContent = `${job.total} steps`;
  byId("work").classList.add("done");
  speak(job.completed > 1 ? `${job.completed} images are ready.` : "The image is ready.");
}

function showRunning(job) {
  const hadFocus = document.activeElement === byId("generate");
  byId("work").hidden = false;
  byId("work").classList.remove("done");
  byId("empty").hidden = true;
  byId("generate").hidden = true;
  byId("cancel").hidden = false;
  if (hadFocus) byId("cancel").focus();
  byId("doing").textContent = "Asking the server …";
  byId("left").textContent = "";
  byId("progress").removeAttribute("value");
  const count = Math.min(Math.max(Number(job.fields.n) || 1, 1), 10);
  job.pictures = Array.from({ length: count }, () => emptyPicture(job.fields));
  job.before = [...byId("pictures").children];
  showPictures(job.pictures);
  job.ticking = setInterval(() => showLeft(job), 500);
  if (matchMedia("(max-width: 700px)").matches) byId("stage").scrollIntoView();
  speak("Generating.");
}

function showPictures(pictures) {
  byId("pictures").replaceChildren(...pictures);
  byId("pictures").classList.toggle("alone", pictures.length === 1);
  byId("empty").hidden = pictures.length > 0;
}

function emptyPicture(fields) {
  const picture = document.createElement("button");
  picture.type = "button";
  picture.className = "picture waiting";
  picture.disabled = true;
  picture.append(document.createElement("img"));
  picture.firstChild.alt = "";
  picture.setAttribute("aria-label", "Not ready yet");
  const size = { own: `${fields.width}x${fields.height}`, auto: modelNow()?.default_size }[fields.size];
  const [width, height] = (size ?? fields.size).split("x").map(Number);
  picture.style.aspectRatio = width > 0 && height > 0 ? `${width} / ${height}` : "1";
  return picture;
}

/** Shows the place in the queue until the first event comes. */
function wait(job, position, seconds) {
  const arrived = performance.now();
  const show = (place, left) => {
    byId("doing").textContent = `Waiting: place ${place} in the queue`;
    byId("left").textContent = left > 0 ? `about ${secondsText(left)}` : "";
    speak(`Place ${place} in the queue.`);
  };
  show(position, seconds);
  job.waiting = setInterval(async () => {
    try {
      const { waiting } = await (await ask("queue", { signal: job.abort.signal })).json();
      // The queue names nobody: this request is the one that has waited about as long.
      const age = (performance.now() - arrived) / 1000;
      const distance = (each) => Math.abs(each.seconds - age);
      const own = waiting.sort((a, b) => distance(a) - distance(b))[0];
      if (own && job.waiting) show(own.position, own.estimated_seconds);
    } catch {
      // What is shown stays; if the server is gone, the stream itself says so.
    }
  }, 1000);
}

function stopWaiting(job) {
  clearInterval(job.waiting);
  job.waiting = null;
}

function showStep(job, { step, total_steps: total, estimated_seconds: estimate }) {
  const now = performance.now();
  job.began ||= now;
  job.total = total;
  const measured = step > 0 ? ((now - job.began) / step / 1000) * (total - step) : null;
  const seconds = estimate ?? measured;
  job.ends = seconds === null ? null : now + seconds * 1000;
  byId("progress").max = total;
  byId("progress").value = step;
  byId("doing").textContent = step < total ? `Step ${step} of ${total}` : "Decoding";
  showLeft(job);
  const quarter = Math.floor((4 * step) / total);
  if (quarter > (job.quarter ?? 0) && quarter < 4) speak(`${quarter * 25} percent`);
  job.quarter = quarter;
}

function showLeft(job) {
  if (!job.ends) return;
  const seconds = (job.ends - performance.now()) / 1000;
  byId("left").textContent = seconds > 0 ? `about ${secondsText(seconds)} left` : "";
}

function showPreview(job, event) {
  const picture = job.pictures[event.image_index ?? 0];
  picture.className = "picture preview";
  picture.firstChild.src = `data:image/${event.output_format};base64,${event.b64_json}`;
}

function showImage(job, event, text) {
  const file = Uint8Array.from(atob(event.b64_json), (letter) => letter.charCodeAt(0));
  const blob = new Blob([file], { type: `image/${event.output_format}` });
  lastSeed = /"seed":(\d+)/.exec(text.slice(-1000))?.[1] ?? "";
  const entry = {
    url: URL.createObjectURL(blob),
    bytes: blob.size,
    seed: lastSeed,
    size: event.size,
    steps: job.total,
    extension: event.output_format === "jpeg" ? "jpg" : event.output_format,
    fields: { ...job.fields, seed: lastSeed, n: "1" },
  };
  entry.picture = job.pictures[event.image_index ?? 0];
  entry.picture.className = "picture";
  entry.picture.disabled = false;
  entry.picture.setAttribute("aria-label", `Open large: seed ${entry.seed}`);
  entry.picture.firstChild.src = entry.url;
  entry.picture.addEventListener("click", () => openLarge(entry));
  addToGallery(entry);
  job.completed += 1;
  byId("keep-seed").disabled = false;
}

function finish(job) {
  stopWaiting(job);
  clearInterval(job.ticking);
  running = null;
  byId("generate").hidden = false;
  byId("cancel").hidden = true;
  if (document.activeElement === document.body) byId("generate").focus({ preventScroll: true });
  if (!job.pictures || job.completed === job.pictures.length) return;
  byId("work").hidden = true;
  // Where nothing came of it, the images from before are shown again.
  const candidates = job.completed > 0 ? job.pictures : job.before;
  showPictures(candidates.filter((each) => gallery.some((entry) => entry.picture === each)));
}

// ---- Light and dark

const themes = { auto: "Theme: auto", light: "Theme: light", dark: "Theme: dark" };

function showTheme(theme) {
  document.documentElement.style.colorScheme = theme === "auto" ? "" : theme;
  byId("theme").textContent = themes[theme] ?? themes.auto;
  byId("theme").dataset.theme = theme in themes ? theme : "auto";
}

function nextTheme() {
  const names = Object.keys(themes);
  const theme = names[(names.indexOf(byId("theme").dataset.theme) + 1) % names.length];
  remember("localStorage", "theme", theme);
  showTheme(theme);
}

// ---- What is remembered: nothing where the browser's storage is switched off

function remember(storage, name, value) {
  try {
    window[storage].setItem(name, value);
  } catch {
    // It lasts until the page is left.
  }
}

function recall(storage, name) {
  try {
    return window[storage].getItem(name);
  } catch {
    return null;
  }
}

// ---- What people do

/** Takes files that were dropped, as if one had been chosen. */
function takeImage(files) {
  clearWords();
  if (!isOffered(byId("image"))) return notice("The model takes no image.");
  if (files.length > 1) return notice("One image at a time can be taken.");
  byId("image").files = files;
  byId("advanced").open = true;
  followChoices();
}

function dropImage() {
  byId("image").value = "";
  followChoices();
  byId("image").focus();
}

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");

function onKey(event) {
  const inDialog = byId("large").open;
  const keys = { ArrowLeft: () => moveBy(-1), ArrowRight: () => moveBy(1), Delete: () => remove(shown) };
  if (inDialog) return keys[event.key]?.();
  if (event.key === "Escape" && running) running.abort.abort();
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  generate();
}

function listen() {
  const on = (id, name, act) => byId(id).addEventListener(name, act);
  on("form", "submit", (event) => (event.preventDefault(), generate()));
  on("form", "input", () => (clearWords(), followChoices()));
  on("form", "change", followChoices);
  on("model", "change", followModel);
  on("key", "change", () => {
    remember("sessionStorage", "key", byId("key").value);
    clearWords();
    loadModels();
  });
  on("cancel", "click", () => running?.abort.abort());
  on("keep-seed", "click", () => (byId("seed").value = lastSeed));
  on("theme", "click", nextTheme);
  on("no-image", "click", dropImage);
  on("before", "click", () => moveBy(-1));
  on("after", "click", () => moveBy(1));
  on("close", "click", () => byId("large").close());
  on("large-reuse", "click", () => reuse(shown));
  on("large-delete", "click", () => remove(shown));
  document.addEventListener("keydown", onKey);
  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    if (!carriesFiles(event)) return;
    event.preventDefault();
    takeImage(event.dataTransfer.files);
  });
}

byId("key").value = recall("sessionStorage", "key") ?? "";
showTheme(recall("localStorage", "theme") ?? "auto");
listen();
loadModels();
