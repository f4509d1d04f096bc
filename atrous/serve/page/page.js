// The page: pictures in, classes out. What is on the screen follows from `state`.

import { Camera } from "./camera.js";
import { ClassList, present, share } from "./classlist.js";
import { isBlack } from "./colours.js";
import { drawDots } from "./dots.js";
import { connectInputs } from "./inputs.js";
import { resized } from "./picture.js";
import { save } from "./save.js";
import { Device, Server } from "./segmenters.js";
import { Stage } from "./stage.js";
import { Strip } from "./strip.js";

const element = (id) => document.getElementById(id);

// For tests and for whoever embeds the page.
window.atrous = { ready: false, last: null };

const state = {
  models: [],
  model: null,
  server: false, // whether there is one behind this page
  place: "device", // or "server"
  maxPixels: Number(element("size").value),
  items: [], // pictures: { name, blob, picture, result, status, error }
  current: null,
  on: new Set(), // classes that are shown and cut out
  opened: null, // a promise: the model is loaded
};

const device = new Device();
const server = new Server(askToken);
const stage = new Stage(element, (k, spoken) => {
  classList.mark(k);
  if (spoken) speak(state.model.classes[k] ?? "unknown");
});
const classList = new ClassList(element("class-list"), element("absent"), {
  onChange: () => stage.draw(),
  onHover: (k) => stage.setUnder(k),
});
const strip = new Strip(element("pictures"), (item) => select(item));
const camera = new Camera({
  frame: cameraFrame,
  onRate: (rate) => (element("frames").textContent = `${rate.toFixed(1)} frames a second`),
  onError: (error) => {
    showError(error.message);
    stopCamera();
  },
});

/** Loads the list of models. `atrous page` marks its copies: no server is behind them. */
async function start() {
  drawDots(element("dots"));
  connectInputs(element, { addFiles, actions, settings });
  state.server = document.documentElement.dataset.servedBy === "atrous";
  state.models = await (await server.ask(state.server ? "v1/models" : "models.json")).json();
  element("places").hidden = !state.server;
  element("model").replaceChildren(
    ...state.models.map(({ name, classes }) => new Option(`${name} (${classes.length} classes)`, name)),
  );
  element("model").disabled = state.models.length < 2;
  await useModel(state.models[0].name);
}

async function useModel(name) {
  const model = state.models.find((each) => each.name === name);
  state.model = model;
  state.on = new Set(foreground(model));
  showTerms(model);
  // A server may keep a model's file to itself; a model of one size takes the server's resizing.
  const here = Boolean(model.file) && !model.input?.size;
  element("place-device").disabled = !here;
  if (!here) element("place-server").click();
  window.atrous.ready = false;
  const opened = here ? device.open(model, showProgress, server.headers) : Promise.resolve();
  state.opened = opened;
  startOver();
  try {
    await opened;
    if (state.opened === opened) window.atrous.ready = true;
  } finally {
    if (state.opened === opened) element("loading").hidden = true;
  }
}

/** Returns the classes that are on at first: all but black ones, which are backgrounds. */
function foreground({ palette }) {
  return [...palette.keys()].filter((k) => !isBlack(palette[k]));
}

function showProgress(loaded, total) {
  const mega = (bytes) => (bytes / 1e6).toFixed(1);
  element("loading").hidden = false;
  element("progress").value = loaded / total;
  element("loading-text").textContent =
    loaded < total
      ? `Loading the network: ${mega(loaded)} of ${mega(total)} MB`
      : "Starting the network";
}

function showTerms(model) {
  element("terms").textContent = `${model.name}: ${model.licence || "terms not stated"}.`;
  element("notes").replaceChildren(
    ...model.terms.map((note) => {
      const line = document.createElement("li");
      line.textContent = note;
      return line;
    }),
  );
}

/** Adds files as pictures; the first of them is shown. */
function addFiles(files) {
  const items = Array.from(files, (blob) => ({ name: blob.name || "pasted.png", blob, status: "waiting" }));
  if (items.length) addItems(items);
}

function addItems(items) {
  stopCamera();
  window.atrous.last = null;
  state.items.push(...items);
  showWork(true);
  select(items[0]);
  work();
}

/** Shows the screen with the stage, or the welcome; the focus must not stay on what is hidden. */
function showWork(shown) {
  if (element("work").hidden !== shown) return;
  element("work").hidden = !shown;
  element("welcome").hidden = shown;
  element("main").focus({ preventScroll: true });
}

function select(item) {
  stopCamera();
  state.current = item;
  show();
}

/** Segments all pictures again: the model, the place or the size has changed. */
function startOver() {
  window.atrous.last = null;
  for (const item of state.items) Object.assign(item, { status: "waiting", result: null, run: null });
  show();
  work();
}

let working = false;

/** Segments waiting pictures, one at a time, the shown one first. */
async function work() {
  if (working) return;
  working = true;
  const waiting = (item) => item?.status === "waiting";
  for (;;) {
    const item = waiting(state.current) ? state.current : state.items.find(waiting);
    if (!item) break;
    await segment(item);
  }
  working = false;
}

async function segment(item) {
  const run = (item.run = {}); // another one: settings have changed, this answer is void
  const { model, place, maxPixels } = state;
  item.status = "working";
  showItem(item);
  try {
    if (item.picture?.maxPixels !== maxPixels) {
      item.picture = { ...(await device.read(item.blob, maxPixels)), maxPixels };
      if (item.run === run) showItem(item);
    }
    if (place === "device") await state.opened;
    const result = await (place === "device"
      ? device.segment(item.picture)
      : server.segment(item.blob, item.picture, model, maxPixels));
    if (item.run !== run || result.model !== state.model.name) return;
    if (result.width !== item.picture.width || result.height !== item.picture.height) {
      item.picture = resized(item.picture, result.width, result.height);
    }
    Object.assign(item, { result, place, status: "done", fresh: true });
    publish(result);
    if (item === state.current) speak(`${item.name}: ${summary(result)}`);
  } catch (error) {
    if (item.run !== run) return;
    Object.assign(item, { status: "failed", error: error.message });
    showError(`${item.name}: ${error.message}`);
  }
  showItem(item);
}

function publish({ width, height, labels }) {
  window.atrous.last = { width, height, labels };
}

function summary(result) {
  const total = result.width * result.height;
  return present(result.counts)
    .map(([k, count]) => `${state.model.classes[k]} ${share(count, total)}`)
    .join(", ");
}

function showItem(item) {
  strip.show(state.items, state.current);
  if (item === state.current && !camera.running) show();
}

/** Brings the screen in line with the current picture. */
function show() {
  const item = state.current;
  strip.show(state.items, item);
  if (!item) return;
  element("busy").hidden = item.status !== "working" && item.status !== "waiting";
  enableDownloads(Boolean(item.result));
  element("facts").textContent = facts(item);
  const picture = item.picture;
  if (!picture) return;
  if (!item.result) return stage.showPicture(picture);
  stage.show(picture, item.result, state.model, state.on, { fresh: item.fresh });
  item.fresh = false;
  classList.show(item.result, state.model, state.on);
  element("picture").setAttribute("aria-label", `${item.name}: ${summary(item.result)}`);
}

function enableDownloads(possible) {
  for (const button of document.querySelectorAll("[data-save]")) button.disabled = !possible;
}

function facts({ name, picture, result, error, place }) {
  if (error && !result) return `${name}: ${error}`;
  if (!picture) return name;
  const parts = [name, `${picture.width} × ${picture.height} pixels`];
  if (picture.ownWidth !== picture.width) {
    parts.push(`shrunk from ${picture.ownWidth} × ${picture.ownHeight}`);
  }
  if (result) {
    parts.push(`${result.seconds.toFixed(2)} s ${place === "server" ? "on the server" : "on this device"}`);
  }
  return parts.join(" · ");
}

async function cameraFrame(bitmap, maxPixels) {
  const picture = await device.readFrame(bitmap, maxPixels);
  await state.opened;
  const result = await device.segment(picture);
  if (camera.running && result.model === state.model.name) {
    state.frame = { name: "camera.png", picture, result, place: "device" };
    enableDownloads(true);
    publish(result);
    stage.show(picture, result, state.model, state.on);
    classList.show(result, state.model, state.on);
  }
  return picture.width * picture.height;
}

async function startCamera() {
  await camera.start();
  showWork(true);
  element("camera-bar").hidden = false;
  element("busy").hidden = true;
  element("facts").textContent = "";
  element("picture").setAttribute("aria-label", "Camera");
  state.current = null;
  strip.show(state.items, null);
}

function stopCamera() {
  camera.stop();
  element("camera-bar").hidden = true;
}

/** Keeps the camera's frame that is shown as a picture. */
async function takePicture() {
  if (!state.frame) return;
  const { picture, result } = state.frame;
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  canvas.getContext("2d").putImageData(
    new ImageData(picture.pixels, picture.width, picture.height), 0, 0,
  );
  const blob = await canvas.convertToBlob();
  const name = `camera-${state.items.length + 1}.png`;
  const kept = { ...picture, maxPixels: state.maxPixels };
  addItems([{ name, blob, picture: kept, result, status: "done", place: "device" }]);
  publish(result);
}

function backToStart() {
  stopCamera();
  for (const item of state.items) item.run = null; // an answer that still comes is void
  Object.assign(state, { items: [], current: null, frame: null });
  window.atrous.last = null;
  showWork(false);
}

function stopOrLeave() {
  stopCamera();
  if (state.items.length) select(state.items.at(-1));
  else backToStart();
}

const actions = {
  choose: () => element("file").click(),
  camera: () => startCamera().catch((error) => showError(`The camera: ${error.message}`)),
  take: takePicture,
  stop: stopOrLeave,
  clear: backToStart,
  reset: () => classList.setOn(foreground(state.model)),
  dismiss: () => (element("alert").hidden = true),
  save(what) {
    const look = { on: state.on, opacity: stage.opacity };
    return save(what, state.current ?? state.frame, state.model, look).catch((error) => showError(error.message));
  },
  async example(address) {
    const response = await fetch(address);
    addFiles([new File([await response.blob()], address.split("/").pop())]);
  },
};

const settings = {
  view: (view) => stage.setView(view),
  opacity: (opacity) => stage.setOpacity(opacity),
  model: (name) => useModel(name).catch((error) => showError(error.message)),
  size(maxPixels) {
    state.maxPixels = maxPixels;
    startOver();
  },
  place(place) {
    state.place = place;
    const own = element("size-own");
    own.disabled = own.hidden = place === "device";
    if (own.disabled && own.selected) element("size").selectedIndex = 0;
    state.maxPixels = Number(element("size").value);
    element("shield").toggleAttribute("hidden", place === "server");
    element("privacy-text").textContent =
      place === "device"
        ? "Your picture does not leave this device"
        : `Pictures are sent to ${location.host}; the camera stays on this device`;
    startOver();
  },
};

function showError(message) {
  element("alert-text").textContent = message;
  element("alert").hidden = false;
}

function speak(text) {
  element("spoken").textContent = text;
}

/** Asks for the token of the server; null if the person has none. */
function askToken() {
  const dialog = element("token-dialog");
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => resolve(dialog.returnValue === "ok" ? element("token").value : null),
      { once: true },
    );
  });
}

start().catch((error) => {
  element("loading").hidden = true;
  showError(error.message);
});
