// Downloads: label picture, overlay, cut-out and JSON, named as `atrous predict` names them.

import { present } from "./classlist.js";
import { borders, classColours, cutout } from "./drawing.js";
import { encodeLabels } from "./png.js";

/**
 * Saves one output of a picture.
 *
 * @param {"labels" | "overlay" | "cutout" | "json"} what
 * @param {Item} item a picture with its result.
 * @param {{on: Set<number>, opacity: number}} look the classes that are on, and the tint.
 */
export async function save(what, item, model, look) {
  const stem = item.name.replace(/\.[^.]*$/, "") || "picture";
  const [name, blob] = await MAKERS[what](stem, item, model, look);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const MAKERS = {
  async labels(stem, { result }, model) {
    const { labels, width, height } = result;
    return [`${stem}.labels.png`, await encodeLabels(labels, width, height, model.palette)];
  },

  async overlay(stem, item, model, look) {
    return [`${stem}.overlay.jpg`, await toBlob(overlay(item, model, look), "image/jpeg")];
  },

  async cutout(stem, { picture, result }, model, { on }) {
    const canvas = canvasOf(cutout(picture, result, on));
    return [`${stem}.cutout.png`, await toBlob(canvas, "image/png")];
  },

  async json(stem, item, model) {
    const text = JSON.stringify(record(item, model), null, 1) + "\n";
    return [`${stem}.json`, new Blob([text], { type: "application/json" })];
  },
};

function record({ name, picture, result, place }, model) {
  const total = result.width * result.height;
  return {
    input: name,
    size: [result.height, result.width],
    input_size: [picture.ownHeight, picture.ownWidth],
    model: model.name,
    model_sha256: model.sha256,
    segmented_on: place,
    areas: Object.fromEntries(
      present(result.counts).map(([k, count]) => [model.classes[k], count / total]),
    ),
  };
}

function overlay({ picture, result }, model, { on, opacity }) {
  const { width, height, pixels } = picture;
  const canvas = canvasOf(new ImageData(pixels, width, height));
  const context = canvas.getContext("2d");
  context.globalAlpha = opacity;
  context.drawImage(canvasOf(classColours(result, model.palette, on, { black: false })), 0, 0);
  context.globalAlpha = 1;
  context.drawImage(canvasOf(borders(result, on)), 0, 0);
  return canvas;
}

function canvasOf(image) {
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function toBlob(canvas, type) {
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The picture is too large to save."))), type, 0.92);
  });
}
