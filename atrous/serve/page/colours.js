// The colours classes are shown in.

const WHITE = 0.08; // share of white in every colour

/**
 * Returns brighter and stronger colours than the palette's, which would drown a picture.
 *
 * Black stays black: a background, by custom, which an overlay leaves untinted.
 */
export function brightened(palette) {
  return palette.map((colour) => {
    if (isBlack(colour)) return colour;
    const brightest = Math.max(...colour);
    const grey = Math.min(...colour) / 2; // without half of its grey a colour is stronger
    const target = 255 * Math.cbrt(brightest / 255);
    const factor = (target / (brightest - grey)) * (1 - WHITE);
    return colour.map((channel) => Math.round(255 * WHITE + (channel - grey) * factor));
  });
}

export function isBlack(colour) {
  return colour.every((channel) => channel === 0);
}

export function css(colour) {
  return `rgb(${colour.join(" ")})`;
}
