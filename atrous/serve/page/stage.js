// The stage: a picture with its classes over it, a divider for before and after, and a pointer
// that names the class under it.

import { share } from "./classlist.js";
import { brightened, css } from "./colours.js";
import { borders, classColours, cutout } from "./drawing.js";

const THUMB = 40; // width of the divider's handle, as in style.css
const SWEEP = 900; // milliseconds in which a new result is uncovered
const STEP = 1 / 50; // of the picture that an arrow key moves the cross

export class Stage {
  /**
   * @param {(name: string) => HTMLElement} element finds an element by its id.
   * @param {(k: number, spoken: boolean) => void} onPoint told the class under the pointer, or -1.
   */
  constructor(element, onPoint) {
    this.frame = element("frame");
    this.picture = element("picture");
    this.after = element("after");
    this.classes = element("classes");
    this.lines = element("lines");
    this.crosshair = element("crosshair");
    this.divider = element("divider");
    this.compare = element("compare");
    this.tip = element("tip");
    this.onPoint = onPoint;
    this.view = "overlay";
    this.opacity = 0.45;
    this.under = -1; // the class that is pointed at
    this.sweepEnd = null; // where the divider stops that is moving by itself
    this.shown = null; // { picture, result, model, on }

    this.compare.addEventListener("input", () => {
      this.sweepEnd = null;
      this.placeDivider();
    });
    new ResizeObserver(() => this.placeDivider()).observe(this.frame);
    this.frame.addEventListener("pointermove", (event) => this.point(event));
    this.frame.addEventListener("pointerdown", (event) => this.point(event));
    this.frame.addEventListener("pointerleave", () => this.leave());
    this.picture.addEventListener("keydown", (event) => this.walk(event));
    this.picture.addEventListener("blur", () => this.leave());
  }

  /** Shows a picture without classes. */
  showPicture(picture) {
    this.shown = null;
    this.after.hidden = true;
    this.divider.hidden = this.compare.hidden = true;
    this.leave();
    this.size(picture);
    this.picture.getContext("2d").putImageData(
      new ImageData(picture.pixels, picture.width, picture.height), 0, 0,
    );
  }

  /** Shows a picture with its classes. */
  show(picture, result, model, on, { fresh = false } = {}) {
    const under = this.under;
    this.showPicture(picture);
    this.shown = { picture, result, model, on };
    this.under = under;
    this.after.hidden = this.divider.hidden = this.compare.hidden = false;
    this.draw();
    if (fresh) this.sweep();
    else this.placeDivider();
  }

  /** Draws the divider over a new result once, from the picture to its classes. */
  sweep() {
    const { compare } = this;
    const end = this.sweepEnd ?? Number(compare.value);
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return this.placeDivider();
    const started = performance.now();
    const step = (now) => {
      if (this.sweepEnd === null) return;
      const t = Math.min(1, Math.max(0, now - started) / SWEEP);
      compare.value = end + (compare.max - end) * (1 - t) ** 3;
      this.placeDivider();
      if (t < 1) requestAnimationFrame(step);
      else this.sweepEnd = null;
    };
    compare.value = compare.max;
    this.placeDivider();
    if (this.sweepEnd === null) {
      this.sweepEnd = end;
      requestAnimationFrame(step);
    }
  }

  size({ width, height }) {
    this.frame.style.setProperty("--ratio", width / height);
    for (const canvas of [this.picture, this.classes, this.lines]) {
      if (canvas.width !== width) canvas.width = width;
      if (canvas.height !== height) canvas.height = height;
    }
  }

  /** Draws the classes again: the view, what is on, or what is pointed at has changed. */
  draw() {
    if (!this.shown) return;
    const { picture, result, model, on } = this.shown;
    const cut = this.view === "cutout";
    const black = this.view === "classes";
    this.after.classList.toggle("cutout", cut);
    this.after.classList.toggle("flat", black);
    this.lines.hidden = cut;
    this.classes.style.opacity = this.view === "overlay" ? this.opacity : 1;
    const image = cut
      ? cutout(picture, result, on)
      : classColours(result, model.palette, on, { black, only: on.has(this.under) ? this.under : -1 });
    this.classes.getContext("2d").putImageData(image, 0, 0);
    if (!cut) this.lines.getContext("2d").putImageData(borders(result, on), 0, 0);
  }

  setOpacity(opacity) {
    this.opacity = opacity;
    if (this.view === "overlay") this.classes.style.opacity = opacity;
  }

  setView(view) {
    this.view = view;
    this.draw();
  }

  /** Lets a class stand out; -1 for none. */
  setUnder(k) {
    if (k === this.under) return;
    this.under = k;
    if (this.view !== "cutout") this.draw();
  }

  placeDivider() {
    const value = this.compare.value / this.compare.max;
    const width = this.frame.clientWidth;
    let x = THUMB / 2 + value * (width - THUMB);
    if (value === 0) x = 0;
    if (value === 1) x = width;
    this.after.style.clipPath = `inset(0 0 0 ${x}px)`;
    this.divider.style.left = `${x}px`;
    this.divider.hidden = !this.shown || value === 0;
    this.compare.setAttribute("aria-valuetext", `${Math.round(100 * value)} % without classes`);
  }

  point(event) {
    if (!this.shown || event.target === this.compare) return this.leave();
    const box = this.frame.getBoundingClientRect();
    this.pointAt((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    this.crosshair.hidden = true;
  }

  /** Moves the cross with the arrow keys. */
  walk(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (event.key === "Escape") this.leave();
    if (!move || !this.shown) return;
    event.preventDefault();
    const [x, y] = this.at ?? [0.5, 0.5];
    const next = (from, by) => Math.min(0.999, Math.max(0, from + by * STEP * (event.shiftKey ? 4 : 1)));
    this.pointAt(next(x, move[0]), next(y, move[1]), true);
    this.crosshair.hidden = false;
    this.crosshair.style.left = `${100 * this.at[0]}%`;
    this.crosshair.style.top = `${100 * this.at[1]}%`;
  }

  /** Names the class at a place, given as shares of width and height. */
  pointAt(x, y, spoken = false) {
    const { result, model } = this.shown;
    const column = Math.min(result.width - 1, Math.max(0, Math.floor(x * result.width)));
    const row = Math.min(result.height - 1, Math.max(0, Math.floor(y * result.height)));
    const k = result.labels[row * result.width + column];
    this.at = [x, y];
    this.tip.hidden = false;
    const area = share(result.counts[k], result.width * result.height);
    this.tip.querySelector("span").textContent = model.classes[k];
    this.tip.querySelector("small").textContent = area;
    this.tip.querySelector("i").style.background = css(brightened(model.palette)[k] ?? [255, 255, 255]);
    this.placeTip(x * this.frame.clientWidth, y * this.frame.clientHeight);
    this.setUnder(k);
    this.onPoint(k, spoken);
  }

  /** Puts the name beside the pointer, inside the frame. */
  placeTip(x, y) {
    const { offsetWidth: width, offsetHeight: height } = this.tip;
    const left = x + 18 + width > this.frame.clientWidth ? x - 18 - width : x + 18;
    const top = y + 18 + height > this.frame.clientHeight ? y - 14 - height : y + 18;
    this.tip.style.left = `${Math.max(4, left)}px`;
    this.tip.style.top = `${Math.max(4, top)}px`;
  }

  leave() {
    this.tip.hidden = this.crosshair.hidden = true;
    this.at = null;
    if (this.under < 0) return;
    this.setUnder(-1);
    this.onPoint(-1, false);
  }
}
