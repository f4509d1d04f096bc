// Labels at the picture's own size from coarse logits: the rule of the Python package, bit for bit.
//
// Pixel i takes its logits from coarse position i / stride, clamped at the border. Of equal logits
// the lowest class wins. Python computes in 32-bit floats, so every step here is rounded to one.

const f32 = Math.fround;

/**
 * Returns the class of the largest bilinearly upsampled logit at every pixel.
 *
 * A cell of stride x stride pixels is filled with one class if that class leads at all four
 * corners by more than rounding can take away. All other cells are interpolated.
 *
 * @param {Float32Array} logits rows x columns x classes values.
 * @param {{rows: number, columns: number, classes: number}} shape of the logits.
 * @param {number} stride pixels per step of the logits.
 * @param {number} width of the picture.
 * @param {number} height of the picture.
 * @returns {Uint8Array | Uint16Array} height x width labels; 16 bits above 256 classes.
 */
export function labelsOf(logits, shape, stride, width, height) {
  const { rows, columns, classes } = shape;
  const labels = new (classes <= 256 ? Uint8Array : Uint16Array)(width * height);
  const corners = leaders(logits, classes);
  for (let top = 0; top < height; top += stride) {
    const above = Math.min(top / stride, rows - 1);
    const below = Math.min(above + 1, rows - 1);
    const bottom = Math.min(top + stride, height);
    for (let left = 0; left < width; left += stride) {
      const first = Math.min(left / stride, columns - 1);
      const second = Math.min(first + 1, columns - 1);
      const cell = [
        above * columns + first,
        below * columns + first,
        above * columns + second,
        below * columns + second,
      ];
      const box = { top, bottom, left, right: Math.min(left + stride, width) };
      const winner = corners[cell[0]];
      if (winner >= 0 && cell.every((place) => corners[place] === winner)) {
        for (let y = top; y < bottom; y++) {
          labels.fill(winner, y * width + left, y * width + box.right);
        }
      } else {
        interpolate(logits, cell, classes, stride, box, labels, width);
      }
    }
  }
  return labels;
}

/** Returns for each coarse position the class that leads all others clearly, or -1. */
function leaders(logits, classes) {
  let largest = 0;
  for (const value of logits) largest = Math.max(largest, Math.abs(value));
  // atrous/predict/upsample.py derives the bound: a smaller lead could be lost to rounding.
  const margin = f32(32 * 2 ** -24 * largest + 2 ** -140);
  const result = new Int32Array(logits.length / classes);
  for (let place = 0; place < result.length; place++) {
    const start = place * classes;
    let best = start;
    for (let i = start + 1; i < start + classes; i++) if (logits[i] > logits[best]) best = i;
    const threshold = f32(logits[best] - margin);
    let close = 0;
    for (let i = start; i < start + classes; i++) if (logits[i] >= threshold) close++;
    result[place] = close === 1 ? best - start : -1;
  }
  return result;
}

/** Labels the pixels of one cell by interpolating the logits of every class. */
function interpolate(logits, cell, classes, stride, box, labels, width) {
  const [aboveLeft, belowLeft, aboveRight, belowRight] = cell.map((place) => place * classes);
  for (let y = box.top; y < box.bottom; y++) {
    const down = f32((y - box.top) / stride);
    for (let x = box.left; x < box.right; x++) {
      const across = f32((x - box.left) / stride);
      let best = -Infinity;
      let winner = 0;
      for (let k = 0; k < classes; k++) {
        const left = between(logits[aboveLeft + k], logits[belowLeft + k], down);
        const right = between(logits[aboveRight + k], logits[belowRight + k], down);
        const value = between(left, right, across);
        if (value > best) {
          best = value;
          winner = k;
        }
      }
      labels[y * width + x] = winner;
    }
  }
}

function between(from, to, weight) {
  return f32(from + f32(f32(to - from) * weight));
}

/** Returns how many pixels each class has. */
export function countsOf(labels, classes) {
  const counts = new Array(classes).fill(0);
  for (const label of labels) counts[label]++;
  return counts;
}
