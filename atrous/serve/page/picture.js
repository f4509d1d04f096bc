// From a file to pixels: upright, opaque, no larger than asked for.

import { isPng, opaquePixels, readPng } from "./png.js";

const MAX_PIXELS = 100_000_000; // as in Python; a browser's canvas ends before 300 million

/**
 * Decodes a picture.
 *
 * A PNG file that is not shrunk gives the same pixels as in Python. Everything else is decoded by
 * the browser: EXIF orientation is applied, colour profiles are not.
 *
 * @param {Blob} blob the file.
 * @param {number} maxPixels larger pictures are shrunk to about so many pixels.
 * @returns {Promise<Picture>} width, height, pixels (RGBA), and the file's own width and height.
 */
export async function readPicture(blob, maxPixels) {
  if (blob.size === 0) throw new Error("The file is empty.");
  const bytes = new Uint8Array(await blob.slice(0, 24).arrayBuffer());
  if (isPng(bytes)) {
    const view = new DataView(bytes.buffer);
    const pixels = view.getUint32(16) * view.getUint32(20);
    if (pixels > MAX_PIXELS) {
      throw new Error(`The picture has ${Math.round(pixels / 1e6)} megapixels; 100 at most.`);
    }
    if (pixels <= maxPixels) {
      const png = await readPng(new Uint8Array(await blob.arrayBuffer()));
      if (png) {
        const { width, height } = png;
        return { width, height, pixels: opaquePixels(png), ownWidth: width, ownHeight: height };
      }
    }
  }
  const bitmap = await createImageBitmap(blob, {
    imageOrientation: "from-image",
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  });
  return pixelsOf(bitmap, maxPixels);
}

/** Returns the pixels of a bitmap, shrunk if need be and laid on white, and closes it. */
export function pixelsOf(bitmap, maxPixels) {
  const { width: ownWidth, height: ownHeight } = bitmap;
  const [width, height] = shrunk(ownWidth, ownHeight, maxPixels);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  const pixels = context.getImageData(0, 0, width, height).data;
  return { width, height, pixels, ownWidth, ownHeight };
}

/** Returns a picture at another size: the server may round a side the other way. */
export function resized(picture, width, height) {
  const from = new OffscreenCanvas(picture.width, picture.height);
  from.getContext("2d").putImageData(
    new ImageData(picture.pixels, picture.width, picture.height), 0, 0,
  );
  const to = new OffscreenCanvas(width, height);
  const context = to.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(from, 0, 0, width, height);
  return { ...picture, width, height, pixels: context.getImageData(0, 0, width, height).data };
}

/** Returns the largest size of the same shape with at most so many pixels. */
export function shrunk(width, height, maxPixels) {
  const scale = Math.min(1, Math.sqrt(maxPixels / (width * height)));
  return [Math.max(1, Math.floor(width * scale)), Math.max(1, Math.floor(height * scale))];
}
