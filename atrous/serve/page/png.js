// PNG files, written and read exactly.
//
// Browsers may change pixels on the way through a canvas: they multiply colours by alpha, apply
// colour profiles, or add noise against fingerprinting. Labels must be exact, so PNG is read here.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }; // by colour type
const GREY = 0;
const COLOUR = 2;
const PALETTE = 3;
const GREY_ALPHA = 4;
const COLOUR_ALPHA = 6;

/** Returns whether the bytes start as a PNG file does. */
export function isPng(bytes) {
  return SIGNATURE.every((byte, i) => bytes[i] === byte);
}

/**
 * Returns a label picture as a PNG file: indices with a palette, or 16-bit grey above 256 classes.
 *
 * @param {Uint8Array | Uint16Array} labels height x width.
 * @param {number[][]} palette red, green, blue of each class.
 */
export async function encodeLabels(labels, width, height, palette) {
  const deep = labels.BYTES_PER_ELEMENT === 2;
  const rowBytes = width * labels.BYTES_PER_ELEMENT + 1;
  const rows = new Uint8Array(rowBytes * height); // each begins with filter 0: none
  for (let y = 0; y < height; y++) {
    const row = labels.subarray(y * width, (y + 1) * width);
    if (!deep) rows.set(row, y * rowBytes + 1);
    else row.forEach((value, x) => rows.set([value >> 8, value & 255], y * rowBytes + 1 + 2 * x));
  }
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([deep ? 16 : 8, deep ? GREY : PALETTE], 8);
  const parts = [new Uint8Array(SIGNATURE), chunk("IHDR", header)];
  if (!deep) parts.push(chunk("PLTE", new Uint8Array(palette.flat())));
  parts.push(chunk("IDAT", await through(new CompressionStream("deflate"), rows)));
  parts.push(chunk("IEND", new Uint8Array(0)));
  return new Blob(parts, { type: "image/png" });
}

/**
 * Reads a PNG file.
 *
 * @returns {Promise<Png | null>} null if the file uses something this reader leaves to the
 *   browser: animation, an orientation, Apple's variant, one transparent grey or 16-bit colour.
 */
export async function readPng(bytes) {
  const chunks = chunksOf(bytes);
  const header = new DataView(chunks.IHDR.buffer, chunks.IHDR.byteOffset);
  const png = {
    width: header.getUint32(0),
    height: header.getUint32(4),
    depth: header.getUint8(8),
    type: header.getUint8(9),
    interlaced: header.getUint8(12) === 1,
    palette: chunks.PLTE,
    transparency: chunks.tRNS,
  };
  const unusual = png.transparency && png.type !== PALETTE && png.depth !== 8;
  const odd = unusual || chunks.acTL || chunks.eXIf || chunks.CgBI;
  if (odd || !(png.type in CHANNELS)) return null;
  const data = await through(new DecompressionStream("deflate"), chunks.IDAT);
  png.samples = png.interlaced ? interlacedSamples(png, data) : samplesOf(png, data, 0)[0];
  return png;
}

/**
 * Returns the picture as RGBA bytes that are all opaque: transparency is laid on white.
 *
 * The rules are those of atrous/images/rgb.py. 16-bit grey is scaled from the bits in use, and
 * 16-bit colour is cut to its high byte. A last channel that is not mostly 0 or 255 is a spectral
 * band, not opacity, and is left out.
 */
export function opaquePixels(png) {
  const { samples, depth, type, palette, transparency } = png;
  const channels = CHANNELS[type];
  const count = png.width * png.height;
  const pixels = new Uint8ClampedArray(4 * count);
  const scale = type === GREY && depth < 8 ? 255 / (2 ** depth - 1) : 1;
  if (depth === 16 && channels > 2 && isDim(samples, channels)) {
    throw new Error("Its 16-bit channels use 12 bits or fewer. Scale the picture to 8 bits.");
  }
  const used = depth === 16 && type === GREY ? bitsInUse(samples) : depth;
  const to8 =
    depth < 16
      ? (v) => v * scale
      : type === GREY
        ? (v) => roundToEven((v * 255) / (2 ** used - 1))
        : (v) => v >> 8;
  const opacity = [GREY_ALPHA, COLOUR_ALPHA].includes(type) && isOpacity(samples, channels, to8);
  const key = type === PALETTE || !transparency ? null : keyOf(transparency, channels);
  for (let i = 0, from = 0, to = 0; i < count; i++, from += channels, to += 4) {
    let alpha = 255;
    if (type === PALETTE) {
      const index = samples[from];
      for (let c = 0; c < 3; c++) pixels[to + c] = palette[3 * index + c] ?? 0;
      alpha = transparency?.[index] ?? 255;
    } else {
      const coloured = type === COLOUR || type === COLOUR_ALPHA;
      for (let c = 0; c < 3; c++) pixels[to + c] = to8(samples[from + (coloured ? c : 0)]);
      if (opacity) alpha = to8(samples[from + channels - 1]);
      if (key && key.every((value, c) => value === samples[from + c])) alpha = 0;
    }
    if (alpha < 255) for (let c = 0; c < 3; c++) pixels[to + c] = onWhite(pixels[to + c], alpha);
    pixels[to + 3] = 255;
  }
  return pixels;
}

/** Returns the fewest of 8, 10, 12, 14 or 16 bits that hold the largest value. */
function bitsInUse(samples) {
  let largest = 0;
  for (const value of samples) largest = Math.max(largest, value);
  return [8, 10, 12, 14, 16].find((bits) => largest < 2 ** bits);
}

/** Says whether colours of 16 bits use at most 12, and would be almost black. */
function isDim(samples, channels) {
  return samples.every((value, i) => i % channels === 3 || value < 2 ** 12);
}

/** Says whether the last channel is opacity: at least half of its values are 0 or 255. */
function isOpacity(samples, channels, to8) {
  let extreme = 0;
  for (let i = channels - 1; i < samples.length; i += channels) {
    const value = to8(samples[i]);
    if (value === 0 || value === 255) extreme++;
  }
  return 2 * extreme >= samples.length / channels;
}

/** Rounds as NumPy does: a half goes to the even neighbour. */
function roundToEven(value) {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

function keyOf(transparency, channels) {
  return Array.from({ length: channels }, (_, c) => transparency[2 * c + 1]);
}

/** Blends one channel with white, rounded as Pillow does. */
function onWhite(value, alpha) {
  const sum = value * alpha * 128 + 255 * (255 * 128 - alpha * 128) + (0x80 << 7);
  return (((sum >> 8) + sum) >> 8) >> 7;
}

/** Returns the chunks by name; the data chunks are joined. */
function chunksOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const chunks = {};
  const data = [];
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const body = bytes.subarray(at + 8, at + 8 + length);
    if (name === "IDAT") data.push(body);
    else chunks[name] ??= body;
    at += length + 12;
    if (name === "IEND") break;
  }
  if (!chunks.IHDR || chunks.IHDR.length < 13 || !data.length) throw new Error("a damaged PNG file");
  chunks.IDAT = new Blob(data);
  return chunks;
}

const ADAM7 = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2],
  [0, 1, 1, 2]]; // x, y, step x, step y of each pass

function interlacedSamples(png, data) {
  const channels = CHANNELS[png.type];
  const result = new (png.depth === 16 ? Uint16Array : Uint8Array)(
    png.width * png.height * channels,
  );
  let at = 0;
  for (const [x0, y0, dx, dy] of ADAM7) {
    const width = Math.ceil((png.width - x0) / dx);
    const height = Math.ceil((png.height - y0) / dy);
    if (width <= 0 || height <= 0) continue;
    let samples;
    [samples, at] = samplesOf({ ...png, width, height }, data, at);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const from = (y * width + x) * channels;
        const to = ((y0 + y * dy) * png.width + x0 + x * dx) * channels;
        for (let c = 0; c < channels; c++) result[to + c] = samples[from + c];
      }
    }
  }
  return result;
}

/** Undoes the row filters; returns the samples and where the data goes on. */
function samplesOf({ width, height, depth, type }, data, start) {
  const perRow = width * CHANNELS[type];
  const rowBytes = Math.ceil((perRow * depth) / 8);
  const step = Math.max(1, (CHANNELS[type] * depth) >> 3); // bytes to the pixel on the left
  if (data.length < start + height * (rowBytes + 1)) throw new Error("a truncated PNG file");
  const samples = new (depth === 16 ? Uint16Array : Uint8Array)(perRow * height);
  let above = new Uint8Array(rowBytes);
  let at = start;
  for (let y = 0; y < height; y++) {
    const filter = data[at];
    const row = data.subarray(at + 1, at + 1 + rowBytes);
    unfilter(row, above, step, filter);
    unpack(row, depth, samples.subarray(y * perRow, (y + 1) * perRow));
    above = row;
    at += rowBytes + 1;
  }
  return [samples, at];
}

function unfilter(row, above, step, filter) {
  if (filter === 0) return;
  for (let i = 0; i < row.length; i++) {
    const left = i < step ? 0 : row[i - step];
    const corner = i < step ? 0 : above[i - step];
    row[i] += predicted(filter, left, above[i], corner);
  }
}

function predicted(filter, left, up, corner) {
  if (filter === 1) return left;
  if (filter === 2) return up;
  if (filter === 3) return (left + up) >> 1;
  const estimate = left + up - corner; // Paeth: whichever neighbour is nearest to it
  const [a, b, c] = [left, up, corner].map((value) => Math.abs(estimate - value));
  if (a <= b && a <= c) return left;
  return b <= c ? up : corner;
}

function unpack(row, depth, samples) {
  if (depth === 8) samples.set(row);
  else if (depth === 16) {
    for (let i = 0; i < samples.length; i++) samples[i] = (row[2 * i] << 8) | row[2 * i + 1];
  } else {
    const mask = 2 ** depth - 1;
    for (let i = 0; i < samples.length; i++) {
      const bit = i * depth;
      samples[i] = (row[bit >> 3] >> (8 - depth - (bit & 7))) & mask;
    }
  }
}

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function chunk(name, body) {
  const bytes = new Uint8Array(body.length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, body.length);
  for (let i = 0; i < 4; i++) bytes[4 + i] = name.charCodeAt(i);
  bytes.set(body, 8);
  let crc = ~0;
  for (const byte of bytes.subarray(4, -4)) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  view.setUint32(bytes.length - 4, ~crc);
  return bytes;
}

/** Sends bytes or a blob through a compression stream. */
async function through(stream, input) {
  const readable = new Blob([input]).stream().pipeThrough(stream);
  return new Uint8Array(await new Response(readable).arrayBuffer());
}
