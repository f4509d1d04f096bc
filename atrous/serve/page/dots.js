// The drawing on the welcome screen: the nine taps of a 3x3 filter at atrous rates 1, 2 and 4.

const SVG = "http://www.w3.org/2000/svg";
const MIDDLE = 4; // of 9 x 9 dots

export function drawDots(svg) {
  for (let y = 0; y < 9; y++) {
    for (let x = 0; x < 9; x++) {
      const dot = document.createElementNS(SVG, "circle");
      dot.setAttribute("cx", 12 + 12 * x);
      dot.setAttribute("cy", 12 + 12 * y);
      dot.setAttribute("r", 3);
      const taps = [1, 2, 4].filter((rate) => isTap(x - MIDDLE, rate) && isTap(y - MIDDLE, rate));
      dot.setAttribute("class", taps.map((rate) => `rate${rate}`).join(" "));
      if (taps.length === 3) dot.setAttribute("class", "middle");
      svg.append(dot);
    }
  }
}

function isTap(offset, rate) {
  return offset === 0 || Math.abs(offset) === rate;
}
