// Two ways to segment a picture, with the same answer: in this page's worker, or on the server.

import { download, unpacked } from "./download.js";
import { countsOf } from "./labels.js";
import { readPng } from "./png.js";
import { shrunk } from "./picture.js";

const RUNTIME = "onnxruntime/ort-wasm-simd-threaded.wasm.gz";
const RUNTIME_BYTES = 3_660_000; // for the progress bar

/** Talks to the worker: each call is a promise of its answer. */
export class Device {
  constructor() {
    this.worker = new Worker("network.js", { type: "module" });
    this.waiting = new Map();
    this.calls = 0;
    this.started = null; // a promise: the worker has the runtime
    this.worker.onmessage = ({ data }) => this.answer(data);
    this.worker.onerror = (event) => {
      event.preventDefault?.();
      for (const { reject } of this.waiting.values()) {
        reject(new Error(`The network cannot run here: ${event.message || "no worker"}.`));
      }
      this.waiting.clear();
    };
  }

  answer({ id, result, error }) {
    const call = this.waiting.get(id);
    if (!call) return;
    this.waiting.delete(id);
    if (error === undefined) call.resolve(result);
    else call.reject(new Error(error));
  }

  call(task, values, transfer = []) {
    return new Promise((resolve, reject) => {
      const id = ++this.calls;
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, task, ...values }, transfer);
    });
  }

  /**
   * Loads a model, and before the first one the runtime.
   *
   * @param {object} entry of the list of models.
   * @param {(loaded: number, total: number) => void} onProgress in bytes.
   * @param {object} headers of the request for the model.
   */
  async open(entry, onProgress, headers) {
    const loaded = { runtime: 0, model: 0 };
    const total = entry.bytes + (this.started ? 0 : RUNTIME_BYTES);
    const count = (part) => (bytes) => {
      loaded[part] = bytes;
      onProgress(Math.min(total, loaded.runtime + loaded.model), total);
    };
    this.started ??= this.start(count("runtime")).catch((error) => {
      this.started = null; // the next try loads it again
      throw error;
    });
    const loading = download(entry.file, count("model"), headers);
    const [file] = await Promise.all([loading, this.started]);
    return this.call("open", { entry, file }, [file]);
  }

  async start(onProgress) {
    const runtime = await unpacked(await download(RUNTIME, onProgress));
    return this.call("start", { runtime }, [runtime]);
  }

  read(blob, maxPixels) {
    return this.call("read", { blob, maxPixels });
  }

  readFrame(bitmap, maxPixels) {
    return this.call("readFrame", { bitmap, maxPixels }, [bitmap]);
  }

  segment({ pixels, width, height }) {
    return this.call("segment", { pixels, width, height });
  }
}

const PATIENCE = 3; // times to ask again a server that is busy

/** Talks to the server the page comes from. */
export class Server {
  /** @param {() => Promise<string | null>} askToken asks the person for the server's token. */
  constructor(askToken) {
    this.askToken = askToken;
    this.token = null;
  }

  /**
   * Sends a picture to `v1/segment`.
   *
   * @param {Blob} blob the picture's file, sent as it is.
   * @param {Picture} picture as read here, for its own size.
   * @param {number} maxPixels larger pictures are shrunk by the server.
   */
  async segment(blob, picture, model, maxPixels) {
    const started = performance.now();
    const address = new URL("v1/segment", document.baseURI);
    address.searchParams.set("format", "png");
    address.searchParams.set("model", model.name);
    const { ownWidth, ownHeight } = picture;
    if (ownWidth * ownHeight > maxPixels) {
      address.searchParams.set("max_side", Math.max(...shrunk(ownWidth, ownHeight, maxPixels)));
    }
    const response = await this.ask(address, { method: "POST", body: blob });
    const png = await readPng(new Uint8Array(await response.arrayBuffer()));
    const { width, height, samples: labels } = png;
    const counts = countsOf(labels, model.classes.length);
    const seconds = (performance.now() - started) / 1000;
    return { width, height, labels, counts, seconds, model: model.name };
  }

  get headers() {
    return this.token ? { Authorization: `Bearer ${this.token}` } : {};
  }

  /** Fetches from the server: asks the person for a token, and again a server that is busy. */
  async ask(address, options = {}) {
    for (let tries = 0; ; tries++) {
      const response = await fetch(address, { ...options, headers: this.headers });
      if (response.ok) return response;
      if (response.status === 401 && (this.token = await this.askToken())) continue;
      if (response.status === 503 && tries < PATIENCE) {
        const seconds = Math.min(10, Number(response.headers.get("Retry-After")) || 1);
        await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
        continue;
      }
      const answer = await response.json().catch(() => ({}));
      const message = answer.message ?? `The server answered ${response.status}.`;
      throw new Error([message, answer.hint].filter(Boolean).join(" "));
    }
  }
}
