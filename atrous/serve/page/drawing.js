// Pixels of overlays, class pictures and cut-outs. Each function returns an ImageData.

import { brightened, isBlack } from "./colours.js";

const OPAQUE = 0xff000000;

/** Packs red, green and blue as a canvas of a little-endian machine holds them. */
function packed([red, green, blue]) {
  return (OPAQUE | (blue << 16) | (green << 8) | red) >>> 0;
}

function painted(labels, width, height, words) {
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < labels.length; i++) pixels[i] = words[labels[i]];
  return image;
}

/**
 * Paints classes in their colours.
 *
 * @param {Result} result labels, width and height.
 * @param {Set<number>} on the classes to paint; the others stay transparent.
 * @param {{black: boolean, only?: number}} options whether to paint black classes too, and a class
 *   beside which the others fade.
 */
export function classColours(result, palette, on, { black, only = -1 }) {
  const words = brightened(palette).map((colour, k) => {
    if (!on.has(k) || (isBlack(colour) && !black)) return 0;
    return only >= 0 && only !== k ? packed(colour) & 0x48ffffff : packed(colour);
  });
  return painted(result.labels, result.width, result.height, Uint32Array.from(words));
}

/** Draws in white where a pixel's right or lower neighbour has another class that is on. */
export function borders({ labels, width, height }, on) {
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const here = labels[i];
      const right = x + 1 < width ? labels[i + 1] : here;
      const below = y + 1 < height ? labels[i + width] : here;
      if (here === right && here === below) continue;
      if (on.has(here) || on.has(right) || on.has(below)) pixels[i] = 0xe6ffffff;
    }
  }
  return image;
}

/** Returns the picture with all classes transparent that are not on. */
export function cutout(picture, { labels }, on) {
  const image = new ImageData(picture.width, picture.height);
  const from = new Uint32Array(picture.pixels.buffer);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < labels.length; i++) if (on.has(labels[i])) pixels[i] = from[i];
  return image;
}
