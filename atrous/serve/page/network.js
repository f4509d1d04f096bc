// The worker: decodes pictures and runs the network, so that the page stays responsive.
//
// Each message {id, task, ...} is answered by {id, result} or {id, error}. The worker asks no
// server for anything: what it needs comes from the page, and the picture stays on the device.

import * as ort from "./onnxruntime/ort.wasm.bundle.min.mjs";
import { countsOf, labelsOf } from "./labels.js";
import { pixelsOf, readPicture } from "./picture.js";

let session = null;
let model = null;

const TASKS = { start, open, read, readFrame, segment };

// One at a time: a picture must not meet a model that is half loaded.
let last = Promise.resolve();
self.onmessage = ({ data }) => {
  last = last.then(() => answer(data));
};

async function answer({ id, task, ...values }) {
  try {
    const result = await TASKS[task](values);
    const buffers = [result?.pixels?.buffer, result?.labels?.buffer].filter(Boolean);
    self.postMessage({ id, result }, buffers);
  } catch (error) {
    self.postMessage({ id, error: error.message || String(error) });
  }
}

/** Takes the compiled ONNX Runtime. */
function start({ runtime }) {
  ort.env.wasm.numThreads = 1; // more need an isolated page, and gained nothing where measured
  ort.env.wasm.wasmBinary = runtime;
}

/** Takes a model: its entry in the list of models, and its file. */
async function open({ entry, file }) {
  await session?.release();
  session = null;
  session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  model = entry;
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
