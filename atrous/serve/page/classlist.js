// The list of classes: colour, name, share of the picture, on or off.

import { brightened, css, isBlack } from "./colours.js";

const percent = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

export function share(count, total) {
  const value = (100 * count) / total;
  return value > 0 && value < 0.05 ? "< 0.1 %" : `${percent.format(value)} %`;
}

/** Returns the classes that occur, largest first, as [index, pixels]. */
export function present(counts) {
  return counts
    .map((count, k) => [k, count])
    .filter(([, count]) => count > 0)
    .sort((a, b) => b[1] - a[1]);
}

export class ClassList {
  /**
   * @param {HTMLElement} list gets a row for each class of the picture.
   * @param {HTMLElement} absent gets the names of the others.
   * @param {{onChange: () => void, onHover: (k: number) => void}} events
   */
  constructor(list, absent, { onChange, onHover }) {
    Object.assign(this, { list, absent, onChange, onHover, on: new Set(), rows: new Map() });
  }

  /** Shows the classes of a result; `on` is the set of classes that are on, and is changed. */
  show(result, model, on) {
    this.on = on;
    const total = result.width * result.height;
    const found = present(result.counts);
    const rows = JSON.stringify([model.name, found.map(([k]) => k)]);
    // The camera shows many results a second: rows that stay are only given new numbers.
    if (rows !== this.shownRows) this.build(found, model);
    this.shownRows = rows;
    for (const [k, count] of found) {
      const row = this.rows.get(k);
      row.querySelector("input").checked = on.has(k);
      row.querySelector(".share").textContent = share(count, total);
      row.querySelector(".bar i").style.width = `${(100 * count) / total}%`;
    }
    const missing = model.classes.filter((_, k) => !this.rows.has(k));
    this.absent.textContent = missing.length ? `Not in this picture: ${missing.join(", ")}.` : "";
  }

  build(found, model) {
    const colours = brightened(model.palette);
    this.rows.clear();
    this.list.replaceChildren(
      ...found.map(([k]) => this.row(k, model.classes[k], colours[k])),
    );
  }

  row(k, name, colour) {
    const row = document.createElement("li");
    row.innerHTML =
      '<label><input type="checkbox"><i class="swatch"></i><span class="name"></span>' +
      '<span class="share"></span><span class="bar" aria-hidden="true"><i></i></span></label>' +
      '<button type="button" class="plain only">Only</button>';
    row.querySelector(".name").textContent = name;
    row.querySelector(".swatch").style.background = css(colour);
    if (!isBlack(colour)) row.querySelector(".bar i").style.background = css(colour);
    row.querySelector("input").addEventListener("change", (event) => {
      if (event.target.checked) this.on.add(k);
      else this.on.delete(k);
      this.onChange();
    });
    const only = row.querySelector(".only");
    only.setAttribute("aria-label", `Only ${name}`);
    only.addEventListener("click", () => this.setOn([k]));
    row.addEventListener("pointerenter", () => this.onHover(k));
    row.addEventListener("pointerleave", () => this.onHover(-1));
    row.addEventListener("focusin", () => this.onHover(k));
    row.addEventListener("focusout", () => this.onHover(-1));
    this.rows.set(k, row);
    return row;
  }

  setOn(classes) {
    this.on.clear();
    for (const k of classes) this.on.add(k);
    for (const [k, row] of this.rows) row.querySelector("input").checked = this.on.has(k);
    this.onChange();
  }

  /** Marks the row of the class under the pointer. */
  mark(k) {
    for (const [other, row] of this.rows) row.classList.toggle("under", other === k);
  }
}
