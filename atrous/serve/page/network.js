// The worker: decodes pictures and runs the network, so that the page stays responsive.
//
// Each message {id, task, ...} is answered by {id, result} or {id, error}; opening a model also
// sends {id, loaded, total} in bytes. After a model is open, nothing here asks the network for
// anything: the picture stays on the device.

import * as ort from "./onnxruntime/ort.wasm.bundle.min.mjs";
import { countsOf, labelsOf } from "./labels.js";
import { pixelsOf, readPicture } from "./picture.js";

const RUNTIME = "onnxruntime/ort-wasm-simd-threaded.wasm.gz";
const RUNTIME_BYTES = 3_700_000; // for the progress bar, where the host does not say

let session = null;
let model = null;
let runtime = null; // a promise: the runtime is loaded once

const TASKS = { open, read, readFrame, segment };

// One at a time: a picture must not meet a model that is half loaded.
let last = Promise.resolve();
self.onmessage = ({ data }) => {
  last = last.then(() => answer(data));
};

async function answer({ id, task, ...values }) {
  try {
    const result = await TASKS[task](values, (loaded, total) => {
      self.postMessage({ id, loaded, total });
    });
    const buffers = [result?.pixels?.buffer, result?.labels?.buffer].filter(Boolean);
    self.postMessage({ id, result }, buffers);
  } catch (error) {
    self.postMessage({ id, error: error.message || String(error) });
  }
}

/** Loads a model: an entry of models.json. */
async function open({ entry }, progress) {
  let first = [0, 0];
  runtime ??= loadRuntime((loaded, total) => {
    first = [loaded, total];
    progress(loaded, total + entry.bytes);
  }).catch((error) => {
    runtime = null; // the next try loads it again
    throw error;
  });
  await runtime;
  const file = await download(entry.file, entry.bytes, (loaded, total) => {
    progress(first[0] + loaded, first[1] + total);
  });
  await session?.release();
  session = null;
  session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  model = entry;
  return { threads: ort.env.wasm.numThreads };
}

async function loadRuntime(progress) {
  const file = await download(RUNTIME, RUNTIME_BYTES, progress);
  // Threads need memory that is shared, which browsers allow only to isolated pages.
  ort.env.wasm.numThreads = self.crossOriginIsolated
    ? Math.min(4, navigator.hardwareConcurrency || 1)
    : 1;
  ort.env.wasm.wasmBinary = await unpacked(file);
}

async function download(address, bytes, progress) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address}: the server answered ${response.status}.`);
  const parts = [];
  let loaded = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    loaded += value.length;
    progress(Math.min(loaded, bytes), bytes);
  }
  return new Blob(parts).arrayBuffer();
}

/** Unpacks gzip; a host that says Content-Encoding made the browser unpack it already. */
async function unpacked(buffer) {
  const bytes = new Uint8Array(buffer, 0, 2);
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return buffer;
  const stream = new Blob([buffer]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

/** Decodes a file. */
function read({ blob, maxPixels }) {
  return readPicture(blob, maxPixels);
}

/** Takes the pixels out of a camera's frame. */
function readFrame({ bitmap, maxPixels }) {
  return pixelsOf(bitmap, maxPixels);
}

/** Runs the network on RGBA pixels. */
async function segment({ pixels, width, height }) {
  if (!session) throw new Error("No model is loaded.");
  const started = performance.now();
  const image = new ort.Tensor("uint8", withoutAlpha(pixels), [1, height, width, 3]);
  const { logits } = await session.run({ image });
  const [, rows, columns, classes] = logits.dims;
  const stride = model.logits_stride;
  if (rows !== Math.ceil(height / stride) || columns !== Math.ceil(width / stride)) {
    throw new Error(`The model's logits are ${rows} x ${columns}: not of stride ${stride}.`);
  }
  const labels = labelsOf(logits.data, { rows, columns, classes }, stride, width, height);
  const counts = countsOf(labels, classes);
  const seconds = (performance.now() - started) / 1000;
  return { width, height, labels, counts, seconds, model: model.name };
}

function withoutAlpha(pixels) {
  const rgb = new Uint8Array((pixels.length / 4) * 3);
  for (let from = 0, to = 0; from < pixels.length; from += 4, to += 3) {
    rgb[to] = pixels[from];
    rgb[to + 1] = pixels[from + 1];
    rgb[to + 2] = pixels[from + 2];
  }
  return rgb;
}
